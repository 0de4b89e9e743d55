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
_MOST_TURNS = 100


@runtime_checkable
class SplitTest(Protocol):
    """What :class:`SplitAndMerge` takes as ``test``."""

    def are_two(self, rows: Numbers, second: Numbers) -> bool:
        """Whether samples (m, d), float64, are two clusters, where ``second``, (m,), says who would be in the second."""
        ...


@dataclass(frozen=True)
class AndersonDarling:
    """Two clusters are one if their samples, seen along the line between the centroids, look normal (G-means).

    Only that line is looked at, so that clusters need not be round; a few strays make it see two. Fewer than 8 samples are always one cluster.

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
    """Begin with few clusters, split those that are two, merge those that are one, and again.

    Each cluster is divided by k-means with k = 2, and the division stays where the test finds two. k-means of all samples goes
    on from the centroids; then clusters are merged with those nearest to them where the test finds one. It ends where nothing
    is left to do, at a clustering that was there before, or at the largest candidate. Candidates in between are visited as it
    comes; the values of the curve are those of :class:`BIC`, and do not choose.

    Few clusterings are needed however many candidates there are, so it is the one for many clusters. A merge undoes a
    division of what is one; clusters that overlap are told apart by no test.

    Args:
        test: :class:`BIC` (the default, as in X-means) or :class:`AndersonDarling` (as in G-means), for clusters that are not
            round.

    Raises:
        TypeError: ``test`` is none.

    Example:
        >>> import otcluster as otc
        >>> x = np.random.default_rng(0).normal(size=(300, 2)) + 20 * (np.arange(300)[:, None] // 30)
        >>> otc.choose_n_clusters(x, 100, criterion=otc.SplitAndMerge()).n_clusters
        10

    Source: Pelleg & Moore, "X-means" (2000); Hamerly & Elkan, "Learning the k in k-means" (2003).
    """

    test: SplitTest | None = None

    def __post_init__(self) -> None:
        if self.test is not None and (isinstance(self.test, type) or not isinstance(self.test, SplitTest)):
            raise TypeError(f"test must be AndersonDarling(), BIC() or have their method are_two, got {self.test!r}")

    def curve(self, fits: Fits, candidates: Sequence[int]) -> Curve:
        search = _Search(fits, BIC() if self.test is None else self.test, candidates[0], candidates[-1])
        found: dict[int, tuple[float, KMeansResult]] = {}
        for result in search.visited():
            k, value = int(result.centroids.shape[0]), BIC().value(fits, result)
            if k not in found or value > found[k][0]:
                found[k] = value, result
        visited = tuple(sorted(found))
        chosen = int(search.result.centroids.shape[0])
        return Curve(chosen, visited, np.array([found[k][0] for k in visited]), search.result)


class _Search:
    """The clustering that is split and merged, and its samples on the host."""

    def __init__(self, fits: Fits, test: SplitTest, least: int, most: int) -> None:
        self.fits, self.test, self.least, self.most = fits, test, least, most
        samples = fits.samples
        with samples.ops.quiet():
            blocks = [samples.prepared(block, rows) for rows, block in samples.blocks()]
        self.rows: Numbers = np.concatenate([np.asarray(samples.ops.to_numpy(block), np.float64) for block in blocks])
        self.result = fits.fit(fits.x, least, fits.seed)

    def visited(self) -> Iterator[KMeansResult]:
        """Every clustering on the way."""
        seen: set[tuple[int, float]] = set()
        yield self.result
        for _ in range(_MOST_TURNS):
            state = len(self.result.centroids), self.result.inertia
            if state in seen:
                return
            seen.add(state)
            changed = False
            for move in (self._split, self._merged):
                centroids = move()
                if centroids is not None:
                    changed = True
                    self.result = self._fit(centroids)
                    yield self.result
            if not changed:
                return

    def _split(self) -> Numbers | None:
        """Centroids (float64, in the coordinates of the samples) with those clusters divided that are two; None if none is."""
        labels = self.fits.labels(self.result)
        k = len(self.result.centroids)
        kept: list[Numbers] = []
        new: list[Numbers] = []
        for cluster in range(k):
            own = np.flatnonzero(labels == cluster)
            halves = self._halves(own) if k + len(new) < self.most else None
            if halves is not None and self.test.are_two(self.rows[own], halves):
                kept.append(self._mean(own[~halves]))
                new.append(self._mean(own[halves]))
            else:
                kept.append(self._mean(own) if len(own) else self._centroid(cluster))
        return np.stack(kept + new) if new else None

    def _halves(self, own: Numbers) -> Numbers | None:
        """Who would be in the second of two clusters of some samples."""
        if len(own) < 2 or not np.ptp(self.rows[own], axis=0).any():
            return None
        return self.fits.labels(self.fits.fit(self.fits.rows(own), 2, self.fits.seed)) == 1

    def _merged(self) -> Numbers | None:
        """Centroids with those pairs in one that are, each nearest to the other side first; None if there are none."""
        labels = self.fits.labels(self.result)
        k = len(self.result.centroids)
        members = [np.flatnonzero(labels == cluster) for cluster in range(k)]
        centroids = np.stack([self._mean(own) if len(own) else self._centroid(at) for at, own in enumerate(members)])
        taken = np.zeros(k, bool)
        merged: list[Numbers] = []
        for first, second in _near_pairs(centroids):
            if taken[first] or taken[second] or k - len(merged) <= self.least:
                continue
            both = np.concatenate([members[first], members[second]])
            if len(both) and self.test.are_two(self.rows[both], np.arange(len(both)) >= len(members[first])):
                continue
            taken[[first, second]] = True
            merged.append(self._mean(both) if len(both) else centroids[first])
        return np.concatenate([centroids[~taken], np.stack(merged)]) if merged else None

    def _mean(self, own: Numbers) -> Numbers:
        return self.rows[own].mean(axis=0)

    def _centroid(self, cluster: int) -> Numbers:
        samples = self.fits.samples
        return np.asarray(samples.ops.to_numpy(samples.laid(samples.from_face(self.result.centroids))[cluster, :]))

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
