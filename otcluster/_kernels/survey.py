"""The range of scores, and what is wrong with them if it is not finite: one reading, one launch.

Programs go through rows, and the last one to end looks at what all have found.

Bytes that must be moved: the scores once.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import jit, launch, operator, power, processors

LOW, HIGH, BAD, FORBIDDEN, LOST_ROWS, LOST_COLUMNS, TOO_LARGE, BAD_IDS = range(8)
"""The places of the facts."""

BAD_BIT, FORBIDDEN_BIT, LARGE_BIT = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)

_TILE, _BUSY = 4096, 4  # scores that a program looks at, and programs for each processor
_HEADER = 8  # counters and flags before the marks


@jit
def either(one, two):
    """For reductions of bits."""
    return one | two


@jit
def _survey(
    scores, weights, clusters, totals, groups, parts_of_range, marks, out, n, k, n_rows, n_problems, limit, lost_counts,
    R: tl.constexpr, C: tl.constexpr, PARTS: tl.constexpr, PROBLEMS: tl.constexpr,
    WEIGHTED: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    limit = tl.full((), limit, tl.float32)  # where it was compiled as a float64
    lost_counts = tl.full((), lost_counts, tl.float32)  # where it was compiled as a float64
    part, parts = tl.program_id(0), tl.num_programs(0)
    whole = marks + 8
    reached = marks + 8 + n_problems
    low, high = tl.full((R, C), float("inf"), tl.float32), tl.full((R, C), -float("inf"), tl.float32)
    flags, ids, lost = tl.zeros((R,), tl.int32), tl.zeros((R,), tl.int32), tl.zeros((R,), tl.int32)
    for block in range(part * R, n_rows, parts * R):
        row = (block + tl.arange(0, R)).to(tl.int64)
        there = row < n_rows
        if GROUPED:
            problem = tl.load(groups + row, mask=there, other=0)
            known = (problem >= 0) & (problem < n_problems)
            ids = tl.maximum(ids, (there & ~known).to(tl.int32))
            problem = tl.where(known, problem, 0)
            known = known & there
        else:
            problem, known = row // n, there
        heavy = known
        if WEIGHTED:
            heavy = heavy & (tl.load(weights + row, mask=there, other=0.0) > 0)
        seen = tl.zeros((R, C), tl.int32)  # what is no number of a fair size, as bits: each place its own, put together below
        for at in range(0, k, C):
            column = at + tl.arange(0, C)
            inside = there[:, None] & (column < k)[None, :]
            value = tl.load(scores + row[:, None] * k + column[None, :], mask=inside, other=0.0).to(tl.float32)
            low = tl.minimum(low, tl.where(inside, value, float("inf")))
            high = tl.maximum(high, tl.where(inside, value, -float("inf")))
            finite = tl.where(tl.abs(value) < float("inf"), LARGE_BIT, BAD_BIT)
            odd = tl.where(value == -float("inf"), FORBIDDEN_BIT, finite)
            seen |= tl.where(tl.abs(value) <= limit, 0, odd)
        bits = tl.reduce(seen, 1, either)
        flags |= bits
        some = bits & FORBIDDEN_BIT
        tl.store(whole + problem, tl.full((R,), 1, tl.int32), mask=heavy & (some == 0))
        if tl.max(some, axis=0) > 0:
            found = tl.zeros((R,), tl.int32)
            for at in range(0, k, C):
                column = at + tl.arange(0, C)
                inside = known[:, None] & (column < k)[None, :]
                value = tl.load(scores + row[:, None] * k + column[None, :], mask=inside, other=-float("inf")).to(tl.float32)
                place = problem[:, None] * k + column[None, :]
                mass = tl.load(clusters + place, mask=inside, other=0.0)
                allowed = inside & (value > -float("inf"))
                found = tl.maximum(found, tl.max((allowed & (mass > 0)).to(tl.int32), axis=1))
                tl.store(reached + place, tl.full((R, C), 1, tl.int32), mask=allowed & heavy[:, None])
            lost = tl.maximum(lost, (heavy & (found == 0)).to(tl.int32))
    tl.store(parts_of_range + part, tl.min(tl.min(low, axis=1), axis=0))
    tl.store(parts_of_range + parts + part, tl.max(tl.max(high, axis=1), axis=0))
    found_bits = tl.reduce(flags, 0, either)
    if found_bits & BAD_BIT:
        tl.atomic_max(marks + 1, 1)
    if found_bits & FORBIDDEN_BIT:
        tl.atomic_max(marks + 2, 1)
    if tl.max(lost, axis=0) > 0:
        tl.atomic_max(marks + 3, 1)
    if found_bits & LARGE_BIT:
        tl.atomic_max(marks + 5, 1)
    if tl.max(ids, axis=0) > 0:
        tl.atomic_max(marks + 6, 1)
    tl.debug_barrier()
    ended = tl.atomic_add(marks, 1, sem="acq_rel")
    if ended == parts - 1:
        which = tl.arange(0, PARTS)
        least = tl.min(tl.load(parts_of_range + which, mask=which < parts, other=float("inf")), axis=0).to(tl.float64)
        most = tl.max(tl.load(parts_of_range + parts + which, mask=which < parts, other=-float("inf")), axis=0).to(tl.float64)
        unreached = tl.zeros((PROBLEMS,), tl.int32)
        if tl.load(marks + 2) > 0:
            for first in range(0, n_problems, PROBLEMS):
                problem = first + tl.arange(0, PROBLEMS)
                asked = problem < n_problems
                total = tl.load(totals + problem, mask=asked, other=0.0)
                asked = asked & (total > 0) & (tl.load(whole + problem, mask=asked, other=1) == 0)
                for at in range(0, k, C):
                    column = at + tl.arange(0, C)
                    inside = asked[:, None] & (column < k)[None, :]
                    place = problem.to(tl.int64)[:, None] * k + column[None, :]
                    mass = tl.load(clusters + place, mask=inside, other=0.0)
                    got = tl.load(reached + place, mask=inside, other=1)
                    unreached = tl.maximum(unreached, tl.max(((mass > 0) & (got == 0)).to(tl.int32), axis=1))
        is_bad = tl.load(marks + 1)
        tl.store(out + 0, tl.where(is_bad > 0, float("nan"), least))
        tl.store(out + 1, tl.where(is_bad > 0, float("nan"), most))
        tl.store(out + 2, is_bad.to(tl.float64))
        tl.store(out + 3, tl.load(marks + 2).to(tl.float64))
        tl.store(out + 4, tl.load(marks + 3).to(tl.float64) * lost_counts)
        tl.store(out + 5, tl.max(unreached, axis=0).to(tl.float64))
        tl.store(out + 6, tl.load(marks + 5).to(tl.float64))
        tl.store(out + 7, tl.load(marks + 6).to(tl.float64))


@operator
def survey(
    scores: Tensor,
    weights: Tensor | None,
    clusters: Tensor,
    totals: Tensor,
    groups: Tensor | None,
    limit: float,
    lost_counts: bool,
) -> Tensor:
    """What can be known of scores in one look.

    Args:
        scores: (batches, n, k), contiguous, of a dtype of at most 32 bits; none of the sizes is 0.
        weights: (batches, n), contiguous; None for ones.
        clusters: Mass or share of each cluster, float64, (n_problems, k), contiguous.
        totals: Mass of the samples of each problem, float64, (n_problems,).
        groups: The problem of each row of the one batch, int64, (n,); None where batches are problems.
        limit: Finite scores beyond it are too large.
        lost_counts: Whether a row without any pair matters.

    Returns:
        float64, (8,): the least and the greatest score, NaN where one is NaN or +inf; whether there is such a score, a
        forbidden pair, a row with mass or an open cluster without any pair, a score that is too large, an unknown group.
    """
    batches, n, k = scores.shape
    n_problems = len(clusters)
    chunk = power(16, _TILE, k)
    rows = _TILE // chunk
    parts = max(1, min(_BUSY * processors(scores.device), -(-batches * n // rows)))
    marks = torch.zeros(_HEADER + n_problems * (k + 1), dtype=torch.int32, device=scores.device)
    found = torch.empty(8, dtype=torch.float64, device=scores.device)
    launch(
        _survey, (parts,), scores, scores if weights is None else weights,
        clusters.contiguous(), totals.contiguous(),
        marks if groups is None else groups, torch.empty(2 * parts, dtype=torch.float32, device=scores.device), marks, found,
        n, k, batches * n, n_problems, limit, float(lost_counts),
        R=rows, C=chunk, PARTS=power(2, 1 << 12, parts), PROBLEMS=rows,
        WEIGHTED=weights is not None, GROUPED=groups is not None, num_warps=8,
    )  # fmt: skip
    return found
