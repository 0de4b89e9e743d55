"""What the kernels for points do on the device, in Triton: :mod:`otcluster._kernels.points` lays them out."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl


@triton.jit
def loaded(parts, at, dims, D: tl.constexpr, EVEN: tl.constexpr):
    """Some dimensions of vectors; those beyond the last are zeros."""
    where = parts + at[:, None] * D + dims[None, :]
    return tl.load(where) if EVEN else tl.load(where, mask=dims[None, :] < D, other=0.0)


@triton.jit
def products_of(
    own, low, own_parts, own_at, own_size, other_parts, other_at, other_size, n_dims,
    D: tl.constexpr, OWN_PARTS: tl.constexpr, OTHER_PARTS: tl.constexpr,
    OWN: tl.constexpr, OTHER: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Products (OWN, OTHER) of two blocks of vectors, the small parts first. ``own`` and ``low`` are in place if whole.

    ``n_dims`` is D again: the compiler takes long over a loop whose end it knows.
    """
    EVEN: tl.constexpr = D % DEPTH == 0
    products = tl.zeros((OWN, OTHER), dtype=tl.float32)
    if DEPTH >= D:
        dims = tl.arange(0, DEPTH)
        other = loaded(other_parts, other_at, dims, D, EVEN)
        if OTHER_PARTS == 2:
            other_low = loaded(other_parts + other_size, other_at, dims, D, EVEN)
            products = tl.dot(own, tl.trans(other_low), products, input_precision="ieee")
        if OWN_PARTS == 2:
            products = tl.dot(low, tl.trans(other), products, input_precision="ieee")
        products = tl.dot(own, tl.trans(other), products, input_precision="ieee")
    else:
        for start in range(0, n_dims, DEPTH):
            dims = start + tl.arange(0, DEPTH)
            mine = loaded(own_parts, own_at, dims, D, EVEN)
            other = loaded(other_parts, other_at, dims, D, EVEN)
            if OTHER_PARTS == 2:
                other_low = loaded(other_parts + other_size, other_at, dims, D, EVEN)
                products = tl.dot(mine, tl.trans(other_low), products, input_precision="ieee")
            if OWN_PARTS == 2:
                mine_low = loaded(own_parts + own_size, own_at, dims, D, EVEN)
                products = tl.dot(mine_low, tl.trans(other), products, input_precision="ieee")
            products = tl.dot(mine, tl.trans(other), products, input_precision="ieee")
    return products


@triton.jit
def kept(parts, at, size, D: tl.constexpr, PARTS: tl.constexpr, DEPTH: tl.constexpr):
    """The own vectors where they are kept whole; else what is never read."""
    dims = tl.arange(0, DEPTH)
    high = parts
    low = parts
    if DEPTH >= D:
        high = loaded(parts, at, dims, D, D % DEPTH == 0)
        low = high
        if PARTS == 2:
            low = loaded(parts + size, at, dims, D, D % DEPTH == 0)
    return high, low


@triton.jit
def placed(n_own, n_other, span, D: tl.constexpr, OWN: tl.constexpr):
    """The vectors that a program owns, where they are read, the sizes of a part of both sides, and the span of the others."""
    rows = tl.program_id(0) * OWN + tl.arange(0, OWN)
    first = tl.program_id(1) * span
    size = tl.full((), D, tl.int64)
    at, last = tl.minimum(rows, n_own - 1).to(tl.int64), tl.minimum(first + span, n_other)
    return rows, at, size * n_own, size * n_other, first, last


