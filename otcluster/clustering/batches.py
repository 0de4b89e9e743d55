"""Which rows make a batch: every row once in each reading of all, in an order that reads files by runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from otcluster._ops import GenericOps, select
from otcluster._ops.generic import Array

_RUN_BYTES = 1 << 16  # of rows that lie together in a file and are sooner read than looked for
_LEAST_RUNS = 16  # in a batch: rows that lie together are often alike


class Batches:
    """Batches of rows, from memory or from files.

    In memory each row is drawn on its own. From files, and from memory-mapped arrays, they are drawn in runs of some 64 KiB, at
    least 16 of them a batch; where runs begin changes from reading to reading.

    Args:
        x: (n, dim), an array or a source of vectors.
        sample_weight: (n,), or None.
        size: Rows of a batch.
        seed: Of the order.
    """

    def __init__(self, x: Any, sample_weight: Array | None, size: int, seed: int) -> None:
        self.x, self.weights, self.seed = x, sample_weight, seed
        self.n, self.dim = (int(each) for each in x.shape)
        self.size = min(size, self.n)
        self._is_source = hasattr(x, "read")
        self._ops: GenericOps | None = None if self._is_source else select(x, "x")
        self._weight_ops = None if sample_weight is None else select(sample_weight, "sample_weight")
        in_file = self._is_source or isinstance(x, np.memmap)
        row_bytes = self.dim * np.dtype(x.dtype).itemsize if in_file else 0
        self.run = max(1, min(_RUN_BYTES // row_bytes, self.size // _LEAST_RUNS)) if in_file else 1

    def __iter__(self) -> Iterator[Any]:
        """The rows of one batch after the other, in NumPy, without end. All rows come once before one comes again."""
        kept = np.zeros(0, np.int64)
        for epoch in itertools.count():
            for rows in self._order(epoch):
                kept = np.concatenate([kept, rows])
                while len(kept) >= self.size:
                    yield kept[: self.size]
                    kept = kept[self.size :]

    def _order(self, epoch: int) -> Iterator[Any]:
        """All rows, some runs at a time."""
        rng = np.random.default_rng([self.seed, epoch])
        first = int(rng.integers(self.run))
        runs = rng.permutation(-(-(self.n + first) // self.run))
        at_once = -(-self.size // self.run)
        for start in range(0, len(runs), at_once):
            rows = (runs[start : start + at_once, None] * self.run - first + np.arange(self.run)).reshape(-1)
            yield rows[(rows >= 0) & (rows < self.n)]

    def take(self, rows: Any) -> tuple[Array, Array | None]:
        """Some rows, and their weights."""
        if self._ops is None:
            block = self.x.rows(rows)
        elif isinstance(self.x, np.memmap):
            order = np.argsort(rows, kind="stable")
            block = np.empty((len(rows), self.dim), self.x.dtype)
            block[order] = self.x[rows[order]]
        else:
            block = self._ops.xp.take(self.x, self._ops.asarray(rows), axis=0)
        if self._weight_ops is None:
            return block, None
        return block, self._weight_ops.xp.take(self.weights, self._weight_ops.asarray(rows), axis=0)
