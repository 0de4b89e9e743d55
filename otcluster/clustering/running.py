"""Centroids that follow batches of samples, each the mean of what it has been given so far."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otcluster._ops.generic import Array
from otcluster.clustering.bounded import nearest_pass
from otcluster.clustering.lots import RowLots
from otcluster.clustering.nearest import like
from otcluster.clustering.passes import Pass
from otcluster.clustering.samples import Geometry, Samples

_BETWEEN_REVIVALS = 10  # samples for each cluster that are looked at before a centroid counts as starved


class Followed(NamedTuple):
    """What a batch did."""

    labels: Array
    """(n,) int64, in the library of the batch."""
    inertia: float
    """Of the batch, before the centroids moved."""
    weight: float
    """Of the batch."""
    shift: float
    """Squared distances that the centroids moved, summed."""


class RunningCentroids:
    """k centroids, of which each moves toward the mean of its samples in a batch by their share of all it has had.

    Arrays are in the wide dtype, so that a state can be copied and pickled.

    Args:
        centroids: (k, dim), in the coordinates of the caller.
        metric: Of the distances; with the cosine, centroids have length one.
        reassignment_ratio: A centroid with less weight than this share of the largest one moves to a sample, drawn with a
            probability proportional to its squared distance from its centroid. 0 lets all stay.
        seed: Of these draws.
    """

    def __init__(self, centroids: Array, metric: Geometry, reassignment_ratio: float, seed: int) -> None:
        self.metric: Geometry = metric
        self.ratio, self.seed = reassignment_ratio, seed
        self.centroids = centroids
        self.means = centroids  # of directions, for the cosine: shorter than one
        self.counts: Array = None
        self.n_batches, self._since = 0, 0

    def follow(self, x: Array, sample_weight: Array | None) -> Followed:
        """Assign a batch (n, dim), and move the centroids."""
        samples = Samples(x, sample_weight, self.metric, None)
        ops, xp, k = samples.ops, samples.ops.xp, int(self.centroids.shape[0])
        with ops.quiet():
            self._bring(ops, k)
            laid = samples.laid(self.centroids)
            current = nearest_pass(samples, k, alone=True)
            sums, counts, _ = current.run(laid)
            squares = ops.cast(current.distances(laid), ops.wide)
            weights = xp.ones_like(squares) if samples.weights is None else ops.cast(samples.weights, ops.wide)
            before = self.centroids
            self.counts = self.counts + counts
            where = self.means if self.metric == "cosine" else laid
            share = 1 / xp.where(self.counts > 0, self.counts, xp.ones_like(counts))
            self._place(ops, self.means + (sums - counts[:, None] * where) * share[:, None])
            self._since += samples.n
            if self._since >= _BETWEEN_REVIVALS * k:
                self._since = 0
                self._revive(samples, current, squares * weights)
            self.n_batches += 1
            inertia, shift = ops.facts([xp.sum(squares * weights), xp.sum((self.centroids - before) ** 2)])
        return Followed(samples.to_face(current.labels), inertia, samples.total, shift)

    def _bring(self, ops: Any, k: int) -> None:
        """The state to where the batch is."""
        self.centroids, self.means = (ops.cast(like(ops, each), ops.wide) for each in (self.centroids, self.means))
        self.counts = ops.full((k,), 0.0, ops.wide) if self.counts is None else ops.cast(like(ops, self.counts), ops.wide)

    def _place(self, ops: Any, means: Array) -> None:
        xp = ops.xp
        self.means = means
        if self.metric != "cosine":
            self.centroids = means
            return
        length = xp.sqrt(xp.sum(means * means, axis=-1))[:, None]
        some = length > 8 * float(xp.finfo(ops.wide).eps)
        self.centroids = xp.where(some, means / xp.where(some, length, xp.ones_like(length)), self.centroids)

    def _revive(self, samples: Samples, current: Pass, chance: Array) -> None:
        """Move centroids that hardly any sample is nearest to."""
        ops, xp = samples.ops, samples.ops.xp
        counts = ops.to_numpy(self.counts)
        starved = np.flatnonzero(counts < self.ratio * counts.max())
        starved = starved[np.argsort(counts[starved], kind="stable")][: samples.n // 2]
        if not len(starved) or ops.facts([xp.sum(chance)])[0] <= 0:
            return
        drawn = ops.to_numpy(RowLots(samples).draw(chance, len(starved), self.seed, self.n_batches))
        _, first = np.unique(drawn, axis=0, return_index=True)
        drawn = drawn[np.sort(first)]
        starved = starved[: len(drawn)]
        if self.metric == "cosine":
            drawn = ops.to_numpy(samples.laid(ops.asarray(drawn, dtype=ops.wide)))
        means, counts = ops.to_numpy(self.means).copy(), counts.copy()
        means[starved] = drawn
        counts[starved] = np.delete(counts, starved).min()
        self.counts = ops.asarray(counts, dtype=ops.wide)
        self._place(ops, ops.asarray(means, dtype=ops.wide))
