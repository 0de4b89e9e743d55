"""JAX arrays take the way of the array standard; runs where jax is installed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import otcluster as otc
from tests.strategies import clustered_scores

jax = pytest.importorskip("jax", reason="jax is not installed")
jnp = jax.numpy

SOLVERS = pytest.mark.parametrize(
    "solver", [otc.SinkhornKnopp(), otc.LogSinkhorn(tol=1e-5), otc.Nearest(), otc.ExactBalanced()], ids=repr
)
FIXED = pytest.mark.parametrize("solver", [otc.SinkhornKnopp(), otc.LogSinkhorn(max_iter=4, tol=None), otc.Nearest()], ids=repr)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """JAX as it comes, which has no float64 and no int64, and with both."""
    with jax.enable_x64(request.param == "float64"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield request.param


def problems(dtype):
    """Each kind of problem, in NumPy: (scores, masses)."""
    rng = np.random.default_rng(0)
    x, centroids = rng.standard_normal((24, 3)).astype(dtype), rng.standard_normal((2, 4, 3)).astype(dtype)
    scores, groups = clustered_scores(24, 4).astype(dtype), rng.permutation(np.repeat([0, 1], 12))
    yield "dense", (scores,), {}
    yield "batch", (np.stack([scores, -scores]),), {}
    yield "groups", (scores,), {"groups": groups, "n_groups": 3}
    yield "share", (scores,), {"cluster_share": np.array([0.25, 0.0, 0.5, 0.25], dtype)}
    for metric in ("dot", "cosine", "sqeuclidean"):
        yield metric, (x, centroids[0]), {}
        yield metric, (x, centroids), {"groups": groups, "n_groups": 2}


def made(kind, arrays, masses, lay):
    masses = {name: lay(value) if np.ndim(value) else value for name, value in masses.items()}
    source = lay(arrays[0]) if len(arrays) == 1 else otc.PointScores(*map(lay, arrays), metric=kind)
    return otc.Problem(source, **masses)


@SOLVERS
def test_jax_answers_as_numpy_does(solver, dtype):
    for kind, arrays, masses in problems(dtype):
        got, expected = (otc.solve(made(kind, arrays, masses, lay), solver) for lay in (jnp.asarray, np.asarray))
        # Rounding at scores / epsilon up to 400, and two answers within the tolerance of 24 samples.
        atol = 4 * 24 * 1e-5 + 400 * 16 * np.finfo(dtype).eps
        plan = got.plan()
        assert isinstance(plan, jax.Array)
        assert plan.dtype == dtype
        np.testing.assert_allclose(plan, expected.plan(), atol=atol, err_msg=kind)
        np.testing.assert_array_equal(got.labels(), expected.labels())
        np.testing.assert_array_equal(got.balanced_labels(), expected.balanced_labels())
        np.testing.assert_allclose(got.cluster_sizes(), expected.cluster_sizes(), atol=24 * atol)
        np.testing.assert_allclose(got.transport_value(), expected.transport_value(), atol=24 * 20 * atol)
        assert got.status is expected.status
        f, g = got.potentials
        assert f.dtype == g.dtype == dtype
        again = got.assign(got.problem.scores, groups=got.problem.groups)
        assert (np.asarray(again.labels()) == np.asarray(got.labels())).mean() >= 0.75  # but for ties of exact prices


def test_labels_are_of_the_widest_integers_that_there_are(dtype):
    labels = otc.nearest(jnp.eye(3, dtype=dtype)).labels()
    assert labels.dtype == {"float32": "int32", "float64": "int64"}[dtype]


def test_relaxed_and_partial_problems_are_solved(dtype):
    scores = clustered_scores(24, 4).astype(dtype)
    for masses in ({"cluster_side": 0.3}, {"assigned_mass": 18.0}):
        got, expected = (otc.log_sinkhorn(lay(scores), tol=1e-5, **masses) for lay in (jnp.asarray, np.asarray))
        np.testing.assert_allclose(got.plan(), expected.plan(), atol=4 * 24 * 1e-5)


def test_forbidden_pairs_and_bad_values_are_found(dtype):
    scores = clustered_scores(24, 4).astype(dtype)
    scores[3, 1] = -np.inf
    assert otc.log_sinkhorn(jnp.asarray(scores), tol=1e-5).plan()[3, 1] == 0
    with pytest.raises(ValueError, match="NaN"):
        otc.nearest(jnp.asarray(np.full((3, 2), np.nan, dtype)))
    with pytest.raises(otc.InfeasibleError, match="sample 1"):
        otc.nearest(jnp.asarray(np.array([[0, 0], [-np.inf, -np.inf]], dtype)))


@FIXED
def test_fixed_rounds_are_traced(solver, dtype):
    def ask(scores):
        answer = otc.solve(otc.Problem(scores), solver)
        return answer.plan(), answer.labels(), answer.cluster_sizes(), answer.marginal_error, *answer.potentials

    scores = jnp.asarray(clustered_scores(24, 4).astype(dtype))
    for traced, plain in zip(jax.jit(ask)(scores), ask(scores), strict=True):
        np.testing.assert_allclose(traced, plain, atol=24 * 100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("solver", [otc.SinkhornKnopp(tol=1e-3), otc.LogSinkhorn(), otc.ExactBalanced()], ids=repr)
def test_what_must_look_at_values_says_so_while_jit_traces(solver):
    with pytest.raises(TypeError, match=r"while jax\.jit traces: use fixed rounds"):
        jax.jit(lambda scores: otc.solve(otc.Problem(scores), solver).plan())(jnp.eye(4))


def test_gradients_are_of_torch():
    with pytest.raises(TypeError, match="gradients need torch tensors"):
        otc.solve(otc.Problem(jnp.eye(4)), otc.LogSinkhorn(), gradient=otc.ImplicitGradient())
