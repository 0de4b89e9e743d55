"""What the masses of the clusters are held to, where they need not be met exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from otcluster._ops.generic import Array


@dataclass(frozen=True)
class RelaxedKL:
    """The clusters' masses are what they should be near, at a price, and not what they must be.

    Given as ``cluster_side`` to :class:`otcluster.Problem`, it lets the column sums of the plan differ from ``cluster_mass``:
    the entropic solvers maximise ``<plan, scores> + epsilon * entropy(plan) - strength * KL(columns | cluster_mass)`` over the
    plans whose rows are exact. Prefer a strict side where the masses are known; relax it where they are a guess, as where
    classes of unknown frequency are to be found.

    Args:
        strength: What a unit of the divergence costs, in units of the scores. Zero leaves the clusters free, so that each row
            is a softmax; infinity is a strict side.

    Raises:
        TypeError: ``strength`` is no number.
        ValueError: ``strength`` is negative or NaN.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8], [1.0, 0.2]])
        >>> problem = otc.Problem(scores, cluster_side=otc.RelaxedKL(strength=0.1))
        >>> otc.solve(problem, otc.LogSinkhorn(epsilon=0.05)).cluster_sizes().round(2)
        array([2.36, 0.64])

    Source: Chizat, Peyre, Schmitzer & Vialard, "Scaling algorithms for unbalanced optimal transport problems" (2018); for
    clustering, Zhang, Ren & He, "P2OT" (2024).
    """

    strength: float

    def __post_init__(self) -> None:
        if isinstance(self.strength, bool) or not isinstance(self.strength, Real):
            raise TypeError(f"strength must be a number, got {self.strength!r}")
        if not self.strength >= 0:
            raise ValueError(
                f"strength must not be negative, got {self.strength}: 0 leaves the clusters free, infinity is strict"
            )
        object.__setattr__(self, "strength", float(self.strength))

    @property
    def shifts(self) -> bool:
        """Whether one number may be added to all potentials of the clusters without asking for anything else."""
        return True

    def settled(self, xp: Any, g: Array, clusters: Array) -> Array:
        """The same potentials, where they are all too high or too low by one number."""
        return g

    def unsettled(self, xp: Any, g: Array, clusters: Array, at_settled: Array) -> Array:
        """The gradient at ``g``, given that at ``settled(g)``."""
        return at_settled

    def pull(self, xp: Any, clusters: Array, epsilon: float) -> Array:
        """How far a half-round takes each cluster to its mass, from 0 (nowhere) to 1 (there, as if strict): (n_problems, k)."""
        return xp.full_like(clusters, self.strength / (self.strength + epsilon))

    def asked(self, xp: Any, g: Array, columns: Array, clusters: Array, epsilon: float) -> Array:
        """What the clusters would have after their half-round, (n_problems, k).

        A half-round leaves a column at a geometric mean of the mass that it should have and of what it had without its price g.
        An answer is optimal where that changes nothing.
        """
        pull = self.pull(xp, clusters, epsilon)
        open_ = clusters > 0
        info = xp.finfo(columns.dtype)
        columns = xp.clip(columns, float(info.smallest_normal), None)
        least, most = float(info.min) / 8, float(info.max) / 8
        g = xp.where(open_, self.settled(xp, g, clusters), xp.full_like(g, least))
        if self.shifts:  # only differences count, which may be far smaller
            g = g - xp.max(g, axis=-1, keepdims=True)
        free = xp.log(columns) - xp.clip(g / epsilon, least, most)
        logs = (1 - pull) * free + pull * xp.log(xp.where(open_, clusters, xp.ones_like(clusters)))
        logs = xp.where(open_, logs, xp.full_like(logs, -math.inf))
        total = xp.sum(columns, axis=-1, keepdims=True)
        if not self.shifts:  # clipped to what is far too much, so that nothing overflows
            return xp.exp(xp.minimum(logs, xp.broadcast_to(xp.log(total) + 1, logs.shape)))
        top = xp.max(logs, axis=-1, keepdims=True)
        parts = xp.exp(logs - xp.where(xp.isfinite(top), top, xp.zeros_like(top)))
        sums = xp.sum(parts, axis=-1, keepdims=True)
        return parts * (total / xp.where(sums > 0, sums, xp.ones_like(sums)))


class RelaxedInside(RelaxedKL):
    """The relaxed side of a partial problem: its last cluster, the outside, is strict.

    Only there does the level of the potentials matter. A round brings it near the right one slowly, so it is found at once.
    """

    @property
    def shifts(self) -> bool:
        return False

    def settled(self, xp: Any, g: Array, clusters: Array) -> Array:
        mass = clusters[:, :-1]
        below, top = self._below(xp, g, mass)
        total = xp.sum(mass, axis=-1, keepdims=True)
        # At the optimum columns are mass * exp(price / strength), which then sum to the mass. By the powers less one, since of
        # a great strength nothing else is left.
        excess = xp.sum(mass * xp.expm1(below), axis=-1, keepdims=True) / xp.where(total > 0, total, xp.ones_like(total))
        return g + top + self.strength * xp.log1p(excess)

    def unsettled(self, xp: Any, g: Array, clusters: Array, at_settled: Array) -> Array:
        mass = clusters[:, :-1]
        powers = mass * xp.exp(self._below(xp, g, mass)[0])
        total = xp.sum(powers, axis=-1, keepdims=True)
        share = powers / xp.where(total > 0, total, xp.ones_like(total))
        of_all = xp.sum(at_settled, axis=-1, keepdims=True)
        return at_settled - xp.concat([share * of_all, xp.zeros_like(of_all)], axis=-1)

    def _below(self, xp: Any, g: Array, mass: Array) -> tuple[Array, Array]:
        """How many strengths the price of each inside cluster is below the highest one, and that."""
        price = xp.where(mass > 0, -g[:, :-1], xp.full_like(mass, -math.inf))
        top = xp.max(price, axis=-1, keepdims=True)
        top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
        return (price - top) / max(self.strength, float(xp.finfo(g.dtype).smallest_normal)), top

    def pull(self, xp: Any, clusters: Array, epsilon: float) -> Array:
        outside = xp.ones_like(clusters[:, -1:])
        return xp.concat([super().pull(xp, clusters[:, :-1], epsilon), outside], axis=-1)


def relaxed_side(cluster_side: Any) -> RelaxedKL | None:
    """The side that ``cluster_side`` stands for, an object or a strength; None where it is strict.

    Raises:
        TypeError: It is neither.
        ValueError: It is a negative strength.
    """
    if cluster_side is None:
        return None
    if isinstance(cluster_side, bool) or not isinstance(cluster_side, (RelaxedKL, Real)):
        raise TypeError(
            f"cluster_side must be None, a strength or an object such as RelaxedKL(strength=1.0), got {cluster_side!r}"
        )
    side = cluster_side if isinstance(cluster_side, RelaxedKL) else RelaxedKL(float(cluster_side))
    return side if side.strength < math.inf else None
