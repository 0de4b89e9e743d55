"""Clusters that are split and merged until each is one and no two are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.special import log_ndtr

from otcluster.clustering.criteria import BIC, Curve
from otcluster.clustering.fits import Fits
from otcluster.clustering.kmeans import KMeansResult
from otcluster.clustering.picking import Numbers

_LEAST = 8  # samples: the corrected statistic of Anderson and Darling is stated from there on


@runtime_checkable
class SplitTest(Protocol):
    """What :class:`SplitAndMerge` takes as ``test``."""

    def are_two(self, rows: Numbers, second: Numbers) -> bool:
        """Whether samples (m, d), float64, are two clusters, where ``second``, (m,), says who would be in the second."""
        ...


@dataclass(frozen=True)
class AndersonDarling:
    """Two clusters are one if their samples, seen along the line between the centroids, look normal (G-means).

    Only that line is looked at, so that clusters need not be round; but a few strays, or the lack of them where a border was
    drawn too near, look like two. The line was chosen by the same samples: where these are not many times as many as
    their coordinates, anything looks like two along it. Fewer than 8 samples are always one cluster.

    Args:
        significance: How often samples of one Gaussian may be taken for two, from 1e-12 to 0.5.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(90, 2))
        >>> AndersonDarling().are_two(x, x[:, 0] > 0)
        False
        >>> x[45:, 0] += 9
        >>> AndersonDarling().are_two(x, x[:, 0] > 5)
        True

    Source: Hamerly & Elkan, "Learning the k in k-means" (2003); the statistic for unknown mean and variance, and its
    distribution: D'Agostino & Stephens, "Goodness-of-fit techniques" (1986), table 4.9.
    """

    significance: float = 1e-4

    def __post_init__(self) -> None:
        if isinstance(self.significance, bool) or not isinstance(self.significance, (int, float)):
            raise TypeError(f"significance must be a number, got {self.significance!r}")
        if not 1e-12 <= self.significance <= 0.5:
            raise ValueError(f"significance must be from 1e-12 to 0.5, got {self.significance}")

    def are_two(self, rows: Numbers, second: Numbers) -> bool:
        if len(rows) < _LEAST or second.all() or not second.any():
            return False
        line = rows[second].mean(axis=0) - rows[~second].mean(axis=0)
        along = np.sort(rows @ line)
        spread = float(along.std(ddof=1))
        if not spread > 0:
            return False
        return self._probability((along - along.mean()) / spread) < self.significance

    @staticmethod
    def _probability(ascending: Numbers) -> float:
        """How likely a normal sample is to look no more normal, for a statistic above 0.6; 1 below it."""
        n = len(ascending)
        odd = 2 * np.arange(1, n + 1) - 1
        statistic = -n - float((odd * (log_ndtr(ascending) + log_ndtr(-ascending[::-1]))).sum()) / n
        statistic *= 1 + 0.75 / n + 2.25 / n**2
        if statistic < 0.6:
            return 1.0
        return math.exp(1.2937 - 5.709 * statistic + 0.0186 * statistic**2) if statistic < 13 else 0.0


@dataclass(frozen=True)
class SplitAndMerge:
    """Begin with few clusters, split those that may be two until there are none, merge those that are one, and again.

    Each cluster is divided by k-means with k = 2, and the division stays where the first test finds two; k-means of all samples
    goes on from the centroids. Then clusters are merged with those nearest to them where the second test finds one. It ends
    where a clustering comes back. Numbers of clusters are visited as it comes, from the smallest candidate to the largest; the
    values of the curve are those of :class:`BIC`, and do not choose.

    It takes few clusterings however many candidates there are, so it is the one for many clusters. With the defaults clusters
    that are not round count as several; with ``merge=AndersonDarling()`` they need not be quite as round, and strays are more
    likely to be taken for clusters. Clusters that overlap so much that the tests see one stay one.

    Args:
        split: What must find two for a cluster to be split: :class:`AndersonDarling` (the default, as in G-means), which finds
            whatever is not one Gaussian, or :class:`BIC` (as in X-means), which misses many clusters that lie in a ball.
        merge: What must find two for clusters to stay apart: :class:`BIC` (the default) or :class:`AndersonDarling`.

    Raises:
        TypeError: An argument is no test.

    Example:
        >>> import otcluster as otc
        >>> x = np.random.default_rng(0).normal(size=(300, 2)) + 20 * (np.arange(300)[:, None] // 30)
        >>> otc.choose_n_clusters(x, 100, criterion=otc.SplitAndMerge()).n_clusters
        10

    Source: Pelleg & Moore, "X-means" (2000); Hamerly & Elkan, "Learning the k in k-means" (2003). Merging is ours.
    """

    split: SplitTest | None = None
    merge: SplitTest | None = None

    def __post_init__(self) -> None:
        for name, test in (("split", self.split), ("merge", self.merge)):
            if test is not None and (isinstance(test, type) or not isinstance(test, SplitTest)):
                raise TypeError(f"{name} must be AndersonDarling(), BIC() or have their method are_two, got {test!r}")

    def curve(self, fits: Fits, candidates: Sequence[int]) -> Curve:
        split = AndersonDarling() if self.split is None else self.split
        merge = BIC() if self.merge is None else self.merge
        search = _Search(fits, split, merge, candidates[0], candidates[-1])
        found: dict[int, float] = {}
        for result in search.visited():
            k = int(result.centroids.shape[0])
            found[k] = max(found.get(k, -math.inf), BIC().value(fits, result))
        visited = tuple(sorted(found))
        chosen = int(search.result.centroids.shape[0])
        return Curve(chosen, visited, np.array([found[k] for k in visited]), search.result)


class _Search:
    """The clustering that is split and merged, and its samples on the host."""

    def __init__(self, fits: Fits, split: SplitTest, merge: SplitTest, least: int, most: int) -> None:
        self.fits, self.split, self.merge, self.least, self.most = fits, split, merge, least, most
        samples = fits.samples
        with samples.ops.quiet():
            blocks = [samples.prepared(block, rows) for rows, block in samples.blocks()]
        self.rows: Numbers = np.concatenate([np.asarray(samples.ops.to_numpy(block), np.float64) for block in blocks])
        self.result = fits.fit(fits.x, least, fits.seed)

    def visited(self) -> Iterator[KMeansResult]:
        """Every clustering on the way."""
        seen: set[tuple[Any, float]] = set()
        yield self.result
        while (state := (tuple(self.result.centroids.shape), self.result.inertia)) not in seen:
            seen.add(state)
            for move in (self._divided, self._merged):
                for _ in range(self.most):
                    centroids = move()
                    if centroids is None:
                        break
                    self.result = self._fit(centroids)
                    yield self.result

    def _divided(self) -> Numbers | None:
        """Centroids (float64, in the coordinates of the samples) with clusters divided that may be two; None if none is.

        Where there is no room for all, those come first that leave the least sum of squares.
        """
        centroids, members = self._current()
        divided = []
        for cluster, own in enumerate(members):
            halves = self._halves(own) if len(members) < self.most else None
            if halves is not None and self.split.are_two(self.rows[own], halves):
                pair = self._mean(own[~halves]), self._mean(own[halves])
                gain = float(((pair[0] - pair[1]) ** 2).sum()) * halves.sum() * (~halves).sum() / len(own)
                divided.append((-gain, cluster, pair))
        divided.sort(key=lambda each: each[:2])
        new = []
        for _, cluster, pair in divided[: self.most - len(members)]:
            centroids[cluster] = pair[0]
            new.append(pair[1])
        return np.concatenate([centroids, np.stack(new)]) if new else None

    def _halves(self, own: Numbers) -> Numbers | None:
        """Who would be in the second of two clusters of some samples."""
        if len(own) < 2 or not np.ptp(self.rows[own], axis=0).any():
            return None
        return self.fits.labels(self.fits.fit(self.fits.rows(own), 2, self.fits.seed)) == 1

    def _merged(self) -> Numbers | None:
        """Centroids with those pairs in one that are, each nearest to the other side first; None if there are none."""
        centroids, members = self._current()
        k = len(members)
        taken = np.zeros(k, bool)
        merged: list[Numbers] = []
        for first, second in _near_pairs(centroids):
            if taken[first] or taken[second] or k - len(merged) <= self.least:
                continue
            both = np.concatenate([members[first], members[second]])
            if len(both) and self.merge.are_two(self.rows[both], np.arange(len(both)) >= len(members[first])):
                continue
            taken[[first, second]] = True
            merged.append(self._mean(both) if len(both) else centroids[first])
        return np.concatenate([centroids[~taken], np.stack(merged)]) if merged else None

    def _current(self) -> tuple[Numbers, list[Numbers]]:
        """Centroids (k, dim), float64, in the coordinates of the samples; and the samples of each."""
        samples, labels = self.fits.samples, self.fits.labels(self.result)
        centroids = np.array(samples.ops.to_numpy(samples.laid(samples.from_face(self.result.centroids))), np.float64)
        order = np.argsort(labels, kind="stable")
        return centroids, np.split(order, np.searchsorted(labels[order], np.arange(1, len(centroids))))

    def _mean(self, own: Numbers) -> Numbers:
        return self.rows[own].mean(axis=0)

    def _fit(self, centroids: Numbers) -> KMeansResult:
        samples = self.fits.samples
        given: Any = samples.given_back(samples.ops.asarray(centroids, dtype=samples.ops.wide))
        return self.fits.fit(self.fits.x, len(centroids), self.fits.seed, init=samples.to_face(given))


def _near_pairs(centroids: Numbers) -> list[tuple[int, int]]:
    """Each centroid and the one nearest to it, the nearest pairs first."""
    if len(centroids) < 2:
        return []
    squares = (centroids**2).sum(axis=1)
    far = squares[:, None] + squares - 2 * centroids @ centroids.T
    np.fill_diagonal(far, np.inf)
    other = far.argmin(axis=1)
    order = np.argsort(far.min(axis=1), kind="stable")
    return [(int(at), int(other[at])) for at in order]
