"""Scores that are formed from vectors as they are needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster._ops.numpy import NumpyOps
from otcluster._ops.torch import TorchOps
from tests.strategies import LIBRARIES, to_numpy


def reference(x, centroids, metric):
    """The definition, in float64."""
    x, c = x.astype(np.float64), centroids.astype(np.float64)
    if metric == "sqeuclidean":
        return -((x[..., :, None, :] - c[..., None, :, :]) ** 2).sum(-1)
    if metric == "cosine":
        x, c = (
            v / np.where(np.linalg.norm(v, axis=-1, keepdims=True) == 0, 1, np.linalg.norm(v, axis=-1, keepdims=True))
            for v in (x, c)
        )
    return x @ np.swapaxes(c, -1, -2)


def scores_of(points):
    """All scores of points, as an array."""
    tile = points.tiles(None)
    batches = int(np.prod(points.batch_shape, dtype=int))
    return to_numpy(tile(slice(0, batches), slice(0, points.n_samples)))


@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_metric_is_its_definition(dtype, library, metric):
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((30, 6)).astype(dtype), rng.standard_normal((5, 6)).astype(dtype)
    found = scores_of(otc.PointScores(LIBRARIES[library](x), LIBRARIES[library](c), metric=metric))[0]
    np.testing.assert_allclose(found, reference(x, c, metric), atol=64 * np.finfo(dtype).eps * 10)


@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
@pytest.mark.parametrize("solver", [otc.SinkhornKnopp(epsilon=0.5), otc.LogSinkhorn(epsilon=0.5), otc.Nearest()], ids=repr)
def test_points_and_dense_scores_give_one_answer(solver, metric):
    rng = np.random.default_rng(1)
    x, c = rng.standard_normal((40, 6)), rng.standard_normal((5, 6))
    dense = otc.solve(otc.Problem(reference(x, c, metric)), solver)
    points = otc.solve(otc.Problem(otc.PointScores(x, c, metric=metric)), solver)
    np.testing.assert_allclose(points.plan(), dense.plan(), atol=1e-9)
    np.testing.assert_array_equal(points.labels(), dense.labels())


@pytest.mark.parametrize("ops", [NumpyOps, TorchOps])
def test_small_tiles_change_nothing(monkeypatch, ops):
    rng = np.random.default_rng(2)
    x, c = rng.standard_normal((3, 200, 6)), rng.standard_normal((3, 5, 6))
    lay = np.asarray if ops is NumpyOps else torch.from_numpy
    whole = otc.sinkhorn_knopp(otc.PointScores(lay(x), lay(c), metric="cosine"))
    init = ops.__init__

    def small(self, *args):
        init(self, *args)
        self.tile_elements = 64

    monkeypatch.setattr(ops, "__init__", small)
    monkeypatch.setattr("otcluster.passes.FEW_SCORES", 0)
    tiled = otc.sinkhorn_knopp(otc.PointScores(lay(x), lay(c), metric="cosine"))
    np.testing.assert_allclose(to_numpy(tiled.plan()), to_numpy(whole.plan()), atol=1e-13)
    np.testing.assert_array_equal(to_numpy(tiled.labels()), to_numpy(whole.labels()))
    grouped = otc.sinkhorn_knopp(otc.PointScores(lay(x[0]), lay(c)), groups=lay(np.arange(200) % 3), n_groups=3)
    dense = np.einsum("nd,nkd->nk", x[0], c[np.arange(200) % 3])
    expected = otc.sinkhorn_knopp(dense, groups=np.arange(200) % 3, n_groups=3)
    np.testing.assert_allclose(to_numpy(grouped.plan()), expected.plan(), atol=1e-12)


def test_far_from_the_origin_squared_distances_keep_their_digits():
    rng = np.random.default_rng(3)
    x, c = rng.standard_normal((50, 4)), rng.standard_normal((6, 4))
    far = np.full(4, 1000.0)
    x, c = (x + far).astype(np.float32), (c + far).astype(np.float32)
    found = scores_of(otc.PointScores(x, c, metric="sqeuclidean"))[0]
    np.testing.assert_allclose(found, reference(x, c, "sqeuclidean"), atol=64 * np.finfo(np.float32).eps * 16)
    assert (found <= 0).all()


@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_plans_of_points_are_those_of_exact_scores_to_float32(dtype, metric):
    rng = np.random.default_rng(7)
    x, c = (torch.from_numpy(rng.standard_normal((n, 6)) + 8).to(dtype) for n in (40, 5))  # far from the origin, too
    exact = reference(x.double().numpy(), c.double().numpy(), metric)
    epsilon = np.ptp(exact) / 10
    points = otc.sinkhorn_knopp(otc.PointScores(x, c, metric=metric), epsilon=epsilon)
    assert points.plan().dtype == torch.float32
    # Products of some 500 that lie as far apart as 10 epsilons: eight roundings of them.
    limit = 8 * np.finfo(np.float32).eps * max(1.0, np.abs(exact).max() / epsilon)
    np.testing.assert_allclose(points.plan().numpy(), otc.sinkhorn_knopp(exact, epsilon=epsilon).plan(), atol=limit)


def test_half_precision_points_may_have_squares_beyond_half_precision():
    x = torch.full((4, 8), 300.0, dtype=torch.float16)
    c = torch.stack([torch.full((8,), 300.0), torch.full((8,), -300.0)]).half()
    for metric in ("dot", "cosine", "sqeuclidean"):
        assert (otc.nearest(otc.PointScores(x, c, metric=metric)).labels() == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e30])
def test_cosines_do_not_depend_on_length(scale):
    rng = np.random.default_rng(4)
    x, c = rng.standard_normal((20, 3)).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)
    found = scores_of(otc.PointScores(x * np.float32(scale), c, metric="cosine"))
    np.testing.assert_allclose(found[0], reference(x, c, "cosine"), atol=1e-6)
    assert otc.nearest(otc.PointScores(x * np.float32(scale), c, metric="cosine")).status is otc.Status.CONVERGED


def test_a_zero_vector_is_similar_to_nothing():
    points = otc.PointScores(np.zeros((1, 3)), np.eye(3), metric="cosine")
    np.testing.assert_array_equal(scores_of(points), np.zeros((1, 1, 3)))


@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
def test_vectors_without_entries_are_all_alike(metric):
    for shape in ((4, 0), (2, 4, 0)):
        points = otc.PointScores(np.zeros(shape), np.zeros((3, 0)), metric=metric)
        np.testing.assert_allclose(otc.log_sinkhorn(points).plan(), 1 / 3)
        assert (otc.nearest(points).labels() == 0).all()


def test_one_set_of_centroids_serves_a_batch():
    rng = np.random.default_rng(5)
    x, c = rng.standard_normal((2, 10, 3)), rng.standard_normal((4, 3))
    plan = otc.sinkhorn_knopp(otc.PointScores(x, c)).plan()
    np.testing.assert_allclose(plan, otc.sinkhorn_knopp(x @ c.T).plan(), atol=1e-13)


def test_the_scores_are_never_formed_as_a_whole(formed):
    rng = np.random.default_rng(6)
    points = otc.PointScores(rng.standard_normal((4000, 8)), rng.standard_normal((500, 8)))
    otc.sinkhorn_knopp(points).labels()
    assert max(formed) <= 64 * 500


@pytest.mark.parametrize(
    ("x", "centroids", "match"),
    [
        (np.ones((4, 3)), np.ones((2, 5)), "same d"),
        (np.ones(3), np.ones((2, 3)), "same d"),
        (np.ones((4, 3)), np.ones((0, 3)), "no clusters"),
        (np.ones((2, 4, 3)), np.ones((5, 2, 3)), "same leading dimensions"),
    ],
)
def test_shapes_that_do_not_fit_are_named(x, centroids, match):
    with pytest.raises(ValueError, match=match):
        otc.PointScores(x, centroids)


def test_wrong_kinds_of_points_are_named():
    with pytest.raises(ValueError, match="metric must be one of dot, cosine, sqeuclidean, got 'l2'"):
        otc.PointScores(np.ones((4, 3)), np.ones((2, 3)), metric="l2")
    with pytest.raises(TypeError, match="one library and device"):
        otc.PointScores(np.ones((4, 3)), torch.ones(2, 3))
    with pytest.raises(TypeError, match="x must be float16"):
        otc.PointScores(np.ones((4, 3), int), np.ones((2, 3)))


def test_points_that_are_not_finite_are_refused():
    for bad in (np.nan, np.inf, -np.inf):
        x = np.ones((4, 3))
        x[2, 1] = bad
        with pytest.raises(ValueError, match="x must be finite"):
            otc.Problem(otc.PointScores(x, np.ones((2, 3))))
        with pytest.raises(ValueError, match="centroids must be finite"):
            otc.Problem(otc.PointScores(np.ones((2, 3)), x))
    with pytest.raises(ValueError, match="too large"):
        otc.Problem(otc.PointScores(np.full((4, 3), 1e30, np.float32), np.ones((2, 3), np.float32)))
