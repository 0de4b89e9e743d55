"""Many small problems in one launch: each program balances one, whose rows stay on chip through all rounds.

Rows are sorted by problem once. A problem whose rows fit in one tile is read once; a larger one is read again in each round, by
its program, which finds it in the cache as long as it is not very large.

Bytes that must be moved: scores, order and starts once, labels and potentials once.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import jit, launch, operator, power
from otcluster._kernels.own import METRICS, own_scores
from otcluster._kernels.tiles import best, grown, half_round, per_bit, plan, split

__all__ = ["METRICS", "grouped_rounds", "own_scores"]

_MOST_CLUSTERS = 128
_TILE = 4096  # scores that a program holds


@jit
def _rows(scores, order, weights, at, stop, k, R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr):
    """A tile, the weights of its rows, where they stand, and which there are."""
    place = at + tl.arange(0, R)
    there = place < stop
    row = tl.load(order + place, mask=there, other=0)
    column = tl.arange(0, K)
    inside = there[:, None] & (column < k)[None, :]
    tile = tl.load(scores + row[:, None] * k + column[None, :], mask=inside, other=-float("inf")).to(tl.float32)
    if WEIGHTED:
        weight = tl.load(weights + row, mask=there, other=0.0).to(tl.float32)
    else:
        weight = there.to(tl.float32)
    return tile, weight, row, there


@jit
def _columns(
    tile, weight, g, inverse, scores, order, weights, start, stop, k,
    R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Column sums of the plan of a problem, of which ``tile`` is the first, and the mass that no cluster may take; float64."""
    near, rest = split(g, inverse)
    part, lost = plan(tile, weight, near, rest, inverse)
    columns = tl.sum(part, axis=0).to(tl.float64)
    nobody = tl.sum(lost, axis=0).to(tl.float64)
    for at in range(start + R, stop, R):
        more, its, row_of, is_there = _rows(scores, order, weights, at, stop, k, R, K, WEIGHTED)
        part, lost = plan(more, its, near, rest, inverse)
        columns += tl.sum(part, axis=0).to(tl.float64)
        nobody += tl.sum(lost, axis=0).to(tl.float64)
    return columns, nobody


@jit
def _rounds(
    scores, order, starts, weights, masses, begin, g_out, labels, errors, counts, k, epsilon, limit, most,
    R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr, STARTED: tl.constexpr, TO_TOL: tl.constexpr, BEST: tl.constexpr,
):  # fmt: skip
    problem = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(starts + problem), tl.load(starts + problem + 1)
    column = tl.arange(0, K)
    mass = tl.load(masses + problem * k + column, mask=column < k, other=0.0)
    eps = tl.full((), epsilon, tl.float64)
    inverse = per_bit(epsilon)
    tile, weight, row, there = _rows(scores, order, weights, start, stop, k, R, K, WEIGHTED)
    if STARTED:
        g = tl.load(begin + problem * k + column, mask=column < k, other=-float("inf"))
    else:
        top = tl.full((K,), -float("inf"), tl.float32)
        top, sums = grown(top, tl.zeros((K,), tl.float32), tile, weight, inverse)
        for at in range(start + R, stop, R):
            more, its, row_of, is_there = _rows(scores, order, weights, at, stop, k, R, K, WEIGHTED)
            top, sums = grown(top, sums, more, its, inverse)
        shift = tl.where(top == -float("inf"), 0.0, -top).to(tl.float64)
        g = half_round(shift, sums.to(tl.float64), mass, eps)
    if TO_TOL:
        total = tl.sum(mass, axis=0)
        kept, least = g, tl.full((), float("inf"), tl.float64)
        rounds = tl.full((), 0, tl.int64)
        going = rounds < most
        while going:
            columns, nobody = _columns(tile, weight, g, inverse, scores, order, weights, start, stop, k, R, K, WEIGHTED)
            error = (tl.sum(tl.abs(columns - mass), axis=0) + nobody) / tl.where(total > 0, total, 1.0)
            rounds += 1
            going = (error > limit) & (rounds < most)
            # A loop carries what is a new value in it: `kept = g` would leave the one from before the loop.
            if BEST:
                kept = tl.where(error < least, g, kept)
                least = tl.minimum(error, least)
            else:
                least = error
            g = tl.where(going, half_round(g, columns, mass, eps), g)
        if BEST:
            g = kept
        tl.store(errors + problem, least)
        tl.store(counts + problem, rounds)
    else:
        for _ in range(most):
            columns, nobody = _columns(tile, weight, g, inverse, scores, order, weights, start, stop, k, R, K, WEIGHTED)
            g = half_round(g, columns, mass, eps)
    tl.store(g_out + problem * k + column, g, mask=column < k)
    near, rest = split(g, inverse)
    tl.store(labels + row, best(tile, near, rest, inverse), mask=there)
    for at in range(start + R, stop, R):
        more, its, row, there = _rows(scores, order, weights, at, stop, k, R, K, WEIGHTED)
        tl.store(labels + row, best(more, near, rest, inverse), mask=there)


@operator
def grouped_rounds(
    scores: Tensor,
    order: Tensor,
    starts: Tensor,
    weights: Tensor | None,
    masses: Tensor,
    begin: Tensor | None,
    epsilon: float,
    most: int,
    limit: float | None,
    best_of_all: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Balance every problem.

    Args:
        scores: (n, k), contiguous, of a dtype of at most 32 bits.
        order: Rows sorted by problem, int64, (n,).
        starts: Where each problem begins there, int64, (n_problems + 1,).
        weights: Mass of each row, (n,); None for ones.
        masses: Of the clusters, float64, (n_problems, k).
        begin: Potential to begin with, of the shape of ``masses``; None for the first half-round.
        epsilon: Entropic strength.
        most: Half-rounds of the clusters without a limit; rounds, else.
        limit: Error at which a problem is done; None for exactly ``most``.
        best_of_all: Whether to answer with the potential of least error, in place of the last.

    Returns:
        The potential g of the clusters, float64, (n_problems, k); the largest entry of each row of the plan, int64, (n,), -1
        where there is none; and, empty without a limit, the share of the mass in the wrong place, float64, and rounds, int64,
        (n_problems,) both.
    """
    n, k = scores.shape
    n_problems = len(masses)
    clusters = power(2, _MOST_CLUSTERS, k)
    rows = power(16, max(16, _TILE // clusters), 2 * n / max(n_problems, 1))
    g = torch.empty_like(masses)
    labels = torch.full((n,), -1, dtype=torch.int64, device=scores.device)
    error = torch.empty(n_problems if limit is not None else 0, dtype=torch.float64, device=scores.device)
    n_iter = torch.empty(error.shape, dtype=torch.int64, device=scores.device)
    launch(
        _rounds, (n_problems,),
        scores, order, starts, scores if weights is None else weights, masses, masses if begin is None else begin, g, labels,
        error, n_iter, k, epsilon, 0.0 if limit is None else limit, most,
        R=rows, K=clusters, WEIGHTED=weights is not None, STARTED=begin is not None, TO_TOL=limit is not None, BEST=best_of_all,
        num_warps=power(1, 8, rows * clusters / 512),
    )  # fmt: skip
    return g, labels, error, n_iter
