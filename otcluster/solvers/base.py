"""What a solver is: a frozen value of hyper-parameters that turns a problem into an assignment."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment
from otcluster.checks import check_whole
from otcluster.problem import Problem


@runtime_checkable
class Solver(Protocol):
    """Anything that can be passed to :func:`otcluster.solve`."""

    def run(self, problem: Problem, start: Array | None = None) -> Assignment:
        """Solve ``problem``; called by :func:`otcluster.solve`, which holds gradients and warnings off.

        ``start``, if any, is the potential of the clusters to begin from, (n_problems, k), -inf where closed. A solver that
        cannot use it raises ValueError.
        """
        ...


def check_epsilon(epsilon: Any, name: str = "epsilon") -> float:
    """Return ``epsilon`` as a float, or raise unless it is a positive, finite number."""
    check_number(name, epsilon)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {epsilon}: it is in the units of the scores, 0.05 say")
    return float(epsilon)


def check_max_iter(max_iter: Any) -> int:
    """Return ``max_iter`` as an int, or raise unless it is a whole number of at least one round."""
    return check_whole("max_iter", max_iter, 1)


def check_tol(tol: Any) -> float | None:
    """Return ``tol`` as a float, or raise unless it is None or a number that an error can be compared with."""
    if tol is None:
        return None
    check_number("tol", tol)
    if not tol >= 0:
        raise ValueError(f"tol must be None or not negative, got {tol}")
    return float(tol)


def settle(solver: Any, **values: Any) -> None:
    """Set fields of a frozen solver, once, to what they were checked to be."""
    for name, value in values.items():
        object.__setattr__(solver, name, value)


def check_number(name: str, value: Any) -> None:
    """Raise unless ``value`` is a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
