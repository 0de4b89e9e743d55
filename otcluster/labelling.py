"""Passes of hard answers: the best cluster of each sample, and the mass that labels give to each cluster."""

from __future__ import annotations

from otcluster import passes
from otcluster._ops.generic import Array
from otcluster.on_device_points import point_passes
from otcluster.problem import Problem


def nearest(problem: Problem, g: Array) -> tuple[Array, Array]:
    """The best cluster of each sample under ``scores + g``, and its value: (batches, n) both; -1 and -inf without any."""
    ops, xp = problem.ops, problem.ops.xp
    near = ops.cast(g, problem.dtype)
    kernels = point_passes(problem, 1.0)
    if kernels is not None:
        return kernels.nearest(near)

    def read(batches: slice, rows: slice, scores: Array) -> tuple[Array, Array]:
        shifted = scores + passes.over_tile(problem, batches, rows, near)
        best = ops.row_max(shifted)
        label = ops.argmax(shifted)
        return xp.where(best > -float("inf"), label, xp.full_like(label, -1)), best

    labels, values = passes.gather_all(problem, read, [((), ops.integer), ((), problem.dtype)])
    return labels, values


def label_mass(problem: Problem, labels: Array) -> Array:
    """Mass of the samples of each label, (n_problems, k)."""
    ops, xp = problem.ops, problem.ops.xp
    k = problem.n_clusters
    if problem.groups is not None:
        owner = problem.groups[None, :]
    else:
        owner = xp.broadcast_to(ops.arange(problem.n_problems)[:, None], labels.shape)
    taken = labels >= 0
    segments = xp.where(taken, owner * k + labels, xp.zeros_like(labels))
    mass = xp.where(taken, problem.weights, xp.zeros_like(problem.weights))
    sums = ops.segment_sum(xp.reshape(mass, (-1, 1)), xp.reshape(segments, (-1,)), problem.n_problems * k)
    return problem.summed(xp.reshape(sums, (problem.n_problems, k)))[0]
