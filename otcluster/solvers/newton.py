"""Newton's steps on the dual problem in g alone, which is smooth and concave, held safe by Sinkhorn's rounds.

A round of Sinkhorn raises g by ``epsilon r`` with ``r = log(cluster_mass / columns)``. A step here solves
``((1 - damping) (I - K) + damping I) step = epsilon r``, where K is the stochastic matrix ``shared / columns`` of
:mod:`otcluster.curvature`. Damping 1 is the round itself, which never raises the L1 error; damping 0 is Newton's step, which is
quadratic near the answer; between them no step is longer than the round's by more than a factor 1 / damping. The damping falls
with the error; a step that does not lower the error is taken back and tried with more of it.
"""

from __future__ import annotations

from otcluster import half_rounds
from otcluster._ops.generic import Array
from otcluster.problem import Problem
from otcluster.solvers.steps import LONGEST, Point, chosen, without_mean

_LEAST_DAMPING, _LEAST_CAUTION = 1e-10, 1e-3


class NewtonSteps:
    """Steps between a round and Newton's, as cautious as the last ones were bad."""

    curved = True

    def __init__(self, problem: Problem, epsilon: float) -> None:
        self._problem, self._epsilon = problem, epsilon
        self._point: Point | None = None

    def after(self, found: Point) -> Point:
        xp = self._problem.ops.xp
        if self._point is None:
            self._caution = self._damping = xp.ones_like(found.error)
            point = found
        else:
            lower = found.error < self._point.error
            caution = xp.where(lower, xp.where(self._damping < 1, self._caution / 3, self._caution), self._caution * 4)
            self._caution = xp.clip(caution, _LEAST_CAUTION, 1e12)
            point = chosen(xp, lower | (self._damping >= 1), found, self._point)
        self._damping = xp.clip(self._caution * point.error, _LEAST_DAMPING, 1.0)
        self._point = point
        return point

    def ahead(self) -> Array:
        assert self._point is not None
        return self._point.g + _step(self._problem, self._point, self._damping, self._epsilon)


def _step(problem: Problem, point: Point, damping: Array, epsilon: float) -> Array:
    """From a round (damping 1) to Newton's step (towards 0); zero for closed clusters."""
    ops, xp = problem.ops, problem.ops.xp
    open_ = problem.clusters > 0
    columns = xp.clip(point.columns, float(xp.finfo(problem.dtype).smallest_normal), None)
    # Not the logarithm of the quotient, which overflows.
    missing = xp.log(xp.where(open_, problem.clusters, xp.ones_like(columns))) - xp.log(columns)
    keep, rest = (1 - damping)[:, None, None], damping[:, None, None]
    side = problem.cluster_side
    if side is not None:  # damping 1 is the round of a relaxed side as well, and 0 is Newton's step
        change = half_rounds.raised(problem, point.g, columns, epsilon) - side.settled(xp, point.g, problem.clusters)
        missing = xp.where(open_, change / epsilon, xp.zeros_like(columns))
        keep = side.pull(xp, problem.clusters, epsilon)[..., None] * keep
        rest = 1 - keep
    if side is None or side.shifts:
        missing = without_mean(xp, missing, xp.where(open_, columns, xp.zeros_like(columns)))
    one = ops.arange(problem.n_clusters)
    diagonal = (one[:, None] == one[None, :])[None, ...]
    others = point.shared / columns[..., None]
    others = xp.where(diagonal, xp.zeros_like(others), others)
    # 1 - K on the diagonal, as the sum of what is beside it: where a plan is nearly hard the difference would have no digits.
    on = keep * xp.sum(others, axis=-1)[..., None] + rest
    step = epsilon * ops.solve(xp.where(diagonal, on, -keep * others), missing)
    return xp.clip(step, -LONGEST * epsilon, LONGEST * epsilon)
