"""Where k-means begins: samples far from each other, the same for any split of the rows over ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from otcluster._ops.generic import Array
from otcluster.checks import check_whole
from otcluster.clustering.bounded import nearest_pass
from otcluster.clustering.lots import RowLots
from otcluster.clustering.passes import nearer_squares
from otcluster.clustering.samples import Samples


@runtime_checkable
class Start(Protocol):
    """What :func:`otcluster.kmeans` takes as ``init``, beside centroids and results."""

    def draw(self, samples: Samples, n_clusters: int, seed: int) -> Array:
        """Centroids (n_clusters, dim) in the coordinates of the samples, in the wide dtype; the same on all ranks."""
        ...


@dataclass(frozen=True)
class KMeansPlusPlus:
    """Draw samples one after the other, each likelier the farther it is from those drawn (greedy k-means++).

    For each, a few are drawn with a probability proportional to weight times squared distance to the nearest one so far,
    and the one that leaves the least inertia is kept. Where no sample is left that differs from those drawn, some are drawn
    again. Reads the samples ``n_clusters`` times: prefer :class:`KMeansParallel` for thousands of clusters.

    Args:
        n_candidates: How many are drawn for each centroid. Default: 2 + log(n_clusters), as in scikit-learn.

    Raises:
        TypeError: ``n_candidates`` is no whole number.
        ValueError: It is not positive.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> x = np.array([[0.0], [0.1], [9.0]])
        >>> otc.kmeans(x, 2, init=otc.KMeansPlusPlus()).centroids
        array([[0.05],
               [9.  ]])

    Source: Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding" (2007).
    """

    n_candidates: int | None = None

    def __post_init__(self) -> None:
        if self.n_candidates is not None:
            check_whole("n_candidates", self.n_candidates, 1)

    def draw(self, samples: Samples, n_clusters: int, seed: int) -> Array:
        ops, xp = samples.ops, samples.ops.xp
        lots = RowLots(samples)
        tries = self.n_candidates or 2 + int(math.log(n_clusters))
        drawn = [samples.laid(lots.draw(_weights(samples), 1, seed, 0))[0, :]]
        far = nearer_squares(samples, drawn[0][None, :], None)[0][:, 0]
        for turn in range(1, n_clusters):
            chance = far if samples.weights is None else far * samples.weights
            if samples.summed(xp.sum(ops.cast(chance, ops.wide))[None])[0] <= 0:
                chance = _weights(samples)  # all are copies of those drawn
            candidates = samples.laid(lots.draw(chance, tries, seed, turn))
            left, spread = nearer_squares(samples, candidates, far)
            best = int(xp.argmin(samples.summed(spread)))
            drawn.append(candidates[best, :])
            far = left[:, best]
        return xp.stack(drawn)


@dataclass(frozen=True)
class KMeansParallel:
    """Draw many samples in a few rounds and cluster those (k-means||).

    In each round every sample is drawn with a probability proportional to weight times squared distance to the nearest one so
    far. The samples drawn, weighted by how many are nearest to each, are reduced to ``n_clusters`` by k-means++. Reads the
    samples once a round instead of once a centroid; the start is about as good.

    Args:
        oversampling: How many samples to draw in each round, in multiples of ``n_clusters``.
        rounds: How many rounds.

    Raises:
        TypeError: An argument is no number.
        ValueError: It is not positive.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> x = np.array([[0.0], [0.1], [9.0]])
        >>> otc.kmeans(x, 2, init=otc.KMeansParallel()).centroids
        array([[0.05],
               [9.  ]])

    Source: Bahmani et al., "Scalable k-means++" (2012).
    """

    oversampling: float = 2.0
    rounds: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.oversampling, bool) or not isinstance(self.oversampling, (int, float)):
            raise TypeError(f"oversampling must be a number, got {self.oversampling!r}")
        if not 0 < self.oversampling < math.inf:
            raise ValueError(f"oversampling must be positive and finite, got {self.oversampling}")
        check_whole("rounds", self.rounds, 1)

    def draw(self, samples: Samples, n_clusters: int, seed: int) -> Array:
        ops, xp = samples.ops, samples.ops.xp
        lots = RowLots(samples)
        first = lots.draw(_weights(samples), 1, seed, 0)
        far = nearer_squares(samples, samples.laid(first), None)[0][:, 0]
        chosen = []
        for turn in range(1, self.rounds + 1):
            chance = far if samples.weights is None else far * samples.weights
            total = float(samples.summed(ops.column_sum(chance[:, None]))[0])
            if total <= 0:
                break
            chosen.append(lots.each(chance, self.oversampling * n_clusters / total, seed, turn, 1))
            far = _nearer(samples, samples.laid(chosen[-1]), far)
        # As they were given, so that what is drawn among them does not depend on the rounding of the centre.
        few = xp.concat([ops.cast(first, samples.dtype), *chosen])
        weights = samples.summed(nearest_pass(samples, int(few.shape[0]), alone=True).run(samples.laid(few)).counts)
        kept = ops.asarray(np.flatnonzero(ops.to_numpy(weights) > 0))
        candidates = Samples(xp.take(few, kept, axis=0), xp.take(weights, kept), samples.metric, None)
        drawn = KMeansPlusPlus().draw(candidates, n_clusters, seed)
        return samples.laid(candidates.given_back(drawn))


def _weights(samples: Samples) -> Array:
    return samples.ops.full((samples.n,), 1.0, samples.dtype) if samples.weights is None else samples.weights


def _nearer(samples: Samples, points: Array, far: Array) -> Array:
    """Squared distance of each row to the nearest point, or ``far`` where that is less: (n,)."""
    if not points.shape[0]:
        return far
    found = nearest_pass(samples, int(points.shape[0]), alone=True)
    found.run(points)
    return samples.ops.xp.minimum(found.distances(points), far)
