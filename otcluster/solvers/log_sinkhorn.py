"""Sinkhorn to a tolerance, and how it is brought there."""

from __future__ import annotations

from dataclasses import dataclass

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment
from otcluster.problem import Problem
from otcluster.solvers.acceleration import Acceleration, PlainRounds, default_acceleration
from otcluster.solvers.ascent import ascend
from otcluster.solvers.base import check_epsilon, check_max_iter, check_tol, settle
from otcluster.solvers.rounds import run_rounds
from otcluster.solvers.schedules import Schedule


@dataclass(frozen=True)
class LogSinkhorn:
    """Balance softly until the masses are right.

    Prefer :class:`SinkhornKnopp` where a few rounds are enough, or where the cost of a step must be fixed.

    Args:
        epsilon: Entropic strength, in units of the scores. Smaller is harder.
        max_iter: Rounds at most. A round is a pass over the scores: each one that a problem takes part in is counted in its
            ``n_iter``, those at larger strengths on the way and those whose step was taken back included.
        tol: Stop when ``marginal_error``, the share of the mass in the wrong place, is at most this. None: exactly
            ``max_iter`` plain rounds, without looking at values.
        acceleration: :class:`Newton`, :class:`Anderson` or :class:`PlainRounds`. Default: where rounds are seen to be slow and
            ``max_iter`` leaves room for it (ten rounds or fewer stay plain), Newton's method, or Anderson's mixing where
            clusters are many. Where rounding hides all progress, the solve ends before ``max_iter`` rounds, as MAX_ITER.
        schedule: Larger strengths to pass through first, such as :class:`ExponentialDecay`. Default: chosen for each problem,
            where rounds are slow and none is :class:`PlainRounds`. The last is always ``epsilon``.

    Raises:
        TypeError: A hyper-parameter is of the wrong type.
        ValueError: A hyper-parameter is out of range, or acts only with a tolerance and there is none.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> assignment = otc.solve(otc.Problem(scores), LogSinkhorn(epsilon=0.2))
        >>> assignment.status.name, assignment.labels()
        ('CONVERGED', array([0, 1]))

    Source: Cuturi (2013); in the log domain Schmitzer, "Stabilized sparse scaling algorithms" (2019);
    Newton's method in Brauer et al. (2017), mixing in Anderson (1965).
    """

    epsilon: float = 0.05
    max_iter: int = 1000
    tol: float | None = 1e-6
    acceleration: Acceleration | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        settle(self, epsilon=check_epsilon(self.epsilon), max_iter=check_max_iter(self.max_iter), tol=check_tol(self.tol))
        for name, kind, example in (
            ("acceleration", Acceleration, "Newton()"),
            ("schedule", Schedule, "ExponentialDecay(0.2)"),
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, type) or not isinstance(value, kind)):
                raise TypeError(f"{name} must be None or an object such as {example}, got {value!r}")
            if value is not None and self.tol is None:
                raise ValueError(f"{name} needs a tolerance: tol=None asks for exactly max_iter plain rounds")

    def run(self, problem: Problem, start: Array | None = None) -> Assignment:
        """Solve ``problem``; prefer :func:`otcluster.solve`."""
        if self.tol is not None:
            acceleration = default_acceleration(problem) if self.acceleration is None else self.acceleration
            if not isinstance(acceleration, PlainRounds) or self.schedule is not None:
                return ascend(
                    problem,
                    self,
                    epsilon=self.epsilon,
                    max_iter=self.max_iter,
                    tol=self.tol,
                    acceleration=acceleration,
                    schedule=self.schedule,
                    start=start,
                )
        return run_rounds(problem, self, epsilon=self.epsilon, max_iter=self.max_iter, tol=self.tol, start=start)
