"""Soft maxima, column sums and nearest clusters of scores that are never written down: kernels in Triton.

A program keeps a block of vectors of its own side, goes through the vectors of the other side block by block, and folds each
block of scores into numbers of its own vectors while they are in registers. Nothing of the size of the scores exists. The
samples own when rows are asked for, the clusters when columns are. Where one side has too few vectors to fill the device, the
other is cut into spans and what they found is merged in a fixed order: results depend on the shapes and the device alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from otcluster._kernels.launching import launch, operator, processors, shared_memory
from otcluster._kernels.points_loops import columns_kernel, nearest_kernel, rows_kernel, sums_kernel
from otcluster._kernels.sides import Side, sides

__all__ = ["Blocks", "Side", "blocks_of", "columns", "nearest", "scaled_sums", "shared_bytes", "sides", "soft_rows"]

_BITS = 1 / math.log(2)
_HALF = 0.5  # of what a float32 potential lost, in nats: beyond that the scores have no digits left
_MORE = 4 << 10  # bytes of it for what is neither block


class Blocks(NamedTuple):
    """How a kernel is laid out."""

    own: int
    other: int
    depth: int
    """How many dimensions are loaded at once."""
    warps: int
    stages: int


def blocks_of(dtype: torch.dtype, d: int, own_parts: int, other_parts: int, nearest: bool = False) -> Blocks:
    """The layout for sides of so many parts; vectors that fit beside what is loaded ahead are kept whole.

    Who looks for the nearest keeps three numbers for each place of a block in registers, the others one.
    """
    whole, parts = triton.next_power_of_2(d), own_parts + other_parts
    if dtype == torch.float32:
        return Blocks(128, 64, min(whole, 32), 8, 2)
    if whole - d <= d // 4 and whole <= 128:
        if nearest:
            return Blocks(128, 64, whole, 4 if parts == 3 else 8, 2)
        if not nearest and parts == 2:
            return Blocks(128, 128, whole, 8, 2 if whole == 128 else 3)
        if not nearest:
            return Blocks(128, 64 if parts == 4 else 128, whole, 8, 2)
    if nearest:
        return Blocks(128, 128, 64, 8, 3 if parts < 4 else 2)
    if parts == 2:
        return Blocks(128, 128, 64, 4, 3)
    return Blocks(128, 256, 32, 8, 3)


def shared_bytes(blocks: Blocks, d: int, own_parts: int, other_parts: int) -> int:
    """How much of the shared memory of a processor a program takes for vectors of 16 bits."""
    own, other = 2 * blocks.depth * blocks.own * own_parts, 2 * blocks.depth * blocks.other * other_parts
    return own + blocks.stages * other if blocks.depth >= d else blocks.stages * (own + other)


def _read(side: Tensor) -> Tensor:
    """Parts as kernels read them: Triton's interpreter has no products of bfloat16."""
    return side.float() if side.dtype == torch.bfloat16 and side.device.type == "cpu" else side


