"""Dead centroids: what takes their place, that it lasts, and how use is measured."""

from __future__ import annotations

import math

import pytest
import torch

import otcluster as otc

AVERAGES = [otc.MomentumMean(), otc.SumsAndCounts()]


def make(revival, **arguments):
    return otc.CentroidStore(
        **{"n_classes": 2, "n_centroids": 3, "dim": 4, "momentum": 0.9, "revival": revival, "dtype": torch.float64, **arguments}
    )


def draw(seed, n=30):
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1)
    return x, torch.arange(n) % 2


def starve(store, steps, seed=0, to=0):
    """Updates that give all samples to one centroid of each class."""
    for step in range(steps):
        x, labels = draw(seed + step)
        store.update(x, labels, torch.full((len(x),), to))
    return x, labels


def nearest(points, centroid):
    return (points - centroid).norm(dim=-1).min()


@pytest.mark.parametrize("averaging", AVERAGES, ids=repr)
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_a_reseeded_centroid_is_not_overwritten_by_its_stale_average(averaging, metric):
    store = make(otc.Reseed(patience=5), averaging=averaging, metric=metric)
    for _ in range(3):  # a past for the average
        x, labels = draw(0)
        store.update(x, labels, torch.arange(30) // 2 % 3)
    # Lives of 5 updates pass; what was used falls under a tenth of the fair share in 22 more.
    x, labels = starve(store, 60)
    assert (store.age[:, 1:] < 5).all()
    for label in range(2):
        for centroid in store.centroids[label, 1:]:
            assert min(nearest(draw(seed)[0][labels == label], centroid) for seed in range(60)) < 1e-12
    held = store.centroids.clone()
    x, labels = draw(99)
    store.update(x, labels, torch.zeros(30, dtype=torch.int64))  # nothing comes to them
    lasting = store.age > 0
    assert lasting[:, 0].all()
    assert torch.equal(store.centroids[:, 1:][lasting[:, 1:]], held[:, 1:][lasting[:, 1:]])
    store.update(x, labels, torch.ones(30, dtype=torch.int64))  # and where they go next follows from what comes, not their past
    for label in range(2):
        mean = x[labels == label].mean(0)
        start = held[label, 1]
        if not lasting[label, 1]:
            continue
        expected = mean if averaging == otc.SumsAndCounts() else 0.9 * start + 0.1 * mean
        expected = torch.nn.functional.normalize(expected, dim=0) if metric == "cosine" else expected
        torch.testing.assert_close(store.centroids[label, 1], expected, rtol=0, atol=1e-12)


def test_several_dead_centroids_get_different_samples_of_their_class():
    store = make(otc.Reseed(patience=1), n_centroids=8)
    x, labels = draw(0, 400)
    store.update(x, labels, torch.zeros(400, dtype=torch.int64))
    for label in range(2):
        revived = store.centroids[label, 1:]
        assert all(nearest(x[labels == label], centroid) < 1e-12 for centroid in revived)
        assert torch.pdist(revived).min() > 1e-3


def test_where_there_are_fewer_samples_than_dead_centroids_some_wait():
    store = make(otc.Reseed(patience=1), n_centroids=8)
    before = store.centroids.clone()
    x = draw(0, 3)[0]
    store.update(x, torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    changed = (store.centroids[1, 1:] != before[1, 1:]).any(1)
    assert 1 <= changed.sum() <= 3
    assert torch.equal(store.centroids[0], before[0])


def test_masked_samples_never_become_centroids():
    store = make(otc.Reseed(patience=1))
    x, labels = draw(0)
    mask = torch.arange(30) < 6
    x[~mask] = torch.nan  # whatever they are
    store.update(x, labels, torch.zeros(30, dtype=torch.int64), sample_mask=mask)
    for label in range(2):
        revived = store.centroids[label, store.age[label] == 0]
        assert len(revived)
        assert all(nearest(x[mask & (labels == label)], centroid) < 1e-12 for centroid in revived)


def test_reseeding_chooses_every_sample_alike():
    x = draw(0, 40)[0]
    counts = torch.zeros(40)
    for step in range(800):
        store = make(otc.Reseed(patience=1), n_classes=None, n_centroids=2)
        store.n_updates.fill_(step)
        store.update(x, None, torch.zeros(40, dtype=torch.int64))
        counts[(x - store.centroids[1]).norm(dim=1).argmin()] += 1
    chi_squared = float(((counts - 20) ** 2 / 20).sum())
    assert chi_squared < 39 + 4 * math.sqrt(2 * 39)  # four standard deviations above its mean


@pytest.mark.parametrize("x", [[[1.0], [2.0], [3.5], [10.0], [-4.0], [0.0]], [[1.0, 2.0], [2.0, 4.0], [5.0, 10.0], [0.0, 0.0]]])
def test_samples_of_one_direction_are_chosen_alike_and_never_mixed(x):
    x = torch.tensor(x, dtype=torch.float64)
    started, revived = torch.zeros(len(x)), torch.zeros(len(x))
    for step in range(400):
        given = {"n_classes": None, "metric": "sqeuclidean", "dim": x.shape[1]}
        store = make(None, n_centroids=1, **given)
        store.start(x, seed=step)
        started[(x == store.centroids).all(dim=1)] += 1
        store = make(otc.Reseed(patience=1), n_centroids=2, **given)
        store.n_updates.fill_(step)
        store.update(x, None, torch.zeros(len(x), dtype=torch.int64))
        revived[(x == store.centroids[1]).all(dim=1)] += 1
    for counts in (started, revived):
        assert counts.sum() == 400
        fair = 400 / len(x)
        assert float(((counts - fair) ** 2 / fair).sum()) < len(x) - 1 + 4 * math.sqrt(2 * (len(x) - 1))


@pytest.mark.parametrize("policy", [otc.Reseed, otc.SplitLargest])
def test_impossible_policies_are_refused(policy):
    for arguments, error in (({"below": "few"}, TypeError), ({"below": 1}, ValueError), ({"patience": 1.5}, TypeError)):
        with pytest.raises(error, match=f"{next(iter(arguments))} must"):
            policy(**arguments)


@pytest.mark.parametrize("averaging", AVERAGES, ids=repr)
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_a_split_shares_place_and_use_of_the_largest(averaging, metric):
    store = make(otc.SplitLargest(patience=3, distance=0.01), averaging=averaging, metric=metric, momentum=0.5)
    x, labels = starve(store, 2)
    twin = make(None, averaging=averaging, metric=metric, momentum=0.5)
    twin.load_state_dict(store.state_dict())
    chosen = torch.where(torch.arange(30) < 20, 0, 1)
    twin.update(x, labels, chosen)
    store.update(x, labels, chosen)
    assert (store.age == torch.tensor([3, 3, 0])).all()
    torch.testing.assert_close(store.centroids[:, :2], twin.centroids[:, :2])  # the largest stays where it is
    distance = (store.centroids[:, 2] - store.centroids[:, 0]).norm(dim=1) / store.centroids[:, 0].norm(dim=1)
    assert ((distance > 0.001) & (distance < 0.0101)).all()
    torch.testing.assert_close(store.usage[:, 0], twin.usage[:, 0] / 2)
    torch.testing.assert_close(store.usage.sum(1), twin.usage.sum(1))
    held = store.centroids.clone()
    store.update(x, labels, torch.zeros(30, dtype=torch.int64))
    assert torch.equal(store.centroids[:, 2], held[:, 2])  # no stale average brings it back


def test_the_queue_can_give_what_the_batch_has_not():
    store = make(otc.Reseed(patience=1))
    x, labels = draw(0)
    queue = otc.MemoryQueue(30, 4, dtype=torch.float64)
    queue.push(x, labels)
    one = draw(1, 2)[0]
    store.update(one, torch.tensor([0, 1]), torch.tensor([0, 0]))  # one sample is not enough for two
    found = store.revive(queue.features, queue.labels)
    assert found.sum(1).tolist() == [1, 1]
    for label in range(2):
        assert nearest(x[labels == label], store.centroids[label][found[label]][0]) < 1e-12
    assert not store.revive(queue.features, queue.labels).any()
    with pytest.raises(ValueError, match="the store leaves dead centroids alone"):
        make(None).revive(x, labels)


def test_patience_leaves_new_centroids_alone():
    store = make(otc.Reseed(patience=4))
    starve(store, 3)
    before = store.centroids.clone()
    store.update(torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert torch.equal(store.centroids, before)  # an update without samples is none of a class
    starve(store, 1)
    assert (store.age[:, 1:] == 0).all()


def test_statistics_are_those_of_the_decayed_counts():
    store = make(None, n_classes=3, n_centroids=[2, 4, 4], momentum=0.5, metric="sqeuclidean")
    assert store.usage_statistics().perplexity.isnan().all()
    x = torch.ones(12, 4, dtype=torch.float64)
    store.update(x, torch.tensor([0] * 4 + [1] * 8), torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 2, 2]))
    found = store.usage_statistics(below=0.1)
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    torch.testing.assert_close(found.perplexity[:2], torch.tensor([2.0, math.exp(entropy)], dtype=torch.float64))
    assert found.dead_share[:2].tolist() == [0, 0.25]
    assert found.balance[:2].tolist() == [1, 0.5]
    assert found.perplexity[2].isnan()
    assert found.dead_share[2].isnan()
    assert found.balance[2].isnan()
    single = otc.CentroidStore(n_centroids=2, dim=4)
    single.update(torch.ones(1, 4), None, torch.tensor([0]))
    assert float(single.usage_statistics().perplexity) == 1
