"""What holds of every solver, as plain functions: each raises AssertionError where it does not.

A tolerance is a number of roundings, ``eps * max(1, range / epsilon)``: an exponential of scores / epsilon cannot know better.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

import otcluster as otc
from tests.oracles import error_of
from tests.strategies import to_numpy

EPSILON = 0.4


def answer(row, case, scores=None, epsilon=EPSILON, **masses):
    """Solve a case in its library: (problem, assignment)."""
    laid, given = case.laid(scores, **masses)
    problem = otc.Problem(laid, **given)
    return problem, otc.solve(problem, row.make(epsilon))


def rounding(case, scores=None, epsilon=EPSILON):
    values = case.scores if scores is None else scores
    size = float(np.abs(values).max()) if values.size else 0.0
    return 16 * case.eps * max(1.0, 2 * size / epsilon)


def slack(row, case, **kwargs):
    """How far two answers to the same question may lie apart, as a share of a sample's mass."""
    # Two plans that are both within the tolerance differ by up to the whole misplaced mass, n times a sample's.
    converged = 4 * row.tolerance * max(case.scores.shape[0], 1) if row.tolerance else 0.0
    return rounding(case, **kwargs) + converged


def worth(case, plan, scores=None):
    """The sum of the scores of a plan of labels, and how far rounding may move it."""
    values = case.scores if scores is None else scores
    size = float(np.abs(values).max(initial=1.0))
    return float((to_numpy(plan).astype(np.float64) * values).sum()), 16 * case.eps * size * (len(values) + 1)


def are_one_answer(row, case, plan, expected, atol, scores=None):
    """Two plans for the same scores are the same, or, where there may be several of labels, worth the same."""
    if not row.integral:
        return np.testing.assert_allclose(to_numpy(plan), to_numpy(expected), atol=atol)
    (one, limit), (two, _) = worth(case, plan, scores), worth(case, expected, scores)
    assert abs(one - two) <= limit


def rows_are_finite_and_exact(row, case):
    problem, assignment = answer(row, case)
    plan = to_numpy(assignment.plan())
    assert np.isfinite(plan).all()
    assert (plan >= 0).all()
    limit = 1e-5 if case.dtype == "float32" else 1e-12
    np.testing.assert_allclose(plan.sum(-1), to_numpy(problem.sample_mass), rtol=limit)


def labels_are_the_largest_entries(row, case):
    _, assignment = answer(row, case)
    labels = to_numpy(assignment.labels())
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, to_numpy(assignment.plan()).argmax(-1))


def sizes_are_column_sums(row, case):
    problem, assignment = answer(row, case)
    sums = to_numpy(assignment.plan()).astype(np.float64).sum(-2)
    total = float(to_numpy(problem.sample_mass).sum())
    np.testing.assert_allclose(to_numpy(assignment.cluster_sizes()), sums, atol=8 * case.eps * max(total, 1))


def error_is_the_recomputed_one(row, case):
    problem, assignment = answer(row, case)
    error = float(to_numpy(assignment.marginal_error))
    if row.entropic:
        true = error_of(to_numpy(assignment.plan()), to_numpy(problem.sample_mass), to_numpy(problem.cluster_mass))
        assert abs(error - true) <= 16 * case.eps
        if assignment.status is otc.Status.CONVERGED:
            assert true <= row.tolerance
    else:
        assert error <= 8 * case.eps
    if row.tolerance is not None:
        assert (assignment.status is otc.Status.CONVERGED) == (error <= row.tolerance)


def potentials_make_the_plan(row, case):
    problem, assignment = answer(row, case)
    f, g = (to_numpy(each).astype(np.float64) for each in assignment.potentials)
    scores = to_numpy(case.lay(case.scores)).astype(np.float64)
    plan = np.exp((scores + f[:, None] + g[None, :]) / EPSILON)
    scale = float(to_numpy(problem.sample_mass).max())
    np.testing.assert_allclose(plan, to_numpy(assignment.plan()), atol=scale * rounding(case))


