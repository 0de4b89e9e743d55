"""A plan rounded to labels of exact sizes, in a few readings of the scores: near the best ones, without a proof.

Prices are brought near the right ones on a few samples. Then the clusters that are too large give to those that are too
small, at each step whoever loses least. Where the problem is small, or forbidden pairs leave no direct way, the exact method
is used instead.
"""

from __future__ import annotations

import numpy as np

from otcluster.balancing.exact import balance
from otcluster.balancing.pairs import Floats, Ints, best_labels, read_rows
from otcluster.balancing.smooth import warm_prices
from otcluster.scores import Scores

_FEW = 1 << 16
_READINGS = 20
_MANY_CLUSTERS = 2048
"""Beyond that, better prices cost more than what the steps to the sizes lose without them."""
_AT_ONCE, _SHARE = 1 << 22, 16
"""Samples that may move are looked at closely as long as their scores are no more than this, or than this part of all."""
_CHOICE = 4
"""How many times as many samples as must leave a cluster are looked at closely."""


def near_balance(scores: Scores, sizes: Ints, prices: Floats | None, epsilon: float) -> Ints:
    """Labels of one problem, (n,), each cluster with exactly its size.

    Args:
        scores: Of one problem, without batch dimensions or groups.
        sizes: Samples of each cluster, (k,); they sum to the number of samples.
        prices: Where to start from: minus the potentials of an entropic answer.
        epsilon: The strength of that answer.

    Raises:
        InfeasibleError: There are no such labels.
    """
    n, k = scores.n_samples, scores.n_clusters
    if n * k <= _FEW and k <= _MANY_CLUSTERS:
        return balance(scores, sizes, sizes).labels
    if prices is None or k <= _MANY_CLUSTERS:
        start = None if prices is None else (prices, epsilon)
        prices, _ = warm_prices(scores, sizes, sizes, start=start, quick=True)
    prices = np.where(sizes > 0, prices, np.inf)
    labels, best = best_labels(scores, prices)
    for _ in range(_READINGS if labels.min() >= 0 else 0):
        spare = np.bincount(labels, minlength=k) - sizes
        if not spare.any():
            return labels
        _give(scores, prices, labels, best, spare)
    return balance(scores, sizes, sizes).labels


def _give(scores: Scores, prices: Floats, labels: Ints, best: Floats, spare: Ints) -> None:
    """Move samples from clusters with some to spare to their best ones of those that lack some, who loses least first."""
    rows = np.flatnonzero(spare[labels] > 0)
    loss = (best - best_labels(scores, np.where(spare < 0, prices, np.inf))[1])[rows]
    # Later, when some clusters are filled, nobody loses less: those who lose least now are enough to choose from.
    order = np.argsort(loss, kind="stable")
    rows = rows[order[_first_of_each(labels[rows[order]], np.where(spare > 0, _CHOICE * spare, 0))]]
    rows = rows[: max(_AT_ONCE // scores.n_clusters, scores.n_samples // _SHARE)]
    worth = read_rows(scores, rows) - prices
    while len(rows):
        worth[:, spare >= 0] = -np.inf
        into = worth.argmax(axis=1)
        loss = best[rows] - worth[np.arange(len(rows)), into]
        order = np.argsort(loss, kind="stable")
        order = order[loss[order] < np.inf]
        # Of each giving cluster the first few, of each taking one the first few of those.
        order = order[_first_of_each(labels[rows[order]], np.maximum(spare, 0))]
        order = order[_first_of_each(into[order], np.maximum(-spare, 0))]
        if not len(order):
            return
        moved, there = rows[order], into[order]
        spare += np.bincount(there, minlength=len(spare)) - np.bincount(labels[moved], minlength=len(spare))
        labels[moved] = there
        left = np.ones(len(rows), dtype=bool)
        left[order] = False
        left &= spare[labels[rows]] > 0
        rows, worth = rows[left], worth[left]


def _first_of_each(keys: Ints, limits: Ints) -> Ints:
    """Indices, ascending, of the first ``limits[key]`` elements of each key."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    rank = np.arange(len(keys)) - np.searchsorted(sorted_keys, sorted_keys)
    return np.sort(order[rank < limits[sorted_keys]])
