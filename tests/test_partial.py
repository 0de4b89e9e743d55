"""Partial problems: who stays outside, at the limits, against a float64 loop and against POT."""

from __future__ import annotations

import numpy as np
import ot
import pytest
from hypothesis import given
from hypothesis import strategies as st

import otcluster as otc
from tests.oracles import log_rounds, log_sum_exp
from tests.strategies import LIBRARIES, cases, clustered_scores, grouped_cases, to_numpy

EPSILON = 0.3
shares = st.sampled_from([0.05, 0.5, 0.9, 1.0])


def with_outside(scores):
    return np.concatenate([scores, np.zeros((len(scores), 1))], axis=1)


def masses_of(case, share):
    """Sample masses, assigned mass and cluster masses of a case of which a share is assigned."""
    w = np.asarray(case.masses.get("sample_mass", np.ones(case.scores.shape[0])), dtype=np.float64)
    c = np.asarray(case.masses.get("cluster_share", np.ones(case.scores.shape[1])), dtype=np.float64)
    return w, share * w.sum(), c / c.sum() * share * w.sum()


@given(cases(dtypes=("float64",)), shares)
def test_rounds_of_a_partial_problem_are_those_with_one_cluster_more(case, share):
    laid, masses = case.laid()
    w, assigned, c = masses_of(case, share)
    answer = otc.sinkhorn_knopp(laid, epsilon=EPSILON, max_iter=3, assigned_mass=assigned, **masses)
    expected = log_rounds(with_outside(case.scores), EPSILON, 3, w, np.append(c, w.sum() - assigned))
    np.testing.assert_allclose(to_numpy(answer.plan()), expected[:, :-1], atol=1e-12)


@given(cases(), shares)
def test_a_partial_plan_meets_its_masses_and_leaves_the_rest_outside(case, share):
    laid, masses = case.laid()
    w, assigned, c = masses_of(case, share)
    problem = otc.Problem(laid, assigned_mass=assigned, **masses)
    answer = otc.solve(problem, otc.LogSinkhorn(EPSILON, 5000, 1e-5))
    assert answer.status is otc.Status.CONVERGED
    plan = to_numpy(answer.plan()).astype(np.float64)
    f, g = (to_numpy(each).astype(np.float64) for each in answer.potentials)
    assert type(answer.plan()) is type(answer.cluster_sizes()) is type(answer.labels()) is type(laid)
    outside = w - plan.sum(1)
    wrong = (np.abs(plan.sum(0) - c).sum() + abs(outside.sum() - (w.sum() - assigned))) / w.sum()
    assert abs(wrong - float(answer.marginal_error)) <= 64 * case.eps
    assert wrong <= 1e-5 + 64 * case.eps
    assert outside.min() >= -8 * case.eps * w.max()
    scale = w.max() * 64 * case.eps * (1 + np.abs(case.scores).max() / EPSILON)
    np.testing.assert_allclose(plan, np.exp((case.scores + f[:, None] + g) / EPSILON), atol=scale)
    if share < 1:
        np.testing.assert_allclose(outside, np.exp(f / EPSILON), atol=scale)
    np.testing.assert_allclose(to_numpy(answer.cluster_sizes()), plan.sum(0), atol=8 * case.eps * w.sum())


@given(cases(dtypes=("float64",), libraries=("numpy", "torch")))
def test_all_assigned_is_the_strict_problem(case):
    laid, masses = case.laid()
    w, assigned, _ = masses_of(case, 1.0)
    for solver in (otc.SinkhornKnopp(EPSILON), otc.LogSinkhorn(EPSILON, 5000, 1e-10)):
        whole = otc.solve(otc.Problem(laid, **masses), solver)
        answer = otc.solve(otc.Problem(laid, assigned_mass=assigned, **masses), solver)
        np.testing.assert_allclose(to_numpy(answer.plan()), to_numpy(whole.plan()), atol=1e-8 * w.sum())
        np.testing.assert_array_equal(to_numpy(answer.labels()) >= 0, True)


@pytest.mark.parametrize("library", LIBRARIES)
def test_small_epsilon_and_exact_sizes_find_the_partial_optimum_of_pot(library):
    scores = np.random.default_rng(0).uniform(-1, 1, (30, 4))
    laid, c = LIBRARIES[library](scores), np.array([1.0, 4.0, 2.0, 5.0])
    best = ot.partial.partial_wasserstein(np.ones(30), c, -scores, m=12)
    problem = otc.Problem(laid, cluster_mass=LIBRARIES[library](c), assigned_mass=12)
    exact = otc.solve(problem, otc.ExactBalanced())
    np.testing.assert_allclose(to_numpy(exact.plan()), best, atol=1e-12)
    np.testing.assert_array_equal(to_numpy(exact.labels()), np.where(best.sum(1) > 0.5, best.argmax(1), -1))
    soft = otc.solve(problem, otc.LogSinkhorn(epsilon=1e-4))  # small beside the 3.6e-3 that the next best plan is worse by
    np.testing.assert_allclose(to_numpy(soft.plan()), best, atol=1e-4)
    np.testing.assert_array_equal(to_numpy(soft.labels()), to_numpy(exact.labels()))
    np.testing.assert_array_equal(to_numpy(soft.balanced_labels()), to_numpy(exact.labels()))