def scaling_together_changes_nothing(row, case):
    _, one = answer(row, case)
    _, two = answer(row, case, scores=4 * case.scores, epsilon=4 * EPSILON)
    are_one_answer(row, case, one.plan(), two.plan(), 2 * slack(row, case))


def offsets_leave_the_converged_plan(row, case):
    rng = np.random.default_rng(0)
    n, k = case.scores.shape
    # Where whole samples do not share equally, which cluster has one more is a matter of what is added to clusters.
    of_clusters = rng.uniform(-1, 1, (1, k)) * (not row.integral or n % k == 0)
    moved = case.scores + rng.uniform(-1, 1, (n, 1)) + of_clusters
    _, one = answer(row, case)
    _, two = answer(row, case, scores=moved)
    are_one_answer(row, case, two.plan(), one.plan(), 2 * slack(row, case, scores=moved))


def permuting_permutes(row, case):
    rng = np.random.default_rng(0)
    n, k = case.scores.shape
    rows, columns = rng.permutation(n), rng.permutation(k)
    masses = {}
    if "sample_mass" in case.masses:
        masses["sample_mass"] = case.masses["sample_mass"][rows]
    if "cluster_share" in case.masses:
        masses["cluster_share"] = case.masses["cluster_share"][columns]
    _, one = answer(row, case)
    _, two = answer(row, case, scores=case.scores[rows][:, columns], **masses)
    expected = to_numpy(one.plan())[rows][:, columns]
    if row.entropic or row.integral:
        are_one_answer(row, case, two.plan(), expected, 2 * slack(row, case), case.scores[rows][:, columns])
    else:  # of equal scores another may come first
        own = np.take_along_axis(case.scores[rows][:, columns], to_numpy(two.labels())[:, None], 1)
        np.testing.assert_allclose(own[:, 0], case.scores[rows].max(1), atol=case.eps * 4)


def ended_alike(row, case, n_iter, alone):
    """The answer of the lone problem where another run of it ended, after ``n_iter`` rounds, and how far the two may differ.

    Sums in another order may carry one of two runs over the tolerance a round before the other. Then the error of plain rounds
    must be the tolerance there, to rounding. Newton's steps leave no trace to compare at: two answers within the tolerance
    differ by what it allows.
    """
    own = int(to_numpy(alone.n_iter))
    if n_iter == own:
        return alone, 0.0
    if row.accelerated:
        assert alone.status is otc.Status.CONVERGED
        return alone, slack(row, case)
    first, last = (
        otc.solve(alone.problem, replace(alone.solver, max_iter=rounds, tol=None)) for rounds in sorted([own, n_iter])
    )
    assert abs(float(to_numpy(first.marginal_error)) - row.tolerance) <= 32 * case.eps
    return (first if n_iter < own else last), 0.0


def batched_is_looped(row, case):
    rng = np.random.default_rng(0)
    stack = np.stack([case.scores, rng.uniform(-1, 1, case.scores.shape), -case.scores])
    masses = {}
    if "sample_mass" in case.masses:
        masses["sample_mass"] = np.stack([case.masses["sample_mass"]] * 3)
    if "cluster_share" in case.masses:
        masses["cluster_share"] = np.stack([case.masses["cluster_share"]] * 3)
    _, batch = answer(row, case, scores=stack, **masses)
    alone = [answer(row, case, scores=each)[1] for each in stack]
    for at, one in enumerate(alone):
        n_iter = int(to_numpy(batch.n_iter)[at])
        if not row.accelerated:
            assert abs(n_iter - int(to_numpy(one.n_iter))) <= (1 if case.dtype == "float32" else 0)
        there, apart = ended_alike(row, case, n_iter, one)
        limit = rounding(case, scores=stack) + apart
        np.testing.assert_allclose(to_numpy(batch.plan())[at], to_numpy(there.plan()), atol=limit)
    worst = max(alone, key=lambda one: list(otc.Status).index(one.status))
    assert batch.status is worst.status


