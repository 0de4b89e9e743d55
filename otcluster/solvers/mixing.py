"""Anderson's mixing of Sinkhorn's rounds, for problems whose curvature is too large to write down.

Near the answer a round is a linear map, ``g -> g + residual(g)``, and symmetric in the inner product that weights clusters by
their mass. The differences between the last points and between their residuals tell how it acts on the plane through them. The
mixture of the points whose residual is least, if it were linear, is where the next round starts from. That is the minimal
residual method on the system of Newton's step, made of passes that would be made anyway.

Far from the answer the map is not linear. A point whose error is far above the least so far, or a run of points that do not
lower it, is given up: the problem goes back to its best point, does a plain round there, and what it knew is forgotten.
"""

from __future__ import annotations

from otcluster import half_rounds
from otcluster._ops.generic import Array
from otcluster.problem import Problem
from otcluster.solvers.steps import LONGEST, Point, chosen, without_mean

_FAR_ABOVE = 2.0  # times the least error: where a mixture has led nowhere
_PATIENCE = 3  # passes for each round remembered: potentials have a way to go before the error falls
_FEW_ROUNDINGS = 4096


class MixedSteps:
    """Mixtures of the last ``memory`` + 1 rounds."""

    curved = False

    def __init__(self, problem: Problem, epsilon: float, memory: int) -> None:
        ops, xp = problem.ops, problem.ops.xp
        self._problem, self._epsilon, self._memory = problem, epsilon, memory
        self._rounds: list[tuple[Array, Array]] = []  # the last points and their residuals, zero for closed clusters
        self._known = ops.full((problem.n_problems,), 0, ops.integer)  # how many of them a problem has not forgotten
        self._idle = xp.zeros_like(self._known)  # passes since the error was last lowered
        self._point: Point | None = None
        self._best: Point | None = None

    def after(self, found: Point) -> Point:
        xp = self._problem.ops.xp
        if self._best is None:
            self._best = self._point = found
            return found
        lower = (found.error < self._best.error) | (self._known == 1)  # a plain round never raises the error
        idle = xp.where(lower, xp.zeros_like(self._idle), self._idle + 1)
        back = ~lower & ((idle > _PATIENCE * self._memory) | (found.error > _FAR_ABOVE * self._best.error))
        self._best = chosen(xp, lower, found, self._best)
        self._idle = xp.where(back, xp.zeros_like(idle), idle)
        self._known = xp.where(back, xp.zeros_like(self._known), self._known)
        self._point = chosen(xp, back, self._best, found)
        return self._point

    def ahead(self) -> Array:
        problem, point, xp = self._problem, self._point, self._problem.ops.xp
        assert point is not None
        open_ = problem.clusters > 0
        raised = half_rounds.raised(problem, point.g, point.columns, self._epsilon)
        g = xp.where(open_, point.g, xp.zeros_like(point.g))
        residual = xp.where(open_, raised, xp.zeros_like(g)) - g
        side = problem.cluster_side
        if side is None or side.shifts:
            residual = without_mean(xp, residual, problem.clusters)
        self._rounds = [*self._rounds[-self._memory :], (g, residual)]
        self._known = xp.clip(self._known + 1, None, self._memory + 1)
        step = residual - self._mixture(residual) if len(self._rounds) > 1 else residual
        return xp.where(open_, g + xp.clip(step, -LONGEST * self._epsilon, LONGEST * self._epsilon), raised)

    def _mixture(self, residual: Array) -> Array:
        """How far the best mixture of the known rounds lies from the last of them."""
        ops, xp = self._problem.ops, self._problem.ops.xp
        points, residuals = (xp.stack([each[at] for each in self._rounds], axis=1) for at in (0, 1))
        changes = residuals[:, 1:, :] - residuals[:, :-1, :]
        moves = points[:, 1:, :] - points[:, :-1, :] + changes
        count = len(self._rounds) - 1
        weighted = changes * self._problem.clusters[:, None, :]
        length = xp.sqrt(xp.sum(weighted * changes, axis=-1))
        used = (count - ops.arange(count) < self._known[:, None]) & (length > 0)
        scale = xp.where(used, 1 / xp.where(used, length, xp.ones_like(length)), xp.zeros_like(length))[..., None]
        changes, moves, weighted = changes * scale, moves * scale, weighted * scale
        index = ops.arange(count)
        # Equations of differences that are not used are 1 = 0. A few roundings more make the others regular.
        unit = xp.where(used, float(_FEW_ROUNDINGS * xp.finfo(ops.wide).eps) * xp.ones_like(length), xp.ones_like(length))
        gram = xp.matmul(weighted, xp.matrix_transpose(changes))
        gram = gram + xp.where((index[:, None] == index[None, :])[None, ...], unit[..., None], xp.zeros_like(gram))
        share = ops.solve(gram, xp.sum(weighted * residual[:, None, :], axis=-1))
        return xp.sum(share[..., None] * moves, axis=1)
