"""What a number of clusters is judged by: how well Gaussians fit, or whether one half of the samples foretells the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from otcluster._ops.generic import Array
from otcluster.checks import check_whole
from otcluster.clustering.fits import Fits
from otcluster.clustering.kmeans import KMeansResult
from otcluster.clustering.picking import Numbers

_LEAST_SHARE = 1e-12  # of the variance of all samples, that a cluster of copies has


class Curve(NamedTuple):
    """What a criterion found."""

    n_clusters: int
    candidates: tuple[int, ...]
    values: Numbers
    best: KMeansResult


@runtime_checkable
class CountCriterion(Protocol):
    """What :func:`otcluster.choose_n_clusters` takes as ``criterion``."""

    def curve(self, fits: Fits, candidates: Sequence[int]) -> Curve:
        """Judge the candidates, which ascend, and choose one."""
        ...


@dataclass(frozen=True)
class BIC:
    """The Bayesian information criterion of round Gaussians, one for each cluster: the k of the largest value is chosen.

    With the clusters of k-means, n_c samples each whose squared distances to the centroid sum to W_c, the value is

        sum_c n_c (log(n_c / n) - d / 2 log(2 pi v_c)) - W_c / (2 v_c)  -  p / 2 log(n),   p = (k - 1) + k d + k

    where v_c is the variance of the cluster in each of the d coordinates, (W_c + d v) / (d (n_c + 1)): its own, and by one
    sample that of all clusters, v = sum_c W_c / (d n), so that a single sample is no cluster of variance zero.

    It needs one clustering for each candidate. It takes clusters that are not round for several, and in high dimension counts
    d + 2 numbers for each: a cluster of m samples at a distance of D of its standard deviations is only worth its numbers
    where m D² is well above (d + 2) log(n). Where coordinates depend on each other, take :class:`PredictionStrength`, or
    reduce the dimension first.

    Example:
        >>> import otcluster as otc
        >>> x = np.random.default_rng(0).normal(size=(90, 2)) + 20 * (np.arange(90)[:, None] // 30)
        >>> result = otc.choose_n_clusters(x, 6, criterion=otc.BIC())
        >>> result.n_clusters, (result.values - result.values.max()).round(1)
        (3, array([-394.2, -243.8,    0. ,  -10. ,  -17.7,  -27.4]))

    Source: Schwarz, "Estimating the dimension of a model" (1978); of k-means: Pelleg & Moore, "X-means" (2000), who have one
    variance for all clusters.
    """

    def curve(self, fits: Fits, candidates: Sequence[int]) -> Curve:
        found = fits.of_all(candidates)
        values = np.array([self.value(fits, result) for result in found])
        best = int(values.argmax())
        return Curve(candidates[best], tuple(candidates), values, found[best])

    def value(self, fits: Fits, result: KMeansResult) -> float:
        """The criterion of one clustering."""
        return _bic(*fits.within(result), fits.dim, _LEAST_SHARE * fits.samples.variance)

    def are_two(self, rows: Numbers, second: Numbers) -> bool:
        """Whether two Gaussians fit samples (m, d) better than one does, where ``second``, (m,), says who is in the second."""
        around = rows - rows.mean(axis=0)
        least = _LEAST_SHARE * float((around**2).mean())
        one = _bic(np.array([len(rows)]), np.array([(around**2).sum()]), rows.shape[1], least)
        parts = [rows[~second], rows[second]]
        within = np.array([((part - part.mean(axis=0)) ** 2).sum() for part in parts])
        return _bic(np.array([len(part) for part in parts]), within, rows.shape[1], least) > one


def _bic(counts: Numbers, within: Numbers, dim: int, least: float) -> float:
    counts, within = counts[counts > 0].astype(np.float64), within[counts > 0]
    n, k = float(counts.sum()), len(counts)
    pooled = max(float(within.sum()) / (dim * n), least, np.finfo(np.float64).tiny)
    variance = (within + dim * pooled) / (dim * (counts + 1))
    fit = counts * (np.log(counts / n) - dim / 2 * np.log(2 * math.pi * variance)) - within / (2 * variance)
    return float(fit.sum()) - ((k - 1) + k * dim + k) / 2 * math.log(n)


@dataclass(frozen=True)
class PredictionStrength:
    """Whether the clusters of one half of the samples are found again in the other: the largest k that still is, is chosen.

    The samples are split in halves. Both are clustered, and of each pair of samples that share a cluster of the second half it
    is asked whether they are nearest to the same centroid of the first. The value is the share of such pairs in the cluster
    where it is least, 0 for a cluster of one sample; the mean is taken over several splits. For k = 1 it is 1.

    It asks nothing of the shape of the clusters but that k-means finds them again, takes ``splits`` times the work of
    :class:`BIC`, and sees no cluster of which halves have but a sample or two.

    Args:
        threshold: The value that the chosen k must have, from 0 to 1. The authors take 0.8 to 0.9.
        splits: How many.

    Raises:
        TypeError: A number is none.
        ValueError: It is out of range.

    Example:
        >>> import otcluster as otc
        >>> x = np.random.default_rng(0).normal(size=(90, 2)) + 20 * (np.arange(90)[:, None] // 30)
        >>> result = otc.choose_n_clusters(x, 6, criterion=otc.PredictionStrength())
        >>> result.n_clusters, result.values.round(2)
        (3, array([1.  , 0.5 , 1.  , 0.62, 0.5 , 0.44]))

    Source: Tibshirani & Walther, "Cluster validation by prediction strength" (2005).
    """

    threshold: float = 0.8
    splits: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)):
            raise TypeError(f"threshold must be a number, got {self.threshold!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold}")
        check_whole("splits", self.splits, 1)

    def curve(self, fits: Fits, candidates: Sequence[int]) -> Curve:
        if fits.n < 2 * candidates[-1]:
            raise ValueError(f"halves of {fits.n} samples cannot have {candidates[-1]} clusters: take fewer candidates")
        rng = np.random.default_rng(fits.seed)
        values = np.zeros(len(candidates))
        for split in range(self.splits):
            order = rng.permutation(fits.n)
            halves = [fits.rows(np.sort(half)) for half in np.array_split(order, 2)]
            train, test = (fits.path(half, candidates, fits.seed + split) for half in halves)
            pairs = zip(train, test, strict=True)
            values += [self._strength(fits, one.centroids, other, halves[1]) for one, other in pairs]
        values /= self.splits
        enough = np.flatnonzero(values >= self.threshold)
        best = int(enough[-1]) if len(enough) else int(values.argmax())
        return Curve(candidates[best], tuple(candidates), values, fits.of_all(candidates[best:])[0])

    def _strength(self, fits: Fits, centroids: Array, result: KMeansResult, test: Array) -> float:
        own, given = fits.labels(result), fits.nearest(test, centroids)
        k = int(centroids.shape[0])
        together = np.zeros((k, k))
        np.add.at(together, (own, given), 1)
        sizes = together.sum(axis=1)
        pairs = np.maximum(sizes * (sizes - 1), 1)
        return float(((together * (together - 1)).sum(axis=1) / pairs).min())
