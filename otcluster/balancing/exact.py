"""Labels of one problem that meet the sizes with the largest sum of scores, and the prices that prove it.

Nearly right prices (:mod:`otcluster.balancing.smooth`) bring nearly all samples to their clusters, shortest paths
(:mod:`otcluster.balancing.paths`) the rest. They work with the pairs that one reading of the scores finds to be of interest;
another reading then proves that the other pairs offer nothing better, or shows which do, and the paths go on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otcluster.balancing.pairs import Floats, Ints, best_values, read_pairs
from otcluster.balancing.paths import Paths
from otcluster.balancing.smooth import warm_prices
from otcluster.checks import InfeasibleError
from otcluster.scores import PointScores, Scores

_FEW = 4096
"""Up to so many pairs all are of interest."""
_ROUNDINGS = 32
_MOST_CLUSTERS = 16_384
"""Of more, each of the arrays of clusters by clusters would take more than 2 GiB."""


class Balance(NamedTuple):
    """An answer for one problem."""

    labels: Ints
    prices: Floats
    """(k,); +inf for a closed cluster."""
    best: Floats
    """The largest of scores - prices of each sample."""
    gap: float
    """How far at most the sum of scores is from the largest one, relative to samples x range of the scores."""


def balance(scores: Scores, low: Ints, high: Ints, start: Floats | None = None) -> Balance:
    """Assign all samples, from ``low`` to ``high`` of them to each cluster, with the largest sum of scores.

    Args:
        scores: Of one problem, without batch dimensions or groups.
        low: Fewest samples of each cluster, (k,).
        high: Most samples of each, zero to close it.
        start: Prices to begin from, (k,).

    Raises:
        InfeasibleError: There is no such assignment; the message begins with what is wrong.
        ValueError: There are too many clusters.
    """
    n, k = scores.n_samples, scores.n_clusters
    if k > _MOST_CLUSTERS:
        raise ValueError(
            f"exact sizes are found for up to {_MOST_CLUSTERS:,} clusters, got {k:,}: their paths need arrays of clusters x "
            "clusters. Use LogSinkhorn, or cluster in two levels"
        )
    check_totals(low, high, n)
    is_open = high > 0
    if n == 0:
        return Balance(np.zeros(0, dtype=np.int64), np.where(is_open, 0.0, np.inf), np.zeros(0), 0.0)
    prices, window = np.zeros(k), np.inf
    if n * k > _FEW and k > 1:
        begin = None if start is None else (np.where(is_open & np.isfinite(start), start, 0.0), None)
        prices, window = warm_prices(scores, low, high, start=begin)
    placed: tuple[Ints, Floats] | None = None
    rounding = _ROUNDINGS * float(scores.ops.xp.finfo(scores.ops.wide).eps)  # of float32, where a library has no more
    tol = 0.0
    # Scores that are formed anew at each reading round otherwise each time, by the size of what they are formed of.
    rounded = max(map(abs, scores.ops.facts(scores.range_facts()))) if isinstance(scores, PointScores) else 0.0
    while True:
        entries, labels = read_pairs(scores, np.where(is_open, prices, np.inf), placed, max(window, 4 * tol), tol)
        if np.any(labels < 0):
            raise InfeasibleError(f"sample {int(np.argmin(labels))} may join no cluster whose size may exceed zero")
        tol = rounding * max(rounded, float(np.abs(entries.scores).max()), float(np.abs(prices).max()))
        paths = Paths(scores, entries, labels, prices, low, high, window, tol)
        met = paths.run()
        prices = paths.prices[:-1] - paths.prices[-1]
        placed = labels, paths.own
        if met:
            best, least, greatest = best_values(scores, np.where(is_open, prices, np.inf))
            lost = best - (paths.own - prices[labels])
            if float(lost.max()) <= tol:
                break
            window = max(2 * window, 4 * tol)
        elif not paths.moves:
            raise InfeasibleError(paths.what_is_short())
    counts = np.bincount(labels, minlength=k)
    width = (greatest - least) or max(abs(greatest), 1.0)
    unused = np.maximum((high - counts) * (prices / width), (low - counts) * (prices / width))
    gap = (float(np.maximum(lost / width, 0).sum()) + float(unused.sum())) / n
    return Balance(labels, np.where(is_open, prices, np.inf), best, gap)


def check_totals(low: Ints, high: Ints, n: int) -> None:
    """Raise InfeasibleError unless the sizes together fit ``n`` samples."""
    if low.sum() > n:
        raise InfeasibleError(f"the smallest sizes sum to {low.sum()}, but there are {n} samples: lower size_min")
    if high.sum() < n:
        raise InfeasibleError(f"the largest sizes sum to {high.sum()}, but there are {n} samples: raise size_max")
