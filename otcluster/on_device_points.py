"""Passes of kernels over points, whose scores nobody writes down; those of :mod:`otcluster.passes` turn to them.

The vectors are laid out as the kernels read them once a problem. Few scores are formed once instead, and read each round.
"""

from __future__ import annotations

from typing import Any

from otcluster._ops.generic import Array
from otcluster.problem import Problem
from otcluster.ranges import representable, small_range
from otcluster.scores import PointScores

_INFINITY = float("inf")
FEW_SCORES = 1 << 20
"""Forming so many anew each round is waste, wherever they are."""
_FEW_ON_DEVICE = 1 << 26  # a reading of them takes a third of the time of their products, and they 256 MiB


class PointPasses:
    """The passes over one problem at one epsilon. Potentials are (1, k), float64."""

    def __init__(self, problem: Problem, kernels: Any, scores: PointScores, epsilon: float) -> None:
        if scores.laid is None:
            scores.laid = kernels.sides(scores.given_x.detach(), scores.given_centroids.detach(), scores.metric)
        self._samples, self._clusters = scores.laid
        self._problem, self._kernels, self._epsilon = problem, kernels, epsilon
        self._squares = scores.metric == "sqeuclidean"
        bounds = small_range(problem, epsilon)
        self._bound = None if bounds is None else bounds[1]

    def first_columns(self) -> tuple[Array, Array]:
        """The largest score of each column, and its sum of ``mass * exp((score - largest) / epsilon)``: (1, k) both."""
        problem, xp, ops = self._problem, self._problem.ops.xp, self._problem.ops
        if self._bound is not None:
            offset = self._log(problem.weights[0, :]) - self._bound / self._epsilon
            sums = self._kernels.scaled_sums(self._clusters, self._samples, offset, self._epsilon)
            return xp.full_like(sums, self._bound)[None, :], sums[None, :]
        near, after = ops.full((problem.n_samples,), 0.0, problem.dtype), None
        if problem.is_weighted:
            weights = problem.weights[0, :]
            some = weights > 0
            near = xp.where(some, near, xp.full_like(near, -_INFINITY))
            after = ops.log(xp.where(some, weights, xp.ones_like(weights)))
        top, sums = self._kernels.soft_rows(self._clusters, self._samples, near, after, self._epsilon)
        return top[None, :], sums[None, :]

    def plan_columns(self, g: Array) -> tuple[Array, Array]:
        """Column sums of the plan, (1, k), and the mass that no cluster may take, (1,)."""
        xp, weights = self._problem.ops.xp, self._problem.weights[0, :]
        top, sums = self._rows(g)
        open_ = sums > 0
        factors = xp.where(open_, weights / xp.where(open_, sums, xp.ones_like(sums)), xp.zeros_like(sums))
        if self._bound is not None:
            offset = self._log(factors) - self._bound / self._epsilon
            columns = self._kernels.scaled_sums(self._clusters, self._samples, offset, self._epsilon)
            columns = columns * xp.exp(self._below(g))
        else:
            columns = self._kernels.columns(self._samples, self._clusters, g[0, :], None, self._epsilon, top, factors)
        lost = xp.sum(xp.where(open_, xp.zeros_like(sums), weights))
        return columns[None, :], lost[None]

    def sample_potential(self, g: Array) -> Array:
        """f, (1, n), under which the rows are exact; -inf for zero mass."""
        xp, weights = self._problem.ops.xp, self._problem.weights[0, :]
        top, sums = self._rows(g)
        joins = (sums > 0) & (weights > 0)
        share = xp.where(joins, weights / xp.where(joins, sums, xp.ones_like(sums)), xp.ones_like(sums))
        value = self._epsilon * xp.log(share) - xp.where(joins, top, xp.zeros_like(top))
        return xp.where(joins, value, xp.full_like(value, -_INFINITY))[None, :]

    def labels(self, g: Array) -> Array:
        """The largest entry of each row of the plan, (1, n); -1 for a sample that may join no cluster."""
        found: Array = self._kernels.nearest(self._samples, self._clusters, g[0, :], None, self._epsilon)[0][None, :]
        return found

    def nearest(self, near: Array) -> tuple[Array, Array]:
        """The best cluster of each sample under ``scores + near``, and its value: (1, n) both; -1 and -inf without any."""
        ops, xp = self._problem.ops, self._problem.ops.xp
        labels, best = self._kernels.nearest(self._samples, self._clusters, near[0, :])
        if self._squares:  # no squared distance is below zero
            best = xp.minimum(best, xp.take(near[0, :], xp.clip(labels, 0, None), axis=0))
        return labels[None, :], ops.cast(best, self._problem.dtype)[None, :]

    def _rows(self, g: Array) -> tuple[Array, Array]:
        """What is subtracted in each row, and the sums relative to it, (n,) both; zero where all clusters are closed."""
        xp = self._problem.ops.xp
        if self._bound is not None:
            offset = self._below(g) - self._bound / self._epsilon
            sums = self._kernels.scaled_sums(self._samples, self._clusters, offset, self._epsilon)
            return xp.zeros_like(sums) + (xp.max(g) + self._bound), sums
        top, sums = self._kernels.soft_rows(self._samples, self._clusters, g[0, :], None, self._epsilon)
        return top, sums

    def _below(self, g: Array) -> Array:
        """Potentials below the largest, over epsilon: (k,)."""
        xp, most = self._problem.ops.xp, self._problem.ops.xp.max(g)
        return (g[0, :] - xp.where(most == -_INFINITY, xp.zeros_like(most), most)) / self._epsilon

    def _log(self, values: Array) -> Array:
        return self._problem.ops.log(self._problem.ops.cast(values, self._problem.ops.wide))


def are_few(problem: Problem, most: int) -> bool:
    """Whether a problem has at most so many scores, and some, and they fit the memory that the caller allows."""
    if problem.scores.memory is not None:
        most = min(most, problem.scores.tile_shape(None)[1] * problem.n_clusters)
    n_batches = problem.n_problems if problem.groups is None else 1
    return 0 < n_batches * problem.n_samples <= most // problem.n_clusters


def takes_points(problem: Problem) -> bool:
    """Whether there are kernels for the scores of a problem, and they are too many to be formed once instead."""
    return _kernels_for(problem) is not None


def point_passes(problem: Problem, epsilon: float) -> PointPasses | None:
    """The passes of kernels over the points of ``problem``, None where there are none."""
    kernels = _kernels_for(problem)
    if kernels is None:
        return None
    return PointPasses(problem, kernels, problem.scores, representable(problem, epsilon))  # type: ignore[arg-type]


def _kernels_for(problem: Problem) -> Any:
    scores, ops = problem.scores, problem.ops
    if not isinstance(scores, PointScores) or problem.groups is not None or not ops.may_have_kernels:
        return None
    if (
        not problem.n_samples
        or not problem.n_problems
        or are_few(problem, max(FEW_SCORES, min(_FEW_ON_DEVICE, ops.tile_elements)))
    ):
        return None
    return ops.point_kernels(scores.given_x, scores.given_centroids)
