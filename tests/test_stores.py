"""Centroids that move with momentum: one step for all classes, whatever it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster.clustering.initialisation import kmeans_plusplus
from tests.strategies import LIBRARIES, to_numpy


def loop_over_classes(centroids, x, y, a, momentum, unit):
    """The momentum step, one centroid after the other."""
    result = centroids.clone()
    for c in range(centroids.shape[0]):
        for k in range(centroids.shape[1]):
            own = (y == c) & (a == k)
            if own.any():
                moved = momentum * centroids[c, k] + (1 - momentum) * x[own].mean(0)
                result[c, k] = moved / moved.norm() if unit else moved
    return result


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_one_update_is_the_loop_over_classes(metric):
    generator = torch.Generator().manual_seed(0)
    store = otc.CentroidStore(n_classes=6, n_centroids=3, dim=8, momentum=0.7, metric=metric)
    x = torch.randn(50, 8, generator=generator)
    y, a = torch.randint(0, 5, (50,), generator=generator), torch.randint(-1, 3, (50,), generator=generator)
    expected = loop_over_classes(store.centroids, x, y, a, 0.7, metric == "cosine")
    store.update(x, y, a)
    torch.testing.assert_close(store.centroids, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(store.centroids[5], expected[5])  # a class without samples stays to the bit


def test_an_assignment_is_taken_as_it_is():
    store = otc.CentroidStore(n_classes=2, n_centroids=2, dim=3, momentum=0.5)
    twin = otc.CentroidStore(n_classes=2, n_centroids=2, dim=3, momentum=0.5)
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 2
    points = otc.PointScores(x, store.centroids, metric="cosine")
    assignment = otc.solve(otc.Problem(points, groups=y, n_groups=2), otc.LogSinkhorn())
    twin.update(x, y, assignment.labels())
    store.update(x, y, assignment)
    assert torch.equal(store.centroids, twin.centroids)


def test_a_store_without_classes_has_one_set():
    store = otc.CentroidStore(n_centroids=2, dim=2, momentum=0.0, metric="sqeuclidean")
    store.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), None, torch.tensor([1, 1]))
    assert store.centroids[1].tolist() == [2, 0]
    with pytest.raises(ValueError, match="no classes"):
        store.update(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]))


def test_a_store_has_no_parameters_and_its_state_is_whole():
    store = otc.CentroidStore(n_classes=3, n_centroids=2, dim=4)
    assert not list(store.parameters())
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    store.start(x, y)
    other = otc.CentroidStore(n_classes=3, n_centroids=2, dim=4, seed=1)
    other.load_state_dict(store.state_dict())
    for each in (store, other):
        each.start(x, y, seed=5)
        each.update(x, y, torch.arange(30) % 2)
    assert torch.equal(store.centroids, other.centroids)


def test_centroids_start_at_samples_of_their_class_and_only_once():
    store = otc.CentroidStore(n_classes=3, n_centroids=2, dim=4)
    x = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2])
    before = store.centroids.clone()
    assert store.start(x, y).tolist() == [True, True, False]  # one sample is not enough for two centroids
    for label in (0, 1):
        for centroid in store.centroids[label]:
            assert (x[y == label] - centroid).abs().sum(1).min() < 1e-5
    assert torch.equal(store.centroids[2], before[2])
    held = store.centroids.clone()
    assert not store.start(x.flip(0), y.flip(0)).any()
    assert torch.equal(store.centroids, held)


def test_centroids_start_in_different_clusters_whatever_the_order_of_the_samples():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(5, 4, 8, generator=generator)
    y, which = torch.randint(5, (600,), generator=generator), torch.randint(4, (600,), generator=generator)
    x = centres[y, which] + torch.randn(600, 8, generator=generator)
    stores = []
    for order in (torch.arange(600), torch.randperm(600, generator=generator)):
        stores.append(otc.CentroidStore(n_classes=5, n_centroids=4, dim=8, metric="sqeuclidean"))
        stores[-1].start(x[order], y[order])
    nearest = torch.cdist(stores[0].centroids, centres).argmin(dim=2)
    assert (nearest.sort(dim=1).values == torch.arange(4)).all()
    assert torch.equal(stores[0].centroids, stores[1].centroids)
    other = otc.CentroidStore(n_classes=5, n_centroids=4, dim=8, metric="sqeuclidean")
    other.start(x, y, seed=1)
    assert not torch.equal(other.centroids, stores[0].centroids)


def test_copies_of_one_sample_start_all_centroids_there():
    store = otc.CentroidStore(n_centroids=3, dim=2, metric="sqeuclidean")
    assert store.start(torch.tensor([[3.0, 4.0]]).repeat(5, 1))
    assert torch.equal(store.centroids, torch.tensor([[3.0, 4.0]]).repeat(3, 1))


@pytest.mark.parametrize(
    ("features", "labels", "assignment", "error", "message"),
    [
        (torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([0, 0]), ValueError, r"features must have shape \(n, 4\)"),
        (torch.ones(2, 4), None, torch.tensor([0, 0]), ValueError, "labels are needed"),
        (torch.ones(2, 4), torch.tensor([0, 3]), torch.tensor([0, 0]), ValueError, r"labels must lie in \[0, 3\)"),
        (torch.ones(2, 4), torch.tensor([0, 1]), torch.tensor([0, 2]), ValueError, r"assignment must lie in \[-1, 2\)"),
        (torch.ones(2, 4), torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), ValueError, r"assignment must have shape \(2, 2\)"),
        (torch.ones(2, 4), torch.tensor([0, 1, 2]), torch.tensor([0, 1]), ValueError, r"labels must have shape \(2,\)"),
    ],
)
def test_the_store_refuses_what_does_not_fit_and_stays_as_it_was(features, labels, assignment, error, message):
    store = otc.CentroidStore(n_classes=3, n_centroids=2, dim=4)
    before = store.centroids.clone()
    with pytest.raises(error, match=message):
        store.update(features, labels, assignment)
    assert torch.equal(store.centroids, before)


@pytest.mark.parametrize("arguments", [{"momentum": 1.5}, {"n_centroids": 0}, {"dim": 0}, {"metric": "dot"}, {"n_classes": 0}])
def test_impossible_stores_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        otc.CentroidStore(**{"n_classes": 2, "n_centroids": 2, "dim": 2, **arguments})


def test_what_is_no_number_no_seed_and_no_reducer_is_named():
    x, to = torch.ones(2, 2), torch.tensor([0, 1])
    for seed in (None, 0.5, torch.Generator()):
        with pytest.raises(TypeError, match="seed must be a whole number"):
            otc.CentroidStore(n_centroids=2, dim=2, seed=seed)
        with pytest.raises(TypeError, match="seed must be a whole number"):
            otc.CentroidStore(n_centroids=2, dim=2).start(x, seed=seed)
    with pytest.raises(ValueError, match="got 2 of them: set n_classes"):
        otc.CentroidStore(n_centroids=(1, 2), dim=2)
    with pytest.raises(TypeError, match="n_centroids must be a whole number"):
        otc.CentroidStore(n_classes=2, n_centroids=torch.tensor([1, 2]), dim=2)
    store = otc.CentroidStore(n_centroids=2, dim=2, momentum=lambda done: "most")
    with pytest.raises(TypeError, match="momentum must be a number, got 'most'"):
        store.update(x, None, to)
    for action in (lambda: store.update(x, None, to, reducer=3), lambda: store.start(x, reducer=3)):
        with pytest.raises(TypeError, match="reducer must have the methods sum and max"):
            action()


@pytest.mark.parametrize("library", LIBRARIES)
def test_kmeans_plusplus_draws_one_of_each_distant_cluster(library):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    groups = rng.integers(0, 4, 400)
    which = rng.integers(0, 3, 400)
    x = centres[which] + rng.standard_normal((400, 2)) + 1000 * groups[:, None]
    lay = LIBRARIES[library]
    drawn = to_numpy(kmeans_plusplus(lay(x), 3, groups=lay(groups), n_groups=5, seed=0))
    assert drawn.shape == (5, 3)
    assert (drawn[4] == -1).all()
    for group in range(4):
        assert (groups[drawn[group]] == group).all()
        assert sorted(which[drawn[group]]) == [0, 1, 2]


def test_kmeans_plusplus_draws_distant_samples_more_often():
    x = np.array([[0.0], [1.0], [3.0]])
    second = [int(kmeans_plusplus(x, 2, seed=seed)[1]) for seed in range(4000) if kmeans_plusplus(x, 1, seed=seed)[0] == 0]
    share = np.mean(np.array(second) == 2)  # squared distances 1 and 9
    assert abs(share - 0.9) < 4 * np.sqrt(0.09 / len(second))


def test_kmeans_plusplus_on_duplicates_draws_some_again():
    drawn = kmeans_plusplus(np.ones((5, 2)), 3)
    assert ((drawn >= 0) & (drawn < 5)).all()
