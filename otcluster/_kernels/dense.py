"""Rounds over scores that exist, (batches, n, k): one reading each where a row fits on chip, two where it does not.

A program of the first kind takes some rows at a time, normalises them and adds them to sums of its own for all clusters; what
the programs found is then added in a fixed order, so that the same input gives the same bits. Where k is larger than a program
can hold, one kernel finds the maximum and the sum of each row, and another adds up the columns.

Bytes that must be moved: the scores once a reading; the sums of the programs are small beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import jit, launch, operator, power, processors
from otcluster._kernels.long_rows import long_columns, long_labels, long_rows, parts_of_g
from otcluster._kernels.tiles import LOWEST, best, grown, half_round, per_bit, plan, split

WIDEST = 16_384
"""How many clusters a program holds at most."""

_TILE = 8192  # scores that a program holds at once
_CHUNK, _BESIDE, _SPAN = 4096, 4, 16  # a tile of long rows: scores, rows at most, bytes that a thread reads at once
_FEW = 32  # columns of a program that adds up what others found
_WAVES = 2  # programs for each processor
_COLUMNS, _ROWS = 1024, 8  # a tile of the kernel that adds up columns of long rows


@jit
def _tile(scores, weights, batch, at, n, k, stride, R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr):
    """Some whole rows, and their weights."""
    row = at + tl.arange(0, R)
    column = tl.arange(0, K)
    there = row < n
    inside = there[:, None] & (column < k)[None, :]
    at_row = batch * stride + row.to(tl.int64) * k
    tile = tl.load(scores + at_row[:, None] + column[None, :], mask=inside, other=-float("inf")).to(tl.float32)
    if WEIGHTED:
        weight = tl.load(weights + batch * n + row, mask=there, other=0.0).to(tl.float32)
    else:
        weight = there.to(tl.float32)
    return tile, weight, row, there


@jit
def _first_part(
    scores, weights, tops, sums, n, k, stride, epsilon, R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr
):  # fmt: skip
    inverse = per_bit(epsilon)
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    top, total = tl.full((K,), -float("inf"), tl.float32), tl.zeros((K,), tl.float32)
    for at in range(part * R, n, parts * R):
        tile, weight, _, _ = _tile(scores, weights, batch, at, n, k, stride, R, K, WEIGHTED)
        top, total = grown(top, total, tile, weight, inverse)
    column = tl.arange(0, K)
    place = (batch * parts + part) * k + column
    tl.store(tops + place, top, mask=column < k)
    tl.store(sums + place, total, mask=column < k)


@jit
def _columns_part(
    scores, weights, g, sums, lost, n, k, stride, epsilon, R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr
):  # fmt: skip
    inverse = per_bit(epsilon)
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, K)
    near, rest = split(tl.load(g + batch * k + column, mask=column < k, other=-float("inf")), inverse)
    total, nobody = tl.zeros((K,), tl.float32), tl.zeros((R,), tl.float32)
    for at in range(part * R, n, parts * R):
        tile, weight, _, _ = _tile(scores, weights, batch, at, n, k, stride, R, K, WEIGHTED)
        rows, left = plan(tile, weight, near, rest, inverse)
        total += tl.sum(rows, axis=0)
        nobody += left
    tl.store(sums + (batch * parts + part) * k + column, total, mask=column < k)
    tl.store(lost + batch * parts + part, tl.sum(nobody, axis=0))


@jit
def _merged(
    tops, sums, g, masses, out, parts, k, epsilon,
    FIRST: tl.constexpr, RAISE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add up what programs found of some columns; then the half-round of the clusters, if asked for."""
    inverse = per_bit(epsilon)
    column, batch = tl.program_id(0) * C + tl.arange(0, C), tl.program_id(1).to(tl.int64)
    there = column < k
    eps = tl.full((), epsilon, tl.float64)
    total = tl.zeros((C,), tl.float64)
    top = tl.full((C,), -float("inf"), tl.float32)
    for at in range(0, parts, P):
        part = at + tl.arange(0, P)
        place = (batch * parts + part)[:, None] * k + column[None, :]
        inside = (part < parts)[:, None] & there[None, :]
        found = tl.load(sums + place, mask=inside, other=0.0)
        if FIRST:
            its = tl.load(tops + place, mask=inside, other=-float("inf"))
            higher = tl.maximum(top, tl.max(its, axis=0))
            finite = tl.maximum(higher, LOWEST)
            found *= tl.exp2((tl.maximum(its, LOWEST) - finite[None, :]) * inverse)
            before = tl.exp2((tl.maximum(top, LOWEST) - finite) * inverse)
            total *= tl.where(top == -float("inf"), 0.0, before).to(tl.float64)
            top = higher
        total += tl.sum(found.to(tl.float64), axis=0)
    at_column = batch * k + column
    if RAISE:
        mass = tl.load(masses + at_column, mask=there, other=0.0)
        if FIRST:
            start = tl.where(top == -float("inf"), 0.0, -top).to(tl.float64)
        else:
            start = tl.load(g + at_column, mask=there, other=-float("inf"))
        total = half_round(start, total, mass, eps)
    tl.store(out + at_column, total, mask=there)


