"""Kernels for rows of scores that are too long for a program to hold: see :mod:`otcluster._kernels.dense`.

One goes along rows, the other down columns.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton.language as tl

from otcluster._kernels.launching import jit
from otcluster._kernels.tiles import BELOW, LOWEST, grown, per_bit, split


@jit
def parts_of_g(g, near, rest, count, epsilon, C: tl.constexpr):
    """The two parts of a potential, for kernels that look at it once for a few rows each."""
    place = tl.program_id(0) * C + tl.arange(0, C)
    one, two = split(tl.load(g + place, mask=place < count, other=-float("inf")), per_bit(epsilon))
    tl.store(near + place, one, mask=place < count)
    tl.store(rest + place, two - BELOW, mask=place < count)


@jit
def _chunk(scores, near, rest, at_row, at_g, there, at, k, G: tl.constexpr, S: tl.constexpr):
    """A part of some rows, as spans of S clusters that a thread reads at once, under the two parts of the potential."""
    column = at + tl.arange(0, G)[None, :, None] * S + tl.arange(0, S)[None, None, :]
    inside = there[:, None, None] & (column < k)
    values = tl.load(scores + (at_row[:, None, None] + column), mask=inside, other=-float("inf")).to(tl.float32)
    # Each thread reads what belongs to its own scores, though it be the same for all rows: else it came through shared memory.
    place = at_g + column + tl.zeros_like(there)[:, None, None].to(tl.int64)
    shifted = values + tl.load(near + place, mask=inside, other=0.0)
    return shifted, tl.load(rest + place, mask=inside, other=0.0), column, inside


@jit
def long_rows(
    scores, weights, near, rest, tops, factors, out, n, k, stride, epsilon,
    R: tl.constexpr, G: tl.constexpr, S: tl.constexpr, WEIGHTED: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Of each row the maximum and what its exponentials are multiplied with; or its part of the plan.

    Each span has a maximum and a sum of its own, so that threads meet once, when the row has ended.
    """
    inverse = per_bit(epsilon)
    row, batch = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64), tl.program_id(1).to(tl.int64)
    there = row < n
    at_row, at_g = batch * stride + row * k, batch * k
    most, sums = tl.full((R, G), LOWEST, tl.float32), tl.zeros((R, G), tl.float32)
    for at in range(0, k, G * S):
        shifted, two, _, _ = _chunk(scores, near, rest, at_row, at_g, there, at, k, G, S)
        higher = tl.maximum(most, tl.max(shifted, axis=2))
        part = tl.sum(tl.exp2((shifted - higher[:, :, None]) * inverse + two), axis=2)
        sums = sums * tl.exp2((most - higher) * inverse) + part
        most = higher
    top = tl.max(most, axis=1)
    total = tl.sum(sums * tl.exp2((most - top[:, None]) * inverse), axis=1)
    open_ = total > 0
    weight = tl.full((R,), 1.0, tl.float32)
    if WEIGHTED:
        weight = tl.load(weights + batch * n + row, mask=there, other=0.0).to(tl.float32)
    factor = tl.where(open_, weight / tl.where(open_, total, 1.0), 0.0)
    if PLAN:
        for at in range(0, k, G * S):
            shifted, two, column, inside = _chunk(scores, near, rest, at_row, at_g, there, at, k, G, S)
            part = tl.exp2((shifted - top[:, None, None]) * inverse + two) * factor[:, None, None]
            tl.store(out + ((batch * n + row)[:, None, None] * k + column), part, mask=inside)
    else:
        tl.store(tops + batch * n + row, tl.where(open_, top, -float("inf")), mask=there)
        tl.store(factors + batch * n + row, factor, mask=there)


@jit
def long_labels(
    scores, near, rest, labels, n, k, stride, epsilon, R: tl.constexpr, G: tl.constexpr, S: tl.constexpr
):  # fmt: skip
    """The largest entry of each row of the plan: first its span, then its place there."""
    inverse = per_bit(epsilon)
    row, batch = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64), tl.program_id(1).to(tl.int64)
    there = row < n
    at_row, at_g = batch * stride + row * k, batch * k
    most = tl.full((R, G), LOWEST, tl.float32)
    for at in range(0, k, G * S):
        shifted, _, _, _ = _chunk(scores, near, rest, at_row, at_g, there, at, k, G, S)
        most = tl.maximum(most, tl.max(shifted, axis=2))
    top = tl.max(most, axis=1)
    most, begins = tl.full((R, G), -float("inf"), tl.float32), tl.zeros((R, G), tl.int32)
    for at in range(0, k, G * S):
        shifted, two, _, _ = _chunk(scores, near, rest, at_row, at_g, there, at, k, G, S)
        exponent = tl.max((shifted - top[:, None, None]) * inverse + two, axis=2)
        begins = tl.where(exponent > most, at, begins)
        most = tl.maximum(most, exponent)
    best = tl.max(most, axis=1)
    span = tl.min(tl.where(most == best[:, None], begins + tl.arange(0, G)[None, :] * S, k), axis=1)
    place = span[:, None] + tl.arange(0, S)[None, :]
    inside = there[:, None] & (place < k)
    values = tl.load(scores + (at_row[:, None] + place), mask=inside, other=-float("inf")).to(tl.float32)
    shifted = values + tl.load(near + at_g + place, mask=inside, other=0.0)
    exponent = (shifted - top[:, None]) * inverse + tl.load(rest + at_g + place, mask=inside, other=0.0)
    label = span + tl.argmax(exponent, axis=1, tie_break_left=True)
    tl.store(labels + batch * n + row, tl.where(best > -float("inf"), label, -1).to(tl.int64), mask=there)


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
