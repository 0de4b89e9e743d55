"""Rounds over scores that exist, (batches, n, k): one reading each where a row fits on chip, two where it does not.

A program of the first kind takes some rows at a time, normalises them and adds them to sums of its own for all clusters; what
the programs found is then added in a fixed order, so that the same input gives the same bits. Where k is larger than a program
can hold, one kernel finds the maximum and the sum of each row, and another adds up the columns.

Bytes that must be moved: the scores once a reading; the sums of the programs are small beside them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import INTERPRETED, jit, launch, operator, power
from otcluster._kernels.tiles import BELOW, LOWEST, best, grown, half_round, plan, split

WIDEST = 16_384
"""How many clusters a program holds at most."""

_TILE = 8192  # scores that a program holds at once
_CHUNK, _BESIDE = 2048, 4  # a tile of long rows
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
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    top, total = tl.full((K,), -float("inf"), tl.float32), tl.zeros((K,), tl.float32)
    for at in range(part * R, n, parts * R):
        tile, weight, _, _ = _tile(scores, weights, batch, at, n, k, stride, R, K, WEIGHTED)
        top, total = grown(top, total, tile, weight, epsilon)
    column = tl.arange(0, K)
    place = (batch * parts + part) * k + column
    tl.store(tops + place, top, mask=column < k)
    tl.store(sums + place, total, mask=column < k)


@jit
def _columns_part(
    scores, weights, g, sums, lost, n, k, stride, epsilon, R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr
):  # fmt: skip
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, K)
    near, rest = split(tl.load(g + batch * k + column, mask=column < k, other=-float("inf")), epsilon)
    total, nobody = tl.zeros((K,), tl.float32), tl.zeros((R,), tl.float32)
    for at in range(part * R, n, parts * R):
        tile, weight, _, _ = _tile(scores, weights, batch, at, n, k, stride, R, K, WEIGHTED)
        rows, left = plan(tile, weight, near, rest, epsilon)
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
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
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
            found *= tl.exp((tl.maximum(its, LOWEST) - finite[None, :]) / epsilon)
            before = tl.exp((tl.maximum(top, LOWEST) - finite) / epsilon)
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
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, K)
    near, rest = split(tl.load(g + batch * k + column, mask=column < k, other=-float("inf")), epsilon)
    for at in range(part * R, n, parts * R):
        tile, _, row, there = _tile(scores, scores, batch, at, n, k, stride, R, K, False)
        tl.store(labels + batch * n + row, best(tile, near, rest, epsilon), mask=there)


@jit
def _plan_of_rows(
    scores, weights, g, out, n, k, stride, epsilon, R: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr
):  # fmt: skip
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
    part, parts, batch = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, K)
    near, rest = split(tl.load(g + batch * k + column, mask=column < k, other=-float("inf")), epsilon)
    for at in range(part * R, n, parts * R):
        tile, weight, row, there = _tile(scores, weights, batch, at, n, k, stride, R, K, WEIGHTED)
        rows, _ = plan(tile, weight, near, rest, epsilon)
        place = (batch * n + row.to(tl.int64)) * k
        tl.store(out + place[:, None] + column[None, :], rows, mask=there[:, None] & (column < k)[None, :])


@jit
def _parts_of_g(g, near, rest, count, epsilon, C: tl.constexpr):
    """The two parts of a potential, for kernels that look at it once for a few rows each."""
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
    place = tl.program_id(0) * C + tl.arange(0, C)
    one, two = split(tl.load(g + place, mask=place < count, other=-float("inf")), epsilon)
    tl.store(near + place, one, mask=place < count)
    tl.store(rest + place, two - BELOW, mask=place < count)


@jit
def _chunk(scores, near, rest, at_row, there, at, batch, k, C: tl.constexpr):
    """A part of some rows with the potential of its clusters, in its two parts."""
    column = at + tl.arange(0, C)
    open_ = column < k
    one = tl.load(near + batch * k + column, mask=open_, other=-float("inf"))
    two = tl.load(rest + batch * k + column, mask=open_, other=0.0)
    place = at_row[:, None] + column[None, :]
    values = tl.load(scores + place, mask=there[:, None] & open_[None, :], other=-float("inf")).to(tl.float32)
    return values + one[None, :], two[None, :], column


@jit
def _long_rows(
    scores, weights, near, rest, tops, factors, labels, out, n, k, stride, epsilon,
    R: tl.constexpr, C: tl.constexpr, WEIGHTED: tl.constexpr, LABELS: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Of each row the maximum and what its exponentials are multiplied with; or its label, or its part of the plan."""
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
    row, batch = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64), tl.program_id(1).to(tl.int64)
    there = row < n
    at_row = batch * stride + row * k
    top, total = tl.full((R,), -float("inf"), tl.float32), tl.zeros((R,), tl.float32)
    for at in range(0, k, C):
        shifted, two, _ = _chunk(scores, near, rest, at_row, there, at, batch, k, C)
        higher = tl.maximum(top, tl.max(shifted, axis=1))
        finite = tl.maximum(higher, LOWEST)
        if not LABELS:
            before = tl.where(top == -float("inf"), 0.0, tl.exp((tl.maximum(top, LOWEST) - finite) / epsilon))
            total = total * before + tl.sum(tl.exp((shifted - finite[:, None]) / epsilon + two), axis=1)
        top = higher
    open_ = top > -float("inf")
    finite = tl.maximum(top, LOWEST)
    if LABELS:
        most, label = tl.full((R,), -float("inf"), tl.float32), tl.full((R,), -1, tl.int64)
        for at in range(0, k, C):
            shifted, two, _ = _chunk(scores, near, rest, at_row, there, at, batch, k, C)
            exponent = (shifted - finite[:, None]) / epsilon + two
            here, place = tl.max(exponent, axis=1, return_indices=True, return_indices_tie_break_left=True)
            label = tl.where(open_ & (here > most), at + place, label).to(tl.int64)
            most = tl.maximum(most, here)
        tl.store(labels + batch * n + row, label, mask=there)
    else:
        weight = tl.full((R,), 1.0, tl.float32)
        if WEIGHTED:
            weight = tl.load(weights + batch * n + row, mask=there, other=0.0).to(tl.float32)
        factor = tl.where(open_, weight / tl.where(open_, total, 1.0), 0.0)
        if PLAN:
            for at in range(0, k, C):
                shifted, two, column = _chunk(scores, near, rest, at_row, there, at, batch, k, C)
                part = tl.exp((shifted - finite[:, None]) / epsilon + two) * factor[:, None]
                place = (batch * n + row)[:, None] * k + column[None, :]
                tl.store(out + place, part, mask=there[:, None] & (column < k)[None, :])
        else:
            tl.store(tops + batch * n + row, top, mask=there)
            tl.store(factors + batch * n + row, factor, mask=there)


