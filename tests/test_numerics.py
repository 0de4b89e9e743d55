"""The whole grid of dtypes, strengths and scores: finite, exact in the rows, and as near to float64 as the dtype allows."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import otcluster as otc
from tests.oracles import error_of, log_rounds, recipe
from tests.strategies import clustered_scores, to_numpy

EPSILONS = [1, 0.1, 0.05, 0.01, 1e-3, 1e-4]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
_RNG = np.random.default_rng(0)
_N, _K = 40, 7


def _forbidden():
    scores = _RNG.uniform(-1, 1, (_N, _K))
    scores[_RNG.random((_N, _K)) < 0.3] = -np.inf
    scores[np.arange(_N), np.arange(_N) % _K] = 0.5
    return scores


SCORES = {
    "unit": _RNG.uniform(-1, 1, (_N, _K)),
    "hundreds": _RNG.uniform(-100, 100, (_N, _K)),
    "ten thousands": _RNG.uniform(-1e4, 1e4, (_N, _K)),
    "constant": np.full((_N, _K), 0.3),
    "ties": _RNG.integers(-2, 3, (_N, _K)) / 2,
    "one-hot": np.eye(_K)[np.arange(_N) % _K],
    "forbidden": _forbidden(),
    "far from zero": 1000 + _RNG.uniform(0, 1, (_N, _K)),
}


@pytest.fixture(params=["compiled", "not compiled"], autouse=True)
def form(request, monkeypatch):
    """Every test of this file holds for compiled passes and for those made of primitives."""
    monkeypatch.setenv("OTCLUSTER_COMPILED", "1" if request.param == "compiled" else "0")


SOLVERS = {
    "SinkhornKnopp": lambda epsilon: otc.SinkhornKnopp(epsilon=epsilon, max_iter=3),
    "LogSinkhorn": lambda epsilon: otc.LogSinkhorn(epsilon=epsilon, max_iter=50),
    "Nearest": lambda epsilon: otc.Nearest(),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_results_are_finite_and_rows_sum_to_their_mass(epsilon, dtype, kind, solver):
    assignment = otc.solve(otc.Problem(torch.from_numpy(SCORES[kind]).to(dtype)), SOLVERS[solver](epsilon))
    plan = assignment.plan()
    wide = dtype == torch.float64
    assert plan.dtype == (torch.float64 if wide else torch.float32)
    assert plan.isfinite().all()
    assert (plan.sum(-1) - 1).abs().max() <= (1e-12 if wide else 1e-5)
    assert all(each.isfinite().all() for each in assignment.potentials)
    assert assignment.marginal_error.isfinite()


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_results_of_numpy_are_finite_and_rows_sum_to_their_mass(dtype, kind):
    scores = SCORES[kind].astype(dtype)
    for solver in [make(epsilon) for epsilon in EPSILONS for make in SOLVERS.values()] + [otc.ExactBalanced()]:
        assignment = otc.solve(otc.Problem(scores), solver)
        plan = assignment.plan()
        assert plan.dtype == (np.float64 if dtype is np.float64 else np.float32)
        assert np.abs(plan.sum(-1) - 1).max() <= (1e-12 if dtype is np.float64 else 1e-5)
        rest = *assignment.potentials, assignment.marginal_error, assignment.transport_value(), assignment.cluster_sizes()
        assert all(np.isfinite(each).all() for each in (plan, *rest))


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exact_sizes_are_finite_and_met_in_every_dtype(dtype, kind):
    assignment = otc.exact_balanced(torch.from_numpy(SCORES[kind]).to(dtype))
    assert assignment.plan().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (assignment.plan().sum(-1) == 1).all()
    assert set(assignment.cluster_sizes().tolist()) <= {_N // _K, _N // _K + 1}
    assert all(each.isfinite().all() for each in (*assignment.potentials, assignment.transport_value()))
    assert assignment.dual_gap <= 1e-9


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_plans_are_as_near_to_float64_as_the_dtype_allows(epsilon, dtype, kind):
    given = torch.from_numpy(SCORES[kind]).to(dtype)
    rounded = given.double().numpy()
    finite = rounded[np.isfinite(rounded)]
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    size = np.ptp(finite)
    if kind == "far from zero" and dtype == torch.float64:
        size = np.abs(finite).max()  # potentials are as large as the scores, and nothing holds more of their digits
    bound = 8 * eps * max(1, size / epsilon)
    if bound > 0.1:
        return  # the previous test is all that can be asked
    expected = log_rounds(rounded, epsilon, 3)
    for solver in (otc.SinkhornKnopp(epsilon, 3), otc.LogSinkhorn(epsilon, 3, tol=None)):
        for laid in [given] if dtype == torch.bfloat16 else [given, given.numpy()]:
            plan = to_numpy(otc.solve(otc.Problem(laid), solver).plan()).astype(np.float64)
            assert np.abs(plan - expected).max() <= bound


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_a_strength_that_scaling_cannot_carry_is_said_to_be_solved_in_the_log_form(library, caplog):
    caplog.set_level("DEBUG", logger="otcluster")
    scores = library(SCORES["unit"].astype(np.float32))
    for solver in (otc.SinkhornKnopp(epsilon=0.1), otc.LogSinkhorn(epsilon=0.1), otc.Nearest()):
        otc.solve(otc.Problem(scores), solver)
    assert not [each for each in caplog.messages if "log form" in each]
    for solver in (otc.SinkhornKnopp(epsilon=0.01), otc.LogSinkhorn(epsilon=0.01)):
        caplog.clear()
        otc.solve(otc.Problem(scores), solver)
        (said,) = [each for each in caplog.messages if "log form" in each]
        assert said.startswith("epsilon 0.01 is solved in the log form: scaling in")
        assert "cannot carry scores between -0.99" in said


@pytest.mark.parametrize("rounds", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [1, 0.1, 0.05, 0.01, 0.005])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sinkhorn_knopp_is_the_recipe_of_swav_and_dino(dtype, epsilon, rounds):
    for scores in (_RNG.uniform(-1, 1, (128, 30)), clustered_scores(200, 16)):
        given = scores.astype(dtype)
        expected = recipe(given, epsilon, rounds)
        limit = 1e-12 if dtype is np.float64 else 1e-5 + 4 * np.finfo(dtype).eps * np.abs(scores).max() / epsilon
        for laid in (given, torch.from_numpy(given)):
            plan = to_numpy(otc.sinkhorn_knopp(laid, epsilon=epsilon, max_iter=rounds).plan())
            assert np.abs(plan - expected).max() <= limit


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sinkhorn_knopp_goes_on_where_the_recipe_overflows(dtype):
    scores = torch.from_numpy(20 * clustered_scores(64, 8)).to(dtype)
    naive = torch.exp(scores / 0.05)
    assert naive.isinf().any()
    plan = otc.sinkhorn_knopp(scores, epsilon=0.05, max_iter=3).plan()
    assert plan.isfinite().all()
    expected = log_rounds(scores.double().numpy(), 0.05, 3)
    assert np.abs(plan.double().numpy() - expected).max() <= 8 * torch.finfo(torch.float32).eps * 40 / 0.05


def test_the_masses_of_samples_and_clusters_enter_each_round():
    rng = np.random.default_rng(3)
    scores, w, c = rng.uniform(-1, 1, (20, 5)), rng.uniform(0.5, 2, 20), rng.uniform(0.5, 2, 5)
    c *= w.sum() / c.sum()
    plan = otc.sinkhorn_knopp(scores, epsilon=0.1, max_iter=3, sample_mass=w, cluster_mass=c).plan()
    np.testing.assert_allclose(plan, log_rounds(scores, 0.1, 3, w, c), atol=1e-13)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_converged_means_converged(dtype, epsilon):
    assignment = otc.log_sinkhorn(clustered_scores(256, 32).astype(dtype), epsilon=epsilon, max_iter=5000)
    assert assignment.status is otc.Status.CONVERGED
    assert error_of(assignment.plan(), np.ones(256), np.full(32, 8.0)) <= 1e-6


def test_too_few_rounds_are_said_to_be_too_few():
    assignment = otc.log_sinkhorn(clustered_scores(256, 32), epsilon=0.01, max_iter=5)
    assert assignment.status is otc.Status.MAX_ITER
    assert int(assignment.n_iter) == 5
    assert assignment.marginal_error == pytest.approx(error_of(assignment.plan(), np.ones(256), np.full(32, 8.0)), abs=1e-12)


def test_fixed_rounds_are_said_to_be_fixed_rounds():
    assignment = otc.sinkhorn_knopp(clustered_scores(64, 8))
    assert assignment.status is otc.Status.FIXED_ROUNDS
    assert int(assignment.n_iter) == 3


def test_log_sinkhorn_agrees_with_pot():
    scores = clustered_scores(200, 16)
    w, c = np.ones(200), np.full(16, 200 / 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # POT warns where it has not converged
        expected = ot.sinkhorn(w, c, -scores, reg=0.05, method="sinkhorn_log", stopThr=1e-10, numItermax=20000)
    assignment = otc.log_sinkhorn(scores, epsilon=0.05, tol=1e-11, max_iter=20000)
    np.testing.assert_allclose(assignment.plan(), expected, atol=1e-8)


def test_small_epsilon_nears_the_exact_transport_of_pot():
    scores = np.random.default_rng(5).uniform(-1, 1, (60, 6))
    w, c = np.ones(60), np.full(6, 10.0)
    best = (ot.emd(w, c, -scores) * scores).sum()
    plan = otc.log_sinkhorn(scores, epsilon=0.005, tol=1e-6, max_iter=50000).plan()
    # The entropic optimum lies at most epsilon x mass x log(k) below.
    assert 0 <= best - (plan * scores).sum() + 1e-6 * 60 * 2 <= 0.005 * 60 * np.log(6) + 1e-3


def test_small_epsilon_matches_samples_one_to_one():
    scores = np.random.default_rng(6).uniform(-1, 1, (12, 12))
    rows, columns = linear_sum_assignment(-scores)
    labels = otc.log_sinkhorn(scores, epsilon=0.005, max_iter=50000).labels()
    np.testing.assert_array_equal(labels[rows], columns)


@pytest.mark.parametrize("solver", [otc.SinkhornKnopp(), otc.LogSinkhorn(max_iter=300)])
def test_what_only_solving_shows_to_be_infeasible_is_said(solver):
    scores = np.zeros((6, 3))
    scores[:3, 1:] = -np.inf  # three samples for a cluster with room for two
    for laid in (scores, torch.from_numpy(scores)):
        assignment = otc.solve(otc.Problem(laid), solver)
        assert assignment.status is otc.Status.INFEASIBLE
        assert np.isfinite(to_numpy(assignment.plan())).all()


def test_forbidden_pairs_that_leave_a_plan_are_not_called_infeasible():
    scores = np.zeros((6, 3))
    scores[0, 1:] = -np.inf
    assert otc.log_sinkhorn(scores).status is otc.Status.CONVERGED
    assert otc.sinkhorn_knopp(scores).status is otc.Status.FIXED_ROUNDS
    scores[1, 1:] = -np.inf  # now they fill their cluster: a plan exists, but only where potentials are infinite
    rounds = otc.LogSinkhorn(acceleration=otc.PlainRounds())
    assert otc.solve(otc.Problem(scores), replace(rounds, tol=1e-2)).status is otc.Status.CONVERGED
    assert otc.solve(otc.Problem(scores), rounds).status is otc.Status.MAX_ITER
    near = otc.log_sinkhorn(scores)  # longer steps come near enough
    assert near.status is otc.Status.CONVERGED
    assert error_of(near.plan(), np.ones(6), np.full(3, 2.0)) <= 1e-6
    assert all(np.isfinite(each).all() for each in near.potentials)


def test_one_infeasible_group_is_found_among_many():
    scores = np.zeros((12, 3))
    scores[6:9, 1:] = -np.inf
    groups = np.repeat([0, 1], 6)
    assert otc.log_sinkhorn(scores, groups=groups, n_groups=3, max_iter=200).status is otc.Status.INFEASIBLE


@pytest.mark.parametrize("epsilon", [1e-300, 1e-40, 1e-30, 1e-12, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_epsilons_stay_finite(epsilon, dtype):
    for scores in (clustered_scores(32, 4), np.full((5, 3), 0.3), np.full((5, 3), -1e4), np.ones((5, 1))):
        for laid in (scores.astype(dtype), torch.from_numpy(scores.astype(dtype))):
            assignment = otc.sinkhorn_knopp(laid, epsilon=epsilon)
            plan = to_numpy(assignment.plan())
            assert np.isfinite(plan).all()
            np.testing.assert_allclose(plan.sum(1), 1, rtol=4 * np.finfo(dtype).eps)
            np.testing.assert_array_equal(to_numpy(assignment.labels()), plan.argmax(1))


@pytest.mark.parametrize("offset", [-1e4, -30, 0, 30, 100, 1000, 1e4])
@pytest.mark.parametrize("spread", [0.04, 1.0])
def test_scores_far_from_zero_keep_their_digits(offset, spread):
    given = (offset + np.random.default_rng(0).uniform(0, spread, (64, 8))).astype(np.float32)
    for epsilon in (0.05, 0.001):
        bound = 8 * np.finfo(np.float32).eps * max(1, float(np.ptp(given)) / epsilon)
        expected = log_rounds(given, epsilon, 3)
        for laid in (given, torch.from_numpy(given)):
            assert np.abs(to_numpy(otc.sinkhorn_knopp(laid, epsilon=epsilon).plan()) - expected).max() <= bound


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 5), (5, 1), (0, 4, 3), (2, 0, 3), (2, 1, 4, 3)])
def test_small_and_empty_problems_are_answered(shape, solver):
    for laid in (np.zeros(shape), torch.zeros(shape)):
        assignment = otc.solve(otc.Problem(laid), SOLVERS[solver](0.05))
        assert tuple(assignment.plan().shape) == shape
        assert tuple(assignment.labels().shape) == shape[:-1]
        assert tuple(assignment.cluster_sizes().shape) == (*shape[:-2], shape[-1])
        assert tuple(assignment.marginal_error.shape) == shape[:-2]
        assert tuple(assignment.n_iter.shape) == shape[:-2]
        assert isinstance(assignment.status, otc.Status)


def test_ties_go_to_the_lowest_index():
    for n, k in ((5, 3), (1000, 37), (3000, 130)):
        for laid in (np.full((n, k), 0.3, np.float32), torch.full((n, k), 0.3)):
            for solver in (otc.SinkhornKnopp(), otc.LogSinkhorn(), otc.Nearest()):
                assert (to_numpy(otc.solve(otc.Problem(laid), solver).labels()) == 0).all()


def test_tensors_that_require_grad_are_solved_without_recording():
    scores = torch.rand(8, 3, requires_grad=True)
    assert not otc.sinkhorn_knopp(scores).plan().requires_grad


def test_autocast_changes_nothing():
    scores = torch.rand(32, 5)
    plain = otc.sinkhorn_knopp(scores).plan()
    x, centroids = torch.randn(32, 8), torch.randn(5, 8)
    points = otc.sinkhorn_knopp(otc.PointScores(x, centroids, metric="cosine")).plan()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(otc.sinkhorn_knopp(scores).plan(), plain)
        assert torch.equal(otc.sinkhorn_knopp(otc.PointScores(x, centroids, metric="cosine")).plan(), points)
