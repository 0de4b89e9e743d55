"""Samples shared by several ranks: the answer is that of one process, and what goes wrong goes wrong on all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import otcluster as otc
from tests import laws
from tests.reducers import ThreadReducer, outcomes, run_ranks
from tests.registry import ROWS, sharded_solvers
from tests.strategies import Case, cases, clustered_scores, grouped_cases, to_numpy

OF_SAMPLES = ("sample_mass", "groups")


def parts_of(case, cuts):
    """Scores and masses of each rank: rows between two cuts, and what is global as it is."""
    edges = [0, *sorted(cuts), len(case.scores)]
    for start, stop in itertools.pairwise(edges):
        masses = {name: value[start:stop] if name in OF_SAMPLES else value for name, value in case.masses.items()}
        yield Case(case.scores[start:stop], masses, case.library, case.dtype).laid()


def answers(solver, case, cuts, make=ThreadReducer):
    """The assignment of each rank, asked for everything: (plan, labels, f, g, sizes, error, n_iter, status)."""
    parts = list(parts_of(case, cuts))

    def solve(rank, reducer):
        scores, masses = parts[rank]
        answer = otc.solve(otc.Problem(scores, sharded=True, **masses), solver, reducer=reducer)
        whole = answer.plan(), answer.labels(), *answer.potentials, answer.cluster_sizes(), answer.marginal_error, answer.n_iter
        return *(to_numpy(each) for each in whole), answer.status

    return run_ranks(len(parts), solve, make)


def sharded_is_whole(row, case, cuts, make=ThreadReducer):
    solver = row.make(laws.EPSILON)
    scores, masses = case.laid()
    one = otc.solve(otc.Problem(scores, **masses), solver)
    ranks = answers(solver, case, cuts, make)
    for later in ranks[1:]:  # to the bit, or the loops of the ranks could end at different rounds
        for mine, theirs in zip(ranks[0][3:], later[3:], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    *_, sizes, error, n_iter, status = ranks[0]
    plan, labels, f = (np.concatenate([rank[at] for rank in ranks]) for at in range(3))
    # Sums in another order: where Newton's steps or another number of rounds lead, the tolerance says how near the two are.
    alike = not row.accelerated and (n_iter == to_numpy(one.n_iter)).all()
    limit = laws.rounding(case) if alike else laws.slack(row, case)
    expected = to_numpy(one.plan())
    np.testing.assert_allclose(plan, expected, atol=limit, rtol=laws.rounding(case))
    best = np.sort(expected, 1)
    clear = best[:, -1] - best[:, -2] > 4 * limit if expected.shape[1] > 1 else np.full(len(best), True)
    np.testing.assert_array_equal(labels[clear], to_numpy(one.labels())[clear])
    total = max(float(expected.sum()), 1.0)
    np.testing.assert_allclose(sizes, to_numpy(one.cluster_sizes()), atol=max(len(expected), 1) * limit)
    np.testing.assert_allclose(error, to_numpy(one.marginal_error), atol=16 * case.eps if alike else 2 * (row.tolerance or 0))
    assert status is one.status
    assert f.shape == (len(expected),)
    assert abs(float(sizes.sum()) - float(expected.sum())) <= 32 * case.eps * total


@sharded_solvers
@given(data=st.data())
def test_law_sharded_is_whole(row, data):
    case = data.draw(st.one_of(cases(min_n=0, max_n=24), grouped_cases()))
    cuts = data.draw(st.lists(st.integers(0, len(case.scores)), max_size=3))
    if "cluster_share" in case.masses and "groups" not in case.masses and data.draw(st.booleans()):
        total = case.masses.get("sample_mass", np.ones(len(case.scores))).sum()
        share = case.masses.pop("cluster_share")
        case.masses["cluster_mass"] = share / share.sum() * total
    sharded_is_whole(row, case, cuts)


@sharded_solvers
def test_law_sharded_is_whole_where_pairs_are_forbidden_and_no_bound_of_the_scores_serves(row):
    rng = np.random.default_rng(3)
    scores = clustered_scores(90, 6, seed=3)
    # The second rank alone knows nothing of cluster 5, and the third forbids nothing.
    scores[:60][rng.random((60, 6)) < 0.2] = -np.inf
    scores[:, 0] = np.maximum(scores[:, 0], -1)
    scores[20:60, 5] = -np.inf
    scores[60:] += 40
    for dtype in ("float32", "float64"):
        plain = Case(np.where(np.isfinite(scores), scores, 0.0), {}, "torch", dtype)
        solver = row.make(laws.EPSILON)
        one = otc.solve(otc.Problem(plain.lay(scores)), solver)
        ranks = answers(solver, Case(scores, {}, "torch", dtype), [20, 60, 60])
        plan = np.concatenate([rank[0] for rank in ranks])
        np.testing.assert_allclose(plan, to_numpy(one.plan()), atol=laws.slack(row, plain))
        assert ranks[0][-1] is one.status


class _Averages(ThreadReducer):
    def sum(self, array):
        return super().sum(array) / self.exchange.n_ranks


class _TakesRanksForEqual(ThreadReducer):
    """``batch * world_size``: each rank takes the others to be as itself."""

    def sum(self, array):
        return self.gathered("sum", array)[0] * self.exchange.n_ranks


@pytest.mark.parametrize("broken", [_Averages, _TakesRanksForEqual])
def test_law_sharded_is_whole_is_red_for_a_broken_reducer(broken):
    case = Case(clustered_scores(64, 5, seed=1), {}, "numpy", "float64")
    with pytest.raises(AssertionError):
        sharded_is_whole(ROWS[0], case, [8], broken)


@pytest.mark.parametrize("epsilon", [0.1, 0.05])
@pytest.mark.parametrize("acceleration", [otc.Newton(), otc.PlainRounds(), None])
def test_float32_plans_of_uneven_ranks_are_within_1e_6(epsilon, acceleration):
    case = Case(clustered_scores(512, 16), {}, "torch", "float32")
    solver = otc.LogSinkhorn(epsilon, acceleration=acceleration) if acceleration else otc.SinkhornKnopp(epsilon)
    problem = otc.Problem(case.lay(case.scores))
    if epsilon == 0.05 and problem.ops.kernels(problem.dtype) is None:
        pytest.skip("needs numba: without it exponents of 1 / 0.05 in one float32 are rounded by up to 1e-6")
    one = otc.solve(problem, solver)
    for cuts in ([64], [0, 1, 300]):
        plan = np.concatenate([rank[0] for rank in answers(solver, case, cuts)])
        np.testing.assert_allclose(plan, to_numpy(one.plan()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "most"),
    [
        (otc.SinkhornKnopp(), 7 + 2),
        (otc.LogSinkhorn(0.05, 300, acceleration=otc.PlainRounds()), 7 + 2),
        (otc.LogSinkhorn(0.01, acceleration=otc.Anderson()), 7 + 2),
        (otc.LogSinkhorn(0.05), 7 * 7),
        (otc.Nearest(), 7 + 2),
    ],
)
def test_a_round_exchanges_about_k_numbers_however_many_samples(solver, most):
    def exchanged(n):
        scores = clustered_scores(n, 7, seed=2)
        parts = [otc.Problem(scores[rank::2], sharded=True) for rank in range(2)]
        return outcomes(2, lambda rank, reducer: otc.solve(parts[rank], solver, reducer=reducer))[1]

    for n in (40, 400):
        about, totals, *rounds = exchanged(n)
        assert about < 30
        assert totals == 3
        assert max(rounds, default=0) <= most


def test_a_problem_that_is_not_marked_is_joined_too():
    scores = clustered_scores(50, 4)
    one = otc.solve(otc.Problem(scores), otc.SinkhornKnopp())

    def solve(rank, reducer):
        return otc.solve(otc.Problem(scores[rank::2]), otc.SinkhornKnopp(), reducer=reducer)

    for rank, part in enumerate(run_ranks(2, solve)):
        np.testing.assert_allclose(part.plan(), one.plan()[rank::2], atol=1e-12)
        np.testing.assert_allclose(part.problem.cluster_mass, 12.5)


def test_leading_dimensions_are_sharded_on_the_samples():
    scores = np.random.default_rng(0).uniform(-1, 1, (3, 20, 4))
    for solver in (otc.SinkhornKnopp(), otc.LogSinkhorn(0.05), otc.Nearest()):
        one = otc.solve(otc.Problem(scores), solver)
        parts = run_ranks(
            2,
            lambda rank, reducer, solver=solver: otc.solve(
                otc.Problem(scores[:, [slice(0, 5), slice(5, 20)][rank]], sharded=True), solver, reducer=reducer
            ).plan(),
        )
        np.testing.assert_allclose(np.concatenate(parts, axis=1), one.plan(), atol=1e-8)


def test_points_and_a_start_are_sharded_too():
    rng = np.random.default_rng(0)
    x, centroids = rng.standard_normal((60, 5)), rng.standard_normal((4, 5))
    first = otc.solve(otc.Problem(otc.PointScores(x, centroids, metric="cosine")), otc.LogSinkhorn(0.1))
    solver = otc.SinkhornKnopp(0.05)
    one = otc.solve(otc.Problem(otc.PointScores(x, centroids, metric="sqeuclidean")), solver, start=first)

    def solve(rank, reducer):
        own = otc.PointScores(x[[slice(0, 60), slice(60, 60)][rank]], centroids, metric="sqeuclidean")
        return otc.solve(otc.Problem(own, sharded=True), solver, start=first, reducer=reducer).plan()

    np.testing.assert_allclose(np.concatenate(run_ranks(2, solve)), one.plan(), atol=1e-12)


def test_status_is_infeasible_where_only_all_ranks_together_show_it():
    # Six samples may only join cluster 0, which has room for four: each rank holds two or fewer of them.
    scores = np.zeros((12, 3))
    confined = [0, 1, 4, 5, 8, 9]
    scores[confined, 1:] = -np.inf
    solver = otc.LogSinkhorn(0.1, 50)
    assert otc.solve(otc.Problem(scores), solver).status is otc.Status.INFEASIBLE
    ranks = answers(solver, Case(scores, {}, "numpy", "float64"), [4, 8, 12])
    assert {rank[-1] for rank in ranks} == {otc.Status.INFEASIBLE}


def raised_on_each(n_ranks, make, solver_of=lambda rank: otc.SinkhornKnopp()):
    """What each rank raises when rank ``r`` solves the problem ``make(r)``."""
    found, _ = outcomes(n_ranks, lambda rank, reducer: otc.solve(make(rank), solver_of(rank), reducer=reducer))
    return found


def _spoilt(rank, value, **masses):
    """Good scores, but for row 4 on rank 1."""
    scores = clustered_scores(10, 3)
    if rank == 1:
        scores[4] = value
    return otc.Problem(scores, sharded=True, **masses)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda rank: _spoilt(rank, np.nan), ValueError, "must not be NaN"),
        (lambda rank: _spoilt(rank, -np.inf), otc.InfeasibleError, "sample 4 may join no open cluster"),
        (lambda rank: _spoilt(rank, 0.0, groups=np.full(10, 3 * (rank == 1)), n_groups=2), ValueError, "groups must lie in"),
    ],
    ids=["NaN", "closed row", "group id"],
)
def test_the_error_of_one_rank_is_raised_on_all(make, kind, message):
    for rank, error in enumerate(raised_on_each(3, make)):
        assert type(error) is kind
        assert message in str(error)
        assert str(error).startswith("on another rank: ") == (rank != 1)


def test_an_input_changed_in_place_on_one_rank_is_an_error_on_all():
    def make(rank):
        scores = torch.zeros(4, 2)
        problem = otc.Problem(scores, sharded=True)
        if rank == 1:
            scores += 1
        return problem

    found = raised_on_each(2, make)
    assert [type(error) for error in found] == [RuntimeError, RuntimeError]
    assert "on another rank: scores was changed in place" in str(found[0])


def test_totals_are_compared_over_all_ranks():
    scores = clustered_scores(10, 2)
    good = run_ranks(
        2,
        lambda rank, reducer: otc.solve(
            otc.Problem(scores[rank::2], cluster_mass=np.array([4.0, 6.0]), sharded=True), otc.LogSinkhorn(0.1), reducer=reducer
        ).cluster_sizes(),
    )
    np.testing.assert_allclose(good, [[4, 6], [4, 6]], atol=1e-4)
    bad = raised_on_each(2, lambda rank: otc.Problem(scores[rank::2], cluster_mass=np.array([2.0, 3.0]), sharded=True))
    for error in bad:
        assert "must have the same total, got 10.0 and 5.0" in str(error)


def test_a_cluster_that_no_rank_reaches_is_an_error_on_all():
    def make(rank, reached):
        scores = clustered_scores(8, 3)
        scores[:, 2] = -np.inf
        return otc.Problem(scores if rank or not reached else clustered_scores(8, 3), sharded=True)

    for error in raised_on_each(2, lambda rank: make(rank, False)):
        assert isinstance(error, otc.InfeasibleError)
        assert "cluster 2 may receive no sample" in str(error)
    assert all(isinstance(each, otc.Assignment) for each in raised_on_each(2, lambda rank: make(rank, True)))


@pytest.mark.parametrize(
    ("make", "solver_of", "message"),
    [
        (lambda rank: otc.Problem(np.zeros((3, 2 + rank)), sharded=True), None, "agree on n_clusters"),
        (lambda rank: otc.Problem(np.zeros((1 + rank, 3, 2)), sharded=True), None, "agree on the batch shape"),
        (lambda rank: otc.Problem(np.zeros((3, 2), ["f4", "f8"][rank]), sharded=True), None, "agree on the dtype"),
        (
            lambda rank: otc.Problem(np.zeros((3, 2)), sharded=True),
            lambda rank: otc.LogSinkhorn(0.1 + rank),
            "agree on the solver",
        ),
        (
            lambda rank: otc.Problem(np.zeros((3, 2)), cluster_share=np.array([1.0, 1 + rank]), sharded=True),
            None,
            "cluster_share must be the same on every rank",
        ),
    ],
    ids=["clusters", "batch", "dtype", "solver", "masses"],
)
def test_ranks_that_ask_for_different_things_raise(make, solver_of, message):
    for error in raised_on_each(2, make, solver_of or (lambda rank: otc.SinkhornKnopp())):
        assert isinstance(error, ValueError)
        assert message in str(error)


class _Own:
    """A solver of somebody else, which says nothing of itself but where it lies."""

    def run(self, problem, start=None):
        return otc.SinkhornKnopp().run(problem, start)


def test_solvers_are_compared_by_what_they_say_and_not_by_where_they_lie():
    found = raised_on_each(2, lambda rank: otc.Problem(clustered_scores(6, 2), sharded=True), lambda rank: _Own())
    assert all(isinstance(each, otc.Assignment) for each in found)


def test_a_sharded_problem_needs_a_reducer_and_a_reducer_its_methods():
    problem = otc.Problem(np.zeros((3, 2)), sharded=True)
    with pytest.raises(ValueError, match="sharded and no reducer is given"):
        otc.solve(problem, otc.SinkhornKnopp())
    for reducer in (object(), ThreadReducer):
        with pytest.raises(TypeError, match="reducer must have the methods sum and max"):
            otc.solve(problem, otc.SinkhornKnopp(), reducer=reducer)
    with pytest.raises(TypeError, match="sharded must be True or False"):
        otc.Problem(np.zeros((3, 2)), sharded=1)


def test_what_looks_at_all_samples_at_once_says_so():
    scores = clustered_scores(8, 2)

    def solve(rank, reducer):
        problem = otc.Problem(scores[rank::2], sharded=True)
        with pytest.raises(ValueError, match="balanced_labels needs all samples in one process"):
            otc.solve(problem, otc.SinkhornKnopp(), reducer=reducer).balanced_labels()
        with pytest.raises(ValueError, match="ExactBalanced needs all samples in one process"):
            otc.solve(problem, otc.ExactBalanced(), reducer=reducer)

    run_ranks(2, solve)


@pytest.mark.parametrize("rows", [0, 4])
def test_a_rank_without_rows_is_checked_where_looking_costs_a_wait(rows):
    scores = otc.DenseScores(torch.zeros(rows, 3))
    scores.ops.on_host = False  # as on a GPU
    assert otc.Problem(scores, sharded=True).has_forbidden is False


@pytest.mark.parametrize(
    "solver", [otc.SinkhornKnopp(), otc.LogSinkhorn(), otc.Nearest()], ids=lambda each: type(each).__name__
)
def test_the_transport_value_is_that_of_all_samples(solver):
    scores = clustered_scores(40, 5)
    whole = otc.solve(otc.Problem(scores), solver).transport_value()

    def value(rank, reducer):
        own = otc.Problem(scores[:13] if rank == 0 else scores[13:], sharded=True)
        return otc.solve(own, solver, reducer=reducer).transport_value()

    np.testing.assert_allclose(run_ranks(2, value), [whole] * 2, rtol=1e-9)
