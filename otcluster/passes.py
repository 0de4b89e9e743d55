"""One pass over the scores: the few questions that every solver and every answer asks of them.

Here a problem is flat: potentials of the clusters are (n_problems, k) in the wide dtype, whether the problems are a batch or
groups, and the scores are read in tiles. No pass forms more than a tile of anything n x k, except the one that returns a plan.

In a plan whose rows are exact, ``plan[i, j] = mass[i] * kernel[i, j] / sum_j(kernel[i, j])``, where ``kernel`` is
``exp((scores + g - something of the row) / epsilon)``. So no potential of the samples is needed to form it. What is subtracted
is the row's maximum, so that no exponential overflows. Where the scores are known to span so little, at this epsilon, that
nothing can overflow, one number for all rows does: that saves two of five operations on every score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from otcluster._ops.generic import BELOW, Array
from otcluster.fused import Terms, fused_passes
from otcluster.on_device import device_passes
from otcluster.on_device_points import FEW_SCORES, are_few, point_passes, takes_points
from otcluster.problem import Problem
from otcluster.ranges import representable, small_range
from otcluster.scores import DenseScores

_INFINITY = float("inf")


def tiles(problem: Problem, *, whole: bool = False) -> Iterator[tuple[slice, slice, Array]]:
    """The scores in tiles, with the range of batches and of rows that each covers. Nothing for an empty problem.

    With ``whole``, scores that exist come as one.
    """
    n_batches = 1 if problem.groups is not None else problem.n_problems
    if n_batches == 0 or problem.n_samples == 0:
        return
    some_batches, some_rows = problem.scores.tile_shape(problem.groups)
    tile = problem.scores.tiles(problem.groups)
    if whole and isinstance(problem.scores, DenseScores):
        some_batches, some_rows = n_batches, problem.n_samples
    for first in range(0, n_batches, some_batches):
        batches = slice(first, min(first + some_batches, n_batches))
        for start in range(0, problem.n_samples, some_rows):
            rows = slice(start, min(start + some_rows, problem.n_samples))
            yield batches, rows, tile(batches, rows)


def held(problem: Problem) -> Problem:
    """The same problem with its scores formed once, where they are few enough that forming them anew each round is waste."""
    if isinstance(problem.scores, DenseScores):
        return problem
    # A pass holds a tile anyway.
    few = are_few(problem, max(FEW_SCORES, problem.ops.tile_elements))
    if not few or takes_points(problem):
        return problem
    scores = _gather(problem, lambda batches, rows, scores: scores, (problem.n_clusters,), problem.dtype)
    return problem.with_scores(problem.ops.xp.reshape(scores, (*problem.sample_shape, problem.n_clusters)))


def plan_columns(
    problem: Problem, g: Array, epsilon: float, look: Callable[[slice, slice, Array], None] | None = None
) -> tuple[Array, Array]:
    """Column sums of the plan whose rows are exact for ``g``. ``look`` is handed each tile of the plan, to use up.

    Returns:
        The sums, (n_problems, k), and the mass of samples that no cluster may take, (n_problems,); both wide.
    """
    ops, xp = problem.ops, problem.ops.xp
    kernels = (device_passes(problem, epsilon) or point_passes(problem, epsilon)) if look is None else None
    if kernels is not None:
        return problem.summed(*kernels.plan_columns(g))
    fused = fused_passes(problem) if look is None else None
    if fused is not None:
        columns, lost = fused.plan_columns(tiles(problem, whole=True), terms_of(problem, g, epsilon))
        return problem.summed(columns, lost)
    plan_of = tile_plan(problem, g, epsilon)
    nobody = ops.full((problem.n_problems, 1), 0.0, ops.wide)

    def read(batches: slice, rows: slice, scores: Array) -> tuple[Array, Array]:
        part = plan_of(batches, rows, scores)
        columns, left = summed_rows(problem, rows, part), nobody
        if problem.has_forbidden is not False:
            weights = problem.weights[batches, rows]
            left = summed_rows(problem, rows, xp.where(ops.row_sum(part) > 0, xp.zeros_like(weights), weights)[..., None])
        if look is not None:
            look(batches, rows, part)
        return columns, left

    def merge(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
        return one[0] + two[0], one[1] + two[1]

    columns, lost = fold(problem, read, merge, (ops.full((problem.n_problems, problem.n_clusters), 0.0, ops.wide), nobody))
    return problem.summed(columns, lost[:, 0])


def column_error(problem: Problem, g: Array, columns: Array, lost: Array, epsilon: float) -> Array:
    """Share of the mass in the wrong place, (n_problems,), given what :func:`plan_columns` found.

    On a relaxed side the right place is where the clusters' half-round would put it.
    """
    xp, side, wanted = problem.ops.xp, problem.cluster_side, problem.clusters
    if side is not None:
        wanted = side.asked(xp, g, columns, problem.clusters, representable(problem, epsilon))
    wrong = xp.sum(xp.abs(columns - wanted), axis=-1) + lost
    return wrong / xp.where(problem.totals > 0, problem.totals, xp.ones_like(problem.totals))


def sample_potential(problem: Problem, g: Array, epsilon: float) -> Array:
    """f, (batches, n): the potential of the samples under which the rows are exact. -inf for zero mass."""
    ops, xp = problem.ops, problem.ops.xp
    kernels = point_passes(problem, epsilon)
    if kernels is not None:
        return kernels.sample_potential(g)
    kernel_of = _kernel(problem, g, epsilon)
    epsilon = representable(problem, epsilon)

    def read(batches: slice, rows: slice, scores: Array) -> Array:
        kernel, top = kernel_of(batches, rows, scores)
        factor = _factor(problem, batches, rows, kernel)
        joins = (factor > 0) & (top > -_INFINITY)
        wide = ops.cast(xp.where(joins, factor, xp.ones_like(factor)), ops.wide)
        value = epsilon * (xp.log(wide) - BELOW) - ops.cast(xp.where(joins, top, xp.zeros_like(top)), ops.wide)
        return xp.where(joins, value, xp.full_like(value, -_INFINITY))

    return _gather(problem, read, (), ops.wide)


def plan(problem: Problem, g: Array, epsilon: float) -> Array:
    """The plan, (batches, n, k), with exact rows."""
    kernels = device_passes(problem, epsilon)
    if kernels is not None:
        return kernels.plan(g)
    fused = fused_passes(problem)
    if fused is not None:
        return fused.plan(tiles(problem, whole=True), terms_of(problem, g, epsilon))
    result = problem.ops.room((int(problem.weights.shape[0]), problem.n_samples, problem.n_clusters), problem.dtype)
    read = tile_plan(problem, g, epsilon, result)
    if result is None:
        return _gather(problem, read, (problem.n_clusters,), problem.dtype)
    for batches, rows, scores in tiles(problem):
        read(batches, rows, scores)
    return result


def tile_plan(
    problem: Problem, g: Array, epsilon: float, result: Array | None = None
) -> Callable[[slice, slice, Array], Array]:
    """Start a pass: a function that gives the plan of a tile. It lasts until the next call, or is part of ``result``."""
    fused = fused_passes(problem) if result is None else None
    if fused is not None:
        terms, room = terms_of(problem, g, epsilon), room_for(problem)
        return lambda batches, rows, scores: fused.tile_plan(batches, rows, scores, terms, room(batches, rows, scores))
    kernel_of = _kernel(problem, g, epsilon, result)

    def read(batches: slice, rows: slice, scores: Array) -> Array:
        kernel, _ = kernel_of(batches, rows, scores)
        return problem.ops.weighted(kernel, _factor(problem, batches, rows, kernel))

    return read


def plan_labels(problem: Problem, g: Array, epsilon: float) -> Array:
    """The largest entry of each row of the plan, (batches, n); -1 for a sample that may join no cluster."""
    kernels = device_passes(problem, epsilon) or point_passes(problem, epsilon)
    if kernels is not None:
        return kernels.labels(g)
    ops, xp = problem.ops, problem.ops.xp
    fused = fused_passes(problem)
    if fused is not None:
        return fused.labels(tiles(problem, whole=True), terms_of(problem, g, epsilon))
    exponents_of = _exponents(problem, g, epsilon)

    def read(batches: slice, rows: slice, scores: Array) -> Array:
        exponents, top = exponents_of(batches, rows, scores)
        largest = ops.argmax(exponents)
        return xp.where(top > -_INFINITY, largest, xp.full_like(largest, -1))

    return _gather(problem, read, (), ops.integer)


def is_scaled(problem: Problem, epsilon: float) -> bool:
    """Whether exponentials are taken without the maximum of each row: the scaling form. Else it is the log form."""
    return small_range(problem, representable(problem, epsilon)) is not None


def room_for(problem: Problem, result: Array | None = None) -> Callable[[slice, slice, Array], Array | None]:
    """Where a pass may put a tile: in its place of ``result``, or over the tile before."""
    if result is not None:
        return lambda batches, rows, scores: result[batches, rows]
    kept: list[Array] = []

    def room(batches: slice, rows: slice, scores: Array) -> Array | None:
        shape = tuple(int(size) for size in scores.shape)
        if not kept or kept[0].shape[0] < shape[0] or kept[0].shape[1] < shape[1]:
            new = problem.ops.room(shape, problem.dtype)
            if new is None:
                return None
            kept[:] = [new]
        return kept[0][: shape[0], : shape[1]]

    return room


def terms_of(problem: Problem, g: Array, epsilon: float) -> Terms:
    """How potentials enter the exponents of a kernel without overflow."""
    ops, xp = problem.ops, problem.ops.xp
    epsilon = representable(problem, epsilon)
    bounds = small_range(problem, epsilon)
    if bounds is not None:
        most = xp.max(g, axis=-1, keepdims=True)
        return Terms(None, (g - xp.where(most == -_INFINITY, xp.zeros_like(most), most)) / epsilon, epsilon, bounds[1])
    near = ops.cast(g, problem.dtype)
    lost = xp.where(g == -_INFINITY, xp.zeros_like(g), g - ops.cast(near, g.dtype))  # else NaN where both are -inf
    # Clipped, so that the largest entry keeps its size: beyond that the scores have no digits left at this epsilon.
    return Terms(near, xp.clip(lost / epsilon, -0.5, 0.5), epsilon, 0.0)


def _exponents(
    problem: Problem, g: Array, epsilon: float, result: Array | None = None
) -> Callable[[slice, slice, Array], tuple[Array, Array]]:
    """Start a pass: a function that gives the exponents of the kernel of a tile, and what was subtracted in each row.

    That is -inf where no cluster is open to the row. What it gives lasts until it is called again, or is part of ``result``.
    """
    room, ops, xp = room_for(problem, result), problem.ops, problem.ops.xp
    terms = terms_of(problem, g, epsilon)
    epsilon, near = terms.epsilon, terms.near
    if near is None:
        offsets = ops.cast(terms.after - (terms.base / epsilon + BELOW), problem.dtype)
        subtracted = xp.max(g, axis=-1, keepdims=True) + terms.base

        def scaled(batches: slice, rows: slice, scores: Array) -> tuple[Array, Array]:
            spread = over_tile(problem, batches, rows, offsets)
            exponents = ops.scaled(scores, 1 / epsilon, spread, room(batches, rows, scores))
            return exponents, over_tile(problem, batches, rows, subtracted)[..., 0]

        return scaled

    rest = ops.cast(terms.after, problem.dtype) if near.dtype != g.dtype else None

    def shifted(batches: slice, rows: slice, scores: Array) -> tuple[Array, Array]:
        small = None if rest is None else over_tile(problem, batches, rows, rest)
        spread = over_tile(problem, batches, rows, near)
        return ops.row_exponents(scores, spread, small, epsilon, room(batches, rows, scores))

    return shifted


def _kernel(
    problem: Problem, g: Array, epsilon: float, result: Array | None = None
) -> Callable[[slice, slice, Array], tuple[Array, Array]]:
    """As :func:`_exponents`, with the exponential taken."""
    exponents_of = _exponents(problem, g, epsilon, result)

    def kernel_of(batches: slice, rows: slice, scores: Array) -> tuple[Array, Array]:
        exponents, subtracted = exponents_of(batches, rows, scores)
        return problem.ops.exp(exponents), subtracted

    return kernel_of


def over_tile(problem: Problem, batches: slice, rows: slice, values: Array) -> Array:
    """What each problem has per cluster, laid over a tile."""
    if problem.groups is None:
        return values[batches, None, :]
    return problem.ops.xp.take(values, problem.groups[rows], axis=0)[None, ...]


def _factor(problem: Problem, batches: slice, rows: slice, kernel: Array) -> Array:
    """What each row of a tile is multiplied with so that it sums to its mass; zero for a row of zeros."""
    sums = problem.ops.row_sum(kernel)
    return problem.weights[batches, rows] / problem.ops.xp.where(sums > 0, sums, problem.ops.xp.ones_like(sums))


def summed_rows(problem: Problem, rows: slice, values: Array) -> Array:
    """Sum a tile (batches, rows, columns) over its rows, by problem."""
    if problem.groups is None:
        return problem.ops.column_sum(values)
    return problem.ops.segment_sum(values[0, ...], problem.groups[rows], problem.n_problems)


def fold(problem: Problem, read: Callable[[slice, slice, Array], Any], merge: Callable[[Any, Any], Any], empty: Any) -> Any:
    """Read all tiles; merge what belongs to the same problems and lay the rest side by side. Values are arrays or pairs."""
    parts: list[tuple[slice, Any]] = []
    for batches, rows, scores in tiles(problem):
        value = read(batches, rows, scores)
        if parts and parts[-1][0] == batches:
            parts[-1] = (batches, merge(parts[-1][1], value))
        else:
            parts.append((batches, value))
    if len(parts) < 2:
        return parts[0][1] if parts else empty
    concat = problem.ops.xp.concat
    if not isinstance(empty, tuple):
        return concat([part for _, part in parts], axis=0)
    return tuple(concat([part[at] for _, part in parts], axis=0) for at in range(len(empty)))


def _gather(problem: Problem, read: Callable[[slice, slice, Array], Array], tail: tuple[int, ...], dtype: object) -> Array:
    """The answers of the tiles side by side: (batches, n, ...)."""
    (result,) = gather_all(problem, lambda *tile: (read(*tile),), [(tail, dtype)])
    return result


def gather_all(
    problem: Problem, read: Callable[[slice, slice, Array], tuple[Array, ...]], kinds: list[tuple[tuple[int, ...], Any]]
) -> list[Array]:
    """As :func:`_gather`, of several answers, each with the rest of its shape and its dtype."""
    ops, xp = problem.ops, problem.ops.xp
    shapes = [(int(problem.weights.shape[0]), problem.n_samples, *tail) for tail, _ in kinds]
    whole: list[Any] = [ops.room(shape, dtype) for shape, (_, dtype) in zip(shapes, kinds, strict=True)]
    if whole[0] is None:
        parts = [[ops.full((0, *tail), 0, dtype)] for tail, dtype in kinds]
        for tile in tiles(problem):
            for (tail, _), part, value in zip(kinds, parts, read(*tile), strict=True):
                part.append(xp.reshape(value, (-1, *tail)))
        return [xp.reshape(xp.concat(part, axis=0), shape) for part, shape in zip(parts, shapes, strict=True)]
    for batches, rows, scores in tiles(problem):
        # Kept on its own, each answer would hold a place between freed tiles: the memory of the process grows with such places.
        for result, value in zip(whole, read(batches, rows, scores), strict=True):
            result[batches, rows] = value
    return whole