def grouped_is_looped(row, case):
    problem, whole = answer(row, case)
    groups, n_groups = case.masses["groups"], case.masses["n_groups"]
    plan, labels, sizes = to_numpy(whole.plan()), to_numpy(whole.labels()), to_numpy(whole.cluster_sizes())
    assert sizes.shape == (n_groups, problem.n_clusters)
    for group in range(n_groups):
        own = groups == group
        masses = {"groups": None, "n_groups": None}
        if "sample_mass" in case.masses:
            masses["sample_mass"] = case.masses["sample_mass"][own]
        if "cluster_share" in case.masses:
            masses["cluster_share"] = case.masses["cluster_share"][group]
        _, one = answer(row, case, scores=case.scores[own], **masses)
        there, apart = ended_alike(row, case, int(to_numpy(whole.n_iter)[group]), one)
        limit = (max(1e-6, rounding(case)) if row.tolerance else rounding(case)) + apart
        np.testing.assert_allclose(plan[own], to_numpy(there.plan()), atol=limit)
        np.testing.assert_allclose(sizes[group], plan[own].sum(0), atol=64 * case.eps)
        clear = np.sort(plan[own], 1)[:, -1] - (np.sort(plan[own], 1)[:, -2] if plan.shape[1] > 1 else 0) > max(1e-5, 2 * apart)
        np.testing.assert_array_equal(labels[own][clear], to_numpy(one.labels())[clear])


def every_library_gives_one_answer(row, case):
    _, one = answer(row, case)
    _, two = answer(row, replace(case, library="numpy"))
    there, apart = ended_alike(row, case, int(to_numpy(one.n_iter)), two)
    are_one_answer(row, case, one.plan(), there.plan(), rounding(case) + apart)
    expected = to_numpy(there.plan())
    best = np.sort(expected, 1)
    clear = (best[:, -1] - best[:, -2] if expected.shape[1] > 1 else np.ones(len(best))) > 4 * (rounding(case) + apart)
    if not row.integral:
        np.testing.assert_array_equal(to_numpy(one.labels())[clear], to_numpy(there.labels())[clear])


def points_are_scores(row, case):
    """What the case holds as scores are vectors here, to be compared with vectors of their length."""
    x = to_numpy(case.lay(case.scores)).astype(np.float64)
    n, k = x.shape
    centroids = to_numpy(case.lay(np.random.default_rng(k).uniform(-1, 1, (k, k)))).astype(np.float64)
    metric = ("dot", "cosine", "sqeuclidean")[n % 3]
    scores = x @ centroids.T
    if metric == "cosine":
        lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(centroids, axis=1)
        scores = scores / np.where(lengths > 0, lengths, 1)
    elif metric == "sqeuclidean":
        scores = -((x[:, None] - centroids) ** 2).sum(-1)
    points = otc.PointScores(case.lay(x), case.lay(centroids), metric=metric)
    one = otc.solve(otc.Problem(points, **case.laid()[1]), row.make(EPSILON))
    _, two = answer(row, case, scores=scores)
    # A score is a sum of k products, or of squares of differences: its rounding acts as another row of the plan.
    near = (k + 3) * case.eps * max(1.0, float(np.abs(scores).max(initial=0.0))) / EPSILON
    are_one_answer(row, case, one.plan(), two.plan(), 2 * slack(row, case, scores=scores) + 4 * near, scores)


def weight_is_repetition(row, case):
    rng = np.random.default_rng(0)
    times = rng.integers(1, 4, len(case.scores))
    _, weighted = answer(row, case, sample_mass=times.astype(np.float64))
    _, repeated = answer(row, case, scores=np.repeat(case.scores, times, axis=0), sample_mass=None)
    starts = np.cumsum(times) - times
    expected = to_numpy(repeated.plan())[starts] * times[:, None]
    np.testing.assert_allclose(to_numpy(weighted.plan()), expected, atol=3 * slack(row, case))


