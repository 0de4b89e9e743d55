"""Passes of one compiled loop over the rows, for scores in host memory.

They answer as those of :mod:`otcluster.passes`, which turn to them where the library of a problem offers compiled loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from otcluster._ops import compiled
from otcluster._ops.generic import Array
from otcluster.problem import Problem

NATS_BELOW = compiled.BELOW * math.log(2)
"""What exponents are kept below zero in compiled passes, in nats."""

_BITS = 1 / math.log(2)
Tiles = Iterable[tuple[slice, slice, Array]]


@dataclass(frozen=True)
class Terms:
    """The exponents of a kernel: ``(scores + near - top) / epsilon + after``, where ``top`` is the maximum of each row.

    Where nothing can overflow, ``near`` is None and the exponents are ``(scores - base) / epsilon + after``.

    Attributes:
        near: (n_problems, k), in the dtype of the scores, or None.
        after: (n_problems, k), in nats.
        epsilon: What to divide by; a number of the dtype.
        base: At least the largest score where ``near`` is None; else of no meaning.
    """

    near: Array | None
    after: Array
    epsilon: float
    base: float


class FusedPasses:
    """The compiled passes over one problem. ``tiles`` are its scores, in one tile or many."""

    def __init__(self, problem: Problem, kernels: Any) -> None:
        self._problem, self._kernels = problem, kernels
        self._real = np.float64 if problem.dtype == problem.ops.xp.float64 else np.float32
        self._groups = np.zeros(0, dtype=np.int64) if problem.groups is None else self._host(problem.groups)
        self._weights = self._host(problem.weights).reshape(-1)

    def kernel_columns(self, tiles: Tiles, terms: Terms) -> Array:
        """Sums of ``weight * exp(exponent - NATS_BELOW)`` over the samples, (n_problems, k)."""
        return self._columns(tiles, terms, normal=False)[0]

    def plan_columns(self, tiles: Tiles, terms: Terms) -> tuple[Array, Array]:
        """Column sums of the plan, (n_problems, k), and the mass that no cluster may take, (n_problems,)."""
        return self._columns(tiles, terms, normal=True)

    def plan(self, tiles: Tiles, terms: Terms) -> Array:
        """The plan, (batches, n, k)."""
        shape = (int(self._problem.weights.shape[0]), self._problem.n_samples, self._problem.n_clusters)
        # Of the library of the problem: NumPy asks for large pages, for which Linux may search longer than a pass takes.
        result = self._problem.ops.room(shape, self._problem.dtype)
        rows = self._host(result).reshape(-1, shape[2])

        def work(given: tuple[Any, ...], start: int, stop: int, thread: int, problems: slice, place: slice) -> None:
            self._kernels.plan(*given, start, stop, self._weights[place], rows[place])

        self._run(tiles, terms, work)
        return result

    def tile_plan(self, batches: slice, rows: slice, scores: Array, terms: Terms, room: Array | None) -> Array:
        """The plan of one tile, written to ``room`` where that is one piece."""
        if room is None or not self._host(room).flags.c_contiguous:
            room = self._problem.ops.room(tuple(scores.shape), self._problem.dtype)
        result = self._host(room).reshape(-1, self._problem.n_clusters)

        def work(given: tuple[Any, ...], start: int, stop: int, thread: int, problems: slice, place: slice) -> None:
            self._kernels.plan(*given, start, stop, self._weights[place], result)

        self._run([(batches, rows, scores)], terms, work)
        return room

    def labels(self, tiles: Tiles, terms: Terms) -> Array:
        """The largest entry of each row of the plan, (batches, n); -1 for a sample that may join no cluster."""
        result = np.empty((int(self._problem.weights.shape[0]), self._problem.n_samples), dtype=np.int64)
        flat = result.reshape(-1)

        def work(given: tuple[Any, ...], start: int, stop: int, thread: int, problems: slice, place: slice) -> None:
            self._kernels.labels(*given, start, stop, flat[place])

        self._run(tiles, terms, work)
        return self._problem.ops.asarray(result)

    def _columns(self, tiles: Tiles, terms: Terms, *, normal: bool) -> tuple[Array, Array]:
        threads, n_problems = self._problem.ops.n_threads, self._problem.n_problems
        sums = np.zeros((threads, n_problems, self._problem.n_clusters))
        lost = np.zeros((threads, n_problems))

        def work(given: tuple[Any, ...], start: int, stop: int, thread: int, problems: slice, place: slice) -> None:
            mine = sums[thread, problems], lost[thread, problems]
            self._kernels.columns(*given, start, stop, self._weights[place], normal, *mine)

        self._run(tiles, terms, work)
        asarray = self._problem.ops.asarray
        return (asarray(sums[0]), asarray(lost[0])) if threads == 1 else (asarray(sums.sum(0)), asarray(lost.sum(0)))

    def _run(self, tiles: Tiles, terms: Terms, work: Callable[..., None]) -> None:
        n, grouped = self._problem.n_samples, self._problem.groups is not None
        offsets = self._lay(self._host(terms.after) * _BITS - compiled.BELOW)
        shifts = np.zeros((0, 0), dtype=self._real) if terms.near is None else self._lay(self._host(terms.near))
        base, inverse = self._real(terms.base), self._real(_BITS / terms.epsilon)
        for batches, rows, scores in tiles:
            values = self._lay(self._host(scores))
            n_batches, n_rows, k = values.shape
            problems = slice(0, len(offsets)) if grouped else batches
            first = batches.start * n + rows.start
            place = slice(first, first + n_batches * n_rows)
            given = (
                values.reshape(-1, k), shifts[problems], offsets[problems], base, inverse, self._groups[rows], n_rows,
            )  # fmt: skip

            def run(
                thread: int, start: int, stop: int, given: Any = given, problems: slice = problems, place: slice = place
            ) -> None:
                work(given, start, stop, thread, problems, place)

            compiled.over_rows(n_batches * n_rows, k, self._problem.ops.n_threads, run)

    def _host(self, array: Array) -> Any:
        return self._problem.ops.to_numpy(array)

    def _lay(self, array: Any) -> Any:
        return np.ascontiguousarray(array, dtype=self._real)


def fused_passes(problem: Problem) -> FusedPasses | None:
    """The compiled passes over ``problem``, None where there are none."""
    kernels = problem.ops.kernels(problem.dtype)
    return None if kernels is None else FusedPasses(problem, kernels)
