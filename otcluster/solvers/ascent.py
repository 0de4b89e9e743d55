"""To a tolerance by quick steps on the potential of the clusters, at one epsilon after another.

How a step is made is the business of :mod:`otcluster.solvers.newton` and :mod:`otcluster.solvers.mixing`; here it is decided
where they are worth it, at which strengths, and when to end. The answer is the best potential that a pass has seen.

Far from the answer at a small epsilon that is still many steps: so epsilon comes down by halves, from where scores are smooth.

Every problem of a batch or of groups goes its own way: whether its step is kept, its damping and its levels depend on nothing
else. Passes run at one epsilon, so a problem that is done with a level waits, untouched, for the slower ones.
"""

from __future__ import annotations

import math
from typing import Any

from otcluster import curvature, half_rounds, passes
from otcluster._ops.generic import Array
from otcluster.assignment import Assignment, EntropicAssignment
from otcluster.problem import Problem
from otcluster.solvers.acceleration import Acceleration
from otcluster.solvers.rounds import check_range, first_guess, limit_of, rounds_at_once
from otcluster.solvers.schedules import Schedule
from otcluster.solvers.steps import Point

_TOO_FEW = 8  # rounds left, in which nothing is gained by other steps
_SMOOTH = 32  # scores that range over so many epsilons are smooth enough to start at
_ROUGH = 0.02  # the error at which a level of epsilon is left
_MOST_LEVELS = 40
_LEVEL_STALLS, _STALLS = 12, 30


def ascend(
    problem: Problem,
    solver: Any,
    *,
    epsilon: float,
    max_iter: int,
    tol: float,
    acceleration: Acceleration,
    schedule: Schedule | None,
    start: Array | None,
) -> Assignment:
    """Balance ``problem`` to ``tol`` by the steps of ``acceleration``, down the levels of ``schedule`` (or our own).

    Raises:
        ValueError: ``epsilon`` is so large that potentials overflow the dtype.
    """
    check_range(problem, epsilon)
    if schedule is None and max_iter <= _TOO_FEW + 2:  # the rate is known after two rounds: all of them will be plain
        found = rounds_at_once(problem, solver, epsilon=epsilon, max_iter=max_iter, tol=tol, start=start, best=True)
        if found is not None:
            return found
    asked, problem = problem, passes.held(problem)
    ops, xp = problem.ops, problem.ops.xp
    limit = limit_of(problem, tol)
    climb = _Climb(problem, epsilon, max_iter, acceleration, first_guess(problem, epsilon, start))
    everything = ops.full((problem.n_problems,), 1.0, ops.wide) > 0
    if schedule is not None:
        climb.width = curvature.spread(problem)
        for level in schedule.levels(epsilon):
            climb.level(level, schedule.tol, everything)
        climb.level(epsilon, limit, everything)
    else:
        slow = climb.rounds_while_quick(limit)
        if ops.facts([xp.any(slow)])[0]:
            climb.width = curvature.spread(problem)
            if start is None:
                halvings = xp.ceil(xp.log(xp.clip(climb.width / (_SMOOTH * epsilon), 1.0, None)) / math.log(2) - 1e-9)
                halvings = xp.where(slow, xp.clip(halvings, None, _MOST_LEVELS), xp.zeros_like(halvings))
                for level in range(int(ops.facts([xp.max(halvings)])[0]), 0, -1):
                    climb.level(epsilon * 2.0**level, _ROUGH, halvings >= level)
            climb.level(epsilon, limit, slow)
    return EntropicAssignment(
        asked, solver, climb.best, epsilon, climb.count, error=climb.best_error, converged=climb.best_error <= limit
    )


class _Climb:
    """The way of each problem to its answer. ``best`` is where the error at the epsilon asked for was least."""

    def __init__(self, problem: Problem, epsilon: float, max_iter: int, acceleration: Acceleration, g: Array) -> None:
        ops = problem.ops
        self.problem, self.epsilon, self.max_iter = problem, epsilon, max_iter
        self.acceleration = acceleration
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
        patience = self.acceleration.patience(self.problem.n_clusters)
        before = self.never
        slow = self.count < 0
        while self.problem.ops.facts([xp.any(inside)])[0]:
            point = self._look(self.epsilon, inside)
            rate = xp.log(point.error / before)
            open_ = inside & (point.error > goal)
            tiny = float(xp.finfo(rate.dtype).smallest_normal)
            left = xp.log(xp.clip(point.error, tiny, None) / max(goal, tiny))
            dull = open_ & (before < math.inf) & ~(-rate * patience >= left) & (self.max_iter - self.count > _TOO_FEW)
            slow = slow | dull
            self.g = xp.where(open_[:, None], half_rounds.raised(self.problem, self.g, point.columns, self.epsilon), self.g)
            before = point.error
            inside = open_ & ~dull & (self.count < self.max_iter)
        return slow

    def level(self, epsilon: float, goal: float, members: Array) -> None:
        """Bring the error of the ``members`` at ``epsilon`` to ``goal``, as far as the passes they are allowed suffice."""
        problem, ops, xp = self.problem, self.problem.ops, self.problem.ops.xp
        final = epsilon == self.epsilon
        most = self.max_iter if final else self.max_iter // 2
        inside = members & (self.count < most)
        if not ops.facts([xp.any(inside)])[0]:
            return
        self._look_ahead(epsilon, inside)
        steps = self.acceleration.steps(problem, epsilon)
        stalls = xp.zeros_like(self.count)
        least = self.best_error if final else self.never
        # What the sums of a plan cannot resolve. No progress at all down there is the end; a slow one is not.
        resolved = 64 * float(xp.finfo(problem.dtype).eps) * xp.clip(self.width / epsilon, 1.0, None)
        while True:
            found = self._look(epsilon, inside, curved=steps.curved)
            stalls = xp.where(found.error < least, xp.zeros_like(stalls), stalls + 1)
            least = xp.minimum(least, found.error)
            point = steps.after(found)
            self.g = xp.where(inside[:, None], point.g, self.g)
            inside = inside & (point.error > goal) & (self.count < most)
            inside = inside & ~(((stalls >= _STALLS) & (least <= resolved)) if final else (stalls >= _LEVEL_STALLS))
            if not ops.facts([xp.any(inside)])[0]:
                break
            self.g = xp.where(inside[:, None], steps.ahead(), self.g)
        self.done = [*self.done[-1:], (epsilon, self.g, members)]

    def _look(self, epsilon: float, inside: Array, *, curved: bool = False) -> Point:
        """A pass at the present potentials, counted for the problems ``inside``."""
        problem, xp = self.problem, self.problem.ops.xp
        shared = None
        if curved:
            columns, lost, shared = curvature.columns_and_shared_mass(problem, self.g, epsilon)
        else:
            columns, lost = passes.plan_columns(problem, self.g, epsilon)
        error = passes.column_error(problem, self.g, columns, lost, epsilon)
        self.count = self.count + problem.ops.cast(inside, problem.ops.integer)
        if epsilon == self.epsilon:
            better = inside & (error < self.best_error)
            self.best = xp.where(better[:, None], self.g, self.best)
            self.best_error = xp.where(better, error, self.best_error)
        return Point(self.g, error, columns, shared)

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
