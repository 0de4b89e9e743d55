"""What a plan is worth."""

from __future__ import annotations

import operator
from collections.abc import Callable

from otcluster._ops.generic import Array
from otcluster.passes import fold, summed_rows
from otcluster.problem import Problem


def worth(problem: Problem, scores: Array) -> Array:
    """What a unit of mass is worth in each pair of a tile: its score, and nothing outside."""
    k = problem.scores.inside.n_clusters
    if k == problem.n_clusters:
        return scores
    return problem.ops.xp.concat([scores[..., :k], problem.ops.xp.zeros_like(scores[..., k:])], axis=-1)


def transport_value(problem: Problem, plan_of: Callable[[slice, slice, Array], Array]) -> Array:
    """The sum of plan times scores in each problem, (n_problems,), wide. ``plan_of`` gives tiles of the plan."""
    ops, xp = problem.ops, problem.ops.xp

    def read(batches: slice, rows: slice, scores: Array) -> Array:
        plan = plan_of(batches, rows, scores)
        # Without mass there is no worth, forbidden pairs (zero times infinity) included.
        values = xp.where(plan > 0, plan * worth(problem, scores), xp.zeros_like(scores))
        return summed_rows(problem, rows, ops.cast(ops.row_sum(values), ops.wide)[..., None])

    total = fold(problem, read, operator.add, ops.full((problem.n_problems, 1), 0.0, ops.wide))
    return problem.summed(total)[0][:, 0]
