"""k-means tells each round, and goes on from what it told as if nothing had been."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import otcluster as otc
from tests.clustering.test_kmeans import blobs
from tests.reducers import run_ranks

ANNEALED = otc.Annealing(otc.LogSinkhorn(epsilon=0.5, max_iter=2000, tol=1e-9), start=4.0, factor=0.5)
CASES = [
    (solver, metric, dtype)
    for solver in (otc.Nearest(), otc.ExactBalanced())
    for metric in ("sqeuclidean", "cosine")
    for dtype in (np.float32, np.float64)
]


def told(x, k, **options):
    seen = []
    return otc.kmeans(x, k, progress=seen.append, **options), seen


@pytest.mark.parametrize(("solver", "metric", "dtype"), [*CASES, (ANNEALED, "sqeuclidean", np.float64)])
def test_from_each_round_it_goes_on_to_the_same_end(solver, metric, dtype):
    x = blobs(600, 6, 9, seed=2, dtype=dtype, spread=3.0) + (30 if metric == "sqeuclidean" else 0)
    options = {"assign": solver, "metric": metric}
    result, seen = told(x, 9, **options)
    assert [each.n_iter for each in seen] == list(range(result.n_iter + 1))
    assert result.n_iter > 4
    assert seen[-1].converged == (result.status is otc.Status.CONVERGED)
    for each in seen[:: max(1, len(seen) // 6)] + seen[-2:]:
        assert each.centroids.dtype == np.float64
        again = otc.kmeans(x, 9, init=each, **options)
        assert (again.n_iter, again.status) == (result.n_iter, result.status)
        np.testing.assert_array_equal(again.labels, result.labels)
        np.testing.assert_allclose(again.centroids, result.centroids, rtol=4 * np.finfo(dtype).eps, atol=1e-6)
        assert again.inertia == pytest.approx(result.inertia, rel=1e-6)


def test_a_run_that_was_stopped_by_max_iter_is_gone_on_with():
    x, weight = blobs(5000, 8, 30, seed=1, spread=3.0), np.random.default_rng(0).uniform(0, 2, 5000)
    result, seen = told(x, 30, sample_weight=weight)
    stopped, few = told(x, 30, sample_weight=weight, max_iter=4)
    assert (stopped.n_iter, stopped.status, few[-1].converged) == (4, otc.Status.MAX_ITER, False)
    same = otc.kmeans(x, 30, sample_weight=weight, max_iter=4, init=few[-1])
    assert (same.n_iter, same.status) == (4, otc.Status.MAX_ITER)
    np.testing.assert_array_equal(same.labels, stopped.labels)
    again, rest = told(x, 30, sample_weight=weight, init=few[-1])
    assert [each.n_iter for each in rest] == list(range(5, result.n_iter + 1))
    assert (again.n_iter, again.status) == (result.n_iter, otc.Status.CONVERGED)
    np.testing.assert_array_equal(again.labels, result.labels)
    assert len(seen) == result.n_iter + 1


def test_what_is_told_is_true():
    x = blobs(2000, 5, 12, spread=2.0)
    result, seen = told(x, 12, tol=1e-3)
    np.testing.assert_array_equal(seen[-1].centroids, result.centroids)
    variance = x.var(axis=0).mean()
    for before, after in pairwise(seen):
        moved = ((after.centroids - before.centroids) ** 2).sum() / variance
        assert after.shift == pytest.approx(moved, rel=1e-6, abs=1e-12)
        assert before.seconds <= after.seconds
    labels = [((x[:, None] - seen[at].centroids) ** 2).sum(-1).argmin(1) for at in range(3)]
    assert seen[1].changed == 1
    assert seen[2].changed == pytest.approx(np.mean(labels[1] != labels[0]))
    assert seen[3].changed == pytest.approx(np.mean(labels[2] != labels[1]))
    assert all(each.shift > 1e-3 for each in seen[1:-1])


def test_each_start_is_told():
    _, seen = told(blobs(300, 3, 4), 4, n_init=3)
    assert [each.turn for each in seen if each.n_iter == 0] == [0, 1, 2]
    assert [each.turn for each in seen] == sorted(each.turn for each in seen)


def test_torch_is_told_in_torch():
    x = torch.from_numpy(blobs(300, 3, 4, dtype=np.float32))
    result, seen = told(x, 4)
    assert all(each.centroids.dtype == torch.float64 for each in seen)
    assert torch.equal(otc.kmeans(x, 4, init=seen[1]).labels, result.labels)


def test_every_rank_is_told_the_same():
    x = blobs(900, 4, 6)

    def work(rank, reducer):
        return told(x[:100] if rank == 0 else x[100:], 6, reducer=reducer)

    (one, first), (_, second) = run_ranks(2, work)
    alone, seen = told(x, 6)
    assert len(first) == len(second) == len(seen) == alone.n_iter + 1 == one.n_iter + 1
    for a, b, c in zip(first, second, seen, strict=True):
        np.testing.assert_array_equal(a.centroids, b.centroids)
        assert (a.n_iter, a.changed, a.shift, a.converged) == (b.n_iter, b.changed, b.shift, b.converged)
        np.testing.assert_allclose(a.centroids, c.centroids, atol=1e-9)
        assert a.changed == c.changed


def test_what_a_watcher_raises_ends_the_call():
    class Enough(Exception):
        pass

    def watch(seen):
        if seen.n_iter == 2:
            raise Enough

    with pytest.raises(Enough):
        otc.kmeans(blobs(300, 3, 4, spread=3.0), 4, progress=watch)
    with pytest.raises(TypeError, match="progress must be a function"):
        otc.kmeans(blobs(300, 3, 4), 4, progress=3)
