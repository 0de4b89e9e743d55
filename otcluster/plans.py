"""What a plan is worth."""

from __future__ import annotations

import operator
from collections.abc import Callable

from otcluster._ops.generic import Array
from otcluster.passes import _down, _fold
from otcluster.problem import Problem


def transport_value(problem: Problem, plan_of: Callable[[slice, slice, Array], Array]) -> Array:
    """The sum of plan times scores in each problem, (n_problems,), wide. ``plan_of`` gives tiles of the plan."""
    ops, xp = problem.ops, problem.ops.xp

    def read(batches: slice, rows: slice, scores: Array) -> Array:
        plan = plan_of(batches, rows, scores)
        # Without mass there is no worth, forbidden pairs (zero times infinity) included.
        worth = xp.where(plan > 0, plan * scores, xp.zeros_like(scores))
        return _down(problem, rows, ops.cast(ops.row_sum(worth), ops.wide)[..., None])

    worth = _fold(problem, read, operator.add, ops.full((problem.n_problems, 1), 0.0, ops.wide))
    return problem.summed(worth)[0][:, 0]
