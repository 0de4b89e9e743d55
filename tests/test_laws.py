"""Every law, for every solver of the registry; and every law seen red on a solver that breaks it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import otcluster as otc
from otcluster import passes
from otcluster._ops.torch import TorchOps
from otcluster.assignment import EntropicAssignment
from tests import laws
from tests.registry import Row, balancing_solvers, entropic_solvers, every_solver, mass_solvers
from tests.strategies import Case, cases, clustered_scores, grouped_cases, planted, to_numpy


@every_solver
@pytest.mark.parametrize("law", laws.GENERAL, ids=lambda law: law.__name__)
@given(data=st.data())
def test_law(law, row, data):
    law(row, data.draw(cases(masses=row.any_mass)))


@mass_solvers
@pytest.mark.parametrize("law", laws.MASSES, ids=lambda law: law.__name__)
@given(case=cases())
def test_law_of_solvers_that_take_any_mass(law, row, case):
    law(row, case)


@entropic_solvers
@pytest.mark.parametrize("law", laws.ENTROPIC, ids=lambda law: law.__name__)
@given(case=cases())
def test_law_of_entropic_solvers(law, row, case):
    law(row, case)


@balancing_solvers
@pytest.mark.parametrize("law", laws.BALANCING, ids=lambda law: law.__name__)
@given(data=st.data())
def test_law_of_balancing_solvers(law, row, data):
    law(row, data.draw(cases(masses=row.any_mass)))


@every_solver
@pytest.mark.parametrize("law", laws.GROUPED, ids=lambda law: law.__name__)
@given(data=st.data())
def test_law_of_groups(law, row, data):
    law(row, data.draw(grouped_cases(masses=row.any_mass)))


@balancing_solvers
@given(planted=planted())
def test_small_epsilon_reaches_the_exact_answer(row, planted):
    laws.small_epsilon_is_exact(row, planted)


@every_solver
def test_global_random_state_is_left_alone(row):
    import torch

    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    laws.answer(row, Case(clustered_scores(32, 8), {}, "torch", "float32"))[1].plan()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


class _Broken:
    """A solver with one fault; what kind, ``fault`` says."""

    def __init__(self, fault):
        self.fault = fault

    def run(self, problem):
        xp = problem.ops.xp
        honest = otc.LogSinkhorn(0.2, 2000, 1e-5).run(problem)
        g = honest._g
        if self.fault == "writes":
            problem.scores.values[...] = 0
        if self.fault == "no balance":
            g = 0 * g
        if self.fault == "one library" and isinstance(problem.ops, TorchOps):
            g = 0 * g
        if self.fault == "points" and isinstance(problem.scores, otc.PointScores):
            g = 0 * g
        if self.fault == "order":
            g = g + 0.3 * problem.ops.cast(problem.ops.arange(problem.n_clusters), problem.ops.wide)[None, :]
        if self.fault == "scale":
            g = g * 1.1
        if self.fault == "shared":
            g = xp.mean(g, axis=0, keepdims=True) + 0 * g
        if self.fault == "counts":
            problem = _unweighted(problem)
            g = otc.LogSinkhorn(0.2, 2000, 1e-5).run(problem)._g
        if self.fault == "opens":
            g = xp.where(g == -float("inf"), xp.zeros_like(g), g)
        assignment = _Faulty(problem, self, g, 0.2, honest.n_iter, error=honest._error, converged=honest._converged)
        assignment.fault = self.fault
        return assignment


class _Faulty(EntropicAssignment):
    fault = ""

    def plan(self):
        plan = super().plan()
        return {"rows": 1.01 * plan, "library": 1.0 * to_numpy(plan)}.get(self.fault, plan)

    def labels(self):
        return 0 * super().labels() if self.fault == "labels" else super().labels()

    def cluster_sizes(self):
        return 1.01 * super().cluster_sizes() if self.fault == "sizes" else super().cluster_sizes()

    @property
    def potentials(self):
        f, g = super().potentials
        return (f + 0.01, g) if self.fault == "potentials" else (f, g)


def _unweighted(problem):
    return otc.Problem(problem.scores)


_FAULTS = {
    "rows_are_finite_and_exact": "rows",
    "labels_are_the_largest_entries": "labels",
    "sizes_are_column_sums": "sizes",
    "error_is_the_recomputed_one": "no balance",
    "scaling_together_changes_nothing": "honest",
    "permuting_permutes": "order",
    "batched_is_looped": "shared",
    "every_library_gives_one_answer": "one library",
    "points_are_scores": "points",
    "weight_is_repetition": "counts",
    "closed_is_left_out": "opens",
    "weightless_changes_nothing": "counts",
    "inputs_are_left_alone": "writes",
    "answers_stay_in_their_library": "library",
    "potentials_make_the_plan": "potentials",
    "offsets_leave_the_converged_plan": "no balance",
    "grouped_is_looped": "shared",
}


@pytest.mark.parametrize(
    "law", [*laws.GENERAL, *laws.MASSES, *laws.ENTROPIC, *laws.BALANCING, *laws.GROUPED], ids=lambda law: law.__name__
)
def test_law_is_red_for_a_solver_that_breaks_it(law):
    fault = _FAULTS[law.__name__]  # "honest" breaks its law too: its epsilon does not follow the scores
    scores = clustered_scores(30, 5, d=8, seed=1)
    masses = {"groups": np.arange(30) % 3, "n_groups": 3} if law in laws.GROUPED else {}
    row = Row(fault, lambda epsilon: _Broken(fault), balances=True, tolerance=1e-5)
    with pytest.raises(AssertionError):
        law(row, Case(scores, masses, "torch" if fault != "writes" else "numpy", "float64"))


def test_small_epsilon_law_is_red_for_a_solver_that_breaks_it():
    labels = np.repeat(np.arange(4), 3)
    case = Case(np.eye(4)[labels] + np.array([2.0, 0, 0, 0]), {}, "torch", "float64")
    laws.small_epsilon_is_exact(Row("honest", lambda epsilon: otc.LogSinkhorn(epsilon)), (case, labels))
    with pytest.raises(AssertionError):
        laws.small_epsilon_is_exact(Row("no balance", lambda epsilon: _Broken("no balance")), (case, labels))


def test_laws_are_tried_on_two_hundred_examples_that_are_the_same_everywhere():
    profile = settings.get_profile("ci")
    assert profile.max_examples == 200
    assert profile.derandomize


def test_a_pass_reads_every_tile_once():
    problem = otc.Problem(clustered_scores(50, 7))
    problem.ops.tile_elements = 7
    seen = [(batches, rows, values.shape) for batches, rows, values in passes.tiles(problem)]
    assert [shape for _, _, shape in seen] == [(1, 32, 7), (1, 18, 7)]
