"""How vectors are laid out for the kernels for points, in Triton: :mod:`otcluster._kernels.sides`."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl


@triton.jit
def _power(exponents):
    """Two to whole numbers between -126 and 127, to the bit."""
    return ((exponents + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def laid_kernel(
    vectors, centre, parts, factors, shifts, count, d, width, multiplier, halves,
    HIGHEST: tl.constexpr, RAISED: tl.constexpr, MOVED: tl.constexpr, AROUND: tl.constexpr, DIRECTION: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Parts, factors and shifts of some vectors. What is MOVED is around the centre, or AROUND it from the start."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.minimum(rows, count - 1).to(tl.int64)
    largest = tl.zeros((ROWS,), dtype=tl.float64)
    squares = tl.zeros((ROWS,), dtype=tl.float64)
    for start in range(0, d, DIMS):
        dims = start + tl.arange(0, DIMS)
        value = tl.load(vectors + at[:, None] * d + dims[None, :], mask=dims[None, :] < d, other=0.0).to(tl.float64)
        middle = tl.load(centre + dims, mask=dims < d, other=0.0).to(tl.float64)[None, :]
        moved = value - middle
        if AROUND:
            squares += tl.sum(value * (value + 2 * middle), 1)
        else:
            squares += tl.sum(moved * moved, 1)
        if MOVED:
            value = moved
        largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
    up = tl.full((ROWS,), 1.0, dtype=tl.float32)
    down = up
    if RAISED:
        # The bits of a float32 hold its exponent; held so high that the factors are normal numbers.
        exponents = tl.maximum((largest.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127, -100)
        up = _power(HIGHEST - exponents)
        down = _power(exponents - HIGHEST)
    factor = down.to(tl.float64) * multiplier
    if DIRECTION:
        factor = factor / tl.sqrt(tl.where(squares == 0, 1.0, squares))
    tl.store(factors + rows, factor.to(tl.float32), mask=rows < count)
    tl.store(shifts + rows, squares * (-0.5 * halves), mask=rows < count)
    if PARTS > 0:
        kind: tl.constexpr = parts.dtype.element_ty
        size = tl.full((), 1, tl.int64) * count * width
        for start in range(0, width, DIMS):
            dims = start + tl.arange(0, DIMS)
            value = tl.load(vectors + at[:, None] * d + dims[None, :], mask=dims[None, :] < d, other=0.0).to(tl.float64)
            if MOVED:
                value -= tl.load(centre + dims, mask=dims < d, other=0.0).to(tl.float64)[None, :]
            value = value * up.to(tl.float64)[:, None]
            high = value.to(tl.float32).to(kind)
            there = parts + at[:, None] * width + dims[None, :]
            inside = (rows < count)[:, None] & (dims < width)[None, :]
            tl.store(there, high, mask=inside)
            if PARTS == 2:
                tl.store(there + size, (value - high.to(tl.float64)).to(tl.float32).to(kind), mask=inside)
