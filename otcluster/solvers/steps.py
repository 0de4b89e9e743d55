"""A step from one potential of the clusters to the next, and what may be asked of it: the plain one is Sinkhorn's round.

Every problem of a batch or of groups goes its own way: nothing that is decided for one depends on another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from otcluster import half_rounds
from otcluster._ops.generic import Array
from otcluster.problem import Problem

LONGEST = 1e3
"""Epsilons that a step may have: potentials stay finite where there is no plan."""


@dataclass(frozen=True)
class Point:
    """Where problems stand, and what a pass found there."""

    g: Array
    error: Array
    columns: Array
    shared: Array | None = None


class Steps(Protocol):
    """How problems come nearer to their answers at one epsilon, one pass after another."""

    curved: bool
    """Whether passes measure the curvature of the dual problem, k x k numbers for each problem."""

    def after(self, found: Point) -> Point:
        """Where each problem goes on from: from what was ``found``, or from an earlier point if that was too bad."""
        ...

    def ahead(self) -> Array:
        """The potentials to look at next, (n_problems, k)."""
        ...


class PlainSteps:
    """Rounds, each from where the last has led."""

    curved = False

    def __init__(self, problem: Problem, epsilon: float) -> None:
        self._problem, self._epsilon = problem, epsilon

    def after(self, found: Point) -> Point:
        self._point = found
        return found

    def ahead(self) -> Array:
        return half_rounds.raised(self._problem, self._point.g, self._point.columns, self._epsilon)


def chosen(xp: Any, new: Array, one: Point, two: Point) -> Point:
    """``one`` for the problems that are ``new``, ``two`` for the others."""
    shared = None
    if one.shared is not None and two.shared is not None:
        shared = xp.where(new[:, None, None], one.shared, two.shared)
    return Point(
        xp.where(new[:, None], one.g, two.g),
        xp.where(new, one.error, two.error),
        xp.where(new[:, None], one.columns, two.columns),
        shared,
    )


def without_mean(xp: Any, values: Array, mass: Array) -> Array:
    """``values`` less their average over the clusters by ``mass``; zero where that is zero.

    Adding one number to all of g changes no plan, so no step may be asked for it.
    """
    total = xp.sum(mass, axis=-1, keepdims=True)
    mean = xp.sum(mass * values, axis=-1, keepdims=True) / xp.where(total > 0, total, xp.ones_like(total))
    return xp.where(mass > 0, values - mean, xp.zeros_like(values))
