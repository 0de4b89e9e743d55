"""The half-round of the clusters: the potential under which their masses would have been met."""

from __future__ import annotations

import operator

from otcluster._ops.generic import BELOW, Array
from otcluster.fused import NATS_BELOW, Terms, fused_passes
from otcluster.on_device import device_passes, takes_half_rounds
from otcluster.on_device_points import point_passes
from otcluster.passes import fold, plan_columns, room_for, summed_rows, tiles
from otcluster.problem import Problem
from otcluster.ranges import representable, small_range

_INFINITY = float("inf")


def first_potential(problem: Problem, epsilon: float) -> Array:
    """The clusters' half-round from the start ``f = epsilon log(sample mass)``: g, (n_problems, k).

    With unit masses that start is exp(scores / epsilon), as in the training codes that use Sinkhorn-Knopp. Each column is
    shifted by its own maximum, found on the way: that changes nothing in the result, and one entry of each column is 1.
    """
    kernels = device_passes(problem, epsilon) if takes_half_rounds(problem) else None
    if kernels is not None:
        return kernels.first()
    ops, xp = problem.ops, problem.ops.xp
    epsilon = representable(problem, epsilon)

    points = point_passes(problem, epsilon)
    bounds = small_range(problem, epsilon) if points is None else None
    empty = ops.full((problem.n_problems, problem.n_clusters), -_INFINITY, problem.dtype)
    nothing = ops.full(tuple(empty.shape), 0.0, ops.wide)
    fused = fused_passes(problem)
    if bounds is not None and fused is not None:
        columns = fused.kernel_columns(tiles(problem, whole=True), Terms(None, nothing, epsilon, bounds[1]))
        columns = problem.summed(columns)[0]
        return _half_round(problem, nothing - (bounds[1] + NATS_BELOW * epsilon), columns, epsilon)
    if bounds is not None:
        offset = ops.full((1, 1, 1), -bounds[1] / epsilon - BELOW, problem.dtype)
        room = room_for(problem)

        def read_all(batches: slice, rows: slice, scores: Array) -> Array:
            kernel = ops.exp(ops.scaled(scores, 1 / epsilon, offset, room(batches, rows, scores)))
            return summed_rows(problem, rows, ops.weighted(kernel, problem.weights[batches, rows]))

        columns = fold(problem, read_all, operator.add, nothing)
        columns = problem.summed(columns)[0]
        return _half_round(problem, nothing - (bounds[1] + BELOW * epsilon), columns, epsilon)

    def read(batches: slice, rows: slice, scores: Array) -> tuple[Array, Array]:
        weights = problem.weights[batches, rows]
        heavy = xp.where((weights > 0)[..., None], scores, ops.full((), -_INFINITY, scores.dtype))
        if problem.groups is None:
            top = ops.column_max(heavy)
        else:
            top = ops.segment_max(heavy[0, ...], problem.groups[rows], problem.n_problems)
        finite = xp.clip(top, float(xp.finfo(top.dtype).min), None)
        spread = finite[:, None, :] if problem.groups is None else xp.take(finite, problem.groups[rows], axis=0)[None, ...]
        return top, summed_rows(problem, rows, ops.weighted(ops.column_kernel(heavy, spread, epsilon), weights))

    def merge(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
        top = xp.maximum(one[0], two[0])
        finite = xp.clip(top, float(xp.finfo(top.dtype).min), None)
        sums = [xp.exp(ops.cast(each[0] - finite, ops.wide) / epsilon) * each[1] for each in (one, two)]
        return top, sums[0] + sums[1]

    top, sums = fold(problem, read, merge, (empty, nothing)) if points is None else points.first_columns()
    if problem.reducer is not None:
        everywhere = problem.greatest(ops.cast(top, ops.wide))
        (sums,) = problem.summed(merge((top, sums), (everywhere, nothing))[1])
        top = everywhere
    start = xp.where(top == -_INFINITY, xp.zeros_like(top), -top)
    return _half_round(problem, ops.cast(start, ops.wide), sums, epsilon)


def raised(problem: Problem, g: Array, columns: Array, epsilon: float) -> Array:
    """The clusters' half-round: the potential under which ``columns`` would have been the masses asked for.

    Zero mass is -inf. A column whose entries all vanish is raised by what the dtype can resolve. A relaxed side takes only
    a part of that potential.
    """
    side = problem.cluster_side
    return _half_round(problem, g if side is None else side.settled(problem.ops.xp, g, problem.clusters), columns, epsilon)


def after_rounds(problem: Problem, epsilon: float, start: Array | None, count: int) -> Array:
    """The potential after ``count`` rounds from ``start``, or from the first half-round."""
    kernels = device_passes(problem, epsilon) if takes_half_rounds(problem) else None
    if kernels is not None:
        return kernels.rounds(start, count)
    g = first_potential(problem, epsilon) if start is None else start
    for _ in range(count):
        columns, _ = plan_columns(problem, g, epsilon)
        g = raised(problem, g, columns, epsilon)
    return g


def _half_round(problem: Problem, g: Array, columns: Array, epsilon: float) -> Array:
    xp, side = problem.ops.xp, problem.cluster_side
    smallest = float(xp.finfo(problem.dtype).smallest_normal)
    ratio = problem.ops.log(problem.clusters) - problem.ops.log(xp.clip(columns, smallest, None))
    there = g + representable(problem, epsilon) * ratio
    if side is None:
        return there
    return xp.where(problem.clusters > 0, side.pull(xp, problem.clusters, epsilon) * there, there)
