"""Sinkhorn-Knopp with a fixed number of rounds, as SwAV, DINO and Deep Nearest Centroids use it."""

from __future__ import annotations

from dataclasses import dataclass

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment
from otcluster.problem import Problem
from otcluster.solvers.base import check_epsilon, check_max_iter, check_tol, settle
from otcluster.solvers.rounds import run_rounds


@dataclass(frozen=True)
class SinkhornKnopp:
    """Balance softly in a few rounds.

    After ``max_iter`` rounds the rows of the plan are exact and its columns nearly balanced: three rounds leave clusters at
    0.6 to 1.8 of their share on clustered data. Use :class:`LogSinkhorn` when the masses must be right.

    Args:
        epsilon: Entropic strength, in units of the scores. Smaller is harder.
        max_iter: Rounds, each the clusters' half and then the samples'.
        tol: Stop when ``marginal_error`` is at most this. None: exactly ``max_iter`` rounds, without looking at values.

    Raises:
        TypeError: A hyper-parameter is no number.
        ValueError: A hyper-parameter is out of range.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> otc.solve(otc.Problem(scores), SinkhornKnopp(epsilon=0.05, max_iter=3)).labels()
        array([0, 1])

    Source: Sinkhorn & Knopp (1967); Cuturi (2013); in this form Caron et al., "SwAV" (2020).
    """

    epsilon: float = 0.05
    max_iter: int = 3
    tol: float | None = None

    def __post_init__(self) -> None:
        settle(self, epsilon=check_epsilon(self.epsilon), max_iter=check_max_iter(self.max_iter), tol=check_tol(self.tol))

    def run(self, problem: Problem, start: Array | None = None) -> Assignment:
        """Solve ``problem``; prefer :func:`otcluster.solve`."""
        return run_rounds(problem, self, epsilon=self.epsilon, max_iter=self.max_iter, tol=self.tol, start=start)
