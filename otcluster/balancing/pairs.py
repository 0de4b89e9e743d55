"""Readings of the scores of one problem for the pairs that matter: those by which samples may have to change clusters.

With k prices near the right ones nearly every sample stays in its best cluster, so of n x k scores a few n are of interest:
each sample's own, those nearly as good, and for each two clusters the sample that changes most easily from one to the other,
so that no way between clusters is overlooked, however far. Tiles are widened to float64; results are NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otcluster._ops.generic import Array
from otcluster.scores import Scores

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST_ELEMENTS = 1 << 22
_TILE_ELEMENTS = 1 << 16
_FURTHEST = float(np.finfo(np.float32).min) / 16
_LOWEST = float(np.finfo(np.float64).min)
"""Below every score that may be, and above -inf."""


class Entries(NamedTuple):
    """Scores of some pairs, row after row: row i has those from ``start[i]`` to ``start[i + 1]``."""

    start: Ints
    columns: Ints
    scores: Floats

    @property
    def rows(self) -> Ints:
        """The row of each entry."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


def read_pairs(
    scores: Scores, prices: Floats, placed: tuple[Ints, Floats] | None, window: float, tol: float
) -> tuple[Entries, Ints]:
    """Find the pairs of interest, all that are permitted where ``window`` is infinite.

    Args:
        scores: Of one problem, without batch dimensions or groups.
        prices: Of the clusters, (k,); +inf for a closed one.
        placed: Where the samples are, (n,), and their scores there: they stay where nothing is better by more than ``tol``.
        window: Pairs are of interest that are worth less than the best of their sample by at most this.
        tol: What counts as equal.

    Returns:
        The pairs, and the best cluster of each sample: the lowest index among equals, -1 if it may join none.
    """
    ops, xp = scores.ops, scores.ops.xp
    n, k = scores.n_samples, scores.n_clusters
    worth = None if placed is None else placed[1] - prices[placed[0]]
    labels = np.full(n, -1) if placed is None else placed[0].copy()
    easiest = ops.full((k, k), _LOWEST, ops.wide)
    found: list[tuple[Ints, Ints, Floats]] = []
    # Of fewer rows, nearly each would be the first to change from one cluster to another.
    for rows, values, shifted in _tiles(scores, prices, min(4 * k, _MOST_ELEMENTS // k)):
        best = ops.row_max(shifted)
        if worth is None or bool(np.any(better := host_of(scores, best) > worth[rows] + tol)):
            first = host_of(scores, ops.argmax(shifted))
            labels[rows] = first if worth is None else np.where(better, first, labels[rows])
        margin = shifted - xp.clip(best, _LOWEST, None)[:, None]
        own = ops.asarray(labels[rows])
        if window < np.inf:
            easiest = xp.maximum(easiest, ops.segment_max(margin, own, k))
            limit = xp.clip(easiest, None, -float(window))
        else:
            limit = easiest
        at = xp.nonzero(xp.reshape(margin >= xp.take(limit, own, axis=0), (-1,)))[0]
        picked = xp.take(xp.reshape(values, (-1,)), at, axis=0)
        row, column = np.divmod(host_of(scores, at).astype(np.int64), k)
        found.append((row + rows.start, column, host_of(scores, picked).astype(np.float64)))
    row, column, value = (np.concatenate(part) for part in zip(*found, strict=True))
    start = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=n), out=start[1:])
    labels[start[1:] == start[:-1]] = -1
    return Entries(start, column, value), labels


def best_values(scores: Scores, prices: Floats) -> tuple[Floats, float, float]:
    """The largest of ``scores - prices`` of each sample, (n,), and the least and the greatest score that is no -inf."""
    ops, xp = scores.ops, scores.ops.xp
    best = np.empty(scores.n_samples)
    least, greatest = np.inf, -np.inf
    for rows, values, shifted in _tiles(scores, prices):
        best[rows] = host_of(scores, ops.row_max(shifted))
        low, high = ops.facts([xp.min(values), xp.max(values)])
        if low == -np.inf:
            low = float(xp.min(xp.where(values == low, xp.full_like(values, np.inf), values)))
        least, greatest = min(least, low), max(greatest, high)
    return best, least, greatest


def best_labels(scores: Scores, prices: Floats) -> tuple[Ints, Floats]:
    """The best cluster of each sample, -1 where it may join none, and what it is worth: (n,) both."""
    labels, best = np.empty(scores.n_samples, dtype=np.int64), np.empty(scores.n_samples)
    for rows, _, shifted in _tiles(scores, prices):
        labels[rows] = host_of(scores, scores.ops.argmax(shifted))
        best[rows] = host_of(scores, scores.ops.row_max(shifted))
    labels[best == -np.inf] = -1
    return labels, best


def read_rows(scores: Scores, rows: Ints) -> Floats:
    """All scores of some samples, (rows, k)."""
    if not len(rows):
        return np.empty((0, scores.n_clusters))
    parts = [host_of(scores, values) for _, values, _ in _tiles(scores.part(0, rows), np.zeros(scores.n_clusters))]
    return np.concatenate(parts).astype(np.float64)


def read_table(scores: Scores) -> npt.NDArray[np.float32]:
    """All scores, less the largest of each row, (n, k). What float32 cannot hold is as far below as that goes."""
    table = np.empty((scores.n_samples, scores.n_clusters), dtype=np.float32)
    for rows, values, _ in _tiles(scores, np.zeros(scores.n_clusters)):
        top = scores.ops.xp.clip(scores.ops.row_max(values), _LOWEST, None)
        below = host_of(scores, values - top[:, None])
        table[rows] = np.where(below > -np.inf, np.maximum(below, _FURTHEST), below)
    return table


def sorted_by_choice(scores: Scores, prices: Floats) -> Ints:
    """The samples by best cluster, the next best, and by how much it is worse."""
    n = scores.n_samples
    choice, worth = np.empty((2, n), dtype=np.int64), np.empty((2, n))
    for rows, _, shifted in _tiles(scores, prices):
        choice[:, rows], worth[:, rows] = (host_of(scores, each) for each in scores.ops.two_best(shifted))
    margin = np.where(worth[1] > -np.inf, worth[0], 0.0) - worth[1]
    return np.lexsort((margin, choice[1], choice[0]))


def _tiles(scores: Scores, prices: Floats, at_least: int = 1) -> Iterator[tuple[slice, Array, Array]]:
    """The scores in tiles (rows, k), widened, and less the prices."""
    ops = scores.ops
    size = scores.tile_shape(None)[1]
    if ops.on_host:  # on the host small temporaries are used again, large ones are fetched anew each time
        size = min(size, _TILE_ELEMENTS // scores.n_clusters)
    size = max(size, at_least, 1)
    tile = scores.tiles(None)
    g = ops.asarray(-prices, dtype=ops.wide)
    for first in range(0, scores.n_samples, size):
        rows = slice(first, min(first + size, scores.n_samples))
        values = ops.cast(tile(slice(0, 1), rows)[0, ...], ops.wide)
        yield rows, values, values + g


def host_of(scores: Scores, array: Array) -> npt.NDArray[Any]:
    """An array of the library of the scores as NumPy."""
    return np.asarray(scores.ops.to_numpy(array))
