"""Kernels for rows of scores that are too long for a program to hold: see :mod:`otcluster._kernels.dense`.

One goes along rows, the other down columns.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton.language as tl

from otcluster._kernels.launching import jit
from otcluster._kernels.tiles import BELOW, LOWEST, grown, per_bit, split


@jit
def parts_of_g(g, near, rest, share, count, epsilon, C: tl.constexpr):
    """The two parts of a potential, and what the second is worth, for kernels that look at it once for a few rows each."""
    place = tl.program_id(0) * C + tl.arange(0, C)
    one, two = split(tl.load(g + place, mask=place < count, other=-float("inf")), per_bit(epsilon))
    tl.store(near + place, one, mask=place < count)
    tl.store(rest + place, two - BELOW, mask=place < count)
    tl.store(share + place, tl.exp2(two - BELOW), mask=place < count)


@jit
def _chunk(scores, near, at_row, there, at, batch, k, C: tl.constexpr):
    """A part of some rows under the first part of the potential, the places of its clusters there, and which there are."""
    column = at + tl.arange(0, C)
    open_ = column < k
    one = tl.load(near + batch * k + column, mask=open_, other=-float("inf"))
    place = at_row[:, None] + column[None, :]
    values = tl.load(scores + place, mask=there[:, None] & open_[None, :], other=-float("inf")).to(tl.float32)
    return values + one[None, :], batch * k + column, open_


@jit
def long_rows(
    scores, weights, near, rest, share, tops, factors, labels, out, n, k, stride, epsilon,
    R: tl.constexpr, C: tl.constexpr, WEIGHTED: tl.constexpr, LABELS: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Of each row the maximum and what its exponentials are multiplied with; or its label, or its part of the plan.

    Each place of a tile has a maximum and a sum of its own, so that places are compared once, when the row has ended.
    """
    inverse = per_bit(epsilon)
    row, batch = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64), tl.program_id(1).to(tl.int64)
    there = row < n
    at_row = batch * stride + row * k
    most, sums = tl.full((R, C), LOWEST, tl.float32), tl.zeros((R, C), tl.float32)
    for at in range(0, k, C):
        shifted, in_g, open_ = _chunk(scores, near, at_row, there, at, batch, k, C)
        if LABELS:
            most = tl.maximum(most, shifted)
        else:
            part = tl.where(shifted > -float("inf"), tl.load(share + in_g, mask=open_, other=0.0)[None, :], 0.0)
            above = shifted > most
            less = tl.exp2(-tl.abs(tl.maximum(shifted, LOWEST) - most) * inverse)  # the smaller one's share of the larger
            sums = tl.where(above, sums, part) * less + tl.where(above, part, sums)
            most = tl.maximum(most, shifted)
    finite = tl.max(most, axis=1)
    if LABELS:
        most, first = tl.full((R, C), -float("inf"), tl.float32), tl.zeros((R, C), tl.int32)
        for at in range(0, k, C):
            shifted, in_g, open_ = _chunk(scores, near, at_row, there, at, batch, k, C)
            exponent = (shifted - finite[:, None]) * inverse + tl.load(rest + in_g, mask=open_, other=0.0)[None, :]
            first = tl.where(exponent > most, at, first)
            most = tl.maximum(most, exponent)
        best = tl.max(most, axis=1)
        column = tl.where(most == best[:, None], first + tl.arange(0, C)[None, :], k)
        tl.store(labels + batch * n + row, tl.where(best > -float("inf"), tl.min(column, axis=1), -1).to(tl.int64), mask=there)
    else:
        total = tl.sum(sums * tl.exp2((most - finite[:, None]) * inverse), axis=1)
        open_row = total > 0
        weight = tl.full((R,), 1.0, tl.float32)
        if WEIGHTED:
            weight = tl.load(weights + batch * n + row, mask=there, other=0.0).to(tl.float32)
        factor = tl.where(open_row, weight / tl.where(open_row, total, 1.0), 0.0)
        if PLAN:
            for at in range(0, k, C):
                shifted, in_g, open_ = _chunk(scores, near, at_row, there, at, batch, k, C)
                exponent = (shifted - finite[:, None]) * inverse + tl.load(rest + in_g, mask=open_, other=0.0)[None, :]
                place = (batch * n + row)[:, None] * k + at + tl.arange(0, C)[None, :]
                tl.store(out + place, tl.exp2(exponent) * factor[:, None], mask=there[:, None] & open_[None, :])
        else:
            tl.store(tops + batch * n + row, tl.where(open_row, finite, -float("inf")), mask=there)
            tl.store(factors + batch * n + row, factor, mask=there)


@jit
def long_columns(
    scores, weights, g, tops, factors, part_tops, sums, lost, n, k, stride, epsilon,
    R: tl.constexpr, C: tl.constexpr, FIRST: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Sums of some columns over the rows of one part; the parts run from the last row, which was read last, to the first."""
    inverse = per_bit(epsilon)
    column = tl.program_id(0) * C + tl.arange(0, C)
    part, parts, batch = tl.num_programs(1) - 1 - tl.program_id(1), tl.num_programs(1), tl.program_id(2).to(tl.int64)
    there = column < k
    top, total = tl.full((C,), -float("inf"), tl.float32), tl.zeros((C,), tl.float32)
    nobody = tl.zeros((R,), tl.float32)
    if not FIRST:
        near, rest = split(tl.load(g + batch * k + column, mask=there, other=-float("inf")), inverse)
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
            top, total = grown(top, total, tile, weight, inverse)
        else:
            its = tl.load(tops + batch * n + row, mask=here, other=-float("inf"))
            factor = tl.load(factors + batch * n + row, mask=here, other=0.0)
            finite = tl.maximum(its, LOWEST)
            exponent = (tile + near[None, :] - finite[:, None]) * inverse + (rest[None, :] - BELOW)
            total += tl.sum(tl.exp2(exponent) * factor[:, None], axis=0)
            nobody += tl.where(its > -float("inf"), 0.0, weight)
    place = (batch * parts + part) * k + column
    tl.store(sums + place, total, mask=there)
    if FIRST:
        tl.store(part_tops + place, top, mask=there)
    elif tl.program_id(0) == 0:
        tl.store(lost + batch * parts + part, tl.sum(nobody, axis=0))