@jit
def _labels_of_rows(scores, g, labels, n, k, stride, epsilon, R: tl.constexpr, K: tl.constexpr):
    inverse = per_bit(epsilon)
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, K)
    near, rest = split(tl.load(g + batch * k + column, mask=column < k, other=-float("inf")), inverse)
    for at in range(part * R, n, parts * R):
        tile, _, row, there = _tile(scores, scores, batch, at, n, k, stride, R, K, False)
        tl.store(labels + batch * n + row, best(tile, near, rest, inverse), mask=there)


@jit
def _plan_of_rows(
    scores, weights, g, out, n, k, stride, epsilon, R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr
):  # fmt: skip
    inverse = per_bit(epsilon)
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, K)
    near, rest = split(tl.load(g + batch * k + column, mask=column < k, other=-float("inf")), inverse)
    for at in range(part * R, n, parts * R):
        tile, weight, row, there = _tile(scores, weights, batch, at, n, k, stride, R, K, WEIGHTED)
        rows, _ = plan(tile, weight, near, rest, inverse)
        place = (batch * n + row.to(tl.int64)) * k
        tl.store(out + place[:, None] + column[None, :], rows, mask=there[:, None] & (column < k)[None, :])


class _Passes:
    """What the functions below share: sizes of tiles, and the memory between kernels."""

    def __init__(self, scores: Tensor, weights: Tensor | None, epsilon: float, widest: int) -> None:
        self.scores, self.epsilon = scores, epsilon
        self.batches, self.n, self.k = scores.shape
        self.weighted = weights is not None
        self.weights = scores if weights is None else weights
        self.long = self.k > widest
        self.clusters = power(2, widest, self.k)
        self.rows = power(1, max(1, _TILE // self.clusters), self.n)
        self.warps = power(1, 16, self.rows * self.clusters / 512)
        busy = max(1, processors(scores.device) * _WAVES // max(self.batches, 1))
        if self.long:
            busy = max(1, busy * _COLUMNS // self.k)
        self.parts = max(1, min(busy, -(-self.n // (_ROWS if self.long else self.rows))))

    @property
    def sizes(self) -> dict[str, Any]:
        return {"R": self.rows, "K": self.clusters, "num_warps": self.warps}

    def of_parts(self, *tail: int) -> Tensor:
        return torch.empty((self.batches, self.parts, *tail), dtype=torch.float32, device=self.scores.device)

    def sum_up(self, g: Tensor, sums: Tensor, lost: Tensor) -> None:
        """Write what each part finds: column sums, (batches, parts, k), and the mass that no cluster may take."""
        if self.long:
            tops, factors = torch.empty((2, self.batches, self.n), dtype=torch.float32, device=self.scores.device)
            self.along_rows(long_rows, (self.weights,), g, (tops, factors, g), WEIGHTED=self.weighted, PLAN=False)
            self.add_columns(g, tops, factors, sums, sums, lost, FIRST=False)
        else:
            self.over_rows(_columns_part, self.weights, g, sums, lost, **self.sizes, WEIGHTED=self.weighted)

    def over_rows(self, kernel: Any, *arguments: Tensor, **options: Any) -> None:
        launch(
            kernel, (self.parts, self.batches),
            self.scores, *arguments, self.n, self.k, self.n * self.k, self.epsilon, **options,
        )  # fmt: skip

    def along_rows(self, kernel: Any, before: Sequence[Tensor], g: Tensor, after: Sequence[Tensor], **options: Any) -> None:
        near, rest = torch.empty((2, *g.shape), dtype=torch.float32, device=g.device)
        launch(parts_of_g, (-(-g.numel() // 1024),), g, near, rest, g.numel(), self.epsilon, C=1024, num_warps=4)
        beside = power(1, _BESIDE, self.batches * self.n / (_BESIDE * processors(g.device)))
        span = _SPAN // self.scores.element_size()
        launch(
            kernel, (-(-self.n // beside), self.batches),
            self.scores, *before, near, rest, *after, self.n, self.k, self.n * self.k, self.epsilon,
            R=beside, G=_CHUNK // (beside * span), S=span, num_warps=8, **options,
        )  # fmt: skip

    def add_columns(
        self, g: Tensor, tops: Tensor, factors: Tensor, part_tops: Tensor, sums: Tensor, lost: Tensor, **options: Any
    ) -> None:
        launch(
            long_columns, (-(-self.k // _COLUMNS), self.parts, self.batches),
            self.scores, self.weights, g, tops, factors, part_tops, sums, lost, self.n, self.k, self.n * self.k, self.epsilon,
            R=_ROWS, C=_COLUMNS, WEIGHTED=self.weighted, num_warps=4, **options,
        )  # fmt: skip

    def merged(self, tops: Tensor, sums: Tensor, g: Tensor, masses: Tensor, **options: Any) -> Tensor:
        out = torch.empty((self.batches, self.k), dtype=torch.float64, device=self.scores.device)
        launch(
            _merged, (-(-self.k // _FEW), self.batches),
            tops, sums, g, masses, out, self.parts, self.k, self.epsilon, P=64, C=_FEW, num_warps=4, **options,
        )  # fmt: skip
        return out


@operator
def dense_rounds(
    scores: Tensor,
    weights: Tensor | None,
    masses: Tensor,
    start: Tensor | None,
    epsilon: float,
    count: int,
    widest: int = WIDEST,
) -> Tensor:
    """The half-round of the clusters after some rounds.

    Args:
        scores: (batches, n, k), contiguous, of a dtype of at most 32 bits.
        weights: Mass of each row, (batches, n), contiguous; None for ones.
        masses: Of the clusters, float64, (batches, k).
        start: Potential of the clusters to begin with, like ``masses``; None for the first half-round.
        epsilon: Entropic strength.
        count: Rounds after that.
        widest: From how many clusters on rows are read twice.

    Returns:
        g, float64, (batches, k).
    """
    passes = _Passes(scores, weights, epsilon, widest)
    sums, other = passes.of_parts(passes.k), passes.of_parts(passes.k if start is None else 1)
    if start is not None:
        g = start
    elif passes.long:
        passes.add_columns(masses, sums, sums, other, sums, sums, FIRST=True)
        g = passes.merged(other, sums, masses, masses, FIRST=True, RAISE=True)
    else:
        passes.over_rows(_first_part, passes.weights, other, sums, **passes.sizes, WEIGHTED=passes.weighted)
        g = passes.merged(other, sums, masses, masses, FIRST=True, RAISE=True)
    for _ in range(count):
        passes.sum_up(g, sums, other)
        g = passes.merged(sums, sums, g, masses, FIRST=False, RAISE=True)
    return g if count or start is None else start.clone()


@operator
def dense_columns(
    scores: Tensor, weights: Tensor | None, g: Tensor, epsilon: float, widest: int = WIDEST
) -> tuple[Tensor, Tensor]:
    """Column sums of the plan, (batches, k), and the mass that no cluster may take, (batches,); float64 both."""
    passes = _Passes(scores, weights, epsilon, widest)
    sums, lost = passes.of_parts(passes.k), passes.of_parts()
    passes.sum_up(g, sums, lost)
    return passes.merged(sums, sums, g, g, FIRST=False, RAISE=False), lost.to(torch.float64).sum(dim=1)


@operator
def dense_labels(scores: Tensor, g: Tensor, epsilon: float, widest: int = WIDEST) -> Tensor:
    """The largest entry of each row of the plan, int64, (batches, n); -1 where there is none."""
    passes = _Passes(scores, None, epsilon, widest)
    labels = torch.empty((passes.batches, passes.n), dtype=torch.int64, device=scores.device)
    if passes.long:
        passes.along_rows(long_labels, (), g, (labels,))
    else:
        passes.over_rows(_labels_of_rows, g, labels, **passes.sizes)
    return labels


@operator
def dense_plan(scores: Tensor, weights: Tensor | None, g: Tensor, epsilon: float, widest: int = WIDEST) -> Tensor:
    """The plan, float32, (batches, n, k)."""
    passes = _Passes(scores, weights, epsilon, widest)
    out = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
    if passes.long:
        passes.along_rows(long_rows, (passes.weights,), g, (g, g, out), WEIGHTED=passes.weighted, PLAN=True)
    else:
        passes.over_rows(_plan_of_rows, passes.weights, g, out, **passes.sizes, WEIGHTED=passes.weighted)
    return out
