"""Sides that are relaxed: at their limits, against a float64 loop and against POT."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import otcluster as otc
from tests.oracles import log_sum_exp
from tests.strategies import cases, clustered_scores, grouped_cases, to_numpy

STRENGTHS = [0.0, 1e-3, 0.1, 1.0, 100.0]
strengths = st.sampled_from(STRENGTHS)
EPSILON = 0.3
TIGHT = otc.LogSinkhorn(EPSILON, 20000, 1e-11)


def relaxed_rounds(scores, epsilon, strength, rounds, w, c):
    """Scaling with a relaxed second side, in float64: the plan after ``rounds``, clusters first, samples last."""
    with np.errstate(divide="ignore"):
        log_w, log_c = np.log(w), np.log(c)
    f = log_w.copy()
    for _ in range(rounds):
        g = np.where(c > 0, strength / (strength + epsilon) * (log_c - log_sum_exp(scores / epsilon + f[:, None], 0)), -np.inf)
        f = log_w - log_sum_exp(scores / epsilon + g[None, :], 1)
    return np.exp(scores / epsilon + f[:, None] + g[None, :])


def residual(plan, g, c, strength, epsilon):
    """The share of the mass that the clusters' half-round would move between them, from the answer alone."""
    columns = plan.sum(0)
    asked = np.exp((strength * np.log(c) + epsilon * np.log(columns) - g) / (strength + epsilon))
    return np.abs(columns - asked / asked.sum() * columns.sum()).sum() / plan.sum()


def masses_of(case):
    w = np.asarray(case.masses.get("sample_mass", np.ones(case.scores.shape[0])), dtype=np.float64)
    share = np.asarray(case.masses.get("cluster_share", np.ones(case.scores.shape[1])), dtype=np.float64)
    return w, share / share.sum() * w.sum()


@given(cases(dtypes=("float64",)), strengths)
def test_fixed_rounds_of_a_relaxed_side_are_those_of_the_scaling_loop(case, strength):
    laid, masses = case.laid()
    answer = otc.sinkhorn_knopp(laid, epsilon=EPSILON, max_iter=3, cluster_side=strength, **masses)
    expected = relaxed_rounds(case.scores, EPSILON, strength, 3, *masses_of(case))
    np.testing.assert_allclose(to_numpy(answer.plan()), expected, atol=1e-12)


@given(cases(), strengths)
def test_a_converged_relaxed_answer_meets_its_optimality_condition(case, strength):
    laid, masses = case.laid()
    problem = otc.Problem(laid, cluster_side=strength, **masses)
    answer = otc.solve(problem, otc.LogSinkhorn(EPSILON, tol=1e-5))
    assert answer.status is otc.Status.CONVERGED
    plan = to_numpy(answer.plan()).astype(np.float64)
    columns, c = plan.sum(0), to_numpy(problem.cluster_mass).astype(np.float64)
    np.testing.assert_allclose(plan.sum(1), to_numpy(problem.sample_mass), rtol=8 * case.eps + 1e-12)
    g = to_numpy(answer.potentials[1]).astype(np.float64)
    found = residual(plan, g, c, strength, EPSILON)
    # Potentials in the dtype of the case, and sums of so many entries of a plan.
    assert abs(found - float(answer.marginal_error)) <= 64 * case.eps
    assert found <= 1e-5 + 64 * case.eps
    if strength:
        level = g + strength * np.log(columns / c)
        # What a residual of 1e-5 of the mass leaves of it, in a cluster of a share of at least 1e-3.
        assert np.ptp(level) <= 0.05 * (strength + EPSILON)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("epsilon", [0.5, 0.05])
def test_relaxed_answers_are_those_of_unbalanced_transport_in_pot(strength, epsilon):
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, (30, 6))
    w, c = rng.uniform(0.5, 2, 30), rng.uniform(0.5, 2, 6)
    c *= w.sum() / c.sum()
    expected = ot.unbalanced.sinkhorn_unbalanced(
        w, c, -scores, epsilon, (np.inf, strength), reg_type="entropy", numItermax=20000, stopThr=1e-14
    )
    solver = otc.LogSinkhorn(epsilon, 20000, 1e-12)
    answer = otc.solve(otc.Problem(scores, sample_mass=w, cluster_mass=c, cluster_side=otc.RelaxedKL(strength)), solver)
    np.testing.assert_allclose(answer.plan(), expected, atol=1e-8)


