"""The step of a store: sums of features by the centroid that they go to, and what the centroids become by them.

A program sums some dimensions of the rows of one class, sorted by class before, for all centroids of that class at once: each
feature is read once. Where there are too few classes for a device, several programs share the rows of each, and their sums are
added in a fixed order. So sums are the same in each run. A second kernel goes over the centroids once, one program each.

Bytes that must be moved: features, order, choices and centroids read once; sums written and read; centroids written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from otcluster._kernels.launching import jit, launch, operator, power
from otcluster._kernels.tiles import TINY

_ROWS = 4
_TILE = 8192  # features that a program holds, once for each centroid
_PROGRAMS = 1024  # wanted, to keep a device busy
_SPARE = 8  # parts of sums take at most this part of the features' memory


@jit
def _class_sums(
    x, order, starts, chosen, used, is_open, out, n, d, k, n_classes, stride,
    R: tl.constexpr, K: tl.constexpr, D: tl.constexpr, ORDERED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(d, D)
    group, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    part, parts = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if ORDERED:
        start, stop = tl.load(starts + group), tl.load(starts + group + 1)
    else:
        start, stop = tl.full((), 0, tl.int64), tl.full((), n, tl.int64)
    each = tl.cdiv(stop - start, parts)
    first = start + part * each
    last = tl.minimum(first + each, stop)
    column, dims = tl.arange(0, K), block * D + tl.arange(0, D)
    inside = dims < d
    open_ = tl.load(is_open + group * k + column, mask=column < k, other=0) != 0
    sums, counts = tl.zeros((K, D), tl.float64), tl.zeros((K,), tl.float32)
    bad = tl.full((), 0.0, tl.float32)
    for at in range(first, last, R):
        place = at + tl.arange(0, R)
        there = place < last
        if ORDERED:
            row = tl.load(order + place, mask=there, other=0)
        else:
            row = place
        choice = tl.load(chosen + row, mask=there, other=-1).to(tl.int64)
        if MASKED:
            there = there & (tl.load(used + row, mask=there, other=0) != 0)
        taken = there[:, None] & open_[None, :] & (choice[:, None] == column[None, :])
        kept = tl.max(taken.to(tl.int32), axis=1) > 0
        tile = tl.load(x + row[:, None] * d + dims[None, :], mask=kept[:, None] & inside[None, :], other=0.0).to(tl.float32)
        sums += tl.sum(tl.where(taken[:, :, None], tile[:, None, :], 0.0), axis=0).to(tl.float64)
        counts += tl.sum(taken.to(tl.float32), axis=0)
        bad += tl.sum((there & (kept == 0) & (choice != -1)).to(tl.float32), axis=0)
    out += part * stride
    centroid = group * k + column
    to = out + centroid[:, None] * d + dims[None, :]
    tl.store(to, sums.to(tl.float32), mask=(column < k)[:, None] & inside[None, :])
    if block == 0:
        n_places = tl.full((), n_classes, tl.int64) * k
        tl.store(out + n_places * d + centroid, counts, mask=column < k)
        tl.store(out + n_places * (d + 1) + group, bad)


@operator
def class_sums(
    x: Tensor, order: Tensor | None, starts: Tensor | None, chosen: Tensor, used: Tensor | None, is_open: Tensor
) -> Tensor:
    """Sums of the features of each centroid, how many there are, and how many choices of each class cannot be.

    Args:
        x: Features (n, d), contiguous, of a dtype of at most 32 bits.
        order: Rows sorted by class, int64, (n,); None where all are of the only class.
        starts: Where each class begins there, int64, (n_classes + 1,); None likewise. Rows before the first and after the last
            are left out.
        chosen: The centroid of its class that each row goes to, integers (n,); -1 for none.
        used: Rows that count, booleans (n,); None for all.
        is_open: Which centroids there are, booleans (n_classes, k), contiguous; up to 32 of a class fit on chip.

    Returns:
        float32, in one row: sums (n_classes * k, d), counts (n_classes * k,), impossible choices (n_classes,), and some more
        that mean nothing. See :func:`parted`.
    """
    (n, d), (n_classes, k) = x.shape, is_open.shape
    centroids = triton.next_power_of_2(k)
    dims = power(16, max(16, _TILE // (_ROWS * centroids)), d)
    programs = n_classes * -(-d // dims)
    parts = max(1, min(_PROGRAMS // max(programs, 1), n // (_SPARE * n_classes * k)))
    stride = -(-(n_classes * (k * (d + 1) + 1)) // 16) * 16
    out = torch.empty((parts, stride), dtype=torch.float32, device=x.device)
    launch(
        _class_sums, (programs, parts),
        x, chosen if order is None else order, chosen if starts is None else starts, chosen,
        is_open if used is None else used, is_open, out, n, d, k, n_classes, stride,
        R=_ROWS, K=centroids, D=dims, ORDERED=order is not None, MASKED=used is not None, num_warps=4,
    )  # fmt: skip
    return out.sum(dim=0) if parts > 1 else out[0]


def parted(found: Tensor, n_classes: int, k: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sums (n_classes * k, d), counts (n_classes * k,) and impossible choices (n_classes,) of :func:`class_sums`."""
    n_places = n_classes * k
    sums, counts, bad, _ = found.split(
        [n_places * d, n_places, n_classes, len(found) - n_places * (d + 1) - n_classes]
    )  # fmt: skip
    return sums.view(n_places, d), counts, bad


