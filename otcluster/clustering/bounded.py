"""The pass of k-means in compiled loops, which looks only at the centroids that bounds on distances do not rule out.

A row keeps the distance to its own centroid, from above, and for each group of centroids the distance to the nearest
other one, from below. When centroids have moved, the bounds move by as much, and what they still rule out is not looked
at (Yinyang k-means). Where they rule out little, every row is compared with every centroid by a matrix product, which is
then quicker: a few rows, kept for that, tell beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from otcluster._ops import compiled
from otcluster._ops.generic import Array
from otcluster.clustering.on_device import kernel_pass
from otcluster.clustering.passes import NearestPass, PlainPass, Step
from otcluster.clustering.samples import Samples

_SCOUTS, _SCOUT_RUN = 4096, 64  # rows that tell what bounds would rule out
_BEGIN, _END = 0.2, 0.4  # shares of the pairs of row and group looked at: below, bounds begin; above, they end
_LEAST_BOUNDS = 1 << 28  # bytes that bounds may always take
_ROUNDING = 8
_SUMS_BYTES = 1 << 30  # of the sums that threads hold, each its own
_TILE = 1 << 18  # products at once: what a thread has room for beside it in its cache


class CompiledPass:
    """The nearest centroid of each row in host memory; answers as :class:`otcluster.clustering.passes.PlainPass`."""

    def __init__(self, samples: Samples, n_clusters: int, loops: Any, *, alone: bool = False) -> None:
        self.samples, self.k, self._loops = samples, n_clusters, loops
        self._real = np.float64 if samples.dtype == np.float64 else np.float32
        sums = 8 * (n_clusters + loops.GROUP) * samples.dim
        self._threads = max(1, min(samples.ops.n_threads, _SUMS_BYTES // sums))
        self._slack = self._real(np.finfo(self._real).eps * (_ROUNDING + samples.dim**0.5))
        self._places = np.arange(n_clusters, dtype=np.int32)
        self._n_places = n_clusters
        self._own = np.full(samples.n, -1, np.int32)
        self._sums, self._counts = np.zeros((n_clusters, samples.dim)), np.zeros(n_clusters)
        self._bounds: tuple[Any, Any] | None = None
        self._scouts: tuple[Any, ...] | None = None
        self._before: Any = None
        n_groups = -(-n_clusters // loops.GROUP)
        room = max(_LEAST_BOUNDS, samples.n * samples.dim * self._real().itemsize)
        self._may_bound = not alone and samples.n > _SCOUTS and samples.n * n_groups * self._real().itemsize <= room

    @property
    def labels(self) -> Array:
        cluster = np.full(self._n_places, -1, np.int64)
        cluster[self._places] = np.arange(self.k)
        return np.where(self._own < 0, -1, cluster[self._own])

    def run(self, centroids: Array) -> Step:
        with compiled.one_thread_each():
            return self._run(centroids)

    def _run(self, centroids: Array) -> Step:
        points = np.ascontiguousarray(centroids, dtype=self._real)
        if self._bounds is not None:
            changed, looked = self._bounded(points)
            if looked > _END:
                self._bounds, self._scouts = None, None
        elif self._may_bound and self._promising(points):
            self._regroup(points)
            changed = self._full(points, bounds=True)
        else:
            changed = self._full(points, bounds=False)
        if self._may_bound and self._bounds is None:
            self._send_scouts(points)
        self._before = points
        return Step(self._sums[self._places], self._counts[self._places], changed)

    def distances(self, centroids: Array) -> Array:
        points = self._by_place(np.ascontiguousarray(centroids, dtype=self._real))
        result = np.empty(self.samples.n, self._real)
        for rows, block in self.samples.blocks():
            given = self.samples.as_loops_take(block, rows)
            self._over(
                block, lambda thread, *span, given=given, rows=rows: self._loops.distances_to_own(
                    *given, *span, points, self._own[rows], result[rows]
                )
            )  # fmt: skip
        return result

    def relabel(self, rows: Any, cluster: int) -> None:
        old, new = self._own[rows[0]], self._places[cluster]
        weight = float(len(rows)) if self.samples.weights is None else float(self.samples.weights[rows].sum(dtype=np.float64))
        values = weight * self.samples.row(int(rows[0])).astype(np.float64)
        self._sums[old] -= values
        self._counts[old] -= weight
        self._sums[new] += values
        self._counts[new] += weight
        self._own[rows] = new
        if self._bounds is not None:  # nothing is known of it any more
            upper, lower = self._bounds
            upper[rows], lower[rows] = np.inf, 0

    # Passes over all rows

    def _full(self, points: Any, *, bounds: bool) -> float:
        """Every row against every centroid."""
        order = np.argsort(self._places, kind="stable") if bounds else np.arange(self.k)
        columns, half = np.ascontiguousarray(points[order].T), (points[order] ** 2).sum(axis=1) / 2
        places, laid = self._places[order], self._by_place(points)
        edges = np.searchsorted(places, np.arange(0, self._n_places + 1, self._loops.GROUP)).astype(np.int64)
        if bounds:
            n, real = self.samples.n, self._real
            self._bounds = np.empty(n, real), np.empty((n, self._n_places // self._loops.GROUP), real)
        upper, lower = self._bounds or (np.empty(self.samples.n, self._real), None)
        at_once = max(64, min(_TILE // self.k, self.samples.n))
        sums, counts = self._room()
        changed = np.zeros(self._threads)
        for rows, block in self.samples.blocks():
            given, own = self.samples.as_loops_take(block, rows), self._own[rows]

            def read(thread: int, *span: int, given: Any = given, own: Any = own, rows: slice = rows) -> None:
                mine = sums[thread], counts[thread]
                to_all = given + span + (columns, half, laid, places, at_once)
                if lower is None:
                    changed[thread] += self._loops.nearest(*to_all, own, upper[rows], *mine)
                else:
                    changed[thread] += self._loops.first_bounds(
                        *to_all, edges, self._slack, own, upper[rows], lower[rows], *mine
                    )

            self._over(block, read)
        self._fold(sums, counts)
        return float(changed.sum())

    def _bounded(self, points: Any) -> tuple[float, float]:
        """Only what the bounds leave open. Returns how many rows changed, and the share of pairs that were looked at."""
        assert self._bounds is not None
        upper, lower = self._bounds
        laid, drift, group_drift = self._moved(points)
        n_groups = len(group_drift)
        packed = np.ascontiguousarray(laid.reshape(n_groups, -1, self.samples.dim).transpose(0, 2, 1))
        half = np.full((n_groups, self._loops.GROUP), np.inf, self._real)
        half.reshape(-1)[self._places] = (points**2).sum(axis=1) / 2
        sums, counts = self._room()
        changed, looked = np.zeros(self._threads), np.zeros((self._threads, 1))
        for rows, block in self.samples.blocks():
            given = self.samples.as_loops_take(block, rows)

            def read(thread: int, *span: int, given: Any = given, rows: slice = rows) -> None:
                changed[thread] += self._loops.bounded(
                    laid, packed, half, drift, group_drift, self._slack, *given, *span,
                    self._own[rows], upper[rows], lower[rows], sums[thread], counts[thread], looked[thread],
                )  # fmt: skip

            self._over(block, read)
        self._fold(sums, counts)
        return float(changed.sum()), float(looked.sum()) / (self.samples.n * n_groups)

    # What bounds would rule out

    def _send_scouts(self, points: Any) -> None:
        """Make the bounds of a few rows, far apart in the order of the samples."""
        if self._scouts is None:
            starts = np.linspace(0, self.samples.n - _SCOUT_RUN, _SCOUTS // _SCOUT_RUN).astype(np.int64)
            runs = [slice(int(at), int(at) + _SCOUT_RUN) for at in starts]
            self._scouts = (np.concatenate([self.samples.prepared(self.samples.block(run), run) for run in runs]),)
        rows = self._scouts[0]
        order = grouped_order(points, self._loops.GROUP)
        products = rows @ points[order].T - (points[order] ** 2).sum(axis=1) / 2
        squares = (rows**2).sum(axis=1)
        own = products.argmax(axis=1)
        top = np.take_along_axis(products, own[:, None], axis=1)[:, 0]
        np.put_along_axis(products, own[:, None], -np.inf, axis=1)
        others = np.maximum.reduceat(products, np.arange(0, self.k, self._loops.GROUP), axis=1)
        upper = np.sqrt(np.maximum(squares - 2 * top, 0))
        lower = np.sqrt(np.maximum(squares[:, None] - 2 * others, 0))
        self._scouts = rows, order, own, upper, lower

    def _promising(self, points: Any) -> bool:
        """Whether bounds made in the pass before would rule out enough now."""
        if self._scouts is None:
            return False
        _, order, own, upper, lower = self._scouts
        drift = np.sqrt(((points[order] - self._before[order]) ** 2).sum(axis=1))
        of_group = np.maximum.reduceat(drift, np.arange(0, self.k, self._loops.GROUP))
        return bool(np.mean(lower - of_group < (upper + drift[own])[:, None]) < _BEGIN)

    def _regroup(self, points: Any) -> None:
        """Give the centroids places by groups of near ones."""
        order = grouped_order(points, self._loops.GROUP)
        places = np.empty(self.k, np.int32)
        places[order] = np.arange(self.k)
        n_places = -(-self.k // self._loops.GROUP) * self._loops.GROUP
        sums, counts = np.zeros((n_places, self.samples.dim)), np.zeros(n_places)
        sums[places], counts[places] = self._sums[self._places], self._counts[self._places]
        labels = self.labels
        self._own = np.where(labels < 0, -1, places[labels]).astype(np.int32)
        self._places, self._n_places, self._sums, self._counts = places, n_places, sums, counts
        self._scouts = None

    def _moved(self, points: Any) -> tuple[Any, Any, Any]:
        """Centroids by place, how far each has moved since the pass before, and the farthest of each group; rounded up."""
        drift = np.zeros(self._n_places)
        moved = points.astype(np.float64) - self._before
        drift[self._places] = np.sqrt((moved**2).sum(axis=1)) * (1 + 4 * np.finfo(self._real).eps)
        drift = drift.astype(self._real)
        return self._by_place(points), drift, drift.reshape(-1, self._loops.GROUP).max(axis=1)

    # Small things

    def _by_place(self, points: Any) -> Any:
        laid = np.zeros((self._n_places, self.samples.dim), self._real)
        laid[self._places] = points
        return laid

    def _over(self, table: Any, work: Any) -> None:
        compiled.over_rows(len(table), table.shape[1], self._threads, work)

    def _room(self) -> tuple[Any, Any]:
        return np.zeros((self._threads, self._n_places, self.samples.dim)), np.zeros((self._threads, self._n_places))

    def _fold(self, sums: Any, counts: Any) -> None:
        self._sums += sums.sum(axis=0)
        self._counts += counts.sum(axis=0)


def nearest_pass(samples: Samples, n_clusters: int, *, alone: bool = False) -> NearestPass:
    """The pass for :class:`otcluster.Nearest`: the quickest there is. No other follows one that is ``alone``."""
    kernels = kernel_pass(samples)
    if kernels is not None:
        return kernels
    loops = samples.loops()
    return PlainPass(samples) if loops is None else CompiledPass(samples, n_clusters, loops, alone=alone)


def grouped_order(points: Any, size: int) -> Any:
    """An order of points in which each run of ``size`` lies together: halved along the longest axis, again and again."""
    pieces, done = [np.arange(len(points))], []
    while pieces:
        piece = pieces.pop()
        if len(piece) <= size:
            done.append(piece)
            continue
        inside = points[piece] - points[piece].mean(axis=0)
        axis = inside[np.argmax((inside**2).sum(axis=1))]
        for _ in range(4):
            axis = inside.T @ (inside @ axis)
            length = np.linalg.norm(axis)
            axis = axis / length if length > 0 else axis
        order = piece[np.argsort(inside @ axis, kind="stable")]
        middle = max(size, len(piece) // 2 // size * size)
        pieces += [order[middle:], order[:middle]]
    return np.concatenate(done)
