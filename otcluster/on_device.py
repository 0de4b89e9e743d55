"""Passes of kernels, for scores in the memory of a device; those of :mod:`otcluster.passes` turn to them."""

from __future__ import annotations

from typing import Any

from otcluster._ops.generic import Array
from otcluster.problem import Problem
from otcluster.ranges import representable
from otcluster.scores import DenseScores


class DevicePasses:
    """The passes over one problem at one epsilon. Potentials are (n_problems, k), float64."""

    def __init__(self, problem: Problem, kernels: Any, scores: Array, weights: Array | None, epsilon: float) -> None:
        self.source, self.clusters, self.epsilon = problem.scores, problem.clusters, epsilon
        self._kernels, self._scores, self._weights = kernels, scores, weights
        self._strength = representable(problem, epsilon)

    def fits(self, problem: Problem, epsilon: float) -> bool:
        """Whether they are those of ``problem``, which may be a copy of the one that they were made for."""
        return self.epsilon == epsilon and self.source is problem.scores and self.clusters is problem.clusters

    def first(self) -> Array:
        """The first half-round of the clusters."""
        return self.rounds(None, 0)

    def rounds(self, start: Array | None, count: int) -> Array:
        """The half-round of the clusters after ``count`` passes more, from ``start`` or else from the first half-round."""
        found: Array = self._kernels.dense_rounds(self._scores, self._weights, self.clusters, start, self._strength, count)
        return found

    def plan_columns(self, g: Array) -> tuple[Array, Array]:
        """Column sums of the plan, and the mass that no cluster may take, (n_problems,)."""
        columns, lost = self._kernels.dense_columns(self._scores, self._weights, g, self._strength)
        return columns, lost

    def plan(self, g: Array) -> Array:
        """The plan, (batches, n, k)."""
        found: Array = self._kernels.dense_plan(self._scores, self._weights, g, self._strength)
        return found

    def labels(self, g: Array) -> Array:
        """The largest entry of each row of the plan, (batches, n); -1 for a sample that may join no cluster."""
        found: Array = self._kernels.dense_labels(self._scores, g, self._strength)
        return found


def device_passes(problem: Problem, epsilon: float) -> DevicePasses | None:
    """The passes of kernels over ``problem``, None where there are none."""
    if not problem.ops.may_have_kernels or problem.groups is not None or not isinstance(problem.scores, DenseScores):
        return None
    kept = problem.ops.may_check  # a compiler sees no use in keeping anything
    found: DevicePasses | None = problem.__dict__.get("_device_passes") if kept else None
    if found is not None and found.fits(problem, epsilon):
        return found
    if not problem.n_samples or not problem.n_problems:
        return None
    shape = (problem.n_problems, problem.n_samples, problem.n_clusters)
    scores = problem.scores.given
    scores = scores[None, ...] if len(scores.shape) == 2 else problem.ops.xp.reshape(scores, shape)
    weights = problem.weights if problem.is_weighted else None
    kernels = problem.ops.dense_kernels(scores, weights)
    if kernels is None:
        return None
    found = DevicePasses(problem, kernels, scores, weights, epsilon)
    if kept:
        problem.__dict__["_device_passes"] = found
    return found


def takes_half_rounds(problem: Problem) -> bool:
    """Whether the half-round of the clusters is the plain one, and all samples are here."""
    return problem.cluster_side is None and problem.reducer is None