@triton.jit
def rows_kernel(
    own_parts, own_factor, other_parts, other_factor, near, after, tops, totals, n_own, n_other, span, n_dims, inverse,
    D: tl.constexpr, OWN_PARTS: tl.constexpr, OTHER_PARTS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_OTHER: tl.constexpr,
    HAS_AFTER: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Soft maxima: the largest of each row, and the sum of powers of two relative to it, of one span of the others."""
    inverse = tl.full((), inverse, tl.float32)  # where it was compiled as a float64
    rows, own_at, own_size, other_size, first, last = placed(n_own, n_other, span, D, OWN)
    own, low = kept(own_parts, own_at, own_size, D, OWN_PARTS, DEPTH)
    if HAS_FACTOR:
        mine = tl.load(own_factor + own_at)
    top = tl.full((OWN,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((OWN,), dtype=tl.float64)
    for start in range(first, last, OTHER):
        columns = start + tl.arange(0, OTHER)
        other_at = tl.minimum(columns, n_other - 1).to(tl.int64)
        scores = products_of(
            own, low, own_parts, own_at, own_size, other_parts, other_at, other_size, n_dims,
            D, OWN_PARTS, OTHER_PARTS, OWN, OTHER, DEPTH,
        )  # fmt: skip
        if HAS_FACTOR:
            scores = scores * mine[:, None]
        potential = tl.load(near + columns, mask=columns < last, other=float("-inf"))
        if HAS_OTHER:
            scores = scores * tl.load(other_factor + other_at)[None, :]
        scores = scores + potential[None, :]
        higher = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        exponents = (scores - base[:, None]) * inverse
        if HAS_AFTER:
            exponents += tl.load(after + columns, mask=columns < last, other=0.0)[None, :]
        total = total * tl.exp2((top - base) * inverse).to(tl.float64) + tl.sum(tl.exp2(exponents), 1).to(tl.float64)
        top = higher
    place = tl.program_id(1).to(tl.int64) * n_own + rows
    tl.store(tops + place, top, mask=rows < n_own)
    tl.store(totals + place, total, mask=rows < n_own)


@triton.jit
def columns_kernel(
    own_parts, own_factor, other_parts, other_factor, near, tops, weights, totals, n_own, n_other, span, n_dims, inverse,
    D: tl.constexpr, OWN_PARTS: tl.constexpr, OTHER_PARTS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_OTHER: tl.constexpr,
    OWN: tl.constexpr, OTHER: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Sums over the others of ``weight * 2^((score + near - top) * inverse)``, of one span of them."""
    inverse = tl.full((), inverse, tl.float32)  # where it was compiled as a float64
    rows, own_at, own_size, other_size, first, last = placed(n_own, n_other, span, D, OWN)
    own, low = kept(own_parts, own_at, own_size, D, OWN_PARTS, DEPTH)
    if HAS_FACTOR:
        mine = tl.load(own_factor + own_at)
    potential = tl.load(near + own_at)
    total = tl.zeros((OWN,), dtype=tl.float64)
    for start in range(first, last, OTHER):
        columns = start + tl.arange(0, OTHER)
        other_at = tl.minimum(columns, n_other - 1).to(tl.int64)
        scores = products_of(
            own, low, own_parts, own_at, own_size, other_parts, other_at, other_size, n_dims,
            D, OWN_PARTS, OTHER_PARTS, OWN, OTHER, DEPTH,
        )  # fmt: skip
        if HAS_OTHER:
            scores = scores * tl.load(other_factor + other_at)[None, :]
        if HAS_FACTOR:
            scores = scores * mine[:, None]
        top = tl.load(tops + other_at)
        weight = tl.load(weights + columns, mask=columns < last, other=0.0)
        scores = scores + potential[:, None]
        total += tl.sum(tl.exp2((scores - top[None, :]) * inverse) * weight[None, :], 1).to(tl.float64)
    tl.store(totals + tl.program_id(1).to(tl.int64) * n_own + rows, total, mask=rows < n_own)


@triton.jit
def nearest_kernel(
    own_parts, own_factor, other_parts, other_factor, near, after, labels, bests, extras, n_own, n_other, span, n_dims, inverse,
    D: tl.constexpr, OWN_PARTS: tl.constexpr, OTHER_PARTS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_OTHER: tl.constexpr,
    HAS_AFTER: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The first of the largest of each row, in one span of the others; -1 where all are closed."""
    inverse = tl.full((), inverse, tl.float32)  # where it was compiled as a float64
    rows, own_at, own_size, other_size, first, last = placed(n_own, n_other, span, D, OWN)
    own, low = kept(own_parts, own_at, own_size, D, OWN_PARTS, DEPTH)
    if HAS_FACTOR:
        mine = tl.load(own_factor + own_at)
    found = tl.program_id(1).to(tl.int64) * n_own + rows
    if HAS_AFTER:
        best = tl.full((OWN,), float("-inf"), dtype=tl.float32)
        label = tl.full((OWN,), -1, dtype=tl.int32)
        extra = tl.zeros((OWN,), dtype=tl.float32)
    else:
        # Each place of the block remembers its own best: rows are looked along once, at the end.
        bests_of = tl.full((OWN, OTHER), float("-inf"), dtype=tl.float32)
        starts_of = tl.zeros((OWN, OTHER), dtype=tl.int32)
    for start in range(first, last, OTHER):
        columns = start + tl.arange(0, OTHER)
        other_at = tl.minimum(columns, n_other - 1).to(tl.int64)
        scores = products_of(
            own, low, own_parts, own_at, own_size, other_parts, other_at, other_size, n_dims,
            D, OWN_PARTS, OTHER_PARTS, OWN, OTHER, DEPTH,
        )  # fmt: skip
        if HAS_FACTOR:
            scores = scores * mine[:, None]
        potential = tl.load(near + columns, mask=columns < last, other=float("-inf"))
        if HAS_OTHER:
            scores = scores * tl.load(other_factor + other_at)[None, :]
        scores = scores + potential[None, :]
        if HAS_AFTER:
            # What the potentials lost is added where differences are small enough for it to count.
            top = tl.max(scores, 1)
            base = tl.where(top == float("-inf"), 0.0, top)
            lost = tl.load(after + columns, mask=columns < last, other=0.0)
            scores = (scores - base[:, None]) * inverse + lost[None, :]
            more = tl.max(scores, 1)
            place = tl.min(tl.where(scores == more[:, None], columns[None, :], 2147483647), 1)
            higher = tl.maximum(best, top)
            whole = tl.where(higher == float("-inf"), 0.0, higher)
            better = (top - whole) * inverse + more > (best - whole) * inverse + extra
            extra = tl.where(better, more, extra)
            label = tl.where(better, place, label)
            best = tl.where(better, top, best)
        else:
            higher_here = scores > bests_of
            starts_of = tl.where(higher_here, start, starts_of)
            bests_of = tl.where(higher_here, scores, bests_of)
    if HAS_AFTER:
        tl.store(extras + found, extra, mask=rows < n_own)
    else:
        best = tl.max(bests_of, 1)
        places = starts_of + tl.arange(0, OTHER)[None, :]
        label = tl.min(tl.where(bests_of == best[:, None], places, 2147483647), 1)
        label = tl.where(best == float("-inf"), -1, label)
    tl.store(labels + found, label.to(tl.int64), mask=rows < n_own)
    tl.store(bests + found, best, mask=rows < n_own)


@triton.jit
def sums_kernel(
    own_parts, own_factor, own_offset, other_parts, other_factor, offset, totals, n_own, n_other, span, n_dims, inverse,
    D: tl.constexpr, OWN_PARTS: tl.constexpr, OTHER_PARTS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_OTHER: tl.constexpr,
    HAS_OFFSET: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Sums over the others of ``2^(score * inverse + offset)``, of one span of them, where no exponent is in danger."""
    inverse = tl.full((), inverse, tl.float32)  # where it was compiled as a float64
    rows, own_at, own_size, other_size, first, last = placed(n_own, n_other, span, D, OWN)
    own, low = kept(own_parts, own_at, own_size, D, OWN_PARTS, DEPTH)
    mine = tl.full((OWN,), 1.0, dtype=tl.float32) * inverse
    if HAS_FACTOR:
        mine = mine * tl.load(own_factor + own_at)
    if HAS_OFFSET:
        my_offset = tl.load(own_offset + own_at)
    total = tl.zeros((OWN,), dtype=tl.float64)
    for start in range(first, last, OTHER):
        columns = start + tl.arange(0, OTHER)
        other_at = tl.minimum(columns, n_other - 1).to(tl.int64)
        scores = products_of(
            own, low, own_parts, own_at, own_size, other_parts, other_at, other_size, n_dims,
            D, OWN_PARTS, OTHER_PARTS, OWN, OTHER, DEPTH,
        )  # fmt: skip
        if HAS_OTHER:
            scores = scores * tl.load(other_factor + other_at)[None, :]
        offsets = tl.load(offset + columns, mask=columns < last, other=float("-inf"))
        exponents = scores * mine[:, None] + offsets[None, :]
        if HAS_OFFSET:
            exponents = exponents + my_offset[:, None]
        total += tl.sum(tl.exp2(exponents), 1).to(tl.float64)
    tl.store(totals + tl.program_id(1).to(tl.int64) * n_own + rows, total, mask=rows < n_own)
