"""k-means of unusual inputs: copies that lose their cluster, directions without length, seeds, and what errors say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from tests.clustering.test_kmeans import LIBRARIES, directions, few_empty, squares
from tests.reducers import run_ranks
from tests.strategies import to_numpy


def copies_and_far_starts(seed):
    """A few rows with whole weights, and starts of which some are nearest to no row."""
    rng = np.random.default_rng(seed)
    n, dim = int(rng.integers(4, 15)), int(rng.integers(1, 4))
    k = min(n, int(rng.integers(2, 8)))
    x = rng.normal(size=(n, dim))
    start = x[rng.choice(n, k, replace=False)] + (rng.random((k, 1)) < 0.5) * rng.normal(size=(k, dim)) * 9
    return x, rng.integers(1, 5, size=n), start


@few_empty
@pytest.mark.parametrize("compiled", ["0", "1"])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_weight_w_is_w_repetitions_where_clusters_go_empty_too(metric, compiled, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_COMPILED", compiled)
    for seed in range(60):
        x, weight, start = copies_and_far_starts(seed)
        weighted = otc.kmeans(x, len(start), init=start, sample_weight=weight, metric=metric, tol=0)
        repeated = otc.kmeans(np.repeat(x, weight, axis=0), len(start), init=start, metric=metric, tol=0)
        np.testing.assert_allclose(repeated.centroids, weighted.centroids, atol=1e-9)
        assert repeated.inertia == pytest.approx(weighted.inertia, abs=1e-9)


@few_empty
@pytest.mark.parametrize("edges", [[0, 5, 40], [0, 0, 13, 40]])
def test_copies_on_several_ranks_move_together(edges):
    rng = np.random.default_rng(3)
    x = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 7.0], [7.0, 7.0]]), 10, axis=0)[rng.permutation(40)]
    start = np.array([[0.0, 0.0], [400.0, 0.0], [0.0, 500.0], [600.0, 0.0]])
    whole = otc.kmeans(x, 4, init=start)
    assert whole.inertia == pytest.approx(0, abs=1e-12)
    parts = run_ranks(
        len(edges) - 1,
        lambda rank, reducer: otc.kmeans(x[edges[rank] : edges[rank + 1]], 4, init=start, reducer=reducer),
    )
    for part in parts:
        np.testing.assert_allclose(part.centroids, whole.centroids, atol=1e-12)
        assert part.n_iter == whole.n_iter
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("assign", [otc.Nearest(), otc.ExactBalanced(), otc.LogSinkhorn(epsilon=0.3)])
def test_zero_vectors_have_no_direction_whatever_assigns(assign, library):
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[::8] = 0
    result = otc.kmeans(LIBRARIES[library](x), 3, metric="cosine", assign=assign)
    centroids = to_numpy(result.centroids)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1)
    plan = to_numpy(result.assignment.plan())
    assert result.inertia == pytest.approx((plan * squares(x, centroids, "cosine")).sum())


@pytest.mark.parametrize("compiled", ["0", "1"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float32, 1e-38), (np.float32, 1e-42), (np.float64, 1e-309), (np.float32, 1e38)]
)
def test_directions_of_vectors_near_the_ends_of_their_dtype(dtype, scale, compiled, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_COMPILED", compiled)
    ways = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    x = (np.repeat(ways, 4, axis=0) * scale * np.tile([1.0, 1.5, 2.0, 2.5], 3)[:, None]).astype(dtype)
    result = otc.kmeans(x, 3, metric="cosine", init=ways.astype(dtype))
    assert np.isfinite(result.inertia)
    np.testing.assert_allclose(directions(result.centroids.astype(np.float64)), ways, atol=1e-6)
    np.testing.assert_array_equal(result.labels, np.repeat([0, 1, 2], 4))


@pytest.mark.parametrize("run", [otc.kmeans, otc.minibatch_kmeans], ids=["kmeans", "minibatch"])
def test_seeds_are_whole_numbers_of_any_size_or_generators(run):
    x = np.random.default_rng(0).normal(size=(200, 2))
    found = [run(x, 9, seed=np.random.default_rng(seed)).centroids for seed in (5, 5, 6)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    generator = np.random.default_rng(5)
    assert (run(x, 9, seed=generator).centroids != run(x, 9, seed=generator).centroids).any()
    assert np.isfinite(run(x, 9, seed=2**70 + 1).centroids).all()
    for seed in (None, 1.5, "1", True, torch.Generator()):
        with pytest.raises(TypeError, match=r"seed must be a whole number or a numpy.random.Generator, got"):
            run(x, 9, seed=seed)


def test_a_tree_and_a_count_take_generators_too():
    x = np.random.default_rng(0).normal(size=(60, 2))
    trees = [otc.hierarchical_kmeans(x, (10, 3), seed=np.random.default_rng(2)) for _ in range(2)]
    np.testing.assert_array_equal(trees[0].labels, trees[1].labels)
    drawn = [trees[0].sample(20, seed=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    counts = [otc.choose_n_clusters(x, np.arange(1, 4), seed=np.random.default_rng(1)) for _ in range(2)]
    np.testing.assert_array_equal(counts[0].values, counts[1].values)
    for bad in (2.5, True, -1):
        with pytest.raises((TypeError, ValueError), match="n must be"):
            trees[0].sample(bad)


def test_centroids_of_another_library_are_a_start():
    x = np.random.default_rng(0).normal(size=(60, 2))
    expected = otc.kmeans(x, 3, init=x[:3]).centroids
    for given in (x[:3].tolist(), torch.from_numpy(x[:3]).requires_grad_()):
        np.testing.assert_array_equal(otc.kmeans(x, 3, init=given).centroids, expected)
    half = torch.from_numpy(x[:3]).bfloat16()
    np.testing.assert_array_equal(otc.kmeans(x, 3, init=half).centroids, otc.kmeans(x, 3, init=half.double().numpy()).centroids)


@pytest.mark.parametrize("assign", [otc.SinkhornKnopp(), otc.LogSinkhorn(), otc.ExactBalanced()])
@pytest.mark.parametrize("sharded", [False, True])
def test_impossible_shares_are_errors_and_no_answer(assign, sharded):
    x, n_ranks = np.random.default_rng(0).normal(size=(20, 2)), 2 if sharded else 1
    for share, match in (([1, 1, -1], "not negative, got -1"), ([1, np.nan, 1], "finite"), ([0, 0, 0], "closes every cluster")):
        given = {"assign": assign, "cluster_share": np.array(share, float)}
        with pytest.raises(ValueError, match=f"cluster_share.*{match}"):
            run_ranks(n_ranks, lambda rank, reducer, given=given: otc.kmeans(x[rank::n_ranks], 3, reducer=reducer, **given))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"init": "k-means++"}, TypeError, r"init must be a start such as KMeansPlusPlus\(\), centroids"),
        ({"init": otc.KMeansPlusPlus}, TypeError, r"init must be a start such as KMeansPlusPlus\(\), centroids"),
        ({"sample_weight": np.ones(8, bool)}, TypeError, "sample_weight must be numbers, got bool"),
        ({"sample_weight": np.array(["1"] * 8)}, TypeError, "sample_weight must be numbers, got <U1"),
        ({"sample_weight": np.full(8, 1e39)}, ValueError, "sample_weight is too large for float32"),
        ({"x": np.arange(16.0).reshape(8, 2), "sample_weight": np.full(8, 1e308)}, ValueError, "sample_weight is too large"),
        ({"reducer": 3}, TypeError, "reducer must have the methods sum and max"),
        ({"tol": "a little"}, TypeError, "tol must be a number"),
        ({"n_clusters": np.array([1, 2])}, TypeError, "n_clusters must be a whole number"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    arguments = {"x": np.arange(16, dtype=np.float32).reshape(8, 2), "n_clusters": 2, **changes}
    with pytest.raises(error, match=match):
        otc.kmeans(**arguments)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_the_first_row_that_is_not_finite_is_named(metric, library):
    x = np.ones((9, 2))
    x[[4, 7], 1] = np.inf, np.nan
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity in row 4"):
        otc.kmeans(LIBRARIES[library](x), 2, metric=metric)
    for size in (2, 9):
        with pytest.raises(ValueError, match=r"NaN or infinity in row [47]:"):
            otc.minibatch_kmeans(LIBRARIES[library](x), 2, metric=metric, batch_size=size)
    errors = run_ranks(2, lambda rank, reducer: _error_of(lambda: otc.kmeans(x[rank * 4 :][:4], 2, reducer=reducer)))
    assert "on another rank" in errors[0]
    assert "in row 0" in errors[1]


def _error_of(action):
    with pytest.raises(ValueError, match="x must be finite") as caught:
        action()
    return str(caught.value)
