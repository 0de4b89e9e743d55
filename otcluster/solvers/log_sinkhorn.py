"""Sinkhorn to a tolerance."""

from __future__ import annotations

from dataclasses import dataclass

from otcluster.assignment import Assignment
from otcluster.problem import Problem
from otcluster.solvers.base import check_epsilon, check_max_iter, check_tol, settle
from otcluster.solvers.rounds import run_rounds


@dataclass(frozen=True)
class LogSinkhorn:
    """Balance softly until the masses are right.

    Prefer :class:`SinkhornKnopp` where a few rounds are enough, or where the cost of a step must be fixed.

    Args:
        epsilon: Entropic strength, in units of the scores. Smaller is harder, and takes more rounds.
        max_iter: Rounds at most.
        tol: Stop when ``marginal_error``, the share of the mass in the wrong place, is at most this. None: exactly
            ``max_iter`` rounds, without looking at values.

    Raises:
        TypeError: A hyper-parameter is no number.
        ValueError: A hyper-parameter is out of range.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> assignment = otc.solve(otc.Problem(scores), LogSinkhorn(epsilon=0.2))
        >>> assignment.status.name, assignment.labels()
        ('CONVERGED', array([0, 1]))

    Source: Cuturi (2013); in the log domain Schmitzer, "Stabilized sparse scaling algorithms" (2019).
    """

    epsilon: float = 0.05
    max_iter: int = 1000
    tol: float | None = 1e-6

    def __post_init__(self) -> None:
        settle(self, epsilon=check_epsilon(self.epsilon), max_iter=check_max_iter(self.max_iter), tol=check_tol(self.tol))

    def run(self, problem: Problem) -> Assignment:
        """Solve ``problem``; prefer :func:`otcluster.solve`."""
        return run_rounds(problem, self, epsilon=self.epsilon, max_iter=self.max_iter, tol=self.tol)
