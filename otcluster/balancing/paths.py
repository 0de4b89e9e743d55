"""Shortest augmenting paths between clusters: from nearly the right sizes to exactly the right ones, at no loss.

The nodes are the k clusters and a *hub* that stands for the freedom between a smallest and a largest size. An edge from one
cluster to another is the sample of the first that loses least by moving to the second, and its length is that loss; from a
cluster to the hub it is one place more, from the hub to a cluster one place less, at no loss. Under prices that leave every
sample in its best cluster no length is less than the difference of the prices at its ends, so shortest paths are found over
lengths that are not negative. Moving one sample along each edge of a shortest path leaves every sample in its best cluster
under the new prices: what is reached in the end is optimal.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from otcluster._ops import compiled
from otcluster.balancing.pairs import Entries, Floats, Ints, host_of
from otcluster.scores import Scores

_UNKNOWN, _HUB = -1, -2
_REFILL = 16
_NAMED = 8


def hub_price(prices: Floats, low: Ints, high: Ints, n: int) -> float:
    """The price above which a cluster takes all it may, and below which as few as it may, so that all samples are taken."""
    order = np.argsort(-prices, kind="stable")
    taken = low.sum() + np.cumsum((high - low)[order])
    return float(prices[order[min(int(np.searchsorted(taken, n)), len(order) - 1)]])


class Paths:
    """Samples in clusters, each with its best one under the prices, made to meet the sizes.

    Args:
        scores: Of all pairs; asked for when those at hand are used up.
        entries: The pairs at hand; each sample has one with its label.
        labels: The cluster of each sample, the best one under the prices. Changed in place.
        prices: Of the clusters; more is asked where too many want in.
        low: Fewest samples of each cluster.
        high: Most samples of each cluster.
        window: All pairs are at hand that are worth less than the best of their sample by at most this.
        tol: What counts as equal.
    """

    def __init__(
        self, scores: Scores, entries: Entries, labels: Ints, prices: Floats, low: Ints, high: Ints, window: float, tol: float
    ) -> None:
        k = self.k = len(prices)
        self.size = k + 1
        self.loops = compiled.kernels("float64", "path_loops")
        self.scores, self.entries, self.labels, self.tol = scores, entries, labels, tol
        counts = np.bincount(labels, minlength=k)
        hub = hub_price(prices, low, high, len(labels))
        self.prices = np.append(prices, hub)
        places = np.where(prices > hub, high, np.where(prices < hub, low, np.clip(counts, low, high)))
        self.places, self.low, self.high = places, low, high
        self.excess = np.append(counts - places, places.sum() - counts.sum())
        self.order = np.argsort(labels, kind="stable")
        self.ends = np.append(0, np.cumsum(counts))
        self.came: list[list[int]] = [[] for _ in range(k)]
        self._queue(window)

    def _queue(self, window: float) -> None:
        """Sort the samples of each pair of clusters by what they lose."""
        rows, entries, size = self.entries.rows, self.entries, self.size
        away = entries.columns != self.labels[rows]
        self.own = entries.scores[~away]
        rows, columns = rows[away], entries.columns[away]
        loss = self.own[rows] - entries.scores[away]
        edge = self.labels[rows] * size + columns
        self.length = np.full(size * size, np.inf)
        np.minimum.at(self.length, edge, loss)
        # Beyond the window the best is known, but not who comes next.
        near = loss <= np.maximum(self.length[edge], window + self.prices[edge // size] - self.prices[edge % size])
        edge, loss, rows = edge[near], loss[near], rows[near]
        order = np.lexsort((loss, edge))
        self.queue_edge, self.queue_loss, self.queue_row = edge[order], loss[order], rows[order]
        starts = np.flatnonzero(np.diff(self.queue_edge, prepend=-1))
        used = self.queue_edge[starts]
        self.head = np.full(size * size, _UNKNOWN)
        self.head[used] = self.queue_row[starts]
        self.place = np.full(size * size, len(self.queue_edge))
        self.place[used] = starts
        self.later: dict[int, list[tuple[float, int]]] = {}
        at = np.arange(self.k)
        self.head[at * size + self.k] = self.head[self.k * size + at] = _HUB
        self.length[at * size + self.k] = np.where(self.places < self.high, 0.0, np.inf)
        self.length[self.k * size + at] = np.where(self.places > self.low, 0.0, np.inf)
        # Views give Python numbers, many times faster than arrays do.
        self._label, self._start, self._own = _view(self.labels), _view(entries.start), _view(self.own)
        self._column, self._score = _view(entries.columns), _view(entries.scores)
        self._edge, self._loss, self._row = _view(self.queue_edge), _view(self.queue_loss), _view(self.queue_row)
        self._length, self._head, self._place = _view(self.length), _view(self.head), _view(self.place)

    def run(self) -> bool:
        """Move samples until the sizes are met, or no cluster with room can be reached.

        Returns:
            Whether the sizes are met.
        """
        self.phases = self.moves = self.refills = 0
        while True:
            sources = np.flatnonzero(self.excess > 0)
            targets = np.flatnonzero(self.excess < 0)
            if not len(sources):
                return True
            distance, parent, root = self._distances(sources)
            targets = targets[np.isfinite(distance[targets])]
            if not len(targets):
                self.reached = np.isfinite(distance)
                return False
            self.phases += 1
            targets = targets[np.argsort(distance[targets], kind="stable")]
            furthest = distance[targets[0]]
            prices = self.prices - distance
            for target in targets.tolist():
                if self.excess[root[target]] > 0 and self._augment(target, parent, prices):
                    furthest = distance[target]
            self.prices -= np.minimum(distance, furthest)

    def what_is_short(self) -> str:
        """Why no cluster with room could be reached: which clusters have too little room, or too few candidates."""
        inside = self.reached[:-1]
        counts = np.bincount(self.labels, minlength=self.k)
        if not self.reached[-1]:
            return (
                f"{counts[inside].sum()} samples may only join {_named(inside)}, which may hold "
                f"{self.high[inside].sum()} together: allow them more clusters, or raise the sizes"
            )
        return (
            f"{_named(~inside)} must hold {self.low[~inside].sum()} samples together, but only {counts[~inside].sum()} may "
            "join: allow more, or lower the sizes"
        )

    def _distances(self, sources: Ints) -> tuple[Floats, Ints, Ints]:
        """Shortest distance of each node from any source, with the node before it and the source.

        Of nodes beyond the furthest that lacks samples it may be any longer distance.
        """
        if self.loops is not None:
            distance, (before, root) = np.empty(self.size), np.empty((2, self.size), dtype=np.int64)
            self.loops.shortest(self.length, self.prices, self.excess, distance, before, root)
            return distance, before, root
        edges = np.flatnonzero(self.length < np.inf)
        ends = np.searchsorted(edges, self.size * np.arange(self.size + 1))
        tail = np.repeat(np.arange(self.size), np.diff(ends))
        tip = edges - self.size * tail
        # Rounding leaves edges that should be of no length a little negative; clipped, no cycle is.
        lengths = np.maximum(self.length[edges] - self.prices[tail] + self.prices[tip], 0.0)
        graph = csr_array((lengths, tip.astype(np.int32), ends.astype(np.int32)), shape=(self.size, self.size))
        distance, before, root = dijkstra(graph, indices=sources, min_only=True, return_predecessors=True)
        return distance, before, root

    def _augment(self, target: int, parent: Ints, prices: Floats) -> bool:
        """Move samples along the path to ``target`` as long as it is a shortest one."""
        edges = []
        b = target
        while (a := int(parent[b])) >= 0:
            edges.append((a, b, a * self.size + b, float(prices[a] - prices[b]) + self.tol))
            b = a
        moved = False
        while self.excess[b] > 0 and self.excess[target] < 0:
            movers = []
            for a, c, key, limit in edges:
                if self._head[key] == _UNKNOWN:
                    self._refill(key, a, c)
                if self._length[key] > limit:
                    return moved
                movers.append(self._head[key])
            for (a, c, _, _), mover in zip(edges, movers, strict=True):
                if c == self.k:
                    self._give_place(a, 1)
                elif a == self.k:
                    self._give_place(c, -1)
                else:
                    self._move(mover, a, c)
            self.excess[b] -= 1
            self.excess[target] += 1
            self.moves += 1
            moved = True
        return moved

    def _give_place(self, cluster: int, more: int) -> None:
        self.places[cluster] += more
        self.length[cluster * self.size + self.k] = 0.0 if self.places[cluster] < self.high[cluster] else np.inf
        self.length[self.k * self.size + cluster] = 0.0 if self.places[cluster] > self.low[cluster] else np.inf

    def _move(self, row: int, a: int, b: int) -> None:
        score = self._own[row] - self._length[a * self.size + b]
        self._label[row], self._own[row] = b, score
        self.came[b].append(row)
        for at in range(self._start[row], self._start[row + 1]):
            column = self._column[at]
            if column != b:
                edge, loss = b * self.size + column, score - self._score[at]
                heappush(self.later.setdefault(edge, []), (loss, row))
                if loss < self._length[edge]:
                    self._length[edge], self._head[edge] = loss, row
        # Whoever comes first on an edge may have been found elsewhere than among the pairs at hand.
        for column in np.flatnonzero(self.head[a * self.size : a * self.size + self.k] == row).tolist():
            self._refresh(a * self.size + column, a)

    def _refresh(self, edge: int, cluster: int) -> None:
        """Find who loses least by using ``edge``, now that its first sample is gone."""
        at, end = self._place[edge], len(self._edge)
        while at < end and self._edge[at] == edge and self._label[self._row[at]] != cluster:
            at += 1
        self._place[edge] = at
        later = self.later.get(edge)
        while later and self._label[later[0][1]] != cluster:
            heappop(later)
        if at < end and self._edge[at] == edge:
            best = self._loss[at], self._row[at]
            if later:
                best = min(best, later[0])
            self._length[edge], self._head[edge] = best
        elif later:
            self._length[edge], self._head[edge] = later[0]
        else:  # the others lose no less than the last
            self._head[edge] = _UNKNOWN

    def _refill(self, edge: int, a: int, b: int) -> None:
        """Look among all samples of ``a`` for those that lose least by moving to ``b``."""
        self.refills += 1
        own = self.order[self.ends[a] : self.ends[a + 1]]
        members = np.concatenate([own, np.array(self.came[a], dtype=np.int64)])
        members = np.unique(members[self.labels[members] == a])
        loss = self.own[members] - host_of(self.scores, self.scores.column(members, b)).astype(np.float64)
        if len(members) > _REFILL:
            some = np.argpartition(loss, _REFILL)[:_REFILL]
            members, loss = members[some], loss[some]
        order = np.lexsort((members, loss))
        found = [pair for pair in zip(loss[order].tolist(), members[order].tolist(), strict=True) if pair[0] < np.inf]
        if found:
            self.later[edge] = found
            self.length[edge], self.head[edge] = found[0]
        else:
            self.length[edge], self.head[edge] = np.inf, _HUB


def _view(array: Any) -> Any:
    return memoryview(array)


def _named(clusters: npt.NDArray[np.bool_]) -> str:
    which = np.flatnonzero(clusters).tolist()
    more = ", ..." if len(which) > _NAMED else ""
    return f"cluster{'s' if len(which) > 1 else ''} {', '.join(map(str, which[:_NAMED]))}{more}"
