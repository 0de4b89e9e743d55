"""Newton's method on the potential of the clusters, held safe by Sinkhorn's rounds, at one epsilon after another.

The dual problem in g alone is smooth and concave. A round of Sinkhorn raises g by ``epsilon r`` with
``r = log(cluster_mass / columns)``. A step here solves ``((1 - damping) (I - K) + damping I) step = epsilon r``, where K is the
stochastic matrix ``shared / columns`` of :mod:`otcluster.curvature`. Damping 1 is the round itself, which never raises the L1
error; damping 0 is Newton's step, which is quadratic near the answer; between them no step is longer than the round's by more
than a factor 1 / damping. The damping falls with the error; a step that does not lower the error is taken back and tried with
more of it.

Far from the answer at a small epsilon that is still many steps: so epsilon comes down by halves, from where scores are smooth.

Every problem of a batch or of groups goes its own way: whether its step is kept, its damping and its levels depend on nothing
else. Passes run at one epsilon, so a problem that is done with a level waits, untouched, for the slower ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from otcluster import curvature, passes
from otcluster._ops.generic import Array
from otcluster.assignment import Assignment, EntropicAssignment
from otcluster.problem import Problem
from otcluster.solvers.rounds import check_range, first_guess, limit_of
from otcluster.solvers.schedules import Schedule

_PATIENT = 8  # rounds that are done rather than to measure curvature, at few clusters; Newton's method needs about as many
_CLUSTERS = 128  # at so many, measuring curvature costs about as much as the rest of a pass
_SMOOTH = 32  # scores that range over so many epsilons are smooth enough to start at
_ROUGH = 0.02  # the error at which a level of epsilon is left
_MOST_LEVELS = 40
_LEVEL_STALLS, _STALLS = 12, 30  # passes without any progress
_LEAST_DAMPING, _LEAST_CAUTION = 1e-10, 1e-3
_LONGEST = 1e3  # epsilons that a step may have: potentials stay finite where there is no plan


def ascend(
    problem: Problem,
    solver: Any,
    *,
    epsilon: float,
    max_iter: int,
    tol: float,
    newton: bool,
    schedule: Schedule | None,
    start: Array | None,
) -> Assignment:
    """Balance ``problem`` to ``tol`` by Newton's method (or by plain rounds), down the levels of ``schedule`` (or our own).

    Raises:
        ValueError: ``epsilon`` is so large that potentials overflow the dtype.
    """
    check_range(problem, epsilon)
    asked, problem = problem, passes.held(problem)
    ops, xp = problem.ops, problem.ops.xp
    limit = limit_of(problem, tol)
    climb = _Climb(problem, epsilon, max_iter, first_guess(problem, epsilon, start))
    everything = ops.full((problem.n_problems,), 1.0, ops.wide) > 0
    if schedule is not None:
        climb.width = curvature.spread(problem)
        for level in schedule.levels(epsilon):
            climb.level(level, schedule.tol, everything, newton)
        climb.level(epsilon, limit, everything, newton)
    else:
        slow = climb.rounds_while_quick(limit)
        if ops.facts([xp.any(slow)])[0]:
            climb.width = curvature.spread(problem)
            if start is None:
                halvings = xp.ceil(xp.log(xp.clip(climb.width / (_SMOOTH * epsilon), 1.0, None)) / math.log(2) - 1e-9)
                halvings = xp.where(slow, xp.clip(halvings, None, _MOST_LEVELS), xp.zeros_like(halvings))
                for level in range(int(ops.facts([xp.max(halvings)])[0]), 0, -1):
                    climb.level(epsilon * 2.0**level, _ROUGH, halvings >= level, newton)
            climb.level(epsilon, limit, slow, newton)
    return EntropicAssignment(
        asked, solver, climb.best, epsilon, climb.count, error=climb.best_error, converged=climb.best_error <= limit
    )


@dataclass
class _Point:
    """Where problems stand, and what a pass found there."""

    g: Array
    error: Array
    columns: Array
    shared: Array | None


class _Climb:
    """The way of each problem to its answer. ``best`` is where the error at the epsilon asked for was least."""

    def __init__(self, problem: Problem, epsilon: float, max_iter: int, g: Array) -> None:
        ops = problem.ops
        self.problem, self.epsilon, self.max_iter = problem, epsilon, max_iter
        self.g = self.best = g
        self.count = ops.full((problem.n_problems,), 0, ops.integer)
        self.never = ops.full((problem.n_problems,), math.inf, ops.wide)
        self.best_error = self.never
        self.width = ops.full((problem.n_problems,), 0.0, ops.wide)
        self.done: list[tuple[float, Array, Array]] = []  # the last levels: epsilon, its answer, who took part

    def rounds_while_quick(self, goal: float) -> Array:
        """Plain rounds while few more of them are needed, by the rate of the last; which problems that leaves open."""
        xp = self.problem.ops.xp
        inside = self.count < self.max_iter
        patience = _PATIENT * (1 + self.problem.n_clusters / _CLUSTERS)  # the same for a group as for a problem alone
        before = self.never
        slow = self.count < 0
        while self.problem.ops.facts([xp.any(inside)])[0]:
            point = self._look(self.epsilon, inside, False)
            rate = xp.log(point.error / before)
            open_ = inside & (point.error > goal)
            tiny = float(xp.finfo(rate.dtype).smallest_normal)
            left = xp.log(xp.clip(point.error, tiny, None) / max(goal, tiny))
            dull = open_ & (before < math.inf) & ~(-rate * patience >= left) & (self.max_iter - self.count > _PATIENT)
            slow = slow | dull
            self.g = xp.where(open_[:, None], passes.raised(self.problem, self.g, point.columns, self.epsilon), self.g)
            before = point.error
            inside = open_ & ~dull & (self.count < self.max_iter)
        return slow

    def level(self, epsilon: float, goal: float, members: Array, newton: bool) -> None:
        """Bring the error of the ``members`` at ``epsilon`` to ``goal``, as far as the passes they are allowed suffice."""
        problem, ops, xp = self.problem, self.problem.ops, self.problem.ops.xp
        final = epsilon == self.epsilon
        most = self.max_iter if final else self.max_iter // 2
        inside = members & (self.count < most)
        self._look_ahead(epsilon, inside)
        point: _Point | None = None
        caution = xp.ones_like(self.never)
        damping = xp.ones_like(self.never)
        stalls = xp.zeros_like(self.count)
        least = self.best_error if final else self.never
        # What the sums of a plan cannot resolve. No progress at all down there is the end; a slow one is not.
        resolved = 64 * float(xp.finfo(problem.dtype).eps) * xp.clip(self.width / epsilon, 1.0, None)
        while ops.facts([xp.any(inside)])[0]:
            found = self._look(epsilon, inside, newton)
            stalls = xp.where(found.error < least, xp.zeros_like(stalls), stalls + 1)
            least = xp.minimum(least, found.error)
            if point is None:
                point = found
            else:
                lower = found.error < point.error
                kept = inside & (lower | (damping >= 1))
                caution = xp.where(lower, xp.where(damping < 1, caution / 3, caution), caution * 4)
                point = _chosen(xp, kept, found, point)
            inside = inside & (point.error > goal) & (self.count < most)
            inside = inside & ~(((stalls >= _STALLS) & (least <= resolved)) if final else (stalls >= _LEVEL_STALLS))
            caution = xp.clip(caution, _LEAST_CAUTION, 1e12)
            damping = xp.clip(caution * point.error, _LEAST_DAMPING, 1.0)
            if point.shared is None:
                damping = xp.ones_like(damping)
                ahead = passes.raised(problem, point.g, point.columns, epsilon)
            else:
                ahead = point.g + _step(problem, point, damping, epsilon)
            self.g = xp.where(inside[:, None], ahead, xp.where(members[:, None], point.g, self.g))
        if point is not None:
            self.done = [*self.done[-1:], (epsilon, self.g, members)]

    def _look(self, epsilon: float, inside: Array, newton: bool) -> _Point:
        """A pass at the present potentials, counted for the problems ``inside``."""
        problem, xp = self.problem, self.problem.ops.xp
        shared = None
        if newton:
            columns, lost, shared = curvature.columns_and_shared_mass(problem, self.g, epsilon)
        else:
            columns, lost = passes.plan_columns(problem, self.g, epsilon)
        error = passes.column_error(problem, self.g, columns, lost, epsilon)
        self.count = self.count + problem.ops.cast(inside, problem.ops.integer)
        if epsilon == self.epsilon:
            better = inside & (error < self.best_error)
            self.best = xp.where(better[:, None], self.g, self.best)
            self.best_error = xp.where(better, error, self.best_error)
        return _Point(self.g, error, columns, shared)

    def _look_ahead(self, epsilon: float, inside: Array) -> None:
        """Begin a level where the last two point to."""
        problem, xp = self.problem, self.problem.ops.xp
        if len(self.done) < 2:
            return
        before, last = self.done
        share = (last[0] - epsilon) / (before[0] - last[0])
        open_ = problem.clusters > 0
        count = xp.clip(xp.sum(xp.astype(open_, last[1].dtype), axis=-1, keepdims=True), 1.0, None)
        change = xp.where(open_, last[1], xp.zeros_like(last[1])) - xp.where(open_, before[1], xp.zeros_like(last[1]))
        change = change - xp.sum(change, axis=-1, keepdims=True) / count  # only differences of a potential mean anything
        took_part = inside & last[2] & before[2]
        self.g = xp.where(took_part[:, None] & open_, self.g + share * change, self.g)


def _chosen(xp: Any, new: Array, one: _Point, two: _Point) -> _Point:
    """``one`` for the problems that are ``new``, ``two`` for the others."""
    shared = None
    if one.shared is not None and two.shared is not None:
        shared = xp.where(new[:, None, None], one.shared, two.shared)
    return _Point(
        xp.where(new[:, None], one.g, two.g),
        xp.where(new, one.error, two.error),
        xp.where(new[:, None], one.columns, two.columns),
        shared,
    )


def _step(problem: Problem, point: _Point, damping: Array, epsilon: float) -> Array:
    """From a round (damping 1) to Newton's step (towards 0); zero for closed clusters."""
    ops, xp = problem.ops, problem.ops.xp
    open_ = problem.clusters > 0
    columns = xp.clip(point.columns, float(xp.finfo(problem.dtype).smallest_normal), None)
    # Not the logarithm of the quotient, which overflows.
    missing = xp.log(xp.where(open_, problem.clusters, xp.ones_like(columns))) - xp.log(columns)
    keep, rest = (1 - damping)[:, None, None], damping[:, None, None]
    side = problem.cluster_side
    if side is not None:  # damping 1 is the round of a relaxed side as well, and 0 is Newton's step
        change = passes.raised(problem, point.g, columns, epsilon) - side.settled(xp, point.g, problem.clusters)
        missing = xp.where(open_, change / epsilon, xp.zeros_like(columns))
        keep = side.pull(xp, problem.clusters, epsilon)[..., None] * keep
        rest = 1 - keep
    if side is None or side.shifts:
        # Adding one number to all of g changes no plan, so nothing may ask for it: there Newton's step has no bound.
        mass = xp.where(open_, columns, xp.zeros_like(columns))
        total = xp.sum(mass, axis=-1, keepdims=True)
        mean = xp.sum(mass * missing, axis=-1, keepdims=True) / xp.where(total > 0, total, xp.ones_like(total))
        missing = xp.where(open_, missing - mean, xp.zeros_like(missing))
    one = ops.arange(problem.n_clusters)
    diagonal = (one[:, None] == one[None, :])[None, ...]
    others = point.shared / columns[..., None]
    others = xp.where(diagonal, xp.zeros_like(others), others)
    # 1 - K on the diagonal, as the sum of what is beside it: where a plan is nearly hard the difference would have no digits.
    on = keep * xp.sum(others, axis=-1)[..., None] + rest
    step = epsilon * ops.solve(xp.where(diagonal, on, -keep * others), missing)
    return xp.clip(step, -_LONGEST * epsilon, _LONGEST * epsilon)
