"""Which pixels the head observes and remembers: ignored ones never, rare classes as much as others, the same on any ranks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from otcluster import ClassQueue, LogSinkhorn, MemoryQueue
from otcluster.dnc import Classifier, DNCHead, Segmenter
from otcluster.dnc.pixels.sampling import balanced_pixels, grid_labels
from tests.dnc.segmenters import DIM, IGNORED, a_batch, a_head, patches, same, state
from tests.reducers import run_ranks


def test_labels_of_a_grid_are_those_in_the_middle():
    labels = torch.arange(7 * 10).view(1, 7, 10)
    for size in ((7, 10), (2, 3), (3, 5), (9, 20), (1, 1)):
        found = grid_labels(labels, size)
        for i in range(size[0]):
            for j in range(size[1]):
                row, column = int((i + 0.5) * 7 / size[0]), int((j + 0.5) * 10 / size[1])
                assert found[0, i, j] == labels[0, row, column]


def test_draws_are_balanced_even_and_follow_from_seed_and_step():
    labels = torch.tensor([0] * 500 + [1] * 30 + [2] * 3 + [IGNORED] * 100 + [4] * 40)[torch.randperm(673)].view(1, -1)
    drawn = balanced_pixels(labels, 5, 20, seed=3, step=7)
    assert torch.equal(labels[drawn].bincount(minlength=5), torch.tensor([20, 20, 3, 0, 20]))
    assert torch.equal(drawn, balanced_pixels(labels, 5, 20, seed=3, step=torch.tensor(7)))
    assert not torch.equal(drawn, balanced_pixels(labels, 5, 20, seed=3, step=8))
    assert not torch.equal(drawn, balanced_pixels(labels, 5, 20, seed=4, step=7))
    counts = sum(balanced_pixels(labels, 5, 20, step=step).to(torch.int64) for step in range(2000))
    for label, n in ((0, 500), (1, 30), (4, 40)):
        share = 20 / n
        off = (counts[labels == label] - 2000 * share) / (2000 * share * (1 - share)) ** 0.5
        assert off.abs().max() < 4.5  # standard deviations; 570 of them
    assert not balanced_pixels(labels[:, :0], 5, 20).any()


@pytest.mark.parametrize("cuts", [(4, 4), (1, 0, 5, 2)])
def test_ranks_draw_and_observe_what_one_process_does(cuts):
    images, labels = a_batch(8, seed=2)
    labels[2:] = labels[2:].clamp(min=1)  # some classes on some ranks alone
    model = Segmenter(patches(), DNCHead(DIM, 3, n_subcentroids=2, memory=60, momentum=0.5), per_class=7, seed=5)
    alone = copy.deepcopy(model)
    for _ in range(3):
        alone.observe(alone.features(images), labels)
    parts = [torch.arange(8).split(cuts)[rank] for rank in range(len(cuts))]

    def work(rank, reducer):
        own = copy.deepcopy(model)
        for _ in range(3):
            own.observe(own.features(images[parts[rank]]), labels[parts[rank]], reducer=reducer)
        return own.state_dict()

    found = run_ranks(len(cuts), work)
    assert all(same(found[0], other) for other in found[1:])
    assert torch.equal(found[0]["head.memory.stored_labels"], alone.head.memory.stored_labels)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(found[0][name], value)


def test_what_is_wrong_on_one_rank_is_raised_on_all():
    model = Segmenter(patches(), DNCHead(DIM, 3))
    images, labels = a_batch()

    def work(rank, reducer):
        own, bad = copy.deepcopy(model), labels.clone()
        bad[0, 0, 0] = 77 if rank else 0
        with pytest.raises(ValueError, match="got 77" if rank else "another rank"):
            own.observe(own.features(images), bad, reducer=reducer)
        return same(own.state_dict(), model.state_dict())

    assert all(run_ranks(2, work))


def test_what_is_observed_is_drawn_from_pixels_with_a_label():
    head = DNCHead(DIM, 3, n_subcentroids=2, memory=500)
    model = Segmenter(patches(), head, per_class=5)
    images, labels = a_batch(3, ignored=0.5)
    features = model.features(images)
    model.observe(features, labels)
    rows, known = [], []
    for i in range(3):
        for y in range(4):
            for x in range(6):
                if (label := int(labels[i, 4 * y + 2, 4 * x + 2])) != IGNORED:
                    rows.append(nn.functional.normalize(features[i, :, y, x], dim=0))
                    known.append(label)
    of_rows = torch.stack(rows)
    seen, of_seen = head.memory.features, head.memory.labels
    assert of_seen.bincount().tolist() == [min(5, known.count(label)) for label in range(3)]
    nearest = torch.cdist(seen, of_rows)
    assert nearest.amin(dim=1).max() < 1e-3  # cdist works with squares
    assert len(set(nearest.argmin(dim=1).tolist())) == len(seen)
    assert [known[at] for at in nearest.argmin(dim=1).tolist()] == of_seen.tolist()
    assert model.n_observed == 1


def test_without_a_limit_it_is_the_head_on_all_pixels_with_a_label():
    model = Segmenter(patches(), a_head(solver=LogSinkhorn(epsilon=0.05, max_iter=20)), per_class=10_000)
    images, labels = a_batch()
    features, by_hand = model.features(images), copy.deepcopy(model.head)
    model.observe(features, labels)
    small = labels[:, 2::4, 2::4].reshape(-1)
    rows = features.detach().permute(0, 2, 3, 1).reshape(-1, DIM)
    by_hand.observe(rows[small != IGNORED], small[small != IGNORED])
    assert same(by_hand.state_dict(), model.head.state_dict())


def test_batches_without_labels_change_nothing_and_lose_nothing():
    model = Segmenter(patches(), a_head(memory=50), aux=None)
    images, labels = a_batch()
    model.observe(model.features(images), labels)
    before, none = state(model), torch.full_like(labels, IGNORED)
    step = model.loss(images, none)
    assert step.loss == 0
    assert step.n_counted == step.n_right == 0
    step.loss.backward()
    assert model.network.weight.grad.abs().max() == 0
    model.observe(step.features, none)
    assert same(before, state(model))
    found = run_ranks(2, lambda rank, reducer: model.observe(step.features, none, reducer=reducer) if rank < 2 else None)
    assert found == [None, None]
    assert same(before, state(model))


def test_a_class_that_is_absent_stays_as_it_is():
    model = Segmenter(patches(), a_head())
    images, labels = a_batch()
    labels[labels == 1] = 2
    before = model.head.subcentroids.clone()
    step = model.loss(images, labels)
    assert step.loss.isfinite()
    model.observe(step.features, labels)
    moved = (model.head.subcentroids != before).flatten(1).any(dim=1)
    assert moved.tolist() == [True, False, True]


def test_each_step_draws_other_pixels():
    images, labels = a_batch()
    model = Segmenter(patches(), DNCHead(DIM, 3, memory=24), per_class=4)
    for _ in range(2):
        model.observe(model.features(images), labels)
    first, second = model.head.memory.features.split(12)
    assert not torch.equal(first, second)


def test_a_resumed_segmenter_draws_as_one_that_went_on():
    images, labels = a_batch()
    model = Segmenter(patches(), a_head(), per_class=4)
    model.observe(model.features(images), labels)
    other = Segmenter(patches(seed=9), DNCHead(DIM, 3, n_subcentroids=2, memory=0, momentum=0.9), per_class=4)
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        each.observe(each.features(images), labels)
    assert same(model.state_dict(), other.state_dict())


def test_a_memory_of_classes_keeps_what_is_rare():
    labels, rare = torch.zeros(2, 16, 24, dtype=torch.int64), torch.ones(2, 16, 24, dtype=torch.int64)
    images = a_batch()[0]
    seen = {}
    for kind in (ClassQueue(20, DIM, n_classes=2), MemoryQueue(20, DIM)):
        model = Segmenter(patches(), DNCHead(DIM, 2, n_subcentroids=2, memory=kind), per_class=12)
        assert model.head.memory is kind
        for each in (rare, labels, labels):
            model.observe(model.features(images), each)
        seen[type(kind)] = kind.labels.bincount(minlength=2).tolist()
    assert seen == {ClassQueue: [10, 10], MemoryQueue: [20, 0]}


def test_clustering_sees_the_memory_of_classes_even_where_the_batch_is_larger():
    memory = ClassQueue(8, DIM, n_classes=2, dtype=torch.float16)
    head = DNCHead(DIM, 2, n_subcentroids=1, memory=memory, momentum=0.0)
    lots = torch.Generator().manual_seed(0)
    rare, many = torch.randn(3, DIM, generator=lots), torch.randn(30, DIM, generator=lots)
    head.observe(rare, torch.ones(3, dtype=torch.int64))
    head.observe(many, torch.zeros(30, dtype=torch.int64))
    for label, rows in ((0, many[-4:]), (1, rare)):
        mean = nn.functional.normalize(nn.functional.normalize(rows, dim=1).mean(dim=0), dim=0)
        torch.testing.assert_close(head.subcentroids[label, 0], mean, atol=2e-3, rtol=0)


def test_a_head_refuses_a_memory_of_other_features():
    for queue, said in (
        (MemoryQueue(9, DIM + 1), f"memory must be a queue with dim={DIM}"),
        (ClassQueue(9, DIM, n_classes=3), "n_classes=2 if it is one of classes"),
        (MemoryQueue(9, DIM, payloads={"ids": torch.int64}), "without payloads"),
    ):
        with pytest.raises(ValueError, match=said):
            DNCHead(DIM, 2, memory=queue)
    names = set(DNCHead(DIM, 2, memory=9).state_dict())
    assert names == set(DNCHead(DIM, 2, memory=MemoryQueue(9, DIM)).state_dict())
    assert {"memory.stored_features", "memory.stored_labels", "memory.n_pushed"} <= names


def test_classes_come_and_go_with_a_memory_of_classes():
    head = a_head(memory=ClassQueue(12, DIM, n_classes=3))
    remembered = {label: head.memory.features[head.memory.labels == label] for label in range(3)}
    model = Classifier(nn.Identity(), head, classes=["a", "b", "c"])
    model.add_class(torch.randn(5, DIM), "d", n_subcentroids=1)
    model.remove_class("b")
    assert (head.memory.quota, head.memory.n_classes) == (4, 3)
    for new, old in ((0, 0), (1, 2)):
        assert torch.equal(head.memory.features[head.memory.labels == new], remembered[old])
    head.observe(torch.randn(6, DIM), torch.full((6,), 2))
    assert head.memory.labels.bincount().tolist() == [4, 4, 4]