def test_little_assigned_takes_the_best_pair_of_each_cluster():
    scores = np.random.default_rng(1).uniform(-1, 1, (50, 3))
    answer = otc.log_sinkhorn(scores, epsilon=1e-3, assigned_mass=0.3)
    np.testing.assert_array_equal(answer.plan().argmax(0), scores.argmax(0))
    np.testing.assert_allclose(answer.plan().max(0), 0.1, atol=1e-3)
    np.testing.assert_array_equal(answer.labels(), -1)  # of every sample most stays outside


def test_outliers_stay_outside():
    rng = np.random.default_rng(2)
    inliers = np.eye(4)[rng.integers(0, 4, 60)] + 0.1 * rng.uniform(size=(60, 4))
    outliers = 0.2 * rng.uniform(size=(15, 4))
    counts = np.bincount(inliers.argmax(1), minlength=4)
    problem = otc.Problem(np.concatenate([inliers, outliers]), cluster_mass=counts, assigned_mass=60)
    for solver in (otc.LogSinkhorn(0.02), otc.ExactBalanced()):
        labels = otc.solve(problem, solver).labels()
        np.testing.assert_array_equal(labels[:60], inliers.argmax(1))
        np.testing.assert_array_equal(labels[60:], -1)


@given(grouped_cases(), shares)
def test_partial_groups_are_partial_problems_of_their_own(case, share):
    laid, masses = case.laid()
    groups, n_groups = case.masses["groups"], case.masses["n_groups"]
    w = np.asarray(case.masses.get("sample_mass", np.ones(len(groups))))
    assigned = share * np.bincount(groups, weights=w, minlength=n_groups)
    solver = otc.SinkhornKnopp(EPSILON, 4)
    whole = otc.solve(otc.Problem(laid, assigned_mass=case.lay(assigned), **masses), solver)
    plan, f = to_numpy(whole.plan()), to_numpy(whole.potentials[0])
    for group in range(n_groups):
        own = groups == group
        alone = {name: case.lay(case.masses[name][own]) for name in ("sample_mass",) if name in case.masses}
        if "cluster_share" in case.masses:
            alone["cluster_share"] = case.lay(case.masses["cluster_share"][group])
        one = otc.solve(otc.Problem(case.lay(case.scores[own]), assigned_mass=float(assigned[group]), **alone), solver)
        np.testing.assert_allclose(plan[own], to_numpy(one.plan()), atol=64 * case.eps)
        if share < 1:
            np.testing.assert_allclose(np.exp(f[own] / EPSILON), w[own] - plan[own].sum(1), atol=64 * case.eps)


def test_a_batch_of_partial_problems_is_each_alone():
    scores = np.stack([clustered_scores(60, 5, seed=seed) for seed in range(3)])
    solver = otc.LogSinkhorn(0.05, 1000, 1e-10)
    answer = otc.solve(otc.Problem(scores, assigned_mass=[20, 40, 59]), solver)
    assert answer.potentials[0].shape == (3, 60)
    for at, assigned in enumerate((20, 40, 59)):
        alone = otc.solve(otc.Problem(scores[at], assigned_mass=assigned), solver)
        np.testing.assert_allclose(answer.plan()[at], alone.plan(), atol=1e-7)
        np.testing.assert_allclose(answer.potentials[0][at], alone.potentials[0], atol=1e-6)
        np.testing.assert_array_equal(answer.balanced_labels()[at], alone.balanced_labels())
        assert (answer.balanced_labels()[at] >= 0).sum() == assigned
    np.testing.assert_array_equal(otc.Problem(scores, assigned_mass=20).assigned_mass, [20, 20, 20])


def test_partial_points_are_partial_scores():
    rng = np.random.default_rng(0)
    x, centroids = rng.standard_normal((50, 4)), rng.standard_normal((6, 4))
    for metric, scores in (("dot", x @ centroids.T), ("sqeuclidean", -((x[:, None] - centroids) ** 2).sum(-1))):
        points = otc.Problem(otc.PointScores(x, centroids, metric=metric), assigned_mass=30)
        dense = otc.Problem(scores, assigned_mass=30)
        for solver in (otc.LogSinkhorn(0.3, 1000, 1e-10), otc.ExactBalanced()):
            one, two = otc.solve(points, solver), otc.solve(dense, solver)
            np.testing.assert_allclose(one.plan(), two.plan(), atol=1e-7)
            np.testing.assert_array_equal(one.labels(), two.labels())


