"""How many clusters there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otcluster._ops.generic import Array
from otcluster.checks import check_seed, check_whole
from otcluster.clustering.criteria import BIC, CountCriterion
from otcluster.clustering.fits import Fits
from otcluster.clustering.kmeans import KMeansResult
from otcluster.clustering.samples import Geometry


@dataclass(frozen=True, eq=False)
class ClusterCountResult:
    """What :func:`choose_n_clusters` found: the answer, and the curve that it was read from."""

    n_clusters: int
    """The number that the criterion chose."""
    candidates: tuple[int, ...]
    """The numbers that were judged, ascending."""
    values: npt.NDArray[np.float64]
    """The value of each candidate, (len(candidates),), on the host; larger is better. What it is depends on the criterion."""
    criterion: CountCriterion
    """What judged."""
    best: KMeansResult
    """The clustering of all samples into ``n_clusters``."""

    def __repr__(self) -> str:
        return (
            f"ClusterCountResult(n_clusters={self.n_clusters}, candidates={self.candidates[0]}..{self.candidates[-1]}, "
            f"criterion={self.criterion!r})"
        )


def choose_n_clusters(
    x: Array,
    candidates: int | Iterable[int] = 20,
    *,
    criterion: CountCriterion | None = None,
    metric: Geometry = "sqeuclidean",
    n_init: int = 1,
    seed: int | np.random.Generator = 0,
) -> ClusterCountResult:
    """Find how many clusters samples have, with the curve that says how clear it is.

    No criterion is right everywhere: look at ``values``, and try a second one. Where k is given by the use, as for an index or
    a codebook, use :func:`kmeans`.

    Args:
        x: Samples (n, dim), finite, all in memory.
        candidates: The numbers to judge; or the largest, for all from 1 on. :class:`SplitAndMerge` searches between the
            smallest and the largest.
        criterion: :class:`BIC` (the default), :class:`PredictionStrength` or :class:`SplitAndMerge`.
        metric: ``"sqeuclidean"`` or ``"cosine"``, as in :func:`kmeans`.
        n_init: Random starts of each k-means. Numbers that are tried one after the other have another start: of more
            clusters, those that it costs least to merge are merged.
        seed: Of starts and splits, or a NumPy generator to draw it from.

    Returns:
        The number, the curve and the clustering.

    Raises:
        TypeError: An argument has the wrong type or dtype, or ``x`` is a file.
        ValueError: There are no candidates, one is below 1 or above what the samples allow, or ``x`` has the wrong shape or is
            not finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(300, 2)) + 20 * (np.arange(300)[:, None] // 100)
        >>> result = choose_n_clusters(x, range(1, 8))
        >>> result.n_clusters, result.candidates[result.values.argmax()], result.best.centroids.shape
        (3, 3, (3, 2))
    """
    criterion = BIC() if criterion is None else criterion
    if isinstance(criterion, type) or not isinstance(criterion, CountCriterion):
        raise TypeError(
            f"criterion must be BIC(), PredictionStrength(), SplitAndMerge() or have their method curve, got {criterion!r}"
        )
    if hasattr(x, "read"):
        raise TypeError("x must be in memory, got what reads it from a file: choose by some of the rows, x.rows(indices)")
    chosen = _checked(candidates)
    fits = Fits(x, metric, n_init, check_seed(seed))
    if chosen[-1] > fits.n:
        raise ValueError(f"candidates must be at most the number of samples, {fits.n}, got {chosen[-1]}")
    curve = criterion.curve(fits, chosen)
    return ClusterCountResult(curve.n_clusters, curve.candidates, curve.values, criterion, curve.best)


def _checked(candidates: Any) -> tuple[int, ...]:
    if isinstance(candidates, str) or not (isinstance(candidates, Iterable) or hasattr(candidates, "__index__")):
        raise TypeError(f"candidates must be the largest number of clusters, or several numbers, got {candidates!r}")
    if not isinstance(candidates, Iterable) or getattr(candidates, "ndim", 1) == 0:
        return tuple(range(1, check_whole("candidates", candidates, 1) + 1))
    given = {check_whole("candidates", number, 1) for number in candidates}
    if not given:
        raise ValueError("candidates must hold at least one number, got none")
    return tuple(sorted(given))
