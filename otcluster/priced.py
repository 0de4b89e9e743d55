"""Hard answers under prices: of exact sizes for the samples that the prices were found for, of any sizes for others."""

from __future__ import annotations

from typing import Any

from otcluster import labelling
from otcluster._ops.generic import Array
from otcluster.assignment import Assignment, HardAssignment, Status
from otcluster.problem import Problem


class PricedAssignment(HardAssignment):
    """A hard answer under prices that were found for other samples; ``bounds`` are of the sizes that would be right."""

    def __init__(
        self, problem: Problem, solver: Any, g: Array, labels: Array, best: Array, bounds: tuple[Array, Array]
    ) -> None:
        super().__init__(problem, solver, g, labels, best)
        self._bounds = bounds

    @property
    def status(self) -> Status:
        return Status.FIXED_ROUNDS

    @property
    def marginal_error(self) -> Array:
        """Distance of the sizes from the bounds asked for, as a share of the mass, one number per problem."""
        problem, xp = self.problem, self.problem.ops.xp
        with problem.ops.quiet():
            mass = labelling.label_mass(problem, self._labels)
            low, high = (problem.ops.cast(bound, mass.dtype) for bound in self._bounds)
            off = xp.sum(xp.clip(low - mass, 0, None) + xp.clip(mass - high, 0, None), axis=-1)
            return self._per_problem(off / xp.where(problem.totals > 0, problem.totals, xp.ones_like(problem.totals)))

    def _for_samples(self, problem: Problem, g: Array) -> Assignment:
        ops, xp, before, now = problem.ops, problem.ops.xp, self.problem.totals[:, None], problem.totals[:, None]
        low, high = (
            ops.cast(bound, ops.wide) * now / xp.where(before > 0, before, xp.ones_like(before)) for bound in self._bounds
        )
        bounds = low, xp.where(before > 0, high, now)
        # Of a group without samples every size was zero, which closed its clusters for those samples alone.
        g = xp.where((before > 0) | problem.closed, g, xp.zeros_like(g))
        return PricedAssignment(problem, self.solver, g, *labelling.nearest(problem, g), bounds)


class BalancedAssignment(PricedAssignment):
    """A hard answer whose clusters have the sizes asked for, with prices that prove that no other has more."""

    def __init__(
        self, problem: Problem, solver: Any, g: Array, labels: Array, best: Array, bounds: tuple[Array, Array], gap: Array
    ) -> None:
        super().__init__(problem, solver, g, labels, best, bounds)
        self._gap = gap

    @property
    def status(self) -> Status:
        return Status.CONVERGED

    @property
    def dual_gap(self) -> Array:
        """How far at most the sum of scores is from the largest one, one number per problem: relative to n x score range."""
        return self._per_problem(self._gap)

    def balanced_labels(self) -> Array:
        """The labels: their sizes are those asked for."""
        return self.labels()