@given(cases(dtypes=("float64",), libraries=("numpy", "torch")))
def test_no_strength_leaves_a_softmax_and_endless_strength_is_strict(case):
    laid, masses = case.laid()
    weights, _ = masses_of(case)
    free = otc.solve(otc.Problem(laid, cluster_side=0, **masses), TIGHT)
    rows = np.exp(case.scores / EPSILON - log_sum_exp(case.scores / EPSILON, 1)[:, None])
    np.testing.assert_allclose(to_numpy(free.plan()), weights[:, None] * rows, rtol=1e-10)
    strict = to_numpy(otc.solve(otc.Problem(laid, **masses), TIGHT).plan())
    endless = otc.solve(otc.Problem(laid, cluster_side=np.inf, **masses), TIGHT)
    np.testing.assert_array_equal(to_numpy(endless.plan()), strict)
    # Columns are off by about their share of the scores' range over the strength.
    strong = otc.solve(otc.Problem(laid, cluster_side=1e9, **masses), TIGHT)
    np.testing.assert_allclose(to_numpy(strong.plan()), strict, atol=1e-7)


def test_columns_come_nearer_to_their_masses_as_the_strength_grows():
    scores, c = clustered_scores(200, 8), np.full(8, 25.0)
    sizes = [otc.log_sinkhorn(scores, epsilon=0.05, cluster_side=strength).cluster_sizes() for strength in STRENGTHS]
    apart = [np.sum(size * np.log(size / c)) for size in sizes]
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 1e-4 * apart[0]  # columns are off by the range of the potentials over the strength, KL by its square


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("strength", [0.01, 0.3])
@pytest.mark.parametrize("acceleration", [otc.Newton(), otc.Anderson()], ids=repr)
def test_quick_and_plain_rounds_find_the_same_relaxed_answer(acceleration, strength, epsilon):
    problem = otc.Problem(clustered_scores(200, 8), cluster_side=strength)
    quick = otc.solve(problem, otc.LogSinkhorn(epsilon, 1000, 1e-10, acceleration))
    plain = otc.solve(problem, otc.LogSinkhorn(epsilon, 20000, 1e-10, acceleration=otc.PlainRounds()))
    assert quick.status is plain.status is otc.Status.CONVERGED
    assert int(quick.n_iter) <= int(plain.n_iter)
    # Both are within 1e-10 of the mass; what that leaves of g grows with (strength + epsilon) / epsilon.
    np.testing.assert_allclose(quick.plan(), plain.plan(), atol=1e-6)


def test_an_unfinished_relaxed_solve_says_so():
    problem = otc.Problem(clustered_scores(200, 8), cluster_side=1.0)
    answer = otc.solve(problem, otc.SinkhornKnopp(0.01, 3, 1e-6))
    assert answer.status is otc.Status.MAX_ITER
    assert float(answer.marginal_error) > 1e-6


@given(grouped_cases(), strengths)
def test_relaxed_groups_are_relaxed_problems_of_their_own(case, strength):
    laid, masses = case.laid()
    solver = otc.SinkhornKnopp(EPSILON, 4)
    plan = to_numpy(otc.solve(otc.Problem(laid, cluster_side=strength, **masses), solver).plan())
    groups = case.masses["groups"]
    for group in range(case.masses["n_groups"]):
        own = groups == group
        alone = {}
        if "sample_mass" in case.masses:
            alone["sample_mass"] = case.lay(case.masses["sample_mass"][own])
        if "cluster_share" in case.masses:
            alone["cluster_share"] = case.lay(case.masses["cluster_share"][group])
        expected = otc.solve(otc.Problem(case.lay(case.scores[own]), cluster_side=strength, **alone), solver)
        np.testing.assert_allclose(plan[own], to_numpy(expected.plan()), atol=64 * case.eps)


