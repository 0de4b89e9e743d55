"""Solves to a tolerance: far fewer passes than plain rounds need, never a wrong mass without saying so."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch

import otcluster as otc
from otcluster.solvers import mixing, newton
from tests.oracles import error_of, log_rounds
from tests.strategies import clustered_scores, to_numpy

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy}
# What may be needed to 1e-4: half as many again as was measured.
ROUNDS = {0.05: 22, 0.01: 28, 0.005: 33, 0.001: 48}
MIXED = 82  # and by mixed rounds at 2200 x 1100 and epsilon 0.05


def uniform(n, k):
    return np.full(k, n / k)


def true_error(assignment, sample_mass=None):
    plan = to_numpy(assignment.plan())
    w = np.ones(plan.shape[-2]) if sample_mass is None else sample_mass
    return error_of(plan, w, to_numpy(assignment.problem.cluster_mass).astype(np.float64))


@pytest.mark.parametrize("epsilon", ROUNDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", LIBRARIES)
def test_far_fewer_rounds_than_plain_ones(library, dtype, epsilon):
    scores = LIBRARIES[library](clustered_scores(1024, 128).astype(dtype))
    for tol, more in ((1e-4, 0), (1e-6, 6)):
        assignment = otc.log_sinkhorn(scores, epsilon=epsilon, tol=tol)
        assert assignment.status is otc.Status.CONVERGED
        assert true_error(assignment) <= tol
        assert int(assignment.n_iter) <= ROUNDS[epsilon] + more


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_plain_rounds_need_more_than_ten_times_as_many(epsilon):
    problem = otc.Problem(clustered_scores(1024, 128))
    rounds = otc.solve(problem, otc.LogSinkhorn(epsilon, 10 * ROUNDS[epsilon], 1e-4, otc.PlainRounds()))
    assert rounds.status is otc.Status.MAX_ITER


@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.002])
@pytest.mark.parametrize("tol", [1e-4, 1e-6])
def test_converged_means_converged_with_uneven_masses_and_forbidden_pairs(tol, epsilon):
    rng = np.random.default_rng(4)
    scores = clustered_scores(300, 24, seed=4)
    forbidden = rng.random(scores.shape) < 0.2
    forbidden[np.arange(300), np.arange(300) % 24] = False
    w, share = rng.uniform(0.2, 3, 300), rng.uniform(0.2, 1, 24)
    w[7], share[3] = 0, 0
    for dtype in (np.float32, np.float64):
        given = np.where(forbidden, -np.inf, scores).astype(dtype)
        assignment = otc.log_sinkhorn(given, epsilon=epsilon, tol=tol, sample_mass=w.astype(dtype), cluster_share=share)
        assert assignment.status is otc.Status.CONVERGED
        assert true_error(assignment, w.astype(dtype)) <= tol
        plan = assignment.plan()
        assert not plan[forbidden].any()
        assert not plan[:, 3].any()


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("power", [1, 2])
def test_a_power_law_prior_is_met(power, epsilon):
    share = np.arange(1, 25) ** -float(power)
    assignment = otc.log_sinkhorn(clustered_scores(600, 24, seed=6), epsilon=epsilon, cluster_share=share)
    assert assignment.status is otc.Status.CONVERGED
    assert true_error(assignment) <= 1e-6
    np.testing.assert_allclose(assignment.cluster_sizes(), 600 * share / share.sum(), atol=1e-3)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_the_plan_is_that_of_pot(epsilon):
    scores = clustered_scores(256, 24, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # POT warns where it has not converged
        expected = ot.sinkhorn(
            np.ones(256), uniform(256, 24), -scores, reg=epsilon, method="sinkhorn_log", stopThr=1e-10, numItermax=20000
        )
    plan = otc.log_sinkhorn(scores, epsilon=epsilon, tol=1e-11).plan()
    np.testing.assert_allclose(plan, expected, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [{}, {"schedule": otc.ExponentialDecay(0.4)}, {"acceleration": otc.Newton()}, {"acceleration": otc.Anderson()}],
    ids=repr,
)
def test_the_plan_is_that_of_a_plain_loop_at_exactly_this_epsilon(options):
    scores = np.random.default_rng(7).uniform(-1, 1, (40, 5))
    w, c = np.random.default_rng(8).uniform(0.5, 2, 40), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    c *= w.sum() / c.sum()
    problem = otc.Problem(scores, sample_mass=w, cluster_mass=c)
    assignment = otc.solve(problem, otc.LogSinkhorn(0.1, tol=1e-12, **options))
    assert assignment.status is otc.Status.CONVERGED
    np.testing.assert_allclose(assignment.plan(), log_rounds(scores, 0.1, 2000, w, c), atol=1e-10)


def test_easy_problems_are_left_to_plain_rounds():
    problem = otc.Problem(np.random.default_rng(0).uniform(-1, 1, (1024, 128)))
    for tol in (1e-4, 1e-6):
        ours, plain = (
            otc.solve(problem, otc.LogSinkhorn(0.2, tol=tol, acceleration=each)) for each in (None, otc.PlainRounds())
        )
        assert int(ours.n_iter) == int(plain.n_iter)
        np.testing.assert_array_equal(ours.plan(), plain.plan())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_thousand_uneven_groups_converge_each_on_its_own(library):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(1000), rng.integers(0, 40, 1000))
    scores = rng.uniform(-1, 1, (len(groups), 4))
    lay = LIBRARIES[library]
    solver = otc.LogSinkhorn(0.02, tol=1e-6)
    whole = otc.solve(otc.Problem(lay(scores), groups=lay(groups), n_groups=1000), solver)
    assert whole.status is otc.Status.CONVERGED
    n_iter, plan = to_numpy(whole.n_iter), to_numpy(whole.plan())
    assert n_iter.min() == 1 < np.median(n_iter) < n_iter.max()  # who waits does not count
    for group in range(0, 1000, 50):
        own = groups == group
        alone = otc.solve(otc.Problem(lay(scores[own])), solver)
        assert abs(int(alone.n_iter) - n_iter[group]) <= 1
        np.testing.assert_allclose(plan[own], to_numpy(alone.plan()), atol=1e-6)


def test_max_iter_bounds_the_rounds_of_every_problem_and_the_best_plan_is_kept():
    problem = otc.Problem(np.stack([clustered_scores(256, 32), np.zeros((256, 32))]))
    errors = []
    for max_iter in (1, 2, 5, 9, 12, 16, 40):
        assignment = otc.solve(problem, otc.LogSinkhorn(0.005, max_iter))
        assert assignment.n_iter[0] <= max_iter
        assert assignment.n_iter[1] == 1
        sums = assignment.plan()[0].sum(0)
        assert assignment.marginal_error[0] == pytest.approx(np.abs(sums - 8).sum() / 256, abs=1e-12)
        errors.append(float(assignment.marginal_error[0]))
        assert (assignment.status is otc.Status.CONVERGED) == (errors[-1] <= 1e-6)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-6


def test_a_tolerance_below_rounding_ends_early_and_honestly():
    assignment = otc.log_sinkhorn(clustered_scores(256, 32).astype(np.float32), epsilon=0.01, tol=0.0, max_iter=5000)
    assert assignment.status is otc.Status.MAX_ITER
    assert int(assignment.n_iter) < 500
    assert float(assignment.marginal_error) <= 1e-5


def test_slow_progress_is_never_taken_for_none():
    scores = np.zeros((6, 3))
    scores[:2, 1:] = -np.inf  # errors of plain rounds fall like 1 / rounds here
    solver = otc.LogSinkhorn(0.05, 700, 1e-9, otc.PlainRounds(), otc.ExponentialDecay(0.1))
    assignment = otc.solve(otc.Problem(scores), solver)
    assert assignment.status is otc.Status.MAX_ITER
    assert int(assignment.n_iter) == 700


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_plan_is_still_infeasible(library):
    scores = clustered_scores(60, 4, seed=3)
    scores[:20, 1:] = -np.inf  # 20 samples for a cluster with room for 15
    assignment = otc.log_sinkhorn(LIBRARIES[library](scores), epsilon=0.01, max_iter=200)
    assert assignment.status is otc.Status.INFEASIBLE
    assert np.isfinite(to_numpy(assignment.plan())).all()
    assert all(np.isfinite(to_numpy(each)).all() for each in assignment.potentials)


@pytest.mark.parametrize("fault", ["backwards", "too long", "nowhere", "random"])
def test_a_broken_step_costs_rounds_and_never_a_wrong_mass(fault, monkeypatch):
    honest = newton._step
    rng = np.random.default_rng(0)
    steps = {
        "backwards": lambda step: -step,
        "too long": lambda step: 50 * step,
        "nowhere": lambda step: 0 * step,
        "random": lambda step: rng.standard_normal(step.shape) * 0.05,
    }
    monkeypatch.setattr(newton, "_step", lambda *args: steps[fault](honest(*args)))
    assignment = otc.log_sinkhorn(clustered_scores(128, 16), epsilon=0.01, max_iter=300)
    error = true_error(assignment)
    assert float(assignment.marginal_error) == pytest.approx(error, abs=1e-12)
    assert assignment.status is (otc.Status.CONVERGED if error <= 1e-6 else otc.Status.MAX_ITER)
    monkeypatch.undo()
    assert int(otc.log_sinkhorn(clustered_scores(128, 16), epsilon=0.01).n_iter) < int(assignment.n_iter) / 4


class TestAnderson:
    @pytest.mark.parametrize("library", LIBRARIES)
    def test_beyond_a_thousand_clusters_plain_rounds_need_five_times_as_many(self, library):
        problem = otc.Problem(LIBRARIES[library](clustered_scores(2200, 1100).astype(np.float32)))
        quick = otc.solve(problem, otc.LogSinkhorn(0.05, tol=1e-4))
        assert quick.status is otc.Status.CONVERGED
        assert true_error(quick) <= 1e-4
        assert int(quick.n_iter) <= MIXED
        plain = otc.solve(problem, otc.LogSinkhorn(0.05, 5 * int(quick.n_iter), 1e-4, otc.PlainRounds()))
        assert plain.status is otc.Status.MAX_ITER

    @pytest.mark.parametrize("epsilon", [0.05, 0.01])
    def test_the_plan_is_that_of_newtons_method(self, epsilon):
        problem = otc.Problem(clustered_scores(256, 24, seed=2))
        ours, newtons = (
            otc.solve(problem, otc.LogSinkhorn(epsilon, tol=1e-11, acceleration=each))
            for each in (otc.Anderson(), otc.Newton())
        )
        assert ours.status is newtons.status is otc.Status.CONVERGED
        np.testing.assert_allclose(ours.plan(), newtons.plan(), atol=1e-8)

    @pytest.mark.parametrize("fault", ["backwards", "too long", "nowhere"])
    def test_a_broken_mixture_is_given_up_for_plain_rounds(self, fault, monkeypatch):
        honest = mixing.MixedSteps._mixture
        mixtures = {
            "backwards": lambda mixture: -mixture,
            "too long": lambda mixture: 50 * mixture,
            "nowhere": lambda mixture: 0 * mixture,
        }
        monkeypatch.setattr(mixing.MixedSteps, "_mixture", lambda *args: mixtures[fault](honest(*args)))
        problem = otc.Problem(clustered_scores(128, 16))
        assignment = otc.solve(problem, otc.LogSinkhorn(0.05, 300, 1e-6, otc.Anderson(memory=2)))
        error = true_error(assignment)
        assert float(assignment.marginal_error) == pytest.approx(error, abs=1e-12)
        # A mixture is given up after at most 3 * 2 + 1 passes without progress, and a plain round is done.
        plain = otc.solve(problem, otc.LogSinkhorn(0.05, 300 // 8, 1e-6, otc.PlainRounds()))
        assert error <= float(plain.marginal_error)

    def test_a_tolerance_below_rounding_ends_early_and_honestly(self):
        scores = clustered_scores(256, 32).astype(np.float32)
        assignment = otc.solve(otc.Problem(scores), otc.LogSinkhorn(0.01, 5000, 0.0, otc.Anderson()))
        assert assignment.status is otc.Status.MAX_ITER
        assert int(assignment.n_iter) < 1000
        assert float(assignment.marginal_error) <= 1e-5

    @pytest.mark.parametrize(("memory", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
    def test_bad_memories_are_named(self, memory, error):
        with pytest.raises(error, match="memory must be"):
            otc.Anderson(memory)

    def test_memories_are_numbers_of_python(self):
        assert repr(otc.Anderson(np.int64(3))) == "Anderson(memory=3)"


class TestSchedule:
    def test_levels_come_down_to_the_epsilon_of_the_solver(self):
        assert otc.ExponentialDecay(1.0, factor=10).levels(0.01) == (1.0, 0.1)
        assert repr(otc.ExponentialDecay(1)) == repr(otc.ExponentialDecay(np.float64(1.0)))  # ranks compare them
        assert otc.ExponentialDecay(0.04).levels(0.05) == ()

    def test_it_saves_plain_rounds_too(self):
        problem = otc.Problem(clustered_scores(256, 32))
        solver = otc.LogSinkhorn(0.01, 5000, 1e-4, otc.PlainRounds())
        with_levels = otc.solve(problem, replace(solver, schedule=otc.ExponentialDecay(0.2)))
        assert with_levels.status is otc.Status.CONVERGED
        assert true_error(with_levels) <= 1e-4

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"start": 0.0}, ValueError, "start must be positive"),
            ({"start": 0.1, "factor": 1.0}, ValueError, "factor must be above 1"),
            ({"start": 0.1, "factor": "2"}, TypeError, "factor must be a number"),
            ({"start": 0.1, "tol": 0.0}, ValueError, "tol must be positive"),
        ],
    )
    def test_bad_arguments_are_named(self, options, error, match):
        with pytest.raises(error, match=match):
            otc.ExponentialDecay(**options)

    @pytest.mark.parametrize("options", [{"schedule": otc.ExponentialDecay(0.1)}, {"acceleration": otc.Newton()}])
    def test_without_a_tolerance_nothing_but_plain_rounds_is_done(self, options):
        with pytest.raises(ValueError, match="needs a tolerance"):
            otc.LogSinkhorn(tol=None, **options)

    @pytest.mark.parametrize("options", [{"schedule": 0.1}, {"schedule": otc.ExponentialDecay}, {"acceleration": "newton"}])
    def test_what_is_no_such_object_is_named(self, options):
        with pytest.raises(TypeError, match=f"{next(iter(options))} must be None or an object"):
            otc.LogSinkhorn(**options)


class TestStart:
    solver = otc.LogSinkhorn(0.01, tol=1e-6)
    plain = otc.LogSinkhorn(0.05, 2000, 1e-6, otc.PlainRounds())

    @pytest.mark.parametrize("solver", [solver, plain, otc.SinkhornKnopp(0.05, 2000, 1e-6)], ids=repr)
    @pytest.mark.parametrize("library", LIBRARIES)
    def test_the_answer_is_where_it_ends_at_once(self, library, solver):
        problem = otc.Problem(LIBRARIES[library](clustered_scores(256, 32)))
        cold = otc.solve(problem, solver)
        for start in (cold, cold.potentials, (None, cold.potentials[1])):
            assert int(otc.solve(problem, solver, start=start).n_iter) == 1
        assert int(cold.n_iter) > 10

    @pytest.mark.parametrize("solver", [solver, plain], ids=repr)
    def test_new_samples_for_the_same_clusters_take_fewer_rounds(self, solver):
        scores = clustered_scores(4096, 32)
        known = otc.solve(otc.Problem(scores[:2048]), solver)
        problem = otc.Problem(scores[1024:])
        cold, warm = otc.solve(problem, solver), otc.solve(problem, solver, start=known)
        assert warm.status is otc.Status.CONVERGED
        assert int(warm.n_iter) <= 0.8 * int(cold.n_iter)
        np.testing.assert_allclose(warm.plan(), cold.plan(), atol=1e-3)

    def test_fixed_rounds_go_on_where_others_ended(self):
        problem = otc.Problem(clustered_scores(64, 8))
        two, five = otc.SinkhornKnopp(0.05, 2), otc.SinkhornKnopp(0.05, 5)
        done = otc.solve(problem, otc.SinkhornKnopp(0.05, 3))
        np.testing.assert_allclose(otc.solve(problem, two, start=done).plan(), otc.solve(problem, five).plan(), atol=1e-13)

    def test_groups_and_batches_have_a_start_each(self):
        scores, groups = clustered_scores(90, 5), np.arange(90) % 3
        grouped = otc.Problem(scores, groups=groups, n_groups=3)
        batch = otc.Problem(np.stack([scores, -scores]))
        for problem in (grouped, batch):
            cold = otc.solve(problem, self.solver)
            assert (otc.solve(problem, self.solver, start=cold.potentials).n_iter == 1).all()

    def test_closed_clusters_and_clusters_that_were_closed(self):
        scores, share = clustered_scores(64, 8), np.ones(8)
        share[2] = 0
        closed = otc.solve(otc.Problem(scores, cluster_share=share), self.solver)
        opened = otc.solve(otc.Problem(scores), self.solver, start=closed)
        assert opened.status is otc.Status.CONVERGED
        assert np.isfinite(opened.potentials[1]).all()
        again = otc.solve(otc.Problem(scores, cluster_share=share), self.solver, start=opened)
        assert again.status is otc.Status.CONVERGED
        assert not again.plan()[:, 2].any()

    @pytest.mark.parametrize(
        ("start", "error", "match"),
        [
            (np.zeros(3), TypeError, "start must be potentials"),
            ((None, [0.0, 0.0, 0.0]), TypeError, "start must be of the library of the scores"),
            ((None, np.zeros(4)), ValueError, r"must have shape \(3,\), got \(4,\)"),
            ((np.zeros(4), np.zeros(3)), ValueError, r"must have shape \(5,\) or be None, got \(4,\)"),
            (otc.nearest(np.zeros((5, 4))), ValueError, r"clusters of shape \(3,\), got one of \(4,\)"),
        ],
    )
    def test_bad_starts_are_named(self, start, error, match):
        with pytest.raises(error, match=match):
            otc.solve(otc.Problem(np.zeros((5, 3))), self.solver, start=start)

    def test_nearest_takes_none(self):
        with pytest.raises(ValueError, match="Nearest takes no start"):
            otc.solve(otc.Problem(np.zeros((5, 3))), otc.Nearest(), start=(None, np.zeros(3)))