@jit
def _absorb(
    rows, usage, age, n_updates, lengths, sums, counts, is_open, keep, add, given, momentum, rest, d, k,
    D: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, LENGTHS: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    momentum, rest = tl.full((), momentum, tl.float32), tl.full((), rest, tl.float32)  # where compiled as a float64
    place = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, K)
    of_class = tl.load(counts + place // k * k + column, mask=column < k, other=0.0)
    count = tl.load(counts + place)
    if tl.sum(of_class, axis=0) > 0:
        if GIVEN:
            value = tl.load(given)
            momentum, rest = value.to(tl.float32), (1 - value).to(tl.float32)
        tl.store(usage + place, momentum * tl.load(usage + place) + rest * count)
        tl.store(age + place, tl.load(age + place) + 1)
    if (count > 0) & (tl.load(is_open + place) != 0):
        share = tl.load(keep + place).to(tl.float32)
        if LENGTHS:
            share *= tl.load(lengths + place)
        dims = tl.arange(0, D)
        inside = dims < d
        mean = tl.load(rows + place * d + dims, mask=inside, other=0.0) * share
        mean += tl.load(sums + place * d + dims, mask=inside, other=0.0) * tl.load(add + place).to(tl.float32)
        if UNIT:
            length = tl.sqrt(tl.sum(mean * mean, axis=0))
            if length > 0:  # otherwise no direction: it stays
                tl.store(rows + place * d + dims, mean / tl.maximum(length, TINY), mask=inside)
                if LENGTHS:
                    tl.store(lengths + place, length)
        else:
            tl.store(rows + place * d + dims, mean, mask=inside)
    if place == 0:
        tl.store(n_updates, tl.load(n_updates) + 1)


@operator(mutates=("rows", "usage", "age", "n_updates", "lengths"))
def absorb(
    rows: Tensor,
    usage: Tensor,
    age: Tensor,
    n_updates: Tensor,
    lengths: Tensor | None,
    sums: Tensor,
    counts: Tensor,
    is_open: Tensor,
    keep: Tensor,
    add: Tensor,
    given: Tensor | None,
    momentum: float,
    unit: bool,
) -> None:
    """Take the step of a store, in place: centroids with samples move, and what is kept of a class with samples follows.

    Args:
        rows: Centroids, float32, contiguous, (n_classes, k, d) or (k, d); up to 8192 dimensions fit on chip.
        usage: Decayed counts, float32, (n_classes, k) or (k,).
        age: int64, of the same shape.
        n_updates: int64, ().
        lengths: Of the averages, float32, of the shape of ``usage``, which multiply ``keep``; None for centroids that are their
            own averages.
        sums: Of the samples of each centroid, float32, (n_classes * k, d).
        counts: How many they are, float32, (n_classes * k,).
        is_open: Which centroids there are, booleans, of the shape of ``usage``.
        keep: What each centroid is multiplied with, (n_classes * k,).
        add: What its sum is multiplied with, (n_classes * k,).
        given: The momentum of the usage, (); None for ``momentum``.
        momentum: That number.
        unit: Whether centroids get unit length.
    """
    k, d = rows.shape[-2:]
    width = triton.next_power_of_2(d)
    launch(
        _absorb, (usage.numel(),),
        rows, usage, age, n_updates, usage if lengths is None else lengths, sums, counts, is_open, keep, add,
        usage if given is None else given, momentum, 1 - momentum, d, k,
        D=width, K=triton.next_power_of_2(k), UNIT=unit, LENGTHS=lengths is not None, GIVEN=given is not None,
        num_warps=power(1, 16, width / 512),
    )  # fmt: skip