def test_a_batch_of_relaxed_problems_is_each_alone():
    scores = np.stack([clustered_scores(60, 5, seed=seed) for seed in range(3)])
    solver = otc.LogSinkhorn(0.05, 1000, 1e-10)
    answer = otc.solve(otc.Problem(scores, cluster_side=0.2), solver)
    for at in range(3):
        alone = otc.solve(otc.Problem(scores[at], cluster_side=0.2), solver)
        np.testing.assert_allclose(answer.plan()[at], alone.plan(), atol=1e-7)
        assert answer.n_iter[at] == alone.n_iter


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("epsilon", [10.0, 1e-4])
def test_relaxed_answers_are_finite_with_exact_rows_at_any_epsilon(strength, epsilon):
    scores = torch.from_numpy(1e4 * clustered_scores(64, 6)).float()
    for solver in (otc.SinkhornKnopp(epsilon), otc.LogSinkhorn(epsilon, 100)):
        answer = otc.solve(otc.Problem(scores, cluster_side=strength), solver)
        assert torch.isfinite(answer.plan()).all()
        assert torch.isfinite(answer.potentials[1]).all()
        assert torch.isfinite(answer.marginal_error).all()
        torch.testing.assert_close(answer.plan().sum(-1), torch.ones(64))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_closed_clusters_stay_closed_and_unreachable_ones_may_be_empty_on_a_relaxed_side(strength):
    scores = clustered_scores(40, 5)
    scores[:, 3] = -np.inf
    problem = otc.Problem(scores, cluster_share=[1, 0, 1, 1, 1], cluster_side=strength)
    for solver in (TIGHT, otc.SinkhornKnopp(EPSILON)):
        answer = otc.solve(problem, solver)
        assert answer.status in (otc.Status.CONVERGED, otc.Status.FIXED_ROUNDS)
        np.testing.assert_array_equal(answer.cluster_sizes()[[1, 3]], 0)
        np.testing.assert_allclose(answer.plan().sum(1), 1)
        assert answer.potentials[1][1] == -np.inf
    with pytest.raises(otc.InfeasibleError, match="sample 0 may join no open cluster"):
        otc.Problem(np.where(np.arange(40)[:, None] == 0, -np.inf, 0.0) + np.zeros((40, 2)), cluster_side=strength)


def test_relaxed_points_are_relaxed_scores():
    rng = np.random.default_rng(0)
    x, centroids = rng.standard_normal((50, 4)), rng.standard_normal((6, 4))
    points = otc.solve(otc.Problem(otc.PointScores(x, centroids, metric="dot"), cluster_side=0.5), TIGHT)
    dense = otc.solve(otc.Problem(x @ centroids.T, cluster_side=0.5), TIGHT)
    np.testing.assert_allclose(points.plan(), dense.plan(), atol=1e-9)


def test_a_relaxed_solve_begins_from_an_earlier_answer():
    problem = otc.Problem(clustered_scores(200, 8), cluster_side=0.3)
    solver = otc.LogSinkhorn(0.01, 1000, 1e-8)
    first = otc.solve(problem, solver)
    again = otc.solve(problem, solver, start=first)
    assert int(again.n_iter) == 1 < int(first.n_iter)


def test_nearest_asks_nothing_of_a_relaxed_side():
    scores = clustered_scores(50, 5)
    answer = otc.solve(otc.Problem(scores, cluster_side=0.3), otc.Nearest())
    np.testing.assert_array_equal(answer.labels(), scores.argmax(1))


@pytest.mark.parametrize(
    ("side", "error", "message"),
    [
        (-1.0, ValueError, "strength must not be negative, got -1"),
        (np.nan, ValueError, "strength must not be negative, got nan"),
        ("KL", TypeError, "cluster_side must be None, a strength or an object such as"),
        (True, TypeError, "cluster_side must be None, a strength"),
        (otc.RelaxedKL, TypeError, "cluster_side must be None, a strength"),
    ],
)
def test_sides_that_mean_nothing_are_errors(side, error, message):
    with pytest.raises(error, match=message):
        otc.Problem(np.zeros((3, 2)), cluster_side=side)


def test_a_strength_must_be_a_number():
    with pytest.raises(TypeError, match="strength must be a number, got 'strong'"):
        otc.RelaxedKL("strong")


def test_labels_rounded_from_a_relaxed_plan_have_the_sizes_of_the_plan():
    answer = otc.log_sinkhorn(clustered_scores(200, 6), epsilon=0.05, cluster_side=0.2)
    counts = np.bincount(answer.balanced_labels(), minlength=6)
    assert np.abs(counts - answer.cluster_sizes()).max() < 1
    assert counts.max() > 200 / 6 + 1


def test_exact_sizes_are_for_strict_sides():
    with pytest.raises(ValueError, match="leave cluster_side away"):
        otc.solve(otc.Problem(np.zeros((4, 2)), cluster_side=1.0), otc.ExactBalanced())


@pytest.mark.parametrize("epsilon", [1e-320, 1e-300, 1e-10])
@pytest.mark.parametrize("masses", [{}, {"assigned_mass": 4.0}], ids=["whole", "partial"])
@pytest.mark.parametrize("solver", [otc.SinkhornKnopp, otc.LogSinkhorn])
def test_a_relaxed_error_is_a_number_however_far_potentials_lie(epsilon, masses, solver):
    scores = np.full((9, 4), -1e30) * np.array([[1.0, 2.0, 1.0, 3.0]])
    assignment = otc.solve(otc.Problem(scores, cluster_side=0.1, **masses), solver(epsilon=epsilon, max_iter=20))
    assert np.isfinite(assignment.marginal_error)
    assert np.isfinite(assignment.plan()).all()
