"""What kernels do with a tile of scores that they hold: exponents, sums of the plan, labels; and the clusters' half-round.

A tile is (rows, clusters), float32, with -inf where a pair is forbidden or lies outside. The potential g of the clusters comes
in two parts: what float32 can hold of it, added before the maximum of a row is taken, and the rest, added to exponents later.
Exponents are of two, so that one multiplication makes them of scores and one instruction exponentials of them.
"""

from __future__ import annotations

import triton.language as tl

from otcluster._kernels.launching import jit

BELOW = tl.constexpr(5.0)  # how far exponents are kept below zero: there, different exponents have different exponentials
LOWEST = tl.constexpr(-3.4028234663852886e38)
TINY = tl.constexpr(1.1754943508222875e-38)
_BITS = tl.constexpr(1.4426950408889634)
_HALF = tl.constexpr(0.75)  # of what a potential lost, in bits: beyond that the scores have no digits left


@jit
def add(one, two):
    """For reductions."""
    return one + two


@jit
def per_bit(epsilon):
    """What differences of scores are multiplied with to be exponents of two, float32; ``epsilon`` may be a float64."""
    return tl.maximum(tl.full((), _BITS, tl.float32) / tl.full((), epsilon, tl.float32), TINY)


@jit
def split(g, inverse):
    """The two parts of a potential, float32 both; ``g`` is float64, -inf for a closed cluster."""
    closed = g == -float("inf")
    finite = tl.where(closed, 0.0, g)
    near = finite.to(tl.float32)
    rest = (finite - near.to(tl.float64)) * inverse
    rest = tl.minimum(tl.maximum(rest, -_HALF), _HALF).to(tl.float32)
    return tl.where(closed, -float("inf"), near), tl.where(closed, 0.0, rest)


@jit
def exponents(scores, near, rest, inverse):
    """Exponents of the kernel of each row, and whether any cluster is open to it."""
    shifted = scores + near[None, :]
    top = tl.max(shifted, axis=1)
    finite = tl.maximum(top, LOWEST)
    return (shifted - finite[:, None]) * inverse + (rest[None, :] - BELOW), top > -float("inf")


@jit
def plan(scores, weights, near, rest, inverse):
    """The plan of a tile, and the mass of rows that no cluster may take."""
    exponent, open_ = exponents(scores, near, rest, inverse)
    kernel = tl.exp2(exponent)
    sums = tl.sum(kernel, axis=1)
    factor = tl.where(open_, weights / tl.where(open_, sums, 1.0), 0.0)
    return kernel * factor[:, None], tl.where(open_, 0.0, weights)


@jit
def grown(top, sums, scores, weights, inverse):
    """Maxima of the columns so far, and sums of weighted exponentials below them, with the rows of one tile more.

    Rows without weight do not count.
    """
    heavy = tl.where((weights > 0)[:, None], scores, -float("inf"))
    higher = tl.maximum(top, tl.max(heavy, axis=0))
    finite = tl.maximum(higher, LOWEST)
    before = tl.where(top == -float("inf"), 0.0, tl.exp2((tl.maximum(top, LOWEST) - finite) * inverse))
    part = tl.sum(tl.exp2((heavy - finite[None, :]) * inverse) * weights[:, None], axis=0)
    return higher, sums * before + part


@jit
def half_round(g, columns, masses, epsilon):
    """The potential under which ``columns`` would have been ``masses``; float64, -inf for no mass."""
    open_ = masses > 0
    ratio = tl.log(tl.where(open_, masses, 1.0)) - tl.log(tl.maximum(columns, TINY))
    return tl.where(open_, tl.where(open_, g, 0.0) + epsilon * ratio, -float("inf"))


@jit
def best(scores, near, rest, inverse):
    """The largest entry of each row of the plan, the lowest place among equals; -1 where no cluster is open."""
    exponent, open_ = exponents(scores, near, rest, inverse)
    place = tl.argmax(exponent, axis=1, tie_break_left=True)
    return tl.where(open_, place, -1).to(tl.int64)