def closed_is_left_out(row, case):
    n, k = case.scores.shape
    share = np.r_[case.masses.get("cluster_share", np.ones(k)), 0.0]
    extra = np.c_[case.scores, np.full(n, case.scores.max(initial=0.0) + 1)]
    _, one = answer(row, case, scores=extra, cluster_share=share)
    _, two = answer(row, case)
    plan = to_numpy(one.plan())
    assert (plan[:, k] == 0).all()
    are_one_answer(row, case, plan[:, :k], two.plan(), 2 * slack(row, case))
    f, g = (to_numpy(each) for each in one.potentials)
    assert np.isneginf(g[k])
    assert np.isfinite(g[:k]).all()
    assert np.isfinite(f).all()


def weightless_changes_nothing(row, case):
    n, _ = case.scores.shape
    mass = case.masses.get("sample_mass", np.ones(n))
    extra = np.r_[case.scores, case.scores[:1] + 3]
    _, one = answer(row, case, scores=extra, sample_mass=np.r_[mass, 0.0])
    _, two = answer(row, case)
    plan = to_numpy(one.plan())
    assert (plan[n] == 0).all()
    np.testing.assert_allclose(plan[:n], to_numpy(two.plan()), atol=2 * slack(row, case))
    f = to_numpy(one.potentials[0])
    assert np.isneginf(f[n])
    assert np.isfinite(f[:n]).all()


def small_epsilon_is_exact(row, planted):
    case, labels = planted
    # Labels are right long before the masses are: the rate of plain rounds is 1 - exp(-margin / epsilon).
    solver = row.make(0.2) if row.tolerance is None else replace(row.make(0.2), max_iter=200)
    assignment = otc.solve(otc.Problem(case.laid()[0]), solver)
    rows, columns = linear_sum_assignment(-np.repeat(case.scores, len(labels) // case.scores.shape[1], axis=1))
    exact = columns[np.argsort(rows)] // (len(labels) // case.scores.shape[1])
    np.testing.assert_array_equal(exact, labels)
    np.testing.assert_array_equal(to_numpy(assignment.labels()), exact)


def inputs_are_left_alone(row, case):
    laid, given = case.laid()
    before = to_numpy(laid).copy(), {name: to_numpy(value).copy() for name, value in given.items() if hasattr(value, "shape")}
    assignment = otc.solve(otc.Problem(laid, **given), row.make(EPSILON))
    for ask in (assignment.plan, assignment.labels, assignment.cluster_sizes, lambda: assignment.potentials):
        ask()
    np.testing.assert_array_equal(to_numpy(laid), before[0])
    for name, value in before[1].items():
        np.testing.assert_array_equal(to_numpy(given[name]), value)


def answers_stay_in_their_library(row, case):
    laid, given = case.laid()
    problem = otc.Problem(laid, **given)
    assignment = otc.solve(problem, row.make(EPSILON))
    for array in (assignment.plan(), *assignment.potentials, assignment.cluster_sizes()):
        assert type(array) is type(laid)
        assert array.dtype == laid.dtype
    assert type(assignment.labels()) is type(laid)


GENERAL = [
    rows_are_finite_and_exact,
    labels_are_the_largest_entries,
    sizes_are_column_sums,
    error_is_the_recomputed_one,
    scaling_together_changes_nothing,
    permuting_permutes,
    batched_is_looped,
    every_library_gives_one_answer,
    points_are_scores,
    closed_is_left_out,
    weightless_changes_nothing,
    inputs_are_left_alone,
    answers_stay_in_their_library,
]
MASSES = [weight_is_repetition]
ENTROPIC = [potentials_make_the_plan]
BALANCING = [offsets_leave_the_converged_plan]
GROUPED = [grouped_is_looped]