@jit
def _long_columns(
    scores, weights, g, tops, factors, part_tops, sums, lost, n, k, stride, epsilon,
    R: tl.constexpr, C: tl.constexpr, FIRST: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Sums of some columns over the rows of one part; the parts run from the last row, which was read last, to the first."""
    epsilon = tl.full((), epsilon, tl.float32)  # where it was compiled as a float64
    column = tl.program_id(0) * C + tl.arange(0, C)
    part, parts, batch = tl.num_programs(1) - 1 - tl.program_id(1), tl.num_programs(1), tl.program_id(2).to(tl.int64)
    there = column < k
    top, total = tl.full((C,), -float("inf"), tl.float32), tl.zeros((C,), tl.float32)
    nobody = tl.zeros((R,), tl.float32)
    if not FIRST:
        near, rest = split(tl.load(g + batch * k + column, mask=there, other=-float("inf")), epsilon)
    for at in range(part * R, n, parts * R):
        row = at + tl.arange(0, R)
        here = row < n
        place = batch * stride + row.to(tl.int64)[:, None] * k + column[None, :]
        tile = tl.load(scores + place, mask=here[:, None] & there[None, :], other=-float("inf")).to(tl.float32)
        if WEIGHTED:
            weight = tl.load(weights + batch * n + row, mask=here, other=0.0).to(tl.float32)
        else:
            weight = here.to(tl.float32)
        if FIRST:
            top, total = grown(top, total, tile, weight, epsilon)
        else:
            its = tl.load(tops + batch * n + row, mask=here, other=-float("inf"))
            factor = tl.load(factors + batch * n + row, mask=here, other=0.0)
            finite = tl.maximum(its, LOWEST)
            exponent = (tile + near[None, :] - finite[:, None]) / epsilon + (rest[None, :] - BELOW)
            total += tl.sum(tl.exp(exponent) * factor[:, None], axis=0)
            nobody += tl.where(its > -float("inf"), 0.0, weight)
    place = (batch * parts + part) * k + column
    tl.store(sums + place, total, mask=there)
    if FIRST:
        tl.store(part_tops + place, top, mask=there)
    elif tl.program_id(0) == 0:
        tl.store(lost + batch * parts + part, tl.sum(nobody, axis=0))


@functools.cache
def processors(device: torch.device) -> int:
    """How many multiprocessors there are."""
    return 2 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


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
            self.look_at_rows(g, tops, factors, g, g, LABELS=False, PLAN=False)
            self.add_columns(g, tops, factors, sums, sums, lost, FIRST=False)
        else:
            self.over_rows(_columns_part, self.weights, g, sums, lost, **self.sizes, WEIGHTED=self.weighted)

    def over_rows(self, kernel: Any, *arguments: Tensor, **options: Any) -> None:
        launch(
            kernel, (self.parts, self.batches),
            self.scores, *arguments, self.n, self.k, self.n * self.k, self.epsilon, **options,
        )  # fmt: skip

    def look_at_rows(self, g: Tensor, tops: Tensor, factors: Tensor, labels: Tensor, out: Tensor, **options: Any) -> None:
        near, rest = torch.empty((2, *g.shape), dtype=torch.float32, device=g.device)
        launch(_parts_of_g, (-(-g.numel() // 1024),), g, near, rest, g.numel(), self.epsilon, C=1024, num_warps=4)
        launch(
            _long_rows, (-(-self.n // _BESIDE), self.batches),
            self.scores, self.weights, near, rest, tops, factors, labels, out, self.n, self.k, self.n * self.k, self.epsilon,
            R=_BESIDE, C=_CHUNK, WEIGHTED=self.weighted, num_warps=8, **options,
        )  # fmt: skip

    def add_columns(
        self, g: Tensor, tops: Tensor, factors: Tensor, part_tops: Tensor, sums: Tensor, lost: Tensor, **options: Any
    ) -> None:
        launch(
            _long_columns, (-(-self.k // _COLUMNS), self.parts, self.batches),
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
        passes.look_at_rows(g, g, g, labels, g, LABELS=True, PLAN=False)
    else:
        passes.over_rows(_labels_of_rows, g, labels, **passes.sizes)
    return labels


@operator
def dense_plan(scores: Tensor, weights: Tensor | None, g: Tensor, epsilon: float, widest: int = WIDEST) -> Tensor:
    """The plan, float32, (batches, n, k)."""
    passes = _Passes(scores, weights, epsilon, widest)
    out = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
    if passes.long:
        passes.look_at_rows(g, g, g, g, out, LABELS=False, PLAN=True)
    else:
        passes.over_rows(_plan_of_rows, passes.weights, g, out, **passes.sizes, WEIGHTED=passes.weighted)
    return out
