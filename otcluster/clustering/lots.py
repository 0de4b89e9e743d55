"""Random draws among rows that follow from what a row is, and not from where it stands or which rank holds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from otcluster._ops.generic import Array
from otcluster.clustering.samples import Samples

_BUCKET_BITS = 12
_BUCKETS = 1 << _BUCKET_BITS
_CHUNK = 1 << 20  # rows of which temporaries are made at once
# The finaliser of splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
_STEP, _FIRST, _SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mixed(bits: Any) -> Any:
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
        bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
        return bits ^ (bits >> np.uint64(31))


def uniform(hashes: Any, *keys: int) -> Any:
    """Numbers in (0, 1) that follow from hashes and keys."""
    with np.errstate(over="ignore"):
        for key in keys:
            hashes = _mixed(hashes * _STEP + np.uint64(key))
    return ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)


class RowLots:
    """Draws among the rows of all ranks. Copies of a row draw alike, and any of them is as good as another.

    Rows are spread over buckets by their hashes. A draw chooses a bucket by the sums of its chances, which ranks add up,
    and then a row in it.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.hashes = np.concatenate([np.zeros(0, np.uint64), *(self._hashed(block) for _, block in samples.blocks(1 << 16))])
        self._bucket = (self.hashes >> np.uint64(64 - _BUCKET_BITS)).astype(np.uint16)

    def _hashed(self, block: Array) -> Any:
        values = np.ascontiguousarray(self._samples.ops.to_numpy(block)) + 0.0  # minus zero is zero
        bits = values.view(np.uint64 if values.dtype == np.float64 else np.uint32)
        factors = _mixed((np.arange(bits.shape[1], dtype=np.uint64) + np.uint64(1)) * _STEP) | np.uint64(1)
        few = range(0, len(bits), 1024)  # what the cache holds
        return _mixed(
            np.concatenate([np.zeros(0, np.uint64), *(bits[at : at + 1024].astype(np.uint64) @ factors for at in few)])
        )

    def draw(self, chance: Array, n_draws: int, *keys: int) -> Array:
        """Rows drawn with probabilities proportional to ``chance``: (n_draws, dim), as they were given, in the wide dtype."""
        samples, ops = self._samples, self._samples.ops
        mine, local = ops.to_numpy(chance), np.zeros(_BUCKETS)
        for rows in self._chunks():
            local += np.bincount(self._bucket[rows], weights=mine[rows], minlength=_BUCKETS)
        sums = ops.to_numpy(samples.summed(ops.asarray(local, dtype=ops.wide))).cumsum()
        spots = uniform(np.arange(n_draws, dtype=np.uint64), *keys) * sums[-1]
        found = np.minimum(np.searchsorted(sums, spots, side="right"), _BUCKETS - 1)
        # In a bucket, the row with the largest log(chance) + Gumbel noise; of copies the mean, which is the same row.
        best, who = np.full(n_draws, -np.inf), np.full(n_draws, -1)
        for at, bucket in enumerate(found):
            held = np.flatnonzero(self._bucket == bucket)
            held = held[mine[held] > 0]
            if len(held):
                keyed = np.log(mine[held].astype(np.float64)) - np.log(-np.log(uniform(self.hashes[held], *keys, at)))
                best[at], who[at] = keyed.max(), held[keyed.argmax()]
        top = best
        if samples.reducer is not None:
            top = ops.to_numpy(samples.maximum(ops.asarray(best, dtype=ops.wide)))
        won = np.flatnonzero((best == top) & (who >= 0))
        packed = np.zeros((n_draws, samples.dim + 1))
        packed[won, :-1] = ops.to_numpy(self._given(who[won]))
        packed[won, -1] = 1
        whole = ops.to_numpy(samples.summed(ops.asarray(packed, dtype=ops.wide)))
        return ops.asarray(whole[:, :-1] / np.maximum(whole[:, -1:], 1), dtype=ops.wide)

    def each(self, chance: Array, factor: float, *keys: int) -> Array:
        """All rows of which each is drawn for itself, with probability ``chance * factor``; as :meth:`rows` gives them."""
        mine = self._samples.ops.to_numpy(chance)
        found = [np.zeros(0, np.int64)]
        for rows in self._chunks():
            drawn = uniform(self.hashes[rows], *keys) < mine[rows].astype(np.float64) * factor
            found.append(np.flatnonzero(drawn) + rows.start)
        return self.rows(np.concatenate(found))

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self.hashes), _CHUNK):
            yield slice(start, start + _CHUNK)

    def rows(self, indices: Any) -> Array:
        """The rows at these places of this rank and those of the other ranks, in one order: (m, dim), as they were given."""
        samples, ops = self._samples, self._samples.ops
        whole = self._given(indices)
        if samples.reducer is not None:
            gather = getattr(samples.reducer, "gather", None)
            if gather is None:
                raise TypeError(
                    f"KMeansParallel needs a reducer with a method gather, as TorchReducer has: {samples.reducer!r}"
                )
            whole = samples.from_face(gather(samples.to_face(whole)))
        return ops.xp.take(whole, ops.asarray(np.argsort(self._hashed(whole), kind="stable")), axis=0)

    def _given(self, indices: Any) -> Array:
        samples, ops = self._samples, self._samples.ops
        found = [samples.block(slice(int(at), int(at) + 1))[0, :] for at in indices]
        return ops.xp.stack(found) if found else ops.full((0, samples.dim), 0.0, samples.dtype)
