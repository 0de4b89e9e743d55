"""What is wrong with scores that are not all finite, found without the host: programs that find them finite end at once.

Bytes that must be moved: none where the scores are finite, for their range was found before; else the scores once.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import jit, launch, operator, power

BAD, FORBIDDEN, LOST_ROWS, LOST_COLUMNS, TOO_LARGE = range(5)
"""The places of the flags."""

_TILE = 2048


@jit
def _is_finite(low, high):
    least, greatest = tl.load(low).to(tl.float64), tl.load(high).to(tl.float64)
    return (least > -float("inf")) & (greatest < float("inf"))


@jit
def _rows(
    scores, weights, clusters, groups, low, high, flags, reached, n, k, limit,
    C: tl.constexpr, WEIGHTED: tl.constexpr, GROUPED: tl.constexpr, N_GROUPS: tl.constexpr,
):  # fmt: skip
    if _is_finite(low, high):
        return
    row, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    problem = batch
    if GROUPED:
        problem = tl.load(groups + row)
    if (problem >= 0) & (problem < N_GROUPS):
        heavy = True
        if WEIGHTED:
            heavy = tl.load(weights + batch * n + row) > 0
        at_row = (batch * n + row) * k
        found = 0
        for at in range(0, k, C):
            column = at + tl.arange(0, C)
            there = column < k
            value = tl.load(scores + at_row + column, mask=there, other=0.0).to(tl.float32)
            is_bad = there & ((value != value) | (value == float("inf")))
            allowed = there & (value > -float("inf"))
            size = tl.abs(value)
            tl.atomic_max(flags + 0, tl.max(is_bad.to(tl.int32), axis=0))
            tl.atomic_max(flags + 1, tl.max((there & ~allowed).to(tl.int32), axis=0))
            tl.atomic_max(flags + 4, tl.max((there & (size > limit) & (size < float("inf"))).to(tl.int32), axis=0))
            mass = tl.load(clusters + problem * k + column, mask=there, other=0.0)
            found = tl.maximum(found, tl.max((allowed & (mass > 0)).to(tl.int32), axis=0))
            if heavy:
                tl.store(reached + problem * k + column, tl.full((C,), 1, tl.int32), mask=allowed)
        if heavy & (found == 0):
            tl.atomic_max(flags + 2, 1)


@jit
def _columns(clusters, totals, low, high, flags, reached, k, C: tl.constexpr):
    if _is_finite(low, high):
        return
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(totals + problem) > 0:
        for at in range(0, k, C):
            column = at + tl.arange(0, C)
            mass = tl.load(clusters + problem * k + column, mask=column < k, other=0.0)
            got = tl.load(reached + problem * k + column, mask=column < k, other=1)
            tl.atomic_max(flags + 3, tl.max(((mass > 0) & (got == 0)).to(tl.int32), axis=0))


@operator
def survey(
    scores: Tensor,
    weights: Tensor | None,
    clusters: Tensor,
    totals: Tensor,
    groups: Tensor | None,
    low: Tensor,
    high: Tensor,
    limit: float,
) -> Tensor:
    """Flags of what is wrong with scores, whose range is ``low`` to ``high``: zeros where that is finite.

    Args:
        scores: (batches, n, k), contiguous, of a dtype of at most 32 bits.
        weights: (batches, n); None for ones.
        clusters: Mass or share of each cluster, (n_problems, k).
        totals: Mass of the samples of each problem, (n_problems,).
        groups: The problem of each row of the one batch, (n,); None where batches are problems.
        low: Of the scores, (); NaN where there is one.
        high: Likewise.
        limit: Finite scores beyond it are too large.

    Returns:
        int32, (5,): whether a score is NaN or +inf; whether a pair is forbidden; whether a row with mass, and whether an open
        cluster, has no pair; whether a score is too large.
    """
    batches, n, k = scores.shape
    n_problems = len(clusters)
    marks = torch.zeros(5 + n_problems * k, dtype=torch.int32, device=scores.device)
    flags, reached = marks[:5], marks[5:]
    chunk = power(16, _TILE, k)
    launch(
        _rows, (n, batches), scores, scores if weights is None else weights, clusters, marks if groups is None else groups,
        low, high, flags, reached, n, k, limit,
        C=chunk, WEIGHTED=weights is not None, GROUPED=groups is not None, N_GROUPS=n_problems, num_warps=4,
    )  # fmt: skip
    launch(_columns, (n_problems,), clusters, totals, low, high, flags, reached, k, C=chunk, num_warps=4)
    return flags
