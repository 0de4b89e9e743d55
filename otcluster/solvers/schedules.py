"""How epsilon comes down to the one asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from otcluster.solvers.base import check_epsilon, check_number, settle


@runtime_checkable
class Schedule(Protocol):
    """What :class:`otcluster.LogSinkhorn` takes as ``schedule``."""

    @property
    def tol(self) -> float:
        """The error at which a level is left for the next."""
        ...

    def levels(self, epsilon: float) -> tuple[float, ...]:
        """The strengths to balance at before ``epsilon``, from the largest."""
        ...


@dataclass(frozen=True)
class ExponentialDecay:
    """Balance roughly at ``start``, then at a ``factor``-th of it, and so on down to the solver's epsilon.

    The answer at one level is where the next begins. Prefer no schedule: :class:`otcluster.LogSinkhorn` then chooses one for
    each problem, by the range of its scores and only where rounds are seen to be slow. The last level is always exactly the
    epsilon of the solver; a ``start`` below that adds no level.

    Args:
        start: The first strength, in units of the scores.
        factor: What each level divides the one before by, above 1.
        tol: The ``marginal_error`` at which a level is left for the next.

    Raises:
        TypeError: An argument is no number.
        ValueError: An argument is out of range.

    Example:
        >>> ExponentialDecay(start=0.4).levels(0.1)
        (0.4, 0.2)

    Source: Kosowsky & Yuille, "The invisible hand algorithm" (1994).
    """

    start: float
    factor: float = 2.0
    tol: float = 0.02

    def __post_init__(self) -> None:
        for name in ("start", "factor", "tol"):
            check_number(name, getattr(self, name))
        check_epsilon(self.start, "start")
        if not 1 < self.factor < math.inf:
            raise ValueError(f"factor must be above 1 and finite, got {self.factor}: it divides each level")
        if not self.tol > 0:
            raise ValueError(f"tol must be positive, got {self.tol}: it is the error at which a level is left")
        settle(self, start=float(self.start), factor=float(self.factor), tol=float(self.tol))

    def levels(self, epsilon: float) -> tuple[float, ...]:
        """The strengths before ``epsilon``, from the largest."""
        found = []
        level = self.start
        while level > epsilon * (1 + 1e-9):  # not once more where only rounding lies between
            found.append(level)
            level /= self.factor
        return tuple(found)
