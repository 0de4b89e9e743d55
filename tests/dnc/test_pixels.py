"""Pixels go to the class of their nearest sub-centroid; ignored ones count for nothing, rare classes as much as others."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from otcluster import ClassQueue, LogSinkhorn, MemoryQueue
from otcluster.dnc import Classifier, DeepNCMHead, DNCHead, KNNHead, LinearHead, Segmenter, SimCLRHead
from otcluster.dnc.pixels import segmenter
from otcluster.dnc.pixels.networks import build_network
from otcluster.dnc.pixels.sampling import balanced_pixels, grid_labels
from tests.reducers import run_ranks

SWIN = "swin_tiny_patch4_window7_224"
IGNORED = 255
DIM = 6


def patches(stride=4, dim=DIM, seed=0):
    """A network of one convolution."""
    torch.manual_seed(seed)
    return nn.Conv2d(3, dim, stride, stride=stride)


def a_head(n_classes=3, k=2, **options):
    """A head that was shown something."""
    head = DNCHead(DIM, n_classes, n_subcentroids=k, **{"memory": 0, "momentum": 0.9, **options})
    lots = torch.Generator().manual_seed(1)
    head.observe(torch.randn(20 * n_classes, DIM, generator=lots), torch.arange(n_classes).repeat(20))
    return head


def a_batch(n=2, size=(16, 24), n_classes=3, seed=0, ignored=0.2):
    lots = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n, *size), generator=lots)
    labels[torch.rand(labels.shape, generator=lots) < ignored] = IGNORED
    return torch.randn(n, 3, *size, generator=lots), labels


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "encoder", "options", "stride"),
    [
        ("fcn", "resnet18", {}, 8),
        ("fcn", "resnet18", {"output_stride": 16}, 16),
        ("fcn", "resnet18", {"output_stride": 32}, 32),
        ("fcn", SWIN, {"output_stride": 32}, 32),
        ("deeplabv3", "resnet18", {}, 8),
        ("deeplabv3", "resnet18", {"output_stride": 16}, 16),
        ("upernet", "resnet18", {}, 4),
        ("upernet", SWIN, {}, 4),
        ("upernet", "test_convnext", {}, 4),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (65, 98)])
def test_every_network_gives_pixel_features_and_learns(name, encoder, options, stride, size):
    network = build_network(name, encoder, dim=16, aux=True, **options)
    model = Segmenter(network, DNCHead(16, 3, n_subcentroids=2), aux=LinearHead(16, 3))
    images, labels = a_batch(2, size)
    features, middle = network(images)
    assert network.stride == stride
    assert features.shape == (2, 16, *(-(-side // stride) for side in size))
    assert middle.shape[:2] == (2, 16)
    deep = min(16, options.get("output_stride", 16 if name == "upernet" else 8))
    # ConvNeXt leaves out what does not fill a patch of two by two, the others do not.
    assert all(found in (-(-side // deep), side // deep) for found, side in zip(middle.shape[2:], size, strict=True))
    assert model(images).shape == (2, 3, *size)
    model.observe(features, labels)
    step = model.loss(images, labels)
    step.loss.backward()
    first = next(network.encoder.parameters())
    assert first.grad.isfinite().all()
    assert first.grad.abs().sum() > 0
    assert all(each.grad is not None for each in network.decoder.parameters())


def test_swin_sees_the_same_windows_whatever_the_size_of_the_image():
    torch.manual_seed(0)
    network = build_network("upernet", SWIN, dim=8).eval()
    images = torch.randn(1, 3, 62, 61)
    padded = nn.functional.pad(images, (0, 3, 0, 2))
    torch.testing.assert_close(network(images), network(padded))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("unet", "resnet18"), "name must be one of fcn, deeplabv3, upernet, got 'unet'"),
        (("fcn", "resnet_18"), "timm has no model 'resnet_18', did you mean"),
        (("deeplabv3", SWIN), "cannot be used for deeplabv3 with output_stride=8.*convolutional network"),
        (("upernet", "vit_tiny_patch16_224"), "must give features of several stages"),
    ],
)
def test_networks_that_cannot_be_built_say_why(arguments, said):
    with pytest.raises(ValueError, match=said):
        build_network(*arguments)


def test_networks_refuse_strides_images_and_batches_that_do_not_fit():
    with pytest.raises(ValueError, match="output_stride must be one of 8, 16 for deeplabv3, got 32"):
        build_network("deeplabv3", "resnet18", output_stride=32)
    with pytest.raises(ValueError, match="output_stride must be one of 32 for upernet, got 8"):
        build_network("upernet", "resnet18", output_stride=8)
    network = build_network("deeplabv3", "resnet18", dim=8)
    for shape in ((2, 1, 64, 64), (2, 3, 64, 31), (3, 64, 64)):
        with pytest.raises(ValueError, match=r"images must have shape \(n, 3, height, width\), with sides of at least 32"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match="two or more while this network trains"):
        network(torch.zeros(1, 3, 64, 64))
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 8, 8)
    assert build_network("fcn", "resnet18", dim=8, in_channels=4)(torch.zeros(1, 4, 64, 64)).shape == (1, 8, 8, 8)


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


def test_the_loss_is_the_mean_over_pixels_with_a_label():
    model = Segmenter(patches(), a_head(), ignore_index=IGNORED)
    images, labels = a_batch()
    step = model.loss(images, labels)
    shares = model(images).detach().to(torch.float64).log_softmax(dim=1)
    entropies, right = [], 0
    for i, image in enumerate(labels):
        for y, row in enumerate(image):
            for x, label in enumerate(row.tolist()):
                if label != IGNORED:
                    entropies.append(-float(shares[i, label, y, x]))
                    right += int(shares[i, :, y, x].argmax()) == label
    assert step.loss.item() == pytest.approx(np.mean(entropies), rel=1e-5)
    assert (int(step.n_counted), int(step.n_right)) == (len(entropies), right)
    assert torch.equal(step.features, model.features(images))
    assert not step.features.requires_grad


def test_no_gradient_comes_from_ignored_pixels():
    model = Segmenter(nn.Identity(), LinearHead(3, 2))
    images = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), IGNORED)
    labels[0, 1, 2] = 1
    model.loss(images, labels).loss.backward()
    assert (images.grad.abs().sum(dim=1) > 0).nonzero().tolist() == [[0, 1, 2]]


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


def bilinear(maps, size):
    """(h', w', c) at the size (h, w), by hand: values stand in the middles of their parts, and edges go on."""
    rows, columns = [
        (np.clip((np.arange(to) + 0.5) * n / to - 0.5, 0, n - 1), n) for to, n in zip(size, maps.shape[:2], strict=True)
    ]

    def parts(where):
        at, n = where
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, n - 1), at - low

    (up, down, y), (left, right, x) = parts(rows), parts(columns)
    y, x = y[:, None, None], x[None, :, None]
    above = maps[up][:, left] * (1 - x) + maps[up][:, right] * x
    below = maps[down][:, left] * (1 - x) + maps[down][:, right] * x
    return above * (1 - y) + below * y


@pytest.mark.parametrize("k", [3, (1, 3, 2)])
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("at_once", [1 << 24, 100])
def test_predictions_are_the_nearest_subcentroids(k, metric, at_once, monkeypatch):
    monkeypatch.setattr(segmenter, "_AT_ONCE", at_once)
    model = Segmenter(patches().to(torch.float64), a_head(k=k, metric=metric)).train()
    images = a_batch(3, (16, 24))[0]
    found = model.predict(images, batch_size=2)
    assert model.training
    assert found.labels.dtype == found.subcentroids.dtype == torch.int64
    centroids, is_open = model.head.subcentroids.to(torch.float64).numpy(), model.head.store.is_open.numpy()
    features = model.features(images.to(torch.float64)).to(torch.float32).detach().to(torch.float64).permute(0, 2, 3, 1).numpy()
    for i, grid in enumerate(features):
        if metric == "cosine":
            close = grid / np.linalg.norm(grid, axis=-1, keepdims=True) @ centroids.reshape(-1, DIM).T
        else:
            close = -((grid[:, :, None] - centroids.reshape(-1, DIM)) ** 2).sum(-1) / 2
        close = np.where(is_open, close.reshape(*grid.shape[:2], *is_open.shape), -np.inf)
        large = bilinear(close.max(-1), (16, 24))
        order = np.sort(large, axis=-1)
        sure = order[..., -1] - order[..., -2] > 1e-5
        assert sure.mean() > 0.99
        assert (found.labels[i].numpy() == large.argmax(-1))[sure].all()
        owners = close.argmax(-1).repeat(4, axis=0).repeat(4, axis=1)
        own = np.take_along_axis(owners, large.argmax(-1)[..., None], -1)[..., 0]
        assert (found.subcentroids[i].numpy() == own)[sure].all()


def test_with_a_feature_for_each_pixel_the_nearest_subcentroid_decides():
    model = Segmenter(nn.Identity(), DNCHead(3, 2, n_subcentroids=2, memory=0))
    model.head.place(torch.ones(2, 2, dtype=torch.bool), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]]))
    images = torch.tensor([[2.0, 0, 0], [0, 0, 3], [-1, 0.5, 0], [0.1, 1, 0]]).T.reshape(1, 3, 2, 2)
    found = model.predict(images)
    assert found.labels.tolist() == [[[0, 1], [1, 0]]]
    assert found.subcentroids.tolist() == [[[0, 0], [1, 1]]]


def test_a_linear_head_is_a_convolution_of_one_pixel():
    network, head = patches(), LinearHead(DIM, 4)
    model = Segmenter(network, head)
    convolution = nn.Conv2d(DIM, 4, 1)
    convolution.load_state_dict({"weight": head.weight.detach()[:, :, None, None], "bias": head.bias.detach()})
    images, labels = a_batch(n_classes=4)
    by_hand = nn.functional.interpolate(convolution(network(images)), (16, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), by_hand)
    step = model.loss(images, labels)
    torch.testing.assert_close(step.loss, nn.functional.cross_entropy(by_hand, labels, ignore_index=IGNORED))
    before = state(model)
    model.observe(step.features, labels)
    assert same(before, state(model))
    assert model.predict(images).subcentroids is None


class Pair(nn.Module):
    """Pixel features, and auxiliary features of half the size."""

    def __init__(self):
        super().__init__()
        self.near, self.far = patches(4), patches(8, dim=5)

    def forward(self, images):
        return self.near(images), self.far(images)


def test_the_auxiliary_head_adds_its_loss_and_predicts_nothing():
    network, head, aux = Pair(), a_head(), LinearHead(5, 3)
    images, labels = a_batch()
    model, plain = Segmenter(network, head, aux=aux, aux_weight=0.3), Segmenter(network, head)
    far = Segmenter(network.far, aux)
    expected = plain.loss(images, labels).loss + 0.3 * far.loss(images, labels).loss
    torch.testing.assert_close(model.loss(images, labels).loss, expected)
    assert torch.equal(model(images), plain(images))
    model.loss(images, labels).loss.backward()
    assert aux.weight.grad.abs().sum() > 0
    assert network.far.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="build it with aux=True"):
        Segmenter(patches(), head, aux=aux).loss(images, labels)


@pytest.mark.parametrize("head", [a_head, lambda: DeepNCMHead(DIM, 3), lambda: LinearHead(DIM, 3)])
def test_half_precision_ends_before_the_logits(head):
    model = Segmenter(patches(), head())
    images, labels = a_batch()
    with torch.autocast("cpu", torch.bfloat16):
        step = model.loss(images, labels)
        step.loss.backward()
        model.observe(step.features, labels)
        logits = model(images)
    assert step.features.dtype == torch.bfloat16
    assert step.loss.dtype == logits.dtype == torch.float32
    assert model.network.weight.grad.isfinite().all()
    assert step.loss.isfinite()
    assert logits.isfinite().all()


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


def textures(n, seed, size=32):
    """Stripes along or across, on half of an image each; they differ in no pixel, only in their neighbours."""
    lots = torch.Generator().manual_seed(seed)
    along = (torch.arange(size) % 4 < 2).to(torch.float32)
    labels = torch.zeros(n, size, size, dtype=torch.int64)
    for image, cut in zip(labels, torch.randint(8, size - 8, (n,), generator=lots).tolist(), strict=True):
        image[:, cut:] = 1
    grey = torch.where(labels == 0, along[:, None], along[None, :])
    images = grey[:, None] + 0.2 * torch.randn(n, 3, size, size, generator=lots)
    labels[:, :2] = IGNORED
    return images, labels


@pytest.mark.parametrize("kind", ["dnc", "linear"])
def test_two_textures_are_learnt(kind):
    torch.manual_seed(0)
    head = LinearHead(16, 2) if kind == "linear" else DNCHead(16, 2, n_subcentroids=3, momentum=0.9, memory=256)
    model = Segmenter(build_network("fcn", "test_resnet", dim=16), head, per_class=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for at in range(60):
        images, labels = textures(8, seed=at)
        step = model.loss(images, labels)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        model.observe(step.features, labels)
    images, labels = textures(16, seed=1000)
    found = model.predict(images)
    known = labels != IGNORED
    assert (found.labels == labels)[known].to(torch.float32).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"head": KNNHead(DIM, 3)}, TypeError, "head must be a DNCHead, DeepNCMHead or LinearHead, got KNNHead"),
        ({"head": SimCLRHead(DIM, 3)}, TypeError, "got SimCLRHead"),
        ({"aux": DNCHead(DIM, 3)}, TypeError, "aux must be a LinearHead or None, got DNCHead"),
        ({"aux": LinearHead(DIM, 4)}, ValueError, "aux must have the 3 classes of the head, got 4"),
        ({"ignore_index": 2}, ValueError, "ignore_index must be none of the 3 classes, got 2"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index must be a whole number"),
        ({"aux_weight": -1.0}, ValueError, "aux_weight must be at least 0"),
        ({"per_class": 0}, ValueError, "per_class must be at least 1"),
        ({"classes": ["a"]}, ValueError, "classes must be 3 names"),
    ],
)
def test_a_segmenter_says_what_does_not_fit(options, error, said):
    with pytest.raises(error, match=said):
        Segmenter(patches(), options.pop("head", None) or DNCHead(DIM, 3), **options)


def test_images_features_and_labels_that_do_not_fit_are_refused():
    model = Segmenter(patches(), a_head())
    images, labels = a_batch()
    before, features = state(model), model.features(images)
    for bad, error, said in (
        (labels[:1], ValueError, r"labels \(n, height, width\), got \(2, 3, 16, 24\) and \(1, 16, 24\)"),
        (labels.to(torch.float32), TypeError, "labels must be integers"),
        (labels.clamp(max=3), ValueError, "labels must lie in 0 to 2 or be ignore_index=255, got 3"),
        (labels - 1, ValueError, "got -1|got 254"),
    ):
        with pytest.raises(error, match=said):
            model.loss(images, bad)
        with pytest.raises(error):
            model.observe(features, bad)
    with pytest.raises(ValueError, match=r"features must have shape \(n, 6, height, width\)"):
        model.observe(features[0], labels)
    with pytest.raises(ValueError, match=r"features must have shape \(n, 6, height, width\)"):
        model.grid_logits(features[:, :5])
    with pytest.raises(ValueError, match="n at least 1"):
        model.predict(images[:0])
    assert same(before, state(model))
    assert Segmenter(patches(), a_head(), ignore_index=-1).loss(images, labels.where(labels != IGNORED, -1)).n_counted > 0
