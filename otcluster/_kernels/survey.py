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

_TILE, _SPAN = 4096, 16  # scores that a program looks at, and bytes that a thread reads at once
_BUSY = 3  # programs for each processor: as many as its registers hold
_HEADER = 8  # counters and flags before the marks


@jit
def _survey(
    scores, weights, clusters, totals, groups, parts_of_range, marks, out, n, k, n_rows, n_problems, limit, lost_counts,
    R: tl.constexpr, G: tl.constexpr, S: tl.constexpr, PARTS: tl.constexpr, PROBLEMS: tl.constexpr,
    WEIGHTED: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    limit = tl.full((), limit, tl.float32)  # where it was compiled as a float64
    lost_counts = tl.full((), lost_counts, tl.float32)  # where it was compiled as a float64
    part, parts = tl.program_id(0), tl.num_programs(0)
    whole = marks + 8
    reached = marks + 8 + n_problems
    low, high = tl.full((R, G), float("inf"), tl.float32), tl.full((R, G), -float("inf"), tl.float32)
    nothing = tl.zeros((R,), tl.int32)
    bad, large, forbidden, ids, lost = nothing, nothing, nothing, nothing, nothing
    for block in range(part * R, n_rows, parts * R):
        row = (block + tl.arange(0, R)).to(tl.int64)
        there = row < n_rows
        row = tl.minimum(row, n_rows - 1)  # the last one as often as there are rows to fill
        if GROUPED:
            problem = tl.load(groups + row)
            known = (problem >= 0) & (problem < n_problems)
            ids = tl.maximum(ids, (there & ~known).to(tl.int32))
            problem = tl.where(known, problem, 0)
            known = known & there
        else:
            problem, known = row // n, there
        heavy = known
        if WEIGHTED:
            heavy = heavy & (tl.load(weights + row) > 0)
        instead = tl.load(scores + row * k)[:, None, None]  # of what lies beyond the last column
        strange = tl.zeros((R, G), tl.float32)
        for at in range(0, k, G * S):
            column = at + tl.arange(0, G)[None, :, None] * S + tl.arange(0, S)[None, None, :]
            place = row[:, None, None] * k + column
            value = tl.load(scores + place, mask=column < k, other=instead).to(tl.float32)
            low, high = tl.minimum(low, tl.min(value, axis=2)), tl.maximum(high, tl.max(value, axis=2))
            strange += tl.sum(value - value, axis=2)  # NaN where one is not finite
        gaps = nothing
        if tl.max(tl.max((strange != strange).to(tl.int32), axis=1), axis=0) > 0:
            found = nothing
            for at in range(0, k, G * S):
                column = at + tl.arange(0, G * S)
                inside = there[:, None] & (column < k)[None, :]
                value = tl.load(scores + row[:, None] * k + column[None, :], mask=inside, other=0.0).to(tl.float32)
                size = tl.abs(value)
                bad = tl.maximum(bad, tl.max(((value != value) | (value == float("inf"))).to(tl.int32), axis=1))
                large = tl.maximum(large, tl.max(((size > limit) & (size < float("inf"))).to(tl.int32), axis=1))
                gaps = tl.maximum(gaps, tl.max((value == -float("inf")).to(tl.int32), axis=1))
                place = problem[:, None] * k + column[None, :]
                allowed = inside & known[:, None] & (value > -float("inf"))
                mass = tl.load(clusters + place, mask=allowed, other=0.0)
                found = tl.maximum(found, tl.max((mass > 0).to(tl.int32), axis=1))
                tl.store(reached + place, tl.full((R, G * S), 1, tl.int32), mask=allowed & heavy[:, None])
            forbidden = tl.maximum(forbidden, gaps)
            lost = tl.maximum(lost, (heavy & (gaps > 0) & (found == 0)).to(tl.int32))
        tl.store(whole + problem, tl.full((R,), 1, tl.int32), mask=heavy & (gaps == 0))
    # Those that are too large beside infinities were seen above.
    beyond = ((high > limit) & (high < float("inf"))) | ((low < -limit) & (low > -float("inf")))
    large = tl.maximum(large, tl.max(beyond.to(tl.int32), axis=1))
    tl.store(parts_of_range + part, tl.min(tl.min(low, axis=1), axis=0))
    tl.store(parts_of_range + parts + part, tl.max(tl.max(high, axis=1), axis=0))
    if tl.max(bad, axis=0) > 0:
        tl.atomic_max(marks + 1, 1)
    if tl.max(forbidden, axis=0) > 0:
        tl.atomic_max(marks + 2, 1)
    if tl.max(lost, axis=0) > 0:
        tl.atomic_max(marks + 3, 1)
    if tl.max(large, axis=0) > 0:
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
                for at in range(0, k, G * S):
                    column = at + tl.arange(0, G * S)
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
    span, chunk = _SPAN // scores.element_size(), power(16, _TILE, k)
    rows = _TILE // chunk
    parts = max(1, min(_BUSY * processors(scores.device), -(-batches * n // rows)))
    marks = torch.zeros(_HEADER + n_problems * (k + 1), dtype=torch.int32, device=scores.device)
    found = torch.empty(8, dtype=torch.float64, device=scores.device)
    launch(
        _survey, (parts,), scores, scores if weights is None else weights,
        clusters.contiguous(), totals.contiguous(),
        marks if groups is None else groups, torch.empty(2 * parts, dtype=torch.float32, device=scores.device), marks, found,
        n, k, batches * n, n_problems, limit, float(lost_counts),
        R=rows, G=chunk // span, S=span, PARTS=power(2, 1 << 12, parts), PROBLEMS=rows,
        WEIGHTED=weights is not None, GROUPED=groups is not None, num_warps=8,
    )  # fmt: skip
    return found
