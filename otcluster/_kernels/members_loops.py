"""What the kernels for k-means do on the device beside finding the nearest, in Triton: :mod:`otcluster._kernels.members`."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl


@triton.jit
def piece_sums_kernel(
    x, order, weights, centre, scale, bounds, sums, masses, D,
    HAS_WEIGHTS: tl.constexpr, HAS_CENTRE: tl.constexpr, HAS_SCALE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sums of the rows of each piece of the samples in the order of their labels, some dimensions in a program."""
    piece = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first = tl.load(bounds + piece)
    last = tl.load(bounds + piece + 1)
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float64)  # each place its own: one reduction, at the end
    mass = tl.zeros((ROWS,), dtype=tl.float64)
    if HAS_CENTRE:
        middle = tl.load(centre + dims, mask=dims < D, other=0.0)
    for start in range(first, last, ROWS):
        places = start + tl.arange(0, ROWS)
        inside = places < last
        rows = tl.load(order + places, mask=inside, other=0).to(tl.int64)
        values = tl.load(
            x + rows[:, None] * D + dims[None, :], mask=inside[:, None] & (dims[None, :] < D), other=0.0
        ).to(tl.float32)  # fmt: skip
        if HAS_CENTRE:
            values = tl.where(inside[:, None], values - middle[None, :], 0.0)
        if HAS_SCALE:
            values *= tl.load(scale + rows, mask=inside, other=0.0)[:, None]
        if HAS_WEIGHTS:
            weight = tl.load(weights + rows, mask=inside, other=0.0)
            values *= weight[:, None]
            mass += weight.to(tl.float64)
        total += values.to(tl.float64)
    tl.store(sums + piece * D + dims, tl.sum(total, 0), mask=dims < D)
    if HAS_WEIGHTS:
        tl.store(masses + piece, tl.sum(mass, 0), mask=tl.program_id(1) == 0)


@triton.jit
def moments_kernel(
    x, weights, scale, around, sums_of, squares_of, tops, n, D, chunk,
    HAS_WEIGHTS: tl.constexpr, HAS_SCALE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of one chunk of the rows: weighted sums and sums of squares around a row, and the largest magnitude before scaling."""
    place = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    middle = tl.load(around + dims, mask=dims < D, other=0.0)
    first = tl.zeros((ROWS, WIDTH), dtype=tl.float64)
    second = tl.zeros((ROWS, WIDTH), dtype=tl.float64)
    top = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    begin = tl.program_id(0) * chunk
    for start in range(begin, tl.minimum(begin + chunk, n), ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < tl.minimum(begin + chunk, n))[:, None] & (dims < D)[None, :]
        given = tl.load(x + rows[:, None] * D + dims[None, :], mask=inside, other=0.0).to(tl.float32)
        # What is no number counts as infinite.
        top = tl.maximum(top, tl.where(given == given, tl.abs(given), float("inf")))
        values = tl.where(tl.abs(given) < float("inf"), given, 0.0).to(tl.float64)
        if HAS_SCALE:
            values *= tl.load(scale + rows, mask=rows < n, other=0.0).to(tl.float64)[:, None]
        values = tl.where(inside, values - middle[None, :], 0.0)
        weighted = values
        if HAS_WEIGHTS:
            weighted = values * tl.load(weights + rows, mask=rows < n, other=0.0).to(tl.float64)[:, None]
        first += weighted
        second += weighted * values
    tl.store(sums_of + place * D + dims, tl.sum(first, 0), mask=dims < D)
    tl.store(squares_of + place * D + dims, tl.sum(second, 0), mask=dims < D)
    tl.store(tops + place * D + dims, tl.max(top, 0), mask=dims < D)


@triton.jit
def merged_kernel(pieces, firsts, sums, D, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Sums of the pieces of each cluster, in their order."""
    cluster = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first = tl.load(firsts + cluster)
    last = tl.load(firsts + cluster + 1)
    total = tl.zeros((WIDTH,), dtype=tl.float64)
    for start in range(first, last, ROWS):
        places = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (places[:, None] < last) & (dims[None, :] < D)
        total += tl.sum(tl.load(pieces + places[:, None] * D + dims[None, :], mask=inside, other=0.0), 0)
    tl.store(sums + cluster * D + dims, total, mask=dims < D)


@triton.jit
def own_squares_kernel(
    x, scale, centre, centroids, labels, squares, n, D, HAS_SCALE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """The squared distance of each sample to the centroid of its label."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.minimum(rows, n - 1).to(tl.int64)
    label = tl.load(labels + at)
    label = tl.where(label < 0, 0, label)
    if HAS_SCALE:
        factor = tl.load(scale + at)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, D, WIDTH):
        dims = start + tl.arange(0, WIDTH)
        real = (dims < D)[None, :]
        values = tl.load(x + at[:, None] * D + dims[None, :], mask=real, other=0.0).to(tl.float32)
        values -= tl.load(centre + dims, mask=dims < D, other=0.0)[None, :]
        if HAS_SCALE:
            values *= factor[:, None]
        values -= tl.load(centroids + label[:, None] * D + dims[None, :], mask=real, other=0.0)
        total += tl.sum(values * values, 1)
    tl.store(squares + rows, total, mask=rows < n)