def test_a_sample_that_may_join_no_cluster_stays_outside():
    scores = clustered_scores(40, 4)
    scores[:10] = -np.inf
    answer = otc.log_sinkhorn(scores, epsilon=0.1, assigned_mass=24)
    assert answer.status is otc.Status.CONVERGED
    np.testing.assert_array_equal(answer.labels()[:10], -1)
    np.testing.assert_allclose(answer.cluster_sizes(), 6, atol=1e-4)
    assert otc.log_sinkhorn(scores, epsilon=0.1, assigned_mass=32).status is otc.Status.INFEASIBLE


@pytest.mark.parametrize("strength", [None, 0.0, 0.3])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_more_samples_without_a_cluster_than_may_stay_outside_are_infeasible(library, strength):
    scores = clustered_scores(40, 4)
    scores[:10] = -np.inf
    groups = np.arange(40) // 20
    for solver, met in ((otc.LogSinkhorn(0.1, 300), otc.Status.CONVERGED), (otc.SinkhornKnopp(0.1), otc.Status.FIXED_ROUNDS)):
        for assigned, status in ((30, met), (31, otc.Status.INFEASIBLE)):
            one = otc.Problem(LIBRARIES[library](scores), assigned_mass=assigned, cluster_side=strength)
            many = otc.Problem(
                LIBRARIES[library](scores),
                assigned_mass=LIBRARIES[library](np.array([assigned - 20.0, 20.0])),
                cluster_side=strength,
                groups=LIBRARIES[library](groups),
                n_groups=2,
            )
            for problem in (one, many):
                answer = otc.solve(problem, solver)
                assert answer.status is status
                assert np.isfinite(to_numpy(answer.plan())).all()
    everything = otc.Problem(LIBRARIES[library](scores), assigned_mass=40, cluster_side=strength)
    assert otc.solve(everything, otc.LogSinkhorn(0.1, 300)).status is otc.Status.INFEASIBLE


def test_a_partial_solve_begins_from_an_earlier_answer_or_from_its_potentials():
    problem = otc.Problem(clustered_scores(200, 8), assigned_mass=150)
    solver = otc.LogSinkhorn(0.01)
    first = otc.solve(problem, solver)
    for start in (first, first.potentials, (None, first.potentials[1])):
        again = otc.solve(problem, solver, start=start)
        assert int(again.n_iter) == 1 < int(first.n_iter)
        np.testing.assert_allclose(again.plan(), first.plan(), atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("epsilon", [10.0, 1e-4])
def test_partial_answers_are_finite_at_any_epsilon(dtype, epsilon):
    scores = (1e4 * clustered_scores(64, 6)).astype(dtype)
    for solver in (otc.SinkhornKnopp(epsilon), otc.LogSinkhorn(epsilon, 100)):
        answer = otc.solve(otc.Problem(scores, assigned_mass=40), solver)
        f, g = answer.potentials
        for array in (answer.plan(), f, g, answer.marginal_error):
            assert np.isfinite(array).all()
        assert answer.plan().sum(1).max() <= 1 + 1e-5


GROUPS = {"groups": [0, 0, 1], "n_groups": 2}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"assigned_mass": 4}, ValueError, r"above 0 and at most the mass of the samples, 3\.0, got 4\.0"),
        ({"assigned_mass": 0}, ValueError, r"above 0 and at most the mass of the samples, 3\.0, got 0\.0"),
        ({"assigned_mass": -1}, ValueError, "assigned_mass must be above 0"),
        ({"assigned_mass": np.nan}, ValueError, "assigned_mass must be above 0"),
        ({"assigned_mass": "2"}, TypeError, "assigned_mass"),
        ({"assigned_mass": [1, 1]}, ValueError, r"assigned_mass must have shape \(\), got \(2,\)"),
        ({"assigned_mass": 2, **GROUPS}, ValueError, r"1\.0 in group 1, got 2\.0: give one number per problem"),
        ({"assigned_mass": 2, "cluster_mass": [1, 2]}, ValueError, r"assigned_mass and cluster_mass .* got 2\.0 and 3\.0"),
    ],
)
def test_assigned_masses_that_mean_nothing_are_errors(given, error, message):
    with pytest.raises(error, match=message):
        otc.Problem(np.zeros((3, 2)), **given)


