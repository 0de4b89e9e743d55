"""Scores of samples with the centroids of their own group, each vector read once and nothing gathered.

Bytes that must be moved: samples and centroids once, (n, k) scores once.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import jit, launch, operator, power

MOST_CLUSTERS = 128
_DEPTH = 64  # coordinates at once
_PRODUCTS, _COSINES, _DISTANCES = 0, 1, 2
METRICS = {"dot": _PRODUCTS, "cosine": _COSINES, "sqeuclidean": _DISTANCES}


@jit
def _own(
    x, centroids, order, starts, scores, k, d, R: tl.constexpr, K: tl.constexpr, D: tl.constexpr, METRIC: tl.constexpr
):  # fmt: skip
    group, part, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + group), tl.load(starts + group + 1)
    column = tl.arange(0, K)
    for at in range(start + part * R, stop, parts * R):
        place = at + tl.arange(0, R)
        there = place < stop
        row = tl.load(order + place, mask=there, other=0)
        total = tl.zeros((R, K), tl.float32)
        if METRIC == 1:  # both sides are divided by their largest entry so far: squares neither overflow nor vanish
            most, squares = tl.zeros((R,), tl.float32), tl.zeros((R,), tl.float32)
            most_of, squares_of = tl.zeros((K,), tl.float32), tl.zeros((K,), tl.float32)
        for first in range(0, d, D):
            coordinate = first + tl.arange(0, D)
            inside = coordinate < d
            mine = tl.load(
                x + row[:, None] * d + coordinate[None, :], mask=there[:, None] & inside[None, :], other=0.0
            ).to(tl.float32)  # fmt: skip
            theirs = tl.load(
                centroids + (group * k + column)[:, None] * d + coordinate[None, :],
                mask=(column < k)[:, None] & inside[None, :], other=0.0,
            ).to(tl.float32)  # fmt: skip
            if METRIC == 2:
                apart = mine[:, None, :] - theirs[None, :, :]
                total -= tl.sum(apart * apart, axis=2)
            else:
                if METRIC == 1:
                    higher = tl.maximum(most, tl.max(tl.abs(mine), axis=1))
                    higher_of = tl.maximum(most_of, tl.max(tl.abs(theirs), axis=1))
                    scale = most / tl.where(higher > 0, higher, 1.0)
                    scale_of = most_of / tl.where(higher_of > 0, higher_of, 1.0)
                    mine /= tl.where(higher > 0, higher, 1.0)[:, None]
                    theirs /= tl.where(higher_of > 0, higher_of, 1.0)[:, None]
                    squares = squares * scale * scale + tl.sum(mine * mine, axis=1)
                    squares_of = squares_of * scale_of * scale_of + tl.sum(theirs * theirs, axis=1)
                    total *= scale[:, None] * scale_of[None, :]
                    most, most_of = higher, higher_of
                total += tl.dot(mine, tl.trans(theirs), input_precision="ieee")
        if METRIC == 1:
            total /= tl.sqrt(tl.where(squares > 0, squares, 1.0))[:, None]
            total /= tl.sqrt(tl.where(squares_of > 0, squares_of, 1.0))[None, :]
        out = row[:, None] * k + column[None, :]
        tl.store(scores + out, total, mask=there[:, None] & (column < k)[None, :])


@operator
def own_scores(x: Tensor, centroids: Tensor, order: Tensor, starts: Tensor, metric: int) -> Tensor:
    """Scores of each sample with the centroids of its group.

    Args:
        x: (n, d), contiguous, of a dtype of at most 32 bits.
        centroids: (n_groups, k, d), contiguous, likewise.
        order: Rows sorted by group, int64, (n,).
        starts: Where each group begins there, int64, (n_groups + 1,).
        metric: Of :data:`METRICS`.

    Returns:
        float32, (n, k); zeros for a row of no group.
    """
    (n, d), (n_groups, k, _) = x.shape, centroids.shape
    scores = torch.zeros((n, k), dtype=torch.float32, device=x.device)
    distances = metric == _DISTANCES
    clusters = power(2 if distances else 16, MOST_CLUSTERS, k)
    parts = max(1, min(64, n // (max(n_groups, 1) * 16)))
    launch(
        _own, (n_groups, parts), x, centroids, order, starts, scores, k, d,
        R=4 if distances else 16, K=clusters, D=max(16, min(_DEPTH, 2048 // clusters)) if distances else _DEPTH,
        METRIC=metric, num_warps=4,
    )  # fmt: skip
    return scores
