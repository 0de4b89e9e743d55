"""Entropic k-means that begins soft and hardens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from otcluster.solvers import LogSinkhorn, SinkhornKnopp
from otcluster.solvers.base import check_epsilon, check_number


@dataclass(frozen=True)
class Annealing:
    """Let the epsilon of an entropic solver come down, round by round, to the one it has.

    Soft assignments at first keep :func:`otcluster.kmeans` from the first clustering that is near.

    Args:
        solver: The solver of the last rounds.
        start: Epsilon of the first round, in units of the scores.
        factor: What it is multiplied by from round to round, below 1.

    Raises:
        TypeError: ``solver`` has no epsilon, or a number is none.
        ValueError: A number is out of range.

    Example:
        >>> import otcluster as otc
        >>> annealing = Annealing(otc.LogSinkhorn(epsilon=0.1), start=1.0, factor=0.5)
        >>> [annealing.at(turn).epsilon for turn in range(5)]
        [1.0, 0.5, 0.25, 0.125, 0.1]

    Source: Rose, "Deterministic annealing for clustering" (1998).
    """

    solver: LogSinkhorn | SinkhornKnopp
    start: float
    factor: float = 0.8

    def __post_init__(self) -> None:
        if not isinstance(self.solver, (LogSinkhorn, SinkhornKnopp)):
            raise TypeError(f"solver must be LogSinkhorn or SinkhornKnopp, which have an epsilon; got {self.solver!r}")
        check_epsilon(self.start, "start")
        check_number("factor", self.factor)
        if not 0 < self.factor < 1:
            raise ValueError(f"factor must be between 0 and 1, got {self.factor}: epsilon is multiplied by it in each round")

    def at(self, turn: int) -> LogSinkhorn | SinkhornKnopp:
        """The solver of round ``turn``, from 0."""
        return replace(self.solver, epsilon=max(self.solver.epsilon, self.start * self.factor**turn))
