"""Prices between clusters under which every sample is where it is, in the middle of all such prices."""

from __future__ import annotations

from typing import Any

import numpy as np

from otcluster import passes
from otcluster._ops.generic import Array
from otcluster.problem import Problem

_SWEEPS = 50


def middle_prices(problem: Problem, labels: Array, prices: Array) -> Array:
    """Prices (k,) float64 under which samples stay where ``labels`` put them, as far from leaving as is quickly found.

    The prices that prove labels of exact sizes optimal leave some samples exactly between two clusters: the last that had to
    move. Each price is put in the middle of what it may be given the others, again and again, until no sample is on a border.
    Where samples of two clusters are copies of each other, they stay there.

    Args:
        problem: One problem, without groups.
        labels: (n,), that ``prices`` prove optimal.
        prices: (k,): samples go where their score less the price is largest.
    """
    ops, xp, k = problem.ops, problem.ops.xp, problem.n_clusters
    with ops.quiet():
        lead = ops.full((k, k), -float("inf"), problem.dtype)
        for _, rows, scores in passes.tiles(problem):
            own = xp.sum(xp.where(labels[rows][:, None] == ops.arange(k), scores[0, :, :], 0 * scores[0, :, :]), axis=-1)
            lead = xp.maximum(lead, ops.segment_max(scores[0, :, :] - own[:, None], labels[rows], k))
        # A sample of a stays while price[b] - price[a] >= lead[a, b].
        return _centred(ops.to_numpy(lead).astype(np.float64), ops.to_numpy(prices).astype(np.float64))


def _centred(lead: Any, prices: Any) -> Any:
    prices = prices.copy()
    np.fill_diagonal(lead, -np.inf)
    for _ in range(_SWEEPS):
        for at in range(len(prices)):
            least, most = np.max(prices + lead[:, at]), np.min(prices - lead[at])
            if np.isfinite(least) and np.isfinite(most):
                prices[at] = (least + most) / 2
        slack = prices[None, :] - prices[:, None] - lead
        span = np.abs(lead[np.isfinite(lead)]).max(initial=0.0)
        if slack.min(initial=np.inf) > 1e-6 * span:
            break
    return prices