def _layout(own: Tensor, other: Tensor, nearest: bool = False) -> tuple[tuple[int, int], int, dict[str, Any]]:
    """The grid, how many of the others a span has, and what the kernels take by name."""
    (own_parts, n_own, d), (other_parts, n_other, _) = own.shape, other.shape
    blocks = blocks_of(own.dtype, d, own_parts, other_parts, nearest)
    if shared_bytes(blocks, d, own_parts, other_parts) + _MORE > shared_memory(own.device):
        blocks = Blocks(128, 64, 32, 8, 2)
    across = triton.cdiv(n_own, blocks.own)
    tiles = triton.cdiv(n_other, blocks.other)
    # A few waves of programs at least, so that the last one wastes little; each goes through some blocks, or its own is waste.
    spans = max(1, min(triton.cdiv(4 * processors(own.device), across), tiles // 4))
    span = triton.cdiv(tiles, spans) * blocks.other
    names = {
        "n_dims": d, "D": d, "OWN_PARTS": own_parts, "OTHER_PARTS": other_parts, "OWN": blocks.own, "OTHER": blocks.other,
        "DEPTH": blocks.depth, "num_warps": blocks.warps, "num_stages": blocks.stages,
    }  # fmt: skip
    return (across, triton.cdiv(n_other, span)), span, names


@operator
def points_rows(
    own: Tensor, own_factor: Tensor | None, other: Tensor, other_factor: Tensor | None, near: Tensor, after: Tensor | None,
    inverse: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    own, other = _read(own), _read(other)
    grid, span, names = _layout(own, other)
    n, k = own.shape[1], other.shape[1]
    tops = torch.empty((grid[1], n), dtype=torch.float32, device=own.device)
    totals = torch.empty((grid[1], n), dtype=torch.float64, device=own.device)
    launch(
        rows_kernel, grid,
        own, _or(own_factor, near), other, _or(other_factor, near), near, _or(after, near), tops, totals, n, k, span,
        inverse=inverse, HAS_FACTOR=own_factor is not None, HAS_OTHER=other_factor is not None, HAS_AFTER=after is not None,
        **names,
    )  # fmt: skip
    if grid[1] == 1:
        return tops[0], totals[0]
    top = tops.amax(0)
    base = torch.where(top == -math.inf, 0.0, top)
    return top, (torch.exp2((tops - base) * inverse) * totals).sum(0)


@operator
def points_columns(
    own: Tensor, own_factor: Tensor | None, other: Tensor, other_factor: Tensor | None, near: Tensor, tops: Tensor,
    weights: Tensor, inverse: float,
) -> Tensor:  # fmt: skip
    own, other = _read(own), _read(other)
    grid, span, names = _layout(own, other)
    k, n = own.shape[1], other.shape[1]
    totals = torch.empty((grid[1], k), dtype=torch.float64, device=own.device)
    launch(
        columns_kernel, grid,
        own, _or(own_factor, near), other, _or(other_factor, near), near, tops, weights, totals, k, n, span,
        inverse=inverse, HAS_FACTOR=own_factor is not None, HAS_OTHER=other_factor is not None, **names,
    )  # fmt: skip
    return totals[0] if grid[1] == 1 else totals.sum(0)


@operator
def points_nearest(
    own: Tensor, own_factor: Tensor | None, other: Tensor, other_factor: Tensor | None, near: Tensor, after: Tensor | None,
    inverse: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    own, other = _read(own), _read(other)
    grid, span, names = _layout(own, other, nearest=True)
    n, k = own.shape[1], other.shape[1]
    labels = torch.empty((grid[1], n), dtype=torch.int64, device=own.device)
    bests = torch.empty((grid[1], n), dtype=torch.float32, device=own.device)
    extras = bests if after is None else torch.empty_like(bests)
    launch(
        nearest_kernel, grid,
        own, _or(own_factor, near), other, _or(other_factor, near), near, _or(after, near), labels, bests, extras, n, k, span,
        inverse=inverse, HAS_FACTOR=own_factor is not None, HAS_OTHER=other_factor is not None, HAS_AFTER=after is not None,
        **names,
    )  # fmt: skip
    values = bests.double()
    if after is not None:
        values = values + extras.double() / inverse
    if grid[1] == 1:
        return labels[0], values[0]
    part = values.argmax(0, keepdim=True)
    return labels.gather(0, part)[0], values.gather(0, part)[0]


@operator
def points_sums(
    own: Tensor, own_factor: Tensor | None, own_offset: Tensor | None, other: Tensor, other_factor: Tensor | None,
    offset: Tensor, inverse: float,
) -> Tensor:  # fmt: skip
    own, other = _read(own), _read(other)
    grid, span, names = _layout(own, other)
    n, k = own.shape[1], other.shape[1]
    totals = torch.empty((grid[1], n), dtype=torch.float64, device=own.device)
    launch(
        sums_kernel, grid,
        own, _or(own_factor, offset), _or(own_offset, offset), other, _or(other_factor, offset), offset, totals, n, k, span,
        inverse=inverse, HAS_FACTOR=own_factor is not None, HAS_OTHER=other_factor is not None,
        HAS_OFFSET=own_offset is not None, **names,
    )  # fmt: skip
    return totals[0] if grid[1] == 1 else totals.sum(0)


def scaled_sums(own: Side, other: Side, offset: Tensor, epsilon: float) -> Tensor:
    """Sums over the vectors of ``other`` of ``exp(score / epsilon + offset)``: (own.count,) float64.

    For scores of so small a range that no exponent overflows, and the largest of each sum does not vanish: without the
    maximum of each row, half of the work on a score is left out.

    Args:
        offset: (other.count,) float64, in nats; -inf leaves a vector out.
        epsilon: A positive number.
    """
    if own.count == 0 or other.count == 0:
        return _full(own, 0.0)
    if other.shift is not None:
        offset = offset + other.shift / epsilon
    mine = None if own.shift is None else _bits(own.shift / epsilon)
    return points_sums(own.parts, own.factor, mine, other.parts, other.factor, (offset * _BITS).float(), _BITS / epsilon)


def soft_rows(own: Side, other: Side, near: Tensor, after: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """The maximum of each row of ``scores + near``, and the sum of exponentials relative to it.

    The rows are the vectors of ``own``, whichever side that is.

    Args:
        near: (other.count,), float32 or float64; -inf closes a column.
        after: (other.count,) or None for zeros, in nats, added to the exponents ``(scores + near - top) / epsilon``.
        epsilon: A positive number.

    Returns:
        The maxima, (own.count,) float64, -inf where all columns are closed; and the sums, (own.count,) float64, zero there.
    """
    if own.count == 0 or other.count == 0:
        return _full(own, -math.inf), _full(own, 0.0)
    near, after = _split(other, near, after, epsilon)
    top, sums = points_rows(own.parts, own.factor, other.parts, other.factor, near, _bits(after), _BITS / epsilon)
    return (top.double() if own.shift is None else top.double() + own.shift), sums


def columns(
    samples: Side, clusters: Side, near: Tensor, after: Tensor | None, epsilon: float, top: Tensor, weights: Tensor
) -> Tensor:
    """Sums over the samples of ``weight * exp((score + near - top) / epsilon + after)``: (clusters.count,) float64.

    Args:
        near: (clusters.count,), as in :func:`soft_rows`.
        after: The same.
        epsilon: A positive number.
        top: (samples.count,), what :func:`soft_rows` found. Of rows where it is -inf the weight counts for nothing.
        weights: (samples.count,), mass over the sum of the row, say.
    """
    if samples.count == 0:
        return _full(clusters, 0.0)
    near, after = _split(clusters, near, after, epsilon)
    top = (top if samples.shift is None else top - samples.shift).float()
    top = torch.where(top == -math.inf, 0.0, top)  # the exponents are -inf there
    sums = points_columns(
        clusters.parts,
        clusters.factor,
        samples.parts,
        samples.factor,
        near,
        top,
        weights.float().contiguous(),
        _BITS / epsilon,
    )
    return sums if after is None else sums * torch.exp(after.double())


def nearest(own: Side, other: Side, near: Tensor, after: Tensor | None = None, epsilon: float = 1.0) -> tuple[Tensor, Tensor]:
    """The largest of ``score + near + after * epsilon`` in each row.

    Returns:
        Its place, (own.count,) int64: the lowest among equals, and -1 where all columns are closed; and its value, float64.
    """
    if own.count == 0 or other.count == 0:
        return torch.full((own.count,), -1, dtype=torch.int64, device=own.parts.device), _full(own, -math.inf)
    near, after = _split(other, near, after, epsilon)
    labels, best = points_nearest(own.parts, own.factor, other.parts, other.factor, near, _bits(after), _BITS / epsilon)
    return labels, (best if own.shift is None else best + own.shift)


def _split(side: Side, near: Tensor, after: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor | None]:
    """Potentials with the shifts of the vectors, as a float32 and what that lost, in nats."""
    if near.dtype == torch.float32 and side.shift is None:
        return near.contiguous(), after
    whole = near.double() if side.shift is None else near.double() + side.shift
    narrow = whole.float()
    lost = torch.where(narrow == -math.inf, 0.0, (whole - narrow) / epsilon).clamp(-_HALF, _HALF)
    return narrow, lost if after is None else lost + after


def _bits(after: Tensor | None) -> Tensor | None:
    return None if after is None else (after * _BITS).float().contiguous()


def _or(given: Tensor | None, instead: Tensor) -> Tensor:
    """What is given, or what takes its place among the arguments of a kernel and is never read."""
    return instead if given is None else given


def _full(side: Side, value: float) -> Tensor:
    return torch.full((side.count,), value, dtype=torch.float64, device=side.parts.device)
