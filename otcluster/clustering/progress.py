"""What k-means tells while it runs, and goes on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from otcluster._ops.generic import Array


@dataclass(frozen=True, eq=False)
class KMeansProgress:
    """How far one start of :func:`otcluster.kmeans` has come; as ``init`` of another call, where that goes on.

    Args:
        centroids: (n_clusters, dim) after ``n_iter`` rounds, in the coordinates of the samples, float64 where the device has
            it, in the library of the samples.
        n_iter: Rounds done; 0 when the start has been drawn.
        converged: Whether this was the last round because nothing moves any more.
        turn: Which of the ``n_init`` starts this is, from 0.
        changed: Share of the samples that the last round gave to another cluster; 1 where that is not known: in the first
            round, of soft plans, and where an empty cluster was filled.
        shift: Squared distances that the centroids moved in the last round, summed, as a share of the mean variance of the
            coordinates: what ``tol`` is compared with.
        seconds: Since this start, or since it was gone on with.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> x = np.random.default_rng(0).normal(size=(500, 2))
        >>> seen = []
        >>> result = otc.kmeans(x, 8, progress=seen.append)
        >>> [each.n_iter for each in seen] == list(range(result.n_iter + 1))
        True
        >>> again = otc.kmeans(x, 8, init=KMeansProgress(seen[3].centroids, 3))
        >>> again.n_iter == result.n_iter and bool(np.all(again.labels == result.labels))
        True
    """

    centroids: Array
    n_iter: int
    converged: bool = False
    turn: int = 0
    changed: float = 1.0
    shift: float = float("inf")
    seconds: float = 0.0


Watcher: TypeAlias = Callable[[KMeansProgress], None]
