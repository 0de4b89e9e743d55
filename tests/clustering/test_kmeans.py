"""k-means against scikit-learn and a plain loop in float64, and the inputs that break k-means elsewhere."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

import otcluster as otc
from otcluster._ops import compiled
from otcluster.clustering import bounded
from tests.reducers import run_ranks
from tests.strategies import to_numpy

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy, "array-api-strict": array_api_strict.asarray}
few_empty = pytest.mark.filterwarnings("ignore:.*hold no sample:UserWarning")


def blobs(n, dim, n_true, *, seed=0, spread=1.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((n_true, dim))
    return (centres[rng.integers(n_true, size=n)] + spread * rng.standard_normal((n, dim))).astype(dtype)


def some_of(x, k, seed=0):
    return x[np.random.default_rng(seed).choice(len(x), k, replace=False)].copy()


def directions(x):
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def squares(x, centroids, metric="sqeuclidean"):
    """(n, k), by differences, in float64."""
    x, centroids = np.asarray(x, np.float64), np.asarray(centroids, np.float64)
    if metric == "cosine":
        x, centroids = directions(x), directions(centroids)
    return ((x[:, None, :] - centroids) ** 2).sum(-1)


def lloyd(x, centroids, rounds, metric="sqeuclidean", weight=None):
    """The oracle: plain rounds in float64; centroids without samples stay."""
    x, centroids = np.asarray(x, np.float64), np.array(centroids, np.float64)
    weight = np.ones(len(x)) if weight is None else weight
    if metric == "cosine":
        x, centroids = directions(x), directions(centroids)
    for _ in range(rounds):
        labels = squares(x, centroids).argmin(1)
        for j in range(len(centroids)):
            own = labels == j
            if weight[own].sum() > 0:
                centroids[j] = weight[own] @ x[own] / weight[own].sum()
        if metric == "cosine":
            centroids = directions(centroids)
    return centroids


def assert_belongs_together(x, result, metric="sqeuclidean", weight=None):
    """Labels and inertia are those of the centroids."""
    weight = np.ones(len(x)) if weight is None else weight
    distance = squares(x, to_numpy(result.centroids), metric)
    labels = to_numpy(result.labels)
    assert labels.dtype == np.int64
    own = np.take_along_axis(distance, labels[:, None], 1)[:, 0]
    rounding = 1e-9 if to_numpy(result.centroids).dtype == np.float64 else 1e-4
    np.testing.assert_allclose(own, distance.min(1), atol=rounding * max(1.0, float(distance.max())))
    assert result.inertia == pytest.approx(weight @ own, rel=1e-4, abs=1e-3 * rounding)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "k"), [(300, 5), (300, 40)])
def test_rounds_are_those_of_the_plain_loop(library, metric, weighted, n, k):
    x = blobs(n, 4, k, seed=k)
    start = directions(some_of(x, k)) if metric == "cosine" else some_of(x, k)
    weight = np.random.default_rng(1).random(n) if weighted else None
    lay = LIBRARIES[library]
    result = otc.kmeans(
        lay(x), k, init=lay(start), max_iter=4, tol=0, metric=metric, empty=otc.KeepEmpty(),
        sample_weight=None if weight is None else lay(weight),
    )  # fmt: skip
    assert type(result.centroids) is type(lay(x))
    np.testing.assert_allclose(to_numpy(result.centroids), lloyd(x, start, result.n_iter, metric, weight), atol=1e-9)
    assert_belongs_together(x, result, metric, weight)
    assert type(result.assignment.labels()) is type(lay(x))
    np.testing.assert_array_equal(to_numpy(result.assignment.labels()), to_numpy(result.labels))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("k", [20, 70, 300])
def test_bounds_rule_out_nothing_that_matters(dtype, metric, k, monkeypatch):
    x = blobs(6000, 8, k, seed=k, dtype=dtype)
    start = directions(some_of(x, k)) if metric == "cosine" else some_of(x, k)
    looked = []
    passed = bounded.CompiledPass._bounded
    monkeypatch.setattr(bounded.CompiledPass, "_bounded", lambda *args: looked.append(passed(*args)) or looked[-1])
    result = otc.kmeans(x, k, init=start, max_iter=15, tol=0, metric=metric, empty=otc.KeepEmpty())
    expected = lloyd(x, start, result.n_iter, metric)
    np.testing.assert_allclose(result.centroids, expected, atol=1e-9 if dtype == np.float64 else 1e-3)
    assert_belongs_together(x, result, metric)
    if result.assignment.problem.ops.kernels(dtype) is not None:
        assert len(looked) >= 3
        assert min(share for _, share in looked) < 0.2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inertia_is_that_of_scikit_learn_from_the_same_start(dtype):
    for seed in range(3):
        x = blobs(2000, 6, 25, seed=seed, spread=2.5, dtype=dtype)
        start = some_of(x, 20, seed)
        ours = otc.kmeans(x, 20, init=start, tol=0)
        theirs = KMeans(20, init=start, n_init=1, tol=0, algorithm="lloyd").fit(x)
        assert ours.inertia <= 1.001 * theirs.inertia_
        assert ours.status is otc.Status.CONVERGED


@pytest.mark.parametrize("init", [otc.KMeansPlusPlus(), otc.KMeansPlusPlus(n_candidates=1), otc.KMeansParallel()])
def test_starts_find_clusters_that_lie_apart(init):
    found = [otc.kmeans(blobs(1000, 5, 12, seed=seed, spread=0.05), 12, init=init, seed=seed).inertia for seed in range(10)]
    assert sum(inertia < 1.2 * 1000 * 5 * 0.05**2 for inertia in found) >= (5 if init == otc.KMeansPlusPlus(1) else 9)


def test_draws_of_plus_plus_have_the_right_probabilities():
    # The second of two is drawn with a probability proportional to weight times squared distance.
    x = np.array([[0.0], [1.0], [2.0], [4.0]])
    weight = np.array([1.0, 1.0, 2.0, 0.5])
    chances = np.zeros((4, 4))
    for first in range(4):
        chance = weight * (x[:, 0] - x[first, 0]) ** 2
        chances[first] = weight[first] / weight.sum() * chance / chance.sum()
    seen, draws = np.zeros((4, 4)), 3000
    for seed in range(draws):
        start = otc.kmeans(x, 2, init=otc.KMeansPlusPlus(1), max_iter=1, tol=1e9, sample_weight=weight, seed=seed)
        del start
        samples = otc.clustering.samples.Samples(x, weight, "sqeuclidean", None)
        drawn = otc.KMeansPlusPlus(1).draw(samples, 2, seed) + samples.centre
        one, two = (int(np.abs(x[:, 0] - each[0]).argmin()) for each in drawn)
        seen[one, two] += 1
    np.testing.assert_allclose(seen / draws, chances, atol=4 * 0.5 / draws**0.5)


def test_restarts_keep_the_best_and_a_result_goes_on():
    x = blobs(400, 3, 15, seed=3)
    singles = [otc.kmeans(x, 15, seed=seed).inertia for seed in range(5)]
    assert otc.kmeans(x, 15, n_init=5).inertia == min(singles)
    short = otc.kmeans(x, 15, max_iter=1, tol=0)
    assert short.status is otc.Status.MAX_ITER
    on = otc.kmeans(x, 15, init=short, tol=0)
    assert on.inertia < short.inertia
    again = otc.kmeans(x, 15, init=on, tol=0)
    assert again.n_iter <= 2
    assert again.inertia == pytest.approx(on.inertia)


@given(st.data())
def test_weight_w_is_w_repetitions(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    n, k = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 5))
    x = rng.standard_normal((n, 2))
    weight = rng.integers(0, 4, size=n)
    weight[: max(k, 1)] += 1
    k = min(k, n)
    start = x[:k]
    ours = otc.kmeans(x, k, init=start, sample_weight=weight.astype(float), tol=0, empty=otc.KeepEmpty())
    repeated = otc.kmeans(np.repeat(x, weight, axis=0), k, init=start, tol=0, empty=otc.KeepEmpty())
    np.testing.assert_allclose(ours.centroids, repeated.centroids, atol=1e-9)
    assert ours.inertia == pytest.approx(repeated.inertia, abs=1e-9)


@few_empty
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("assign", [otc.Nearest(), otc.ExactBalanced(), otc.LogSinkhorn(epsilon=0.5)])
@pytest.mark.parametrize(
    "x",
    [np.ones((20, 3)), np.repeat(np.eye(3), 7, axis=0), np.full((9, 2), 1e-30), np.zeros((9, 2)), np.eye(3)[[0, 0, 0, 0, 1]]],
    ids=["constant", "three points", "tiny", "zeros", "two points"],
)
def test_duplicates_and_constants_end_well(x, metric, assign):
    result = otc.kmeans(x, 5, metric=metric, assign=assign, max_iter=50)
    assert np.isfinite(result.centroids).all()
    assert result.inertia == pytest.approx(0, abs=1e-8) or isinstance(assign, (otc.ExactBalanced, otc.LogSinkhorn))
    if isinstance(assign, otc.Nearest):
        assert result.status is otc.Status.CONVERGED
        assert_belongs_together(x, result, metric)
        # No centroid at the origin: each is one of the samples.
        rows = directions(x) if metric == "cosine" else x
        assert squares(result.centroids, rows).min(1).max() == pytest.approx(0, abs=1e-12)


def test_fewer_distinct_samples_than_clusters_is_said():
    with pytest.warns(UserWarning, match="2 of 5 clusters hold no sample"):
        otc.kmeans(np.repeat(np.eye(3), 4, axis=0), 5)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_float16_whose_squares_overflow(library):
    x = (blobs(200, 4, 3, seed=1) * 1000).astype(np.float16)
    assert (x.astype(np.float32) ** 2).sum(1).max() > 65504
    result = otc.kmeans(LIBRARIES[library](x), 3, init=LIBRARIES[library](x[:3].copy()), tol=0)
    expected = lloyd(x, x[:3], result.n_iter)
    np.testing.assert_allclose(to_numpy(result.centroids), expected, rtol=1e-4)
    assert str(result.centroids.dtype).endswith("float32")


def test_bfloat16():
    x = torch.from_numpy(blobs(200, 4, 3)).to(torch.bfloat16)
    result = otc.kmeans(x, 3, init=x[:3])
    assert result.centroids.dtype == torch.float32
    assert_belongs_together(x.double().numpy(), result)


def test_far_away_data_keep_their_precision():
    x = blobs(500, 3, 4, seed=2, spread=0.1, dtype=np.float32) + np.float32(1000)
    start = some_of(x, 4)
    result = otc.kmeans(x, 4, init=start, tol=0, empty=otc.KeepEmpty())
    np.testing.assert_allclose(result.centroids, lloyd(x, start, result.n_iter), rtol=1e-6)


@pytest.mark.parametrize("compiled", ["0", "1"])
def test_empty_clusters_go_to_the_farthest_samples_as_in_scikit_learn(compiled, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_COMPILED", compiled)
    x = blobs(300, 2, 6, seed=5)
    start = np.concatenate([x[:3], np.full((3, 2), 500.0) + np.arange(3)[:, None]])
    ours = otc.kmeans(x, 6, init=start, tol=0)
    theirs = KMeans(6, init=start, n_init=1, tol=0, algorithm="lloyd").fit(x)
    assert len(np.unique(ours.labels)) == 6
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9)


@few_empty
def test_empty_clusters_are_filled_where_bounds_are_in_use():
    x = blobs(6000, 4, 60, seed=6, spread=0.3)
    start = some_of(x, 60)
    start[7] = start[8]  # ties go to the first, so the second is empty
    result = otc.kmeans(x, 60, init=start, tol=0)
    assert len(np.unique(result.labels)) == 60
    assert_belongs_together(x, result)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_balanced_clusters_have_exact_sizes(metric):
    x = blobs(103, 3, 5, seed=7)
    result = otc.kmeans(x, 10, assign=otc.ExactBalanced(), metric=metric)
    sizes = np.bincount(result.labels, minlength=10)
    assert set(sizes) == {10, 11}
    assert result.status is otc.Status.CONVERGED
    distance = squares(x, result.centroids, metric)
    assert result.inertia == pytest.approx(distance[np.arange(103), result.labels].sum())
    bounded_sizes = np.bincount(otc.kmeans(x, 4, assign=otc.ExactBalanced(size_min=20, size_max=40)).labels, minlength=4)
    assert bounded_sizes.min() >= 20
    assert bounded_sizes.max() <= 40


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_soft_clusters_are_means_under_the_plan(library, metric):
    x = blobs(90, 3, 4, seed=8)
    lay = LIBRARIES[library]
    result = otc.kmeans(lay(x), 4, assign=otc.LogSinkhorn(epsilon=0.3, tol=1e-9), metric=metric, max_iter=200, tol=1e-12)
    plan = to_numpy(result.assignment.plan())
    np.testing.assert_allclose(plan.sum(0), 90 / 4, rtol=1e-6)
    rows = directions(x) if metric == "cosine" else x
    means = plan.T @ rows / plan.sum(0)[:, None]
    np.testing.assert_allclose(to_numpy(result.centroids), directions(means) if metric == "cosine" else means, atol=1e-4)
    assert result.inertia == pytest.approx((plan * squares(x, to_numpy(result.centroids), metric)).sum())


def test_shares_and_annealing():
    x = blobs(200, 2, 4, seed=9)
    share = np.array([1.0, 2.0, 3.0, 4.0])
    annealing = otc.Annealing(otc.LogSinkhorn(epsilon=0.05), start=5.0, factor=0.5)
    result = otc.kmeans(x, 4, assign=annealing, cluster_share=share, max_iter=100)
    np.testing.assert_allclose(result.assignment.cluster_sizes(), 200 * share / share.sum(), rtol=1e-4)
    assert result.assignment.solver.epsilon == 0.05
    assert result.n_iter > 7  # no end before epsilon is the one asked for


@few_empty
@pytest.mark.parametrize("assign", [otc.Nearest(), otc.ExactBalanced(), otc.LogSinkhorn(epsilon=0.5)])
@pytest.mark.parametrize("splits", [[0.5], [0.0, 0.7], [0.1, 0.1, 0.4]])
@pytest.mark.parametrize("init", [otc.KMeansPlusPlus(), otc.KMeansParallel()])
def test_any_split_over_ranks_is_one_process(assign, splits, init):
    x, weight = blobs(120, 3, 6, seed=10), np.random.default_rng(2).random(120)
    given = {} if isinstance(assign, otc.ExactBalanced) else {"sample_weight": weight}
    whole = otc.kmeans(x, 6, assign=assign, init=init, **given)
    edges = [0, *(int(120 * split) for split in splits), 120]

    def run(rank, reducer):
        rows = slice(edges[rank], edges[rank + 1])
        own = {name: values[rows] for name, values in given.items()}
        return otc.kmeans(x[rows], 6, assign=assign, init=init, reducer=reducer, **own)

    if isinstance(assign, otc.ExactBalanced):
        with pytest.raises(ValueError, match="ExactBalanced"):
            run_ranks(len(edges) - 1, run)
        return
    found = run_ranks(len(edges) - 1, run)
    np.testing.assert_array_equal(np.concatenate([each.labels for each in found]), whole.labels)
    for each in found:
        np.testing.assert_allclose(each.centroids, whole.centroids, atol=1e-9)
        assert each.inertia == pytest.approx(whole.inertia)
        assert (each.n_iter, each.status) == (whole.n_iter, whole.status)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": np.zeros(5)}, ValueError, r"x must have shape \(n_samples, dim\), got \(5,\)"),
        ({"x": np.zeros((5, 0))}, ValueError, "no features"),
        ({"x": np.zeros((5, 2), int)}, TypeError, "x must be float16"),
        ({"x": [[1.0]]}, TypeError, "x must be an array"),
        ({"x": np.array([[1.0], [np.nan]])}, ValueError, "x must be finite"),
        ({"x": np.array([[1.0], [np.inf]])}, ValueError, "x must be finite"),
        ({"x": np.full((3, 2), 1e30, np.float32)}, ValueError, "x is too large"),
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1, got 0"),
        ({"n_clusters": 2.0}, TypeError, "n_clusters must be a whole number, got 2.0"),
        ({"n_clusters": 99}, ValueError, "at most the number of samples, got 99 for 4"),
        ({"metric": "dot"}, ValueError, "metric must be one of cosine, sqeuclidean"),
        ({"assign": otc.Nearest}, TypeError, "assign must be a solver"),
        ({"init": np.zeros((3, 2))}, ValueError, r"init must have shape \(2, 2\), got \(3, 2\)"),
        ({"init": np.full((2, 2), np.nan)}, ValueError, "init must be finite"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"tol": -1}, ValueError, "tol must not be negative"),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight must hold one number for each of the 4 rows"),
        ({"sample_weight": -np.ones(4)}, ValueError, "sample_weight must be finite and not negative"),
        ({"sample_weight": np.zeros(4)}, ValueError, "sample_weight must have a positive sum"),
        ({"cluster_share": np.ones(2)}, ValueError, "cluster_share"),
        ({"empty": "leave"}, TypeError, "empty must be"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    arguments = {"x": np.arange(8.0).reshape(4, 2), "n_clusters": 2, **changes}
    with pytest.raises(error, match=match):
        otc.kmeans(arguments.pop("x"), arguments.pop("n_clusters"), **arguments)


def test_inputs_and_the_global_random_state_are_left_alone():
    x = blobs(50, 2, 3)
    x.setflags(write=False)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = otc.kmeans(x, 3), otc.kmeans(x, 3)
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_rows_in_another_order_give_the_same_clusters():
    x = blobs(200, 3, 5, seed=11)
    order = np.random.default_rng(0).permutation(200)
    one, two = otc.kmeans(x, 5, seed=4), otc.kmeans(x[order], 5, seed=4)
    np.testing.assert_array_equal(one.labels[order], two.labels)


def test_scikit_learns_warning_is_not_ours():
    # What scikit-learn warns of, too few distinct points, ours says in its own words and ends.
    x = np.repeat(np.eye(2), 10, axis=0)
    with pytest.warns(ConvergenceWarning):
        KMeans(4, n_init=1).fit(x)
    with pytest.warns(UserWarning, match="hold no sample"):
        assert otc.kmeans(x, 4).inertia == 0


def test_matrix_products_get_their_threads_back():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    pytest.importorskip("numba")

    def limits():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    x = blobs(300, 3, 4)
    otc.kmeans(x, 4)
    before = limits()
    inside = []
    first, second = compiled.one_thread_each(), compiled.one_thread_each()
    with first:
        second.__enter__()
        inside.append(limits())
    inside.append(limits())  # the other still holds it
    second.__exit__(None, None, None)
    assert set(inside[0] + inside[1]) == {1}
    assert limits() == before
    with pytest.raises(ValueError, match="finite"):
        otc.kmeans(x * np.nan, 4)
    assert limits() == before
