"""The loops of k-means over rows that numba compiles, for one dtype of samples.

:mod:`otcluster._ops.compiled` loads this file once for each dtype, with ``REAL`` put into the module before it runs.

A *row* is a sample in the coordinates that centroids are held in: ``(x - centre) * scale``, with one scale for each sample, or
none. Centroids lie in *places*: groups of ``GROUP`` places, of which the last of a group may be empty (with an infinite half
square). Bounds are distances. ``slack`` is how far rounding can move a squared distance, relative to the squared lengths.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import types

GROUP = 32
"""How many centroids share one lower bound: two to four vectors of a processor."""

real: Any = globals().get("REAL", np.float32)
zero, infinity, one = real(0), real(np.inf), real(1)
greatest_number = float(np.finfo(real).max)

array = numba.float32 if real is np.float32 else numba.float64
table = types.Array(array, 2, "C", readonly=True)
line = types.Array(array, 1, "C", readonly=True)
numbers = types.Array(array, 1, "C")
whole = types.int32[::1]
fixed = types.Array(types.int32, 1, "C", readonly=True)
wide = types.float64[:, ::1]
counts_of = types.float64[::1]
cube = types.Array(array, 3, "C", readonly=True)
options: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract", "nsz"}}
REORDERED = {"contract", "nsz", "nnan", "reassoc"}


@numba.njit(nogil=True, fastmath=REORDERED)
def subtract(tile: Any, half: Any, i: int, room: Any) -> Any:
    """Fill ``room`` with row i of the tile less ``half``; the largest is returned."""
    top = -infinity
    for j in range(len(half)):
        value = tile[i, j] - half[j]
        room[j] = value
        top = max(top, value)
    return top


@numba.njit(nogil=True, fastmath=REORDERED)
def largest(values: Any, start: int, stop: int) -> Any:
    result = -infinity
    for at in range(start, stop):
        result = max(result, values[at])
    return result


@numba.njit(nogil=True, fastmath=REORDERED)
def square_between(row: Any, points: Any, at: int) -> Any:
    result = zero
    for axis in range(len(row)):
        difference = row[axis] - points[at, axis]
        result += difference * difference
    return result


@numba.njit(nogil=True, fastmath=REORDERED)
def square_of(row: Any) -> Any:
    result = zero
    for axis in range(len(row)):
        result += row[axis] * row[axis]
    return result


@numba.njit(inline="always")
def distance_below(square: Any, top: Any, slack: Any) -> Any:
    """A distance that none of some centroids is nearer than, from the largest of their products less half squares."""
    if top == -infinity:
        return infinity
    found = max(square - 2 * top, zero)
    return math.sqrt(max(found - slack * (square + found), zero))


@numba.njit(inline="always")
def place_of(room: Any, value: Any, stop: int) -> int:
    at = 0
    while at < stop - 1 and room[at] != value:
        at += 1
    return at


@numba.njit(inline="always")
def lay(x: Any, centre: Any, scale: Any, i: int, row: Any) -> None:
    factor = scale[i] if len(scale) else one
    for axis in range(len(row)):
        row[axis] = (x[i, axis] - centre[axis]) * factor


@numba.njit(inline="always")
def move(row: Any, weight: Any, old: int, new: int, sums: Any, counts: Any) -> None:
    """Take a row from the sum of its old place, if it had one, to that of the new."""
    for axis in range(len(row)):
        sums[new, axis] += weight * row[axis]
    counts[new] += weight
    if old >= 0:
        for axis in range(len(row)):
            sums[old, axis] -= weight * row[axis]
        counts[old] -= weight


sample = (table, line, line, line, types.int64, types.int64)


@numba.njit(
    types.void(
        table, line, types.Array(types.float64, 1, "C", readonly=True), types.boolean, types.int64, types.int64,
        numbers, counts_of, counts_of, counts_of,
    ),
    **options,
)  # fmt: skip
def survey(
    x: Any, weights: Any, around: Any, by_length: bool, start: int, stop: int, scale: Any, first: Any, second: Any, facts: Any
) -> None:
    """Add weighted sums of the rows less ``around``, and of their squares, to ``first`` and ``second``.

    ``facts`` gets the weight, the largest magnitude, and NaN if an entry is not finite. With ``by_length`` the scale of
    each row is written, one over its length, and rows are scaled by it.
    """
    total, greatest, odd = 0.0, zero, zero
    for i in range(start, stop):
        top = zero
        for axis in range(x.shape[1]):
            value = x[i, axis]
            odd += value - value
            top = max(top, abs(value))
        greatest = max(greatest, top)
        weight, factor = (float(weights[i]) if len(weights) else 1.0), 1.0
        total += weight
        if by_length:
            square = 0.0
            for axis in range(x.shape[1]):
                part = float(x[i, axis]) / top if top > zero else 0.0
                square += part * part
            factor = min(1.0 / (math.sqrt(square) * top), greatest_number) if top > zero else 0.0
            scale[i] = factor
        for axis in range(x.shape[1]):
            value = (float(x[i, axis]) - around[axis]) * factor
            first[axis] += weight * value
            second[axis] += weight * value * value
    facts[0] += total
    facts[1] = max(facts[1], greatest)
    facts[2] += odd


@numba.njit(inline="always")
def lay_tile(x: Any, centre: Any, scale: Any, first: int, last: int, rows: Any) -> None:
    for i in range(first, last):
        lay(x, centre, scale, i, rows[i - first])


@numba.njit(types.float64(*sample, table, line, table, fixed, types.int64, whole, numbers, wide, counts_of), **options)
def nearest(
    x: Any, centre: Any, scale: Any, weights: Any, start: int, stop: int, columns: Any, half: Any,
    centroids: Any, places: Any, at_once: int, labels: Any, distances: Any, sums: Any, counts: Any,
) -> float:  # fmt: skip
    """The nearest centroid of the rows, by products with all.

    ``columns`` are the centroids, (dim, k), and ``places`` theirs. Writes the place and the squared distance of each row, and
    moves those that change in the sums. Returns how many did.
    """
    k, dim = len(half), x.shape[1]
    rows, tile, room = np.empty((at_once, dim), real), np.empty((at_once, k), real), np.empty(k, real)
    changed = 0.0
    for first in range(start, stop, at_once):
        last = min(first + at_once, stop)
        lay_tile(x, centre, scale, first, last, rows)
        np.dot(rows[: last - first], columns, tile[: last - first])
        for i in range(first, last):
            top = subtract(tile, half, i - first, room)
            new, old = places[place_of(room, top, k)], labels[i]
            distances[i] = square_between(rows[i - first], centroids, new)
            if new != old:
                changed += 1
                labels[i] = new
                move(rows[i - first], weights[i] if len(weights) else one, old, new, sums, counts)
    return changed


@numba.njit(
    types.float64(
        *sample, table, line, table, fixed, types.int64, types.Array(types.int64, 1, "C", readonly=True), array,
        whole, numbers, types.Array(array, 2, "C"), wide, counts_of,
    ),
    **options,
)  # fmt: skip
def first_bounds(
    x: Any, centre: Any, scale: Any, weights: Any, start: int, stop: int, columns: Any, half: Any,
    centroids: Any, places: Any, at_once: int, edges: Any, slack: Any,
    labels: Any, upper: Any, lower: Any, sums: Any, counts: Any,
) -> float:  # fmt: skip
    """As :func:`nearest`, with the distance to the nearest of each group that is not the row's own, from below.

    The columns lie in the order of their places; those of group g are ``edges[g]`` to ``edges[g + 1]``.
    """
    k, dim = len(half), x.shape[1]
    rows, tile, room = np.empty((at_once, dim), real), np.empty((at_once, k), real), np.empty(k, real)
    changed = 0.0
    for first in range(start, stop, at_once):
        last = min(first + at_once, stop)
        lay_tile(x, centre, scale, first, last, rows)
        np.dot(rows[: last - first], columns, tile[: last - first])
        for i in range(first, last):
            top = subtract(tile, half, i - first, room)
            at = place_of(room, top, k)
            new, old, row = places[at], labels[i], rows[i - first]
            square = square_of(row)
            upper[i] = math.sqrt(square_between(row, centroids, new)) * (one + slack)
            room[at] = -infinity
            for group in range(lower.shape[1]):
                lower[i, group] = distance_below(square, largest(room, edges[group], edges[group + 1]), slack)
            if new != old:
                changed += 1
                labels[i] = new
                move(row, weights[i] if len(weights) else one, old, new, sums, counts)
    return changed


@numba.njit(nogil=True, fastmath=REORDERED)
def score_group(row: Any, packed: Any, half: Any, group: int, room: Any) -> Any:
    """Fill ``room`` with the products of a row and the centroids of a group, less the half squares; the largest is returned."""
    dim = packed.shape[1]
    for j in range(GROUP):
        room[j] = -half[group, j]
    axis = 0
    while axis + 4 <= dim:
        a, b, c, d = row[axis], row[axis + 1], row[axis + 2], row[axis + 3]
        for j in range(GROUP):
            room[j] += (
                a * packed[group, axis, j]
                + b * packed[group, axis + 1, j]
                + c * packed[group, axis + 2, j]
                + d * packed[group, axis + 3, j]
            )
        axis += 4
    while axis < dim:
        for j in range(GROUP):
            room[j] += row[axis] * packed[group, axis, j]
        axis += 1
    return largest(room, 0, GROUP)


@numba.njit(
    types.float64(
        table, cube, table, line, line, array, *sample,
        whole, numbers, types.Array(array, 2, "C"), wide, counts_of, types.float64[::1],
    ),
    **options,
)  # fmt: skip
def bounded(
    centroids: Any, packed: Any, half: Any, drift: Any, group_drift: Any, slack: Any,
    x: Any, centre: Any, scale: Any, weights: Any, start: int, stop: int,
    labels: Any, upper: Any, lower: Any, sums: Any, counts: Any, looked: Any,
) -> float:  # fmt: skip
    """The nearest centroid of the rows, of which only the groups are looked at that the bounds do not rule out.

    ``drift`` is how far each place has moved since the bounds were made, ``group_drift`` the largest of each group. Adds to
    ``looked`` how many pairs of row and group were looked at. Returns how many rows changed.
    """
    n_groups = lower.shape[1]
    room, row = np.empty(GROUP, real), np.empty(x.shape[1], real)
    changed, pairs = 0.0, 0
    for i in range(start, stop):
        own = labels[i]
        near = upper[i] + drift[own]
        least = infinity
        for group in range(n_groups):
            bound = lower[i, group] - group_drift[group]
            lower[i, group] = bound
            least = min(least, bound)
        if near > least:
            lay(x, centre, scale, i, row)
            near = math.sqrt(square_between(row, centroids, own)) * (one + slack)
            if near > least:
                square, old = square_of(row), own
                for group in range(n_groups):
                    if lower[i, group] >= near:
                        continue
                    pairs += 1
                    top = score_group(row, packed, half, group, room)
                    if own // GROUP == group:
                        room[own - group * GROUP] = -infinity
                        top = largest(room, 0, GROUP)
                    bound = distance_below(square, top, slack)
                    if bound > near:
                        lower[i, group] = bound
                        continue
                    at = place_of(room, top, GROUP)
                    other = group * GROUP + at
                    distance = math.sqrt(square_between(row, centroids, other)) * (one + slack)
                    if distance < near:
                        room[at] = -infinity
                        second = distance_below(square, largest(room, 0, GROUP), slack)
                        before = near * (one - 2 * slack)
                        if own // GROUP == group:
                            second = min(second, before)
                        else:
                            lower[i, own // GROUP] = min(lower[i, own // GROUP], before)
                        own, near, bound = other, distance, second
                    lower[i, group] = bound
                if own != old:
                    changed += 1
                    labels[i] = own
                    move(row, weights[i] if len(weights) else one, old, own, sums, counts)
        upper[i] = near
    looked[0] += pairs
    return changed


@numba.njit(types.void(*sample, table, numbers, types.Array(array, 2, "C"), counts_of), **options)
def nearer(
    x: Any, centre: Any, scale: Any, weights: Any, start: int, stop: int, points: Any, far: Any, result: Any, spread: Any
) -> None:
    """Write the squared distance of the rows to each point, or ``far`` where that is less; add it, weighted, to ``spread``."""
    row, count = np.empty(x.shape[1], real), len(points)
    for i in range(start, stop):
        lay(x, centre, scale, i, row)
        weight = weights[i] if len(weights) else one
        for at in range(count):
            distance = min(square_between(row, points, at), far[i])
            result[i, at] = distance
            spread[at] += weight * distance


@numba.njit(types.void(*sample, table, fixed, numbers), **options)
def distances_to_own(
    x: Any, centre: Any, scale: Any, weights: Any, start: int, stop: int, centroids: Any, labels: Any, distances: Any
) -> None:
    """Write the squared distance of the rows to the centroids of their labels."""
    row = np.empty(x.shape[1], real)
    for i in range(start, stop):
        lay(x, centre, scale, i, row)
        distances[i] = square_between(row, centroids, labels[i])
