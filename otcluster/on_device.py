"""Passes of kernels, for scores in the memory of a device; those of :mod:`otcluster.passes` turn to them."""

from __future__ import annotations

from typing import Any

from otcluster._ops.generic import Array
from otcluster.problem import Problem
from otcluster.scores import DenseScores


class DevicePasses:
    """The passes over one problem at one epsilon. Potentials are (n_problems, k), float64."""

    def __init__(self, problem: Problem, kernels: Any, scores: Array, weights: Array | None, epsilon: float) -> None:
        self._problem, self._kernels, self._epsilon = problem, kernels, epsilon
        self._scores, self._weights = scores, weights

    def first(self) -> Array:
        """The first half-round of the clusters."""
        found: Array = self._kernels.dense_first(self._scores, self._weights, self._problem.clusters, self._epsilon)
        return found

    def raised(self, g: Array) -> Array:
        """The half-round of the clusters after ``g``, with the pass that it needs."""
        found: Array = self._kernels.dense_raised(self._scores, self._weights, self._problem.clusters, g, self._epsilon)
        return found

    def plan_columns(self, g: Array) -> tuple[Array, Array]:
        """Column sums of the plan, and the mass that no cluster may take, (n_problems,)."""
        columns, lost = self._kernels.dense_columns(self._scores, self._weights, g, self._epsilon)
        return columns, lost

    def plan(self, g: Array) -> Array:
        """The plan, (batches, n, k)."""
        found: Array = self._kernels.dense_plan(self._scores, self._weights, g, self._epsilon)
        return found

    def labels(self, g: Array) -> Array:
        """The largest entry of each row of the plan, (batches, n); -1 for a sample that may join no cluster."""
        found: Array = self._kernels.dense_labels(self._scores, g, self._epsilon)
        return found


def device_passes(problem: Problem, epsilon: float) -> DevicePasses | None:
    """The passes of kernels over ``problem``, None where there are none."""
    if not isinstance(problem.scores, DenseScores) or problem.groups is not None:
        return None
    if not problem.ops.may_have_kernels or 0 in problem.weights.shape:
        return None
    shape = (problem.n_problems, problem.n_samples, problem.n_clusters)
    scores = problem.ops.xp.reshape(problem.scores.given, shape)
    weights = problem.weights if problem.is_weighted else None
    kernels = problem.ops.dense_kernels(scores, weights)
    if kernels is None:
        return None
    smallest = float(problem.ops.xp.finfo(problem.dtype).smallest_normal)
    return DevicePasses(problem, kernels, scores, weights, max(epsilon, smallest))


def takes_half_rounds(problem: Problem) -> bool:
    """Whether the half-round of the clusters is the plain one, and all samples are here."""
    return problem.cluster_side is None and problem.reducer is None
