"""What answers are held to: plain float64 loops, written for clarity and for nothing else."""

from __future__ import annotations

import numpy as np


def recipe(scores, epsilon, rounds):
    """Sinkhorn-Knopp as the training codes of SwAV and DINO compute it, in float64: (n, k), rows summing to 1."""
    q = np.exp(np.asarray(scores, dtype=np.float64) / epsilon).T
    k, n = q.shape
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * n
    return (q * n).T


def log_rounds(scores, epsilon, rounds, sample_mass=None, cluster_mass=None):
    """The same in the log domain with any masses: the plan after ``rounds``, clusters first, samples last."""
    s = np.asarray(scores, dtype=np.float64)
    s = (s - np.max(s, initial=-np.inf, where=np.isfinite(s))) / epsilon  # one number for all changes nothing, and rounds less
    n, k = s.shape
    w = np.ones(n) if sample_mass is None else np.asarray(sample_mass, dtype=np.float64)
    c = np.full(k, w.sum() / k) if cluster_mass is None else np.asarray(cluster_mass, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_w, log_c = np.log(w), np.log(c)
    f = log_w.copy()
    g = np.zeros(k)
    for _ in range(rounds):
        g = log_c - _lse(s + f[:, None], 0)
        f = log_w - _lse(s + g[None, :], 1)
    # By a soft maximum over each row: exp(s + f + g) loses its row sums where the terms are large.
    rows = s + g[None, :]
    return w[:, None] * np.exp(rows - _lse(rows, 1)[:, None])


def log_sum_exp(values, axis):
    """The logarithm of the sum of exponentials along an axis, -inf of nothing. For few numbers scipy's is ten times slower."""
    top = np.max(values, axis=axis, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - top).sum(axis=axis)) + np.squeeze(top, axis=axis)


def _lse(values, axis):
    result = log_sum_exp(values, axis)
    return np.where(np.isneginf(result), 0.0, result)


def error_of(plan, sample_mass, cluster_mass):
    """The share of the mass in the wrong place, recomputed in float64."""
    plan = np.asarray(plan, dtype=np.float64)
    wrong = np.abs(plan.sum(1) - sample_mass).sum() + np.abs(plan.sum(0) - cluster_mass).sum()
    return wrong / max(np.sum(sample_mass), np.finfo(float).tiny)


def brute_auroc(known, other):
    """How often the score of a known sample is above that of another one, by all pairs; ties count half."""
    return ((known[:, None] > other).double() + (known[:, None] == other).double() / 2).mean().item()
