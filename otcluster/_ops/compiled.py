"""Compiled loops over rows for arrays in host memory: what a pass does with a row, done while the row is in the cache.

They need numba (``pip install 'otcluster[fast]'``) and are then used wherever they apply. Without it, or with
``OTCLUSTER_COMPILED=0`` in the environment, passes are made of the primitives of :mod:`otcluster._ops.generic`, which define
the results. A machine compiles each loop once.

The exponent of an entry is ``(score + near - top) * inverse + after``, in bits: exponentials are powers of two. Where nothing
can overflow, ``near`` is left out and one ``base`` serves as ``top``.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

BELOW = 4.0
"""How many bits exponents are kept below zero. There floats lie so far apart that different exponents have different powers of
two, also after their rounding; further below, the digits of potentials would be lost."""

_RUN = 32  # rows summed in the dtype of the scores before the sum is widened
_BLOCK = 256  # entries of a row among which the largest is looked for at once
_WORTH_A_THREAD = 1 << 16  # scores; below this, handing out work costs more than it saves


def kernels(dtype: Any) -> Any:
    """The loops for scores of ``dtype``, or None where they cannot be had; the reason goes to the log."""
    if os.environ.get("OTCLUSTER_COMPILED", "1") == "0":
        return None
    if not _numba_is_there():
        return None
    return _build(np.dtype(dtype).name)


@functools.cache
def _numba_is_there() -> bool:
    found = importlib.util.find_spec("numba") is not None
    if not found:
        logger.debug("passes are not compiled: numba is not installed (pip install 'otcluster[fast]')")
    return found


def available_threads() -> int:
    """How many threads there are work for: ``OMP_NUM_THREADS`` where it is set, else the processors this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_rows(n_rows: int, n_columns: int, n_threads: int, work: Callable[[int, int, int], None]) -> None:
    """Call ``work(thread, start, stop)`` for ranges that cover the rows, on as many threads as are worth it."""
    n_threads = max(1, min(n_threads, n_rows, n_rows * n_columns // _WORTH_A_THREAD))
    if n_threads == 1:
        work(0, 0, n_rows)
        return
    edges = [n_rows * at // n_threads for at in range(n_threads + 1)]
    pool = _pool(n_threads - 1)
    rest = [pool.submit(work, at, edges[at], edges[at + 1]) for at in range(1, n_threads)]
    work(0, edges[0], edges[1])
    for each in rest:
        each.result()


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="otcluster")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def two_best(loops: Any, values: Any, n_threads: int) -> tuple[Any, Any]:
    """The two largest entries of each row of a matrix: their places and their values, (2, rows) both."""
    where = np.empty((2, len(values)), dtype=np.int64)
    what = np.empty((2, len(values)), dtype=values.dtype)
    over_rows(
        values.shape[0],
        values.shape[1],
        n_threads,
        lambda thread, start, stop: loops.two_best(values, start, stop, where, what),
    )
    return where, what


@functools.cache
def _build(name: str) -> SimpleNamespace:
    """Compile the loops for float32 or float64 scores."""
    import numba
    from numba import types

    single = name == "float32"
    real: Any = np.float32 if single else np.float64
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

    return SimpleNamespace(columns=columns, plan=plan, labels=labels, two_best=two_best, segment_max=segment_max)
