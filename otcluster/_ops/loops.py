"""The loops over rows that numba compiles, for one dtype of scores.

:mod:`otcluster._ops.compiled` loads this file once for each dtype, with ``REAL`` put into the module before it runs. All is at
the top level: numba keeps what it compiled of functions like these on disk, and of closures that hold other compiled functions
it could not find it again.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import types

_RUN = 32  # rows summed in the dtype of the scores before the sum is widened
_BLOCK = 256  # entries of a row among which the largest is looked for at once

real: Any = globals().get("REAL", np.float32)
single = real is np.float32
whole: Any = np.int32 if single else np.int64
mantissa, bias, degree = (whole(23), whole(127), 7) if single else (whole(52), whole(1023), 12)
zero, infinity, half = real(0), real(np.inf), real(0.5)
# 2**x = sum of (x log 2)**i / i!, to the last digit for x within half a bit of zero.
c = tuple(real(math.log(2) ** power / math.factorial(power)) for power in range(degree + 1))
least = real(-bias)  # its bits are those of zero

array = numba.float32 if single else numba.float64
tile = types.Array(array, 2, "C", readonly=True)
line = types.Array(array, 1, "C", readonly=True)
owners = types.Array(types.int64, 1, "C", readonly=True)
wide = types.float64[:, ::1]
options: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract", "nsz"}}


@numba.njit(inline="always", fastmath={"contract", "nsz"})
def power(x: Any) -> Any:
    kept = max(x, least)
    bits = np.floor(kept + half)
    rest = kept - bits
    value = c[degree]
    for at in range(degree - 1, -1, -1):
        value = value * rest + c[at]
    return value * whole((whole(bits) + bias) << mantissa).view(real)


@numba.njit(inline="always", fastmath={"contract", "nsz"})
def owner_of(groups: Any, per_problem: int, row: int) -> int:
    return groups[row] if len(groups) else row // per_problem


# Kept apart from the exponentials, whose rounding must not be reordered.
@numba.njit(nogil=True, fastmath={"contract", "nsz", "reassoc"})
def total(values: Any) -> Any:
    result = zero
    for at in range(len(values)):
        result += values[at]
    return result


@numba.njit(nogil=True, fastmath={"contract", "nsz", "nnan", "reassoc"})
def largest(values: Any, start: int, stop: int) -> Any:
    result = -infinity
    for at in range(start, stop):
        result = max(result, values[at])
    return result


# The helpers below are inlined, and take arrays with a row instead of its slice: slices are counted, which costs as much as
# a short row.
@numba.njit(inline="always", fastmath={"contract", "nsz"})
def exponents(scores: Any, near: Any, after: Any, inverse: Any, i: int, own: int, room: Any) -> Any:
    """Fill ``room`` with the exponents of row i; what was subtracted is returned, -inf where the row is that throughout."""
    for j in range(len(room)):
        room[j] = scores[i, j] + near[own, j]
    top = largest(room, 0, len(room))
    kept = top if top > -infinity else zero
    for j in range(len(room)):
        room[j] = (room[j] - kept) * inverse + after[own, j]
    return top


@numba.njit(inline="always", fastmath={"contract", "nsz"})
def powers(scores: Any, near: Any, after: Any, base: Any, inverse: Any, i: int, own: int, room: Any) -> Any:
    """As ``exponents``, with the power taken."""
    top = zero
    if len(near) == 0:
        for j in range(len(room)):
            room[j] = power((scores[i, j] - base) * inverse + after[own, j])
    else:
        top = exponents(scores, near, after, inverse, i, own, room)
        for j in range(len(room)):
            room[j] = power(room[j])
    return top


shared = (tile, tile, tile, array, array, owners, types.int64, types.int64, types.int64)


@numba.njit(types.void(*shared, line, types.boolean, wide, types.float64[::1]), **options)
def columns(
    scores: Any, near: Any, after: Any, base: Any, inverse: Any, groups: Any, per_problem: int, start: int, stop: int,
    weights: Any, normal: bool, result: Any, lost: Any,
) -> None:  # fmt: skip
    """Add the column sums of rows ``start`` to ``stop`` to ``result``; of the plan if ``normal``, else of the kernel."""
    k = scores.shape[1]
    room, part = np.empty(k, real), np.zeros(k, real)
    pending, problem = 0, 0
    for i in range(start, stop):
        own = owner_of(groups, per_problem, i)
        if pending and (own != problem or pending == _RUN):
            for j in range(k):
                result[problem, j] += part[j]
                part[j] = zero
            pending = 0
        problem = own
        top = powers(scores, near, after, base, inverse, i, own, room)
        factor = weights[i]
        if normal:
            row_sum = total(room)
            if top == -infinity:
                lost[own] += factor
            factor = factor / row_sum if row_sum > zero else zero
        for j in range(k):
            part[j] += factor * room[j]
        pending += 1
    if pending:
        for j in range(k):
            result[problem, j] += part[j]


@numba.njit(types.void(*shared, line, types.Array(array, 2, "C")), **options)
def plan(
    scores: Any, near: Any, after: Any, base: Any, inverse: Any, groups: Any, per_problem: int, start: int, stop: int,
    weights: Any, result: Any,
) -> None:  # fmt: skip
    """Write the rows ``start`` to ``stop`` of the plan to ``result``."""
    k = scores.shape[1]
    room = np.empty(k, real)
    for i in range(start, stop):
        own = owner_of(groups, per_problem, i)
        powers(scores, near, after, base, inverse, i, own, room)
        row_sum = total(room)
        factor = weights[i] / row_sum if row_sum > zero else zero
        for j in range(k):
            result[i, j] = room[j] * factor


@numba.njit(types.void(*shared, types.int64[::1]), **options)
def labels(
    scores: Any,
    near: Any,
    after: Any,
    base: Any,
    inverse: Any,
    groups: Any,
    per_problem: int,
    start: int,
    stop: int,
    result: Any,
) -> None:
    """Write the largest entry of the rows ``start`` to ``stop`` to ``result``, the lowest among equals; -1 for none."""
    k = scores.shape[1]
    room = np.empty(k, real)
    for i in range(start, stop):
        own = owner_of(groups, per_problem, i)
        if len(near) == 0:
            for j in range(k):
                room[j] = (scores[i, j] - base) * inverse + after[own, j]
        else:
            exponents(scores, near, after, inverse, i, own, room)
        best, at = -infinity, 0
        for begin in range(0, k, _BLOCK):
            top = largest(room, begin, min(begin + _BLOCK, k))
            if top > best:
                best, at = top, begin
        while at < k - 1 and room[at] != best:
            at += 1
        result[i] = at if best > -infinity else -1


table = types.Array(array, 2, "A", readonly=True)


@numba.njit(types.void(table, types.int64, types.int64, types.int64[:, ::1], types.Array(array, 2, "C")), **options)
def two_best(values: Any, start: int, stop: int, where: Any, what: Any) -> None:
    """Write the places and the values of the two largest entries of the rows ``start`` to ``stop``."""
    for i in range(start, stop):
        first, second, best, other = 0, 0, -infinity, -infinity
        for j in range(values.shape[1]):
            value = values[i, j]
            if value > other:
                if value > best:
                    first, second, best, other = j, first, value, best
                else:
                    second, other = j, value
        where[0, i], where[1, i] = first, second
        what[0, i], what[1, i] = best, other


@numba.njit(types.void(table, owners, types.Array(array, 2, "C")), **options)
def segment_max(values: Any, segments: Any, result: Any) -> None:
    """Raise ``result`` to the largest of each segment."""
    for i in range(values.shape[0]):
        own = segments[i]
        for j in range(values.shape[1]):
            result[own, j] = max(result[own, j], values[i, j])


@numba.njit(nogil=True, fastmath={"nsz", "nnan", "reassoc"})
def _extremes(values: Any, bits: Any, i: int, least: Any, greatest: Any, largest: Any) -> Any:
    for j in range(values.shape[1]):
        least = min(least, values[i, j])
        greatest = max(greatest, values[i, j])
        largest = max(largest, bits[i, j] & _MAGNITUDE)
    return least, greatest, largest


_MAGNITUDE: Any = np.iinfo(whole).max
_INFINITE: Any = np.array(np.inf, real).view(whole)[()]
whole_table = types.Array(numba.int32 if single else numba.int64, 2, "A", readonly=True)


@numba.njit(types.void(table, whole_table, types.int64, types.int64, types.Array(array, 1, "C")), **options)
def extremes(values: Any, bits: Any, start: int, stop: int, result: Any) -> None:
    """Write the smallest and the largest entry of the rows ``start`` to ``stop``, NaN where there is one.

    ``bits`` are those of the values: a number is none if they exceed those of infinity, and not even that can be asked of the
    values by arithmetic that knows no NaN.
    """
    least, greatest, most = infinity, -infinity, whole(0)
    for i in range(start, stop):
        least, greatest, most = _extremes(values, bits, i, least, greatest, most)
    result[0] = least if most <= _INFINITE else real(np.nan)
    result[1] = greatest if most <= _INFINITE else real(np.nan)
