"""Relaxed and partial problems of samples that several ranks share: the answer is that of one process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import otcluster as otc
from tests import laws
from tests.reducers import ThreadReducer, outcomes, run_ranks
from tests.strategies import Case, cases, clustered_scores, grouped_cases, to_numpy
from tests.test_sharded import parts_of

FIXED = otc.SinkhornKnopp(laws.EPSILON)
TIGHT = otc.LogSinkhorn(laws.EPSILON, tol=1e-10)
PLAIN = otc.LogSinkhorn(laws.EPSILON, 3000, 1e-10, otc.PlainRounds())


def total_of(case):
    """The mass of the samples, one number or one for each group."""
    w = np.asarray(case.masses.get("sample_mass", np.ones(len(case.scores))), dtype=np.float64)
    if "groups" in case.masses:
        return np.bincount(case.masses["groups"], weights=w, minlength=case.masses["n_groups"])
    return float(w.sum())


def with_masses(case, strength, share):
    given = {"cluster_side": strength} if strength is not None else {}
    if share is not None:
        given["assigned_mass"] = share * total_of(case)
    return Case(case.scores, case.masses | given, case.library, case.dtype)


def sharded_is_whole(solver, case, cuts, make=ThreadReducer):
    scores, masses = case.laid()
    one = otc.solve(otc.Problem(scores, **masses), solver)
    parts = list(parts_of(case, cuts))

    def solve(rank, reducer):
        scores, masses = parts[rank]
        answer = otc.solve(otc.Problem(scores, sharded=True, **masses), solver, reducer=reducer)
        of_all = answer.potentials[1], answer.cluster_sizes(), answer.marginal_error, answer.n_iter, answer.transport_value()
        return answer.plan(), answer.potentials[0], *of_all, answer.status

    ranks = run_ranks(len(parts), solve, make)
    for rank in ranks[1:]:
        for mine, theirs in zip(ranks[0][2:], rank[2:], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    plan, f = (np.concatenate([to_numpy(rank[at]) for rank in ranks]) for at in range(2))
    size = max(1.0, float(np.sum(total_of(case))))
    np.testing.assert_allclose(plan, to_numpy(one.plan()), atol=1e-6)
    if solver is FIXED:
        np.testing.assert_allclose(f, to_numpy(one.potentials[0]), atol=64 * case.eps)
    np.testing.assert_allclose(ranks[0][3], to_numpy(one.cluster_sizes()), atol=1e-6 * size)
    np.testing.assert_allclose(ranks[0][4], to_numpy(one.marginal_error), atol=64 * case.eps + (solver.tol or 0))
    np.testing.assert_allclose(ranks[0][6], to_numpy(one.transport_value()), atol=1e-6 * size)
    assert ranks[0][-1] is one.status


sides = st.sampled_from([(0.3, None), (0.0, None), (None, 0.6), (None, 1.0), (0.3, 0.6), (0.0, 0.6)])


@given(data=st.data())
def test_law_sharded_is_whole_of_fixed_rounds_of_relaxed_and_partial_problems(data):
    case = data.draw(st.one_of(cases(max_n=24), grouped_cases()))
    cuts = data.draw(st.lists(st.integers(0, len(case.scores)), max_size=3))
    sharded_is_whole(FIXED, with_masses(case, *data.draw(sides)), cuts)


@pytest.mark.parametrize("solver", [TIGHT, PLAIN], ids=["Newton", "rounds"])
@given(data=st.data())
def test_law_sharded_is_whole_of_converged_relaxed_and_partial_problems(solver, data):
    case = data.draw(cases(max_n=24, max_k=6, dtypes=("float64",), libraries=("numpy", "torch")))
    cuts = data.draw(st.lists(st.integers(0, len(case.scores)), max_size=3))
    sharded_is_whole(solver, with_masses(case, *data.draw(sides)), cuts)


class _Averages(ThreadReducer):
    def sum(self, array):
        return super().sum(array) / self.exchange.n_ranks


@pytest.mark.parametrize("side", [(0.3, None), (None, 0.6)])
def test_law_sharded_is_whole_of_relaxed_and_partial_problems_is_red_for_a_broken_reducer(side):
    case = with_masses(Case(clustered_scores(64, 5, seed=1), {}, "numpy", "float64"), *side)
    with pytest.raises((AssertionError, ValueError)):
        sharded_is_whole(FIXED, case, [8], _Averages)


@pytest.mark.parametrize("masses", [{"cluster_side": 0.5}, {"assigned_mass": 24}, {"assigned_mass": 24, "cluster_side": 0.5}])
def test_forbidden_pairs_on_some_ranks_of_relaxed_and_partial_problems(masses):
    scores = clustered_scores(40, 4)
    scores[:12, 1:] = -np.inf
    scores[12:, 3] = -np.inf if "assigned_mass" not in masses else scores[12:, 3]
    if "assigned_mass" in masses:
        scores[:10] = -np.inf  # they stay outside, all of them on the first rank
    sharded_is_whole(TIGHT, Case(scores, masses, "numpy", "float64"), [11, 11, 30])


@pytest.mark.parametrize("strength", [None, 0.3])
def test_more_samples_without_a_cluster_than_may_stay_outside_are_infeasible_on_all_ranks(strength):
    scores = clustered_scores(20, 3)
    scores[[1, 2, 11, 14]] = -np.inf
    for assigned, status in ((16, otc.Status.CONVERGED), (17, otc.Status.INFEASIBLE)):

        def ask(rank, reducer, assigned=assigned):
            problem = otc.Problem(scores[rank::2], sharded=True, assigned_mass=assigned, cluster_side=strength)
            return otc.solve(problem, otc.LogSinkhorn(0.1, 300), reducer=reducer).status

        assert run_ranks(2, ask) == [status, status]


def raised(make, solver=otc.LogSinkhorn(0.1)):  # noqa: B008
    return outcomes(2, lambda rank, reducer: otc.solve(make(rank), solver, reducer=reducer))[0]


@pytest.mark.parametrize(
    ("masses", "message"),
    [
        (lambda rank: {"cluster_side": 0.1 + rank}, "agree on cluster_side"),
        (lambda rank: {"assigned_mass": 3} if rank else {}, "agree on whether assigned_mass is given"),
        (lambda rank: {"assigned_mass": 3 + rank}, "assigned_mass must be the same on every rank"),
        (lambda rank: {"assigned_mass": 11}, "at most the mass of the samples, 10.0, got 11.0"),
        (lambda rank: {"assigned_mass": -1 if rank else 3}, "assigned_mass must be above 0"),
        (lambda rank: {"assigned_mass": np.nan}, "assigned_mass must be above 0"),
        (lambda rank: {"assigned_mass": 0}, "assigned_mass must be above 0"),
        (
            lambda rank: {"assigned_mass": 6, "cluster_mass": np.array([3.0, 4.0])},
            "assigned_mass and cluster_mass must have the same total, got 6.0 and 7.0",
        ),
    ],
)
def test_masses_that_ranks_cannot_have_are_errors_on_all(masses, message):
    scores = clustered_scores(10, 2)
    for error in raised(lambda rank: otc.Problem(scores[rank::2], sharded=True, **masses(rank))):
        assert isinstance(error, ValueError)
        assert message in str(error)


def test_assigned_mass_and_cluster_mass_are_those_of_all_ranks():
    scores = clustered_scores(10, 2)
    masses = {"assigned_mass": 8, "cluster_mass": np.array([6.0, 2.0])}

    def sizes(rank, reducer):
        answer = otc.solve(otc.Problem(scores[rank::2], sharded=True, **masses), otc.LogSinkhorn(0.1), reducer=reducer)
        return answer.status, answer.cluster_sizes()

    for status, found in run_ranks(2, sizes):
        assert status is otc.Status.CONVERGED
        np.testing.assert_allclose(found, [6, 2], atol=1e-4)


def test_labels_of_exact_size_of_partial_problems_need_all_samples_in_one_process():
    for answer in raised(lambda rank: otc.Problem(clustered_scores(6, 2)[rank::2], sharded=True, assigned_mass=4)):
        with pytest.raises(ValueError, match="balanced_labels needs all samples in one process"):
            answer.balanced_labels()
