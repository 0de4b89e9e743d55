"""k-means of rows on a CUDA device is done there, and finds what it finds on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster.clustering.initialisation import kmeans_plusplus
from otcluster.clustering.lots import RowLots
from otcluster.clustering.nearest import distances, nearest_centroids
from otcluster.clustering.samples import Samples
from tests.strategies import clustered_vectors, to_numpy

pytestmark = pytest.mark.gpu
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def rows(n=3000, d=12, n_true=8, dtype=torch.float32):
    return torch.from_numpy(clustered_vectors(n, d=d, n_true=n_true, spread=0.2)).to(dtype)


def are_one(mine, theirs, *, few=0.002, rtol=1e-4):
    """Labels but for near ties, and inertia."""
    assert np.mean(to_numpy(mine.labels) != to_numpy(theirs.labels)) <= few
    assert mine.inertia == pytest.approx(theirs.inertia, rel=rtol)
    torch.testing.assert_close(mine.centroids.cpu(), theirs.centroids, rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_is_that_of_the_host(dtype, metric, weighted, there, stays):
    x = rows(dtype=dtype)
    weights = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 2, len(x))).float() if weighted else None
    mine, theirs = (
        otc.kmeans(place(x), 8, metric=metric, sample_weight=place(weights), max_iter=30, seed=1)
        for place in (there, lambda value: value)
    )
    stays(mine.centroids, mine.labels)
    assert mine.centroids.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    are_one(mine, theirs)
    stays(mine.assignment.labels(), mine.assignment.cluster_sizes())


@pytest.mark.parametrize("init", [otc.KMeansPlusPlus(), otc.KMeansParallel()], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_start_is_that_of_the_host(init, dtype, there, stays):
    x = rows(dtype=dtype)
    drawn = [init.draw(Samples(place(x), None, "sqeuclidean", None), 12, 3) for place in (there, lambda value: value)]
    stays(drawn[0])
    torch.testing.assert_close(drawn[0].cpu(), torch.as_tensor(drawn[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_hashes_of_rows_are_those_of_the_host(dtype, there):
    x = rows(dtype=dtype)
    x[0] = -0.0
    mine, theirs = (RowLots(Samples(place(x), None, "cosine", None)).hashes for place in (there, lambda value: value))
    np.testing.assert_array_equal(mine, theirs)


def test_copies_of_a_row_are_at_no_distance(there):
    x = torch.from_numpy(np.repeat(np.random.default_rng(0).standard_normal((5, 7)), 40, axis=0)).float() + 100
    with pytest.warns(UserWarning, match="fewer distinct"):
        result = otc.kmeans(there(x), 9)
    assert result.inertia == pytest.approx(0, abs=1e-3)
    assert len(np.unique(to_numpy(result.labels))) >= 5


@pytest.mark.parametrize(
    "solver",
    [otc.ExactBalanced(), otc.LogSinkhorn(0.02, tol=1e-4), otc.SinkhornKnopp(0.05)],
    ids=lambda value: type(value).__name__,
)
def test_balanced_kmeans(solver, there, stays):
    x = rows(n=800)
    start = x[:: len(x) // 8][:8]
    mine, theirs = (
        otc.kmeans(place(x), 8, assign=solver, init=place(start), max_iter=8) for place in (there, lambda value: value)
    )
    stays(mine.centroids, mine.labels)
    are_one(mine, theirs, few=0.02, rtol=1e-3)
    if isinstance(solver, otc.ExactBalanced):
        np.testing.assert_array_equal(np.bincount(to_numpy(mine.labels), minlength=8), 100)


def test_empty_clusters_are_moved(there, stays):
    x = rows()
    start = torch.cat([x[:7], x[:1] + 50])
    mine, theirs = (otc.kmeans(place(x), 8, init=place(start), max_iter=10) for place in (there, lambda value: value))
    stays(mine.centroids)
    are_one(mine, theirs)
    assert np.bincount(to_numpy(mine.labels), minlength=8).min() > 0


def test_progress_and_going_on(there, stays):
    x, told = there(rows()), []
    whole = otc.kmeans(x, 8, progress=told.append, tol=0)
    again = otc.kmeans(x, 8, init=told[1], tol=0)
    stays(*(each.centroids for each in told))
    np.testing.assert_array_equal(to_numpy(again.labels), to_numpy(whole.labels))


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_minibatch_kmeans(metric, there, stays):
    x = rows()
    mine, theirs = (
        otc.minibatch_kmeans(place(x), 8, metric=metric, batch_size=256, max_epochs=3) for place in (there, lambda value: value)
    )
    stays(mine.centroids, mine.labels)
    assert mine.n_iter == theirs.n_iter
    are_one(mine, theirs, few=0.01, rtol=1e-2)


def test_distances(there, stays):
    x, centroids = rows(), rows(n=9)
    for metric in ("sqeuclidean", "cosine"):
        mine = distances(there(x), there(centroids), metric=metric)
        stays(mine, *nearest_centroids(there(x), there(centroids), metric=metric))
        torch.testing.assert_close(mine.cpu(), distances(x, centroids, metric=metric), rtol=1e-3, atol=1e-5)
        # Centroids of the host are brought along.
        stays(*nearest_centroids(there(x), centroids, metric=metric))


@pytest.mark.parametrize("init", [otc.KMeansPlusPlus(), otc.KMeansParallel()], ids=lambda value: type(value).__name__)
def test_rows_do_not_come_to_the_host(init, there, monkeypatch):
    """What comes is a number for each row at most: its hash, its label."""
    x, sizes, original = there(rows(n=6000)), [], torch.Tensor.cpu

    def watched(self, *args, **kwargs):
        sizes.append(self.numel())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "cpu", watched)
    otc.kmeans(x, 8, init=init, max_iter=5)
    assert 0 < max(sizes) <= len(x)


def test_kmeans_plusplus_of_groups(there, stays):
    x, groups = rows(n=200), torch.arange(200) % 4
    found = kmeans_plusplus(there(x), 3, groups=there(groups), n_groups=4)
    stays(found)
    for group, drawn in enumerate(to_numpy(found)):
        assert (to_numpy(groups)[drawn] == group).all()


def test_hierarchical_kmeans_and_the_number_of_clusters(there):
    x = rows(n=1200)
    mine, theirs = (otc.hierarchical_kmeans(place(x), [40, 8]) for place in (there, lambda value: value))
    assert np.mean(to_numpy(mine.labels) != to_numpy(theirs.labels)) < 0.05
    found = [otc.choose_n_clusters(place(x), range(6, 11)).n_clusters for place in (there, lambda value: value)]
    assert found[0] == found[1]
