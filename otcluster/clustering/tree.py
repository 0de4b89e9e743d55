"""Clusters of clusters, and balanced samples from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from otcluster._ops import select
from otcluster._ops.generic import Array
from otcluster.checks import check_seed, check_whole
from otcluster.clustering.picking import Numbers, Pick, check_rule, picked, water_filled


@dataclass(frozen=True, eq=False)
class ClusterTree:
    """Clusters of samples (level 1), clusters of those (level 2), and so on: what :func:`hierarchical_kmeans` found.

    Arrays are of the library of the samples, and on their device.
    """

    centroids: tuple[Array, ...]
    """Of each level, the first first: (clusters of the level, dim). A centroid of a level above the first stands for
    clusters of the level below."""
    labels: Array
    """(n_samples,) int64: the cluster of level 1 of each sample."""
    parents: tuple[Array, ...]
    """Of each level but the last: the cluster of the next level in which each cluster lies, (clusters of the level,) int64."""
    distances: Array
    """(n_samples,): squared distance of each sample to the centroid of its cluster of level 1."""

    def __repr__(self) -> str:
        return f"ClusterTree(n_clusters={self.n_clusters}, n_samples={self.n_samples})"

    @property
    def n_levels(self) -> int:
        """How many levels there are."""
        return len(self.centroids)

    @property
    def n_clusters(self) -> tuple[int, ...]:
        """How many clusters each level has, the first first."""
        return tuple(int(points.shape[0]) for points in self.centroids)

    @property
    def n_samples(self) -> int:
        """How many samples there are."""
        return int(self.labels.shape[0])

    def labels_at(self, level: int) -> Array:
        """The cluster of each sample at a level from 1, (n_samples,) int64.

        Raises:
            TypeError, ValueError: There is no such level.
        """
        xp, labels = select(self.labels, "labels").xp, self.labels
        for parents in self.parents[: self._level(level) - 1]:
            labels = xp.take(parents, labels, axis=0)
        return labels

    def sizes(self, level: int) -> Array:
        """How many samples lie in each cluster of a level, (clusters of the level,) int64.

        Raises:
            TypeError, ValueError: There is no such level.
        """
        ops = select(self.labels, "labels")
        return ops.asarray(self._sizes[self._level(level) - 1], dtype=ops.integer)

    def children(self, level: int, cluster: int) -> Array:
        """What lies in a cluster: clusters of the level below, or samples at level 1. Ascending int64.

        Raises:
            TypeError, ValueError: There is no such level or cluster.
        """
        at = self._level(level) - 1
        if check_whole("cluster", cluster, 0) >= self.n_clusters[at]:
            raise ValueError(f"cluster must be from 0 to {self.n_clusters[at] - 1} at level {level}, got {cluster}")
        ops = select(self.labels, "labels")
        return ops.asarray(np.sort(self._members(at, cluster)), dtype=ops.integer)

    def sample(self, n: int, *, seed: int | np.random.Generator = 0, rule: Pick | None = None) -> Array:
        """Take ``n`` samples, balanced over the tree.

        From the top, the number is divided equally among the clusters of a level. What small clusters cannot give is shared
        equally by the others, and what does not come out even is drawn by lot. Each cluster divides its share among its
        children in the same way, down to the samples.

        Args:
            n: How many, at most as many as there are.
            seed: Of all that is left to chance, or a NumPy generator to draw it from.
            rule: Which samples of a cluster of level 1: :class:`PickRandom` (the default), :class:`PickNearest` or
                :class:`PickFarthest`.

        Returns:
            (n,) int64: exactly ``n`` different indices, ascending.

        Raises:
            TypeError: ``n`` or ``seed`` is no whole number, or ``rule`` is none.
            ValueError: ``n`` is negative or there are not as many samples.
        """
        n, rule = check_whole("n", n, 0), check_rule(rule)
        if n > self.n_samples:
            raise ValueError(f"n must be at most the number of samples, {self.n_samples}, got {n}: none is taken twice")
        rng = np.random.default_rng(check_seed(seed))
        quotas = water_filled(self._sizes[-1], n, rng)
        for level in range(self.n_levels - 1, 0, -1):
            below = self._sizes[level - 1]
            divided = np.zeros(len(below), np.int64)
            for cluster in np.flatnonzero(quotas):
                own = self._members(level, int(cluster))
                divided[own] = water_filled(below[own], int(quotas[cluster]), rng)
            quotas = divided
        ops = select(self.labels, "labels")
        distances = select(self.distances, "distances").to_numpy(self.distances)
        return ops.asarray(picked(self._places[0], distances, quotas, rule, rng), dtype=ops.integer)

    def _level(self, level: Any) -> int:
        if (number := check_whole("level", level, 1)) > self.n_levels:
            raise ValueError(f"level must be from 1 to {self.n_levels}, got {number}: level 1 has the clusters of samples")
        return number

    @cached_property
    def _places(self) -> list[Numbers]:
        """On the host: the cluster of each sample, then that of each cluster of level 1, and so on."""
        ops = select(self.labels, "labels")
        return [np.asarray(ops.to_numpy(each)) for each in (self.labels, *self.parents)]

    @cached_property
    def _sizes(self) -> list[Numbers]:
        """Samples in each cluster, of each level."""
        counts = np.ones(self.n_samples, np.int64)
        found = []
        for places, k in zip(self._places, self.n_clusters, strict=True):
            below, counts = counts, np.zeros(k, np.int64)
            np.add.at(counts, places, below)
            found.append(counts)
        return found

    @cached_property
    def _orders(self) -> list[tuple[Numbers, Numbers]]:
        """Of each level: what lies below, sorted by cluster, and where each cluster begins."""
        found = []
        for places, k in zip(self._places, self.n_clusters, strict=True):
            order = np.argsort(places, kind="stable")
            found.append((order, np.searchsorted(places[order], np.arange(k + 1))))
        return found

    def _members(self, at: int, cluster: int) -> Numbers:
        order, edges = self._orders[at]
        return order[edges[cluster] : edges[cluster + 1]]
