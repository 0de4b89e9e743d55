"""Scores of samples with the centroids of their own group, each vector read once and nothing gathered.

Bytes that must be moved: samples and centroids once, (n, k) scores once.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import jit, launch, operator, power
from otcluster._kernels.tiles import TINY

MOST_CLUSTERS = 128
_PRODUCTS, _COSINES, _DISTANCES = 0, 1, 2
METRICS = {"dot": _PRODUCTS, "cosine": _COSINES, "sqeuclidean": _DISTANCES}
_SAFE = tl.constexpr(1e25)  # squares between this and its inverse have lost nothing


@jit
def _load(x, centroids, row, there, group, first, k, d, K: tl.constexpr, D: tl.constexpr):
    coordinate = first + tl.arange(0, D)
    column = tl.arange(0, K)
    inside = (coordinate < d)[None, :]
    mine = tl.load(x + row[:, None] * d + coordinate[None, :], mask=there[:, None] & inside, other=0.0)
    place = (group * k + column)[:, None] * d + coordinate[None, :]
    theirs = tl.load(centroids + place, mask=(column < k)[:, None] & inside, other=0.0)
    return mine.to(tl.float32), theirs.to(tl.float32)


@jit
def _sums(
    x, centroids, row, there, group, scale, scale_of, k, d,
    R: tl.constexpr, K: tl.constexpr, D: tl.constexpr, METRIC: tl.constexpr,
):  # fmt: skip
    """Products of rows and centroids (or minus their squared distances), and squared lengths of both.

    Sums over the coordinates are made once, at the end: until then each lane has its own.
    """
    if K <= 8:
        lanes = tl.zeros((R, K, D), tl.float32)
    else:
        total = tl.zeros((R, K), tl.float32)
    squares, squares_of = tl.zeros((R, D), tl.float32), tl.zeros((K, D), tl.float32)
    for first in range(0, d, D):
        mine, theirs = _load(x, centroids, row, there, group, first, k, d, K, D)
        if METRIC == 1:
            mine *= scale[:, None]
            theirs *= scale_of[:, None]
            squares += mine * mine
            squares_of += theirs * theirs
        if METRIC == 2:
            apart = mine[:, None, :] - theirs[None, :, :]
            if K <= 8:
                lanes -= apart * apart
            else:
                total -= tl.sum(apart * apart, axis=2)
        elif K <= 8:
            lanes += mine[:, None, :] * theirs[None, :, :]
        else:
            total += tl.dot(mine, tl.trans(theirs), input_precision="ieee")
    if K <= 8:
        total = tl.sum(lanes, axis=2)
    return total, tl.sum(squares, axis=1), tl.sum(squares_of, axis=1)


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
        one, one_of = tl.full((R,), 1.0, tl.float32), tl.full((K,), 1.0, tl.float32)
        total, squares, squares_of = _sums(x, centroids, row, there, group, one, one_of, k, d, R, K, D, METRIC)
        if METRIC == 1:
            lost = there & ((squares < 1 / _SAFE) | ~(squares < _SAFE))
            lost_of = (column < k) & ((squares_of < 1 / _SAFE) | ~(squares_of < _SAFE))
            if (tl.max(lost.to(tl.int32), axis=0) > 0) | (tl.max(lost_of.to(tl.int32), axis=0) > 0):
                # Divided by their largest entries, so that squares neither overflow nor vanish. Below TINY there is no inverse.
                most, most_of = tl.zeros((R, D), tl.float32), tl.zeros((K, D), tl.float32)
                for first in range(0, d, D):
                    mine, theirs = _load(x, centroids, row, there, group, first, k, d, K, D)
                    most, most_of = tl.maximum(most, tl.abs(mine)), tl.maximum(most_of, tl.abs(theirs))
                largest, largest_of = tl.max(most, axis=1), tl.max(most_of, axis=1)
                one = 1.0 / tl.where(largest > 0, tl.maximum(largest, TINY), 1.0)
                one_of = 1.0 / tl.where(largest_of > 0, tl.maximum(largest_of, TINY), 1.0)
                total, squares, squares_of = _sums(x, centroids, row, there, group, one, one_of, k, d, R, K, D, METRIC)
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
    clusters = power(2, MOST_CLUSTERS, k)
    few, distances = clusters <= 8, metric == _DISTANCES
    clusters = clusters if few or distances else max(clusters, 16)
    rows = max(4, 64 // clusters) if few else 4 if distances else 16
    parts = max(1, min(64, n // (max(n_groups, 1) * rows)))
    launch(
        _own, (n_groups, parts), x, centroids, order, starts, scores, k, d,
        R=rows, K=clusters, D=128 if few else 16 if distances else 64, METRIC=metric, num_warps=4,
    )  # fmt: skip
    return scores
