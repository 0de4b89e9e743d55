"""Prices that nearly balance: Newton's method on a smoothed dual of a few samples, while the smoothing is taken away.

The dual of balanced assignment is a function of the k prices alone, ``sum_i max_j (s_ij - p_j) + sum_j size_j p_j``. With a soft
maximum of strength epsilon it is smooth, and Newton's method needs only a k x k matrix. From a large epsilon, halved again and
again, a step or two each time are enough. A few samples suffice if they stand well for all; those that a first, random
draw gives show which do: samples sorted by their best cluster, the one after it and how clear the choice is, taken at equal
distances. Unlike a random draw, that has nearly the right number of samples on each side of every border.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from otcluster.balancing.pairs import Floats, Ints, read_table, sorted_by_choice
from otcluster.scores import Scores

_DRAWS = (8, 25, 100)
"""Samples of each draw, as multiples of the clusters."""
_MOST_ELEMENTS = 1 << 27
_STEPS = 8
_SMALLEST = 4e-4
"""The last epsilon, as a share of the range of the scores."""
_RIDGE = 1e-4
_NEARBY = 0.5
_UNTHREADED = 1 << 18
Table = npt.NDArray[np.float32]


def warm_prices(scores: Scores, low: Ints, high: Ints) -> tuple[Floats, float]:
    """Find prices, (k,), under which the best clusters of the samples have nearly the right sizes.

    Returns:
        The prices, and by how much less than the best the pairs are worth that are of interest with them.
    """
    n, k = scores.n_samples, scores.n_clusters
    prices = np.zeros(k)
    epsilon = 0.0
    rows = np.random.default_rng(0).permutation(n)
    draws = [m for m in _DRAWS if 2 * m * k <= 3 * n and m * k * k <= _MOST_ELEMENTS] or [min(_DRAWS[0], max(n // k, 1))]
    for at, times in enumerate(draws):
        m = min(times * k, n)
        if at:
            rows = sorted_by_choice(scores, prices)
        picked = np.sort(rows[((np.arange(m) + 0.5) * (n / m)).astype(np.int64)])
        dual = SmoothedDual(read_table(scores.part(0, picked)), low * (m / n), high * (m / n))
        if not dual.spread:
            return prices, 0.0
        epsilon = epsilon or dual.spread / 4
        # Of a draw at random no more can be learnt than its own noise; of the last, what the path search leaves open is little.
        enough = (0.4 if not at else 0.1) * np.sqrt(k * m) if at + 1 < len(draws) else 0.2 * k
        prices, epsilon = dual.anneal(prices, epsilon, 0.02 if at else 0.1, enough)
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
        finite = table[np.isfinite(table)]
        self.spread = -float(finite.min()) if finite.size else 0.0

    def anneal(self, prices: Floats, epsilon: float, tol: float, enough: float) -> tuple[Floats, float]:
        """Minimise at ``epsilon``, half of it and so on, until at most ``enough`` samples are in the wrong cluster."""
        while True:
            prices = self._minimise(prices, epsilon, tol)
            if self._misplaced(prices) <= enough or epsilon < _SMALLEST * self.spread:
                return prices, epsilon
            epsilon /= 2

    def window(self, prices: Floats) -> float:
        """A margin below which some samples, _NEARBY of one on average, have other clusters than their best."""
        worth = (self.table - prices.astype(np.float32))[:: max(1, self.m // 2000)]
        margin = (worth.max(axis=1)[:, None] - worth).reshape(-1)
        at = min(int((1 + _NEARBY) * len(worth)), len(margin) - 1)
        found = float(np.partition(margin, at)[at])
        return found if np.isfinite(found) else self.spread

    def _minimise(self, prices: Floats, epsilon: float, tol: float) -> Floats:
        value, gradient, soft = self._at(prices, epsilon)
        for _ in range(_STEPS):
            if np.abs(gradient).sum() <= tol * self.m:
                break
            step = self._newton_step(prices, gradient, soft, epsilon)
            slope, length = float(gradient @ step), 1.0
            while True:
                ahead = self._at(prices + length * step, epsilon)
                if ahead[0] <= value + 1e-4 * length * slope or length < 0.01:
                    break
                length /= 2
            if not ahead[0] < value:
                break
            prices = prices + length * step
            value, gradient, soft = ahead
        return prices

    def _at(self, prices: Floats, epsilon: float) -> tuple[float, Floats, Table]:
        """The value, its gradient and the soft assignment."""
        # Seven digits are enough for exponents, and exponentials of them take a fraction of the time.
        soft = self.table - prices.astype(np.float32)
        top = soft.max(axis=1)
        soft -= top[:, None]
        soft *= np.float32(1 / epsilon)
        np.exp(soft, out=soft)
        sums = soft.sum(axis=1)
        soft /= sums[:, None]
        taken = (np.ones(self.m, dtype=np.float32) @ soft).astype(np.float64)
        some = self.high - self.low
        value = float((epsilon * np.log(sums) + top).sum(dtype=np.float64))
        value += float((self.low * prices + some * epsilon * np.logaddexp(0.0, prices / epsilon)).sum())
        return value, self.low + some * _logistic(prices / epsilon) - taken, soft

    def _newton_step(self, prices: Floats, gradient: Floats, soft: Table, epsilon: float) -> Floats:
        both = _gram(soft)
        share = _logistic(prices / epsilon)
        curve = np.diag(both.sum(axis=1) + (self.high - self.low) * share * (1 - share)) - both
        # Without a ridge a price that nothing depends on would be undetermined.
        curve[np.arange(self.k), np.arange(self.k)] += max(_RIDGE * float(np.trace(curve)) / self.k, 1e-9)
        return -epsilon * scipy.linalg.solve(curve, gradient, assume_a="pos", check_finite=False)

    def _misplaced(self, prices: Floats) -> float:
        """How many samples are in the wrong cluster, each in its best one."""
        counts = np.bincount((self.table - prices.astype(np.float32)).argmax(axis=1), minlength=self.k)
        return float(np.maximum(counts - self.high, 0).sum() + np.maximum(self.low - counts, 0).sum()) / 2


def _gram(soft: Table) -> Floats:
    """The products of all columns, ``soft.T @ soft``."""
    m, k = soft.shape
    rows = _UNTHREADED // (k * k)
    if rows < 2:
        return (soft.T @ soft).astype(np.float64)
    # Products this small are not worth threads, and where cores are busy, waiting for a thread costs many times the product.
    whole = soft[: m - m % rows].reshape(-1, rows, k)
    both = np.matmul(whole.transpose(0, 2, 1), whole).sum(axis=0, dtype=np.float64)
    rest = soft[m - m % rows :]
    both += rest.T @ rest
    return (both + both.T) / 2


def _logistic(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-np.clip(x, -50, 50)))
    return result