def test_solvers_that_cannot_leave_mass_outside_say_so():
    with pytest.raises(ValueError, match="Nearest assigns every sample"):
        otc.nearest(np.zeros((3, 2)), assigned_mass=2)
    with pytest.raises(ValueError, match="size_min and size_max replace cluster_mass"):
        otc.solve(otc.Problem(np.zeros((3, 2)), assigned_mass=2), otc.ExactBalanced(size_max=1))
    with pytest.raises(ValueError, match="must ask for whole numbers"):
        otc.solve(otc.Problem(np.zeros((4, 2)), assigned_mass=3), otc.ExactBalanced())


def relaxed_rounds(scores, epsilon, strength, rounds, w, c, left):
    """Scaling with relaxed clusters and a strict outside, in float64: the plan after ``rounds``, clusters first."""
    wide = with_outside(scores) / epsilon
    power = np.append(np.full(len(c), strength / (strength + epsilon)), 1.0)
    log_c = np.log(np.append(c, left))
    f = np.log(w)
    for _ in range(rounds):
        g = power * (log_c - log_sum_exp(wide + f[:, None], 0))
        f = np.log(w) - log_sum_exp(wide + g, 1)
    return np.exp(wide + f[:, None] + g)[:, :-1]


STRENGTHS = [0.0, 0.1, 1.0]


@given(
    cases(max_n=24, max_k=6, dtypes=("float64",), libraries=("numpy", "torch")),
    st.sampled_from(STRENGTHS),
    st.sampled_from([0.3, 0.9]),
)
def test_relaxed_partial_answers_are_those_of_the_scaling_loop(case, strength, share):
    laid, masses = case.laid()
    w, assigned, c = masses_of(case, share)
    problem = otc.Problem(laid, assigned_mass=assigned, cluster_side=strength, **masses)
    once = otc.solve(problem, otc.SinkhornKnopp(EPSILON, 1))
    expected = relaxed_rounds(case.scores, EPSILON, strength, 1, w, c, w.sum() - assigned)
    np.testing.assert_allclose(to_numpy(once.plan()), expected, atol=1e-12 * w.max())
    expected = relaxed_rounds(case.scores, EPSILON, strength, 300, w, c, w.sum() - assigned)
    answer = otc.solve(problem, otc.LogSinkhorn(EPSILON, 5000, 1e-10))
    assert answer.status is otc.Status.CONVERGED
    np.testing.assert_allclose(to_numpy(answer.plan()), expected, atol=1e-6 * w.sum())
    np.testing.assert_allclose(to_numpy(answer.plan()).sum(), assigned, rtol=1e-6)
    sizes, (_, g) = to_numpy(answer.cluster_sizes()), answer.potentials
    assert np.ptp(to_numpy(g) + strength * np.log(sizes / c)) <= 1e-5  # the optimality condition


@pytest.mark.parametrize("strength", [*STRENGTHS, 1e6])
@pytest.mark.parametrize("library", LIBRARIES)
def test_relaxed_partial_solvers_agree_and_begin_where_they_ended(library, strength):
    scores = clustered_scores(120, 6)
    problem = otc.Problem(LIBRARIES[library](scores), assigned_mass=90, cluster_side=strength)
    mixed, quick = (otc.solve(problem, otc.LogSinkhorn(0.02, 1000, 1e-9, each)) for each in (otc.Anderson(), otc.Newton()))
    plain = otc.solve(problem, otc.LogSinkhorn(0.02, 10000, 1e-9, acceleration=otc.PlainRounds()))
    assert mixed.status is quick.status is plain.status is otc.Status.CONVERGED
    for answer in (mixed, quick):
        np.testing.assert_allclose(to_numpy(answer.plan()), to_numpy(plain.plan()), atol=1e-6)
    for start in (quick, (None, quick.potentials[1])):
        assert int(otc.solve(problem, otc.LogSinkhorn(0.02, 1000, 1e-8), start=start).n_iter) == 1
    if strength == 1e6:
        strict = otc.log_sinkhorn(scores, epsilon=0.02, assigned_mass=90, tol=1e-9)
        np.testing.assert_allclose(to_numpy(quick.plan()), strict.plan(), atol=1e-5)
    assert (to_numpy(quick.balanced_labels()) >= 0).sum() == 90


@pytest.mark.parametrize("solver", [otc.LogSinkhorn(epsilon=0.1), otc.ExactBalanced()], ids=lambda each: type(each).__name__)
def test_the_transport_value_is_that_of_what_is_assigned(solver):
    scores = 5 + clustered_scores(30, 3)
    answer = otc.solve(otc.Problem(scores, assigned_mass=21), solver)
    np.testing.assert_allclose(answer.transport_value(), (answer.plan() * scores).sum(), rtol=1e-12)
