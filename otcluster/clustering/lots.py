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
        hashes = [self._hashed(block) for _, block in samples.blocks(self._at_once)]
        self.hashes = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self._bucket = (self.hashes >> np.uint64(64 - _BUCKET_BITS)).astype(np.uint16)
        self._by_bucket = np.argsort(self._bucket, kind="stable")
        self._edges = np.searchsorted(self._bucket[self._by_bucket], np.arange(_BUCKETS + 1))
        # Where rows are on a device their chances stay there, and only a few numbers for each draw come to the host.
        self._there = None if samples.ops.on_host else samples.ops.asarray(self._bucket.astype(np.int64))

    def _hashed(self, block: Array) -> Any:
        factors = _mixed((np.arange(self._samples.dim, dtype=np.uint64) + np.uint64(1)) * _STEP) | np.uint64(1)
        return _mixed(self._samples.ops.bit_sums(block, factors))

    @property
    def _at_once(self) -> int:
        return max(1 << 16, self._samples.ops.tile_elements // (8 * self._samples.dim))

    def draw(self, chance: Array, n_draws: int, *keys: int) -> Array:
        """Rows drawn with probabilities proportional to ``chance``: (n_draws, dim), as they were given, in the wide dtype."""
        samples, ops = self._samples, self._samples.ops
        sums = ops.to_numpy(samples.summed(self._chances_of_buckets(chance))).cumsum()
        spots = uniform(np.arange(n_draws, dtype=np.uint64), *keys) * sums[-1]
        found = np.minimum(np.searchsorted(sums, spots, side="right"), _BUCKETS - 1)
        # In a bucket, the row with the largest log(chance) + Gumbel noise; of copies the mean, which is the same row.
        best, who = np.full(n_draws, -np.inf), np.full(n_draws, -1)
        inside = [self._by_bucket[self._edges[bucket] : self._edges[bucket + 1]] for bucket in found]
        chances = ops.to_numpy(ops.xp.take(chance, ops.asarray(np.concatenate(inside)), axis=0)).astype(np.float64)
        for at, (held, mine) in enumerate(zip(inside, np.split(chances, np.cumsum([*map(len, inside)])[:-1]), strict=True)):
            held, mine = held[mine > 0], mine[mine > 0]
            if len(held):
                keyed = np.log(mine) - np.log(-np.log(uniform(self.hashes[held], *keys, at)))
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

    def _chances_of_buckets(self, chance: Array) -> Array:
        """The sums of the chances of the rows here, (buckets,), in the wide dtype."""
        ops = self._samples.ops
        if self._there is not None:
            return ops.segment_sum(chance[:, None], self._there, _BUCKETS)[:, 0]
        mine, local = ops.to_numpy(chance), np.zeros(_BUCKETS)
        for rows in self._chunks():
            local += np.bincount(self._bucket[rows], weights=mine[rows], minlength=_BUCKETS)
        return ops.asarray(local, dtype=ops.wide)

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
        return samples.some(indices) if len(indices) else ops.full((0, samples.dim), 0.0, samples.dtype)
