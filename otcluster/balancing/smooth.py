"""Prices that nearly balance: Newton's method on a smoothed dual of a few samples, while the smoothing is taken away.

The dual of balanced assignment is a function of the k prices alone, ``sum_i max_j (s_ij - p_j) + sum_j size_j p_j``. With a
soft maximum of strength epsilon it is smooth, and Newton's method needs only a k x k matrix. From a large epsilon, halved
again and again, a step or two each time are enough. A few samples suffice if they stand well for all; those that a first,
random draw gives show which do: samples sorted by their best cluster, the one after it and how clear the choice is, taken at
equal distances. Unlike a random draw, that has nearly the right number of samples on each side of every border.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.linalg.blas import ssyrk

from otcluster import passes
from otcluster.balancing.pairs import Floats, Ints, read_table, sorted_by_choice
from otcluster.problem import Problem
from otcluster.scores import Scores

_DRAWS = ((8, 0.1), (25, 0.05), (100, 0.01))
"""Samples of each draw, as multiples of the clusters, and the share of them that may be in the wrong cluster when they are
assigned softly: a random draw cannot tell better."""
_CURVED = 25
"""So many samples for each cluster tell the curvature well enough."""
_MOST_ELEMENTS = 1 << 26
_STEPS = 12
_HELPS = 0.95
"""Halving helps if it leaves at most so much of the samples in the wrong cluster."""
_REACH = 64
_SMALLEST = 4e-4
"""The last epsilon, as a share of the range of the scores."""
_RESUMED = 1 / 256
"""The epsilon to begin with where the prices were those of hard labels, as a share of the range of the scores."""
_RIDGE = 1e-4
_NEARBY = 0.5
_OVERSHOT = 0.25
_UNTHREADED = 1 << 18
Table = npt.NDArray[np.float32]


def warm_prices(
    scores: Scores, low: Ints, high: Ints, *, start: tuple[Floats, float | None] | None = None, quick: bool = False
) -> tuple[Floats, float]:
    """Find prices, (k,), under which the best clusters of the samples have nearly the right sizes.

    Args:
        scores: Of one problem, without batch dimensions or groups.
        low: Fewest samples of each cluster.
        high: Most samples.
        start: Prices that nearly balance a soft assignment, and its epsilon; None for those of a hard one.
        quick: Leave away the last and largest draw.

    Returns:
        The prices, and by how much less than the best the pairs are worth that are of interest with them.
    """
    n, k = scores.n_samples, scores.n_clusters
    prices, epsilon = (np.zeros(k), 0.0) if start is None else start
    fitting = [draw for draw in _DRAWS if 2 * draw[0] * k <= n and draw[0] * k * k <= _MOST_ELEMENTS] or [_DRAWS[0]]
    draws = fitting[1 if start and len(fitting) > 1 else 0 : len(_DRAWS) - 1 if quick else None]
    for at, (multiple, tol) in enumerate(draws):
        m = min(multiple * k, n)
        guided = at > 0 or start is not None
        rows = sorted_by_choice(scores, prices) if guided else np.random.default_rng(0).permutation(n)
        picked = np.sort(rows[((np.arange(m) + 0.5) * (n / m)).astype(np.int64)])
        share = np.float64(m / n)
        dual = SmoothedDual(read_table(scores.part(0, picked)), low.astype(np.float64) * share, high.astype(np.float64) * share)
        if not dual.spread:
            return prices, 0.0
        epsilon = (epsilon or dual.spread / 4) if epsilon is not None else _RESUMED * dual.spread
        # Of a draw at random no more can be learnt than its own noise; of the last, what the path search leaves open is little.
        enough = (0.1 if guided else 0.4) * np.sqrt(k * m) if quick or at + 1 < len(draws) else 0.2 * k
        prices, epsilon = dual.anneal(prices, epsilon, tol, enough)
    return prices, dual.window(prices)


class SmoothedDual:
    """The smoothed dual of some samples: a convex function of the prices.

    Where a size may lie between bounds, a cluster takes from few to all of them at prices from below to above zero.

    Args:
        table: Scores less the largest of each row, (m, k).
        low: Fewest samples of each cluster, (k,), not necessarily whole.
        high: Most samples.
    """

    def __init__(self, table: Table, low: Floats, high: Floats) -> None:
        self.table, self.low, self.high = table, low, high
        self.m, self.k = table.shape
        self.samples = Problem(table, check_values=False)
        self.few = Problem(table[:: max(1, self.m // (_CURVED * self.k))], check_values=False)
        finite = table[np.isfinite(table)]
        self.spread = -float(finite.min()) if finite.size else 0.0

    def anneal(self, prices: Floats, epsilon: float, tol: float, enough: float) -> tuple[Floats, float]:
        """Minimise at ``epsilon``, half of it and so on, until at most ``enough`` samples are in the wrong cluster.

        Ends before that where Newton's method no longer follows, or where halving no longer helps.

        Returns:
            The prices, and the last epsilon that helped.
        """
        while True:
            found, follows = self._minimise(prices, epsilon, tol)
            if follows or epsilon >= self.spread / 4:
                break
            # Too small to begin with: the slopes between distant clusters are nothing to go by.
            epsilon *= 4
        prices, wrong = found, self._misplaced(found)
        while wrong > enough and epsilon >= _SMALLEST * self.spread:
            found, follows = self._minimise(prices, epsilon / 2, tol)
            now = self._misplaced(found)
            if not follows or now > _HELPS * wrong:
                break
            prices, wrong, epsilon = found, now, epsilon / 2
        return prices, epsilon

    def window(self, prices: Floats) -> float:
        """A margin below which some samples, _NEARBY of one on average, have other clusters than their best."""
        worth = (self.table - prices.astype(np.float32))[:: max(1, self.m // 2000)]
        margin = (worth.max(axis=1)[:, None] - worth).reshape(-1)
        at = min(int((1 + _NEARBY) * len(worth)), len(margin) - 1)
        found = float(np.partition(margin, at)[at])
        return found if np.isfinite(found) else self.spread

    def _minimise(self, prices: Floats, epsilon: float, tol: float) -> tuple[Floats, bool]:
        """The minimum at ``epsilon``, and whether it was found."""
        gradient = self._gradient(prices, epsilon)
        for taken in range(_STEPS):
            if taken and np.abs(gradient).sum() <= tol * self.m:
                return prices, True
            step = self._newton_step(prices, gradient, epsilon)
            slope = float(gradient @ step)
            if not slope < 0:
                return prices, False
            # A soft assignment knows nothing of prices many epsilons away.
            length = min(1.0, _REACH * epsilon / float(np.abs(step).max()))
            while True:
                ahead = self._gradient(prices + length * step, epsilon)
                # The slope rises along the step, from below zero: as long as it is not far above, the step was not too long.
                there = float(ahead @ step)
                if there <= -_OVERSHOT * slope:
                    break
                if length < 1e-4:
                    return prices, False
                length *= min(max(slope / (slope - there), 0.1), 0.5)
            prices, gradient = prices + length * step, ahead
        return prices, bool(np.abs(gradient).sum() <= tol * self.m)

    def _gradient(self, prices: Floats, epsilon: float) -> Floats:
        taken = passes.plan_columns(self.samples, -prices[None], epsilon)[0][0]
        gradient: Floats = self.low + (self.high - self.low) * _logistic(prices / epsilon) - taken
        return gradient

    def _newton_step(self, prices: Floats, gradient: Floats, epsilon: float) -> Floats:
        both = (self.m / self.few.n_samples) * _gram(passes.plan(self.few, -prices[None], epsilon)[0])
        share = _logistic(prices / epsilon)
        curve = np.diag(both.sum(axis=1) + (self.high - self.low) * share * (1 - share)) - both
        # Without a ridge a price that nothing depends on would be undetermined.
        curve[np.arange(self.k), np.arange(self.k)] += max(_RIDGE * float(np.trace(curve)) / self.k, 1e-9)
        try:
            factor = scipy.linalg.cho_factor(curve, check_finite=False)
        except np.linalg.LinAlgError:  # rounding has made it indefinite
            return np.zeros(self.k)
        solution: Floats = scipy.linalg.cho_solve(factor, gradient, check_finite=False)
        return -epsilon * solution

    def _misplaced(self, prices: Floats) -> float:
        """How many samples are in the wrong cluster, each in its best one."""
        labels = passes.plan_labels(self.samples, -prices[None], 1.0)[0]
        counts = np.bincount(labels[labels >= 0], minlength=self.k)
        return float(np.maximum(counts - self.high, 0).sum() + np.maximum(self.low - counts, 0).sum()) / 2


def _gram(soft: Table) -> Floats:
    """The products of all columns, ``soft.T @ soft``."""
    m, k = soft.shape
    rows = _UNTHREADED // (k * k)
    if rows < 2:
        return (soft.T @ soft).astype(np.float64)
    # Products this small are not worth threads, and where cores are busy, waiting for a thread costs many times the product.
    upper = np.zeros((k, k), dtype=np.float32, order="F")
    for first in range(0, m, rows):
        upper = ssyrk(1.0, soft[first : first + rows].T, 1.0, upper, overwrite_c=True)
    return upper.astype(np.float64) + np.triu(upper, 1).T


def _logistic(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-np.clip(x, -50, 50)))
    return result
