"""k-means for many numbers of clusters: the larger ones show the smaller where to begin."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from otcluster._ops.generic import Array
from otcluster.clustering.kmeans import KMeansResult, kmeans
from otcluster.clustering.passes import own_distances
from otcluster.clustering.picking import Numbers
from otcluster.clustering.samples import Geometry, Samples
from otcluster.scores import PointScores
from otcluster.solve import nearest

_OVER = 2  # clusters that merging begins with, in multiples of the largest number asked for


class Fits:
    """The samples, and k-means of them for any number of clusters.

    Attributes:
        samples: In the coordinates of the metric.
        n: How many.
        dim: Coordinates that a sample may differ in: for the cosine one less, since directions have length one.
        seed: Of everything random.
    """

    def __init__(self, x: Any, metric: Geometry, n_init: int, seed: int) -> None:
        self.x, self._metric, self._n_init, self.seed = x, metric, n_init, seed
        self.samples = Samples(x, None, metric, None)
        self.n = self.samples.n
        self.dim = max(1, self.samples.dim - (metric == "cosine"))

    def fit(self, x: Any, k: int, seed: int, *, init: Array | None = None) -> KMeansResult:
        """Cluster some samples."""
        with warnings.catch_warnings():  # more clusters than distinct samples are no fault where k is tried
            warnings.filterwarnings("ignore", ".*hold no sample", UserWarning)
            return kmeans(x, k, metric=self._metric, n_init=self._n_init, seed=seed, init=init)

    def of_all(self, candidates: Sequence[int]) -> list[KMeansResult]:
        """The clustering of all samples into each of some ascending numbers."""
        return self.path(self.x, candidates, self.seed)

    def path(self, x: Any, candidates: Sequence[int], seed: int) -> list[KMeansResult]:
        """The clustering of some samples into each of some ascending numbers.

        Where clusters lie apart, k-means from random starts often has two centroids in one and one in two. So each number has
        another start: of more clusters than are asked for, those that it costs least to merge are merged, down to that number.
        The better clustering is kept, and merging goes on from there.
        """
        n = int(x.shape[0])
        best = self.fit(x, min(n, _OVER * candidates[-1]), seed)
        found = []
        for k in reversed(candidates):
            fresh = self.fit(x, k, seed)
            if k < int(best.centroids.shape[0]):
                best = self.fit(x, k, seed, init=self._merged(best, k))
            best = min(fresh, best, key=lambda result: result.inertia)
            found.append(best)
        return found[::-1]

    def _merged(self, result: KMeansResult, k: int) -> Array:
        """Centroids (k, dim) in the coordinates of the caller."""
        samples, ops = self.samples, self.samples.ops
        points = np.asarray(ops.to_numpy(samples.laid(samples.from_face(result.centroids))))
        counts = np.bincount(self.labels(result), minlength=len(points))
        merged = ops.asarray(merged_down(points, counts, k), dtype=ops.wide)
        return samples.to_face(samples.given_back(merged))

    def rows(self, indices: Numbers) -> Array:
        """Some of the samples, as they were given."""
        face = self.samples.face
        return face.xp.take(self.x, face.asarray(indices, dtype=face.integer), axis=0)

    def nearest(self, x: Array, centroids: Array) -> Numbers:
        """Which centroid is nearest to each of some samples, on the host."""
        labels = nearest(PointScores(x, centroids, metric=self._metric), check_values=False).labels()
        return np.asarray(self.samples.face.to_numpy(labels))

    def labels(self, result: KMeansResult) -> Numbers:
        """Labels of a result, on the host."""
        return np.asarray(self.samples.face.to_numpy(result.labels))

    def within(self, result: KMeansResult) -> tuple[Numbers, Numbers]:
        """Samples in each cluster, and the sum of their squared distances to its centroid, (k,) each."""
        samples, labels = self.samples, self.labels(result)
        k = int(result.centroids.shape[0])
        with samples.ops.quiet():
            laid = samples.laid(samples.from_face(result.centroids))
            far = own_distances(samples, samples.from_face(result.labels), laid)
        far = np.asarray(samples.ops.to_numpy(far), np.float64)
        return np.bincount(labels, minlength=k), np.bincount(labels, weights=far, minlength=k)


def merged_down(points: Numbers, counts: Numbers, k: int) -> Numbers:
    """Merge clusters two by two, each time those whose sum of squares grows least, until ``k`` are left (Ward).

    Args:
        points: Centroids (m, dim), float64.
        counts: Samples of each, (m,).
        k: At most m.

    Returns:
        Centroids (k, dim).

    Source: Ward, "Hierarchical grouping to optimize an objective function" (1963).
    """
    points, counts = points.copy(), counts.astype(np.float64)
    squares = (points**2).sum(axis=1)
    cost = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0) * _harmonic(counts[:, None], counts)
    np.fill_diagonal(cost, np.inf)
    alive = np.ones(len(points), bool)
    for _ in range(len(points) - k):
        one, other = divmod(int(cost.argmin()), len(points))
        total = counts[one] + counts[other]
        share = counts[other] / total if total > 0 else 0.0
        points[one] += share * (points[other] - points[one])
        counts[one], alive[other] = total, False
        cost[other], cost[:, other] = np.inf, np.inf
        new = ((points - points[one]) ** 2).sum(axis=1) * _harmonic(counts, total)
        new[~alive] = np.inf
        new[one] = np.inf
        cost[one], cost[:, one] = new, new
    return points[alive]


def _harmonic(a: Any, b: Any) -> Any:
    total = a + b
    return a * b / np.where(total > 0, total, 1)
