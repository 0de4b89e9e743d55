"""Kernels for points against the definition in float64, and against what the plain formula in float32 errs by."""

from __future__ import annotations

import math

import pytest
import torch

import otcluster as otc
from otcluster._kernels import points
from otcluster._kernels.select import unfit_points
from otcluster._kernels.sides import Side, sides
from tests.kernels.conftest import INTERPRETED

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
METRICS = ["dot", "cosine", "sqeuclidean"]
DTYPES = [(F32, F32), (F16, F16), (BF16, BF16), (F16, F32), (BF16, F32), (F32, F16)]
EPSILON = 0.05
EPS = torch.finfo(F32).eps
INF = math.inf

# samples, clusters, dimensions
SHAPES = [(20, 35, 40), (1, 1, 1), (1, 70, 33), (45, 1, 100), (33, 40, 16), (20, 90, 5), (18, 35, 64)]
if not INTERPRETED:
    SHAPES += [(1000, 517, 200), (300, 5000, 256), (5000, 300, 768)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks that several of the small problems of these tests fill."""
    if INTERPRETED:
        monkeypatch.setattr(points, "blocks_of", lambda dtype, d, *parts: points.Blocks(16, 16, 64 if d <= 48 else 32, 4, 2))


class Case:
    """Points with a potential, what is asked of them in float64, and in float32 by the plain formula."""

    def __init__(self, place, metric, dtypes, shape, epsilon=EPSILON, offset=1.0):
        n, k, d = shape
        drawn = torch.Generator().manual_seed(n + k + d)
        x, c = (torch.randn(count, d, generator=drawn) + offset for count in (n, k))
        if metric != "cosine":
            x, c = x / d**0.5, c / d**0.5
        self.x, self.c = x.to(place, dtypes[0]), c.to(place, dtypes[1])
        self.near = (torch.randn(k, generator=drawn, dtype=torch.float64) * epsilon).to(place)
        if k > 2:
            self.near[k // 2] = -INF
        self.weights = (torch.rand(n, generator=drawn) + 0.1).to(place)
        self.epsilon = epsilon
        self.own, self.other = sides(self.x, self.c, metric)
        self.wide = otc.PointScores(self.x.double(), self.c.double(), metric=metric).whole()
        self.plain = otc.PointScores(self.x, self.c, metric=metric).whole()
        # What float32 resolves of the numbers that meet in an exponent.
        lengths = (self.x.double().square().sum(1).max() + self.c.double().square().sum(1).max()).item()
        self.unit = EPS * (1.0 if metric == "cosine" else lengths + float(self.near[self.near > -INF].abs().max()))

    def soft(self, scores, near, after=0.0):
        """The soft maximum of each row, in nats."""
        return torch.logsumexp((scores + near.to(scores.dtype)).double() / self.epsilon + after, 1)

    def closer(self, got, exact, plain):
        """An error is at most twice that of the plain formula, or what one rounding explains."""
        error, allowed = (got - exact).abs().max().item(), 2 * (plain - exact).abs().max().item()
        assert error <= allowed + 2 * self.unit / self.epsilon, (error, allowed, self.unit / self.epsilon)


def in_nats(top, sums, epsilon):
    return top / epsilon + sums.log()


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_all_dtypes(place, metric, dtypes):
    check(Case(place, metric, dtypes, SHAPES[0]))


@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_large_and_small_epsilons(place, metric, epsilon):
    check_rows(Case(place, metric, (F32, F32), SHAPES[0], epsilon))


@pytest.mark.parametrize("dtypes", [(F32, F32), (F16, F16)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_shapes(place, shape, dtypes):
    check(Case(place, "sqeuclidean", dtypes, shape))


def check(case):
    check_rows(case)
    check_columns(case)
    check_nearest(case)


def check_rows(case):
    top, sums = points.soft_rows(case.own, case.other, case.near, None, case.epsilon)
    assert (top - (case.wide + case.near).amax(1)).abs().max() <= 2 * case.unit + 2 * (case.plain - case.wide).abs().max()
    assert (sums >= 1 - 1e-3).all()
    case.closer(in_nats(top, sums, case.epsilon), case.soft(case.wide, case.near), case.soft(case.plain, case.near))
    # The clusters ask the same of the samples, which have masses.
    after = case.weights.log()
    top, sums = points.soft_rows(case.other, case.own, torch.zeros_like(case.weights), after, case.epsilon)
    zero = torch.zeros(1, device=case.x.device)
    exact, plain = (case.soft(scores.T, zero, after.double()) for scores in (case.wide, case.plain))
    case.closer(in_nats(top, sums, case.epsilon), exact, plain)


def check_columns(case):
    top, sums = points.soft_rows(case.own, case.other, case.near, None, case.epsilon)
    factors = case.weights / sums
    found = points.columns(case.own, case.other, case.near, None, case.epsilon, top, factors)
    sizes = [
        (torch.softmax((scores + case.near.to(scores.dtype)).double() / case.epsilon, 1) * case.weights[:, None]).sum(0)
        for scores in (case.wide, case.plain)
    ]
    total = case.weights.double().sum()
    assert torch.equal(found == 0, sizes[0] == 0)
    assert abs(found.sum() - total) <= total * (4 * case.unit / case.epsilon + 4 * EPS)
    error, allowed = (found - sizes[0]).abs().max(), (sizes[1] - sizes[0]).abs().max()
    assert error <= 2 * allowed + total * case.unit / case.epsilon
    after = torch.linspace(-1, 1, len(case.near), device=found.device)
    shifted = points.columns(case.own, case.other, case.near, after, case.epsilon, top, factors)
    torch.testing.assert_close(shifted, found * after.double().exp(), rtol=1e-3, atol=1e-12)
    # To the bit, whatever else the device does.
    assert torch.equal(found, points.columns(case.own, case.other, case.near, None, case.epsilon, top, factors))


def check_nearest(case):
    labels, best = points.nearest(case.own, case.other, case.near)
    values = case.wide + case.near
    assert labels.dtype == torch.int64
    lost = values.amax(1) - values.gather(1, labels[:, None])[:, 0]
    allowed = 2 * case.unit + 2 * (case.plain - case.wide).abs().max()
    assert lost.max() <= 2 * allowed
    assert (best - values.amax(1)).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [F16, F32])
def test_closed_columns_and_rows(place, dtype):
    case = Case(place, "cosine", (dtype, dtype), (20, 40, 64))
    closed = torch.full_like(case.near, -INF)
    top, sums = points.soft_rows(case.own, case.other, closed, None, EPSILON)
    assert (top == -INF).all()
    assert (sums == 0).all()
    labels, best = points.nearest(case.own, case.other, closed)
    assert (labels == -1).all()
    assert (best == -INF).all()
    columns = points.columns(case.own, case.other, closed, None, EPSILON, top, case.weights)
    assert (columns == 0).all()
    # All of the first blocks are closed.
    closed[33] = 0.5
    top, sums = points.soft_rows(case.own, case.other, closed, torch.zeros_like(closed), EPSILON)
    torch.testing.assert_close(top, case.wide[:, 33] + 0.5, rtol=0, atol=1e-6)
    assert (sums == 1).all()
    for after in (None, torch.zeros_like(closed)):
        assert (points.nearest(case.own, case.other, closed, after)[0] == 33).all()


def test_no_samples(place):
    own, other = sides(torch.zeros(0, 40, device=place), torch.ones(3, 40, device=place), "dot")
    near = torch.zeros(3, device=place)
    top, sums = points.soft_rows(own, other, near, None, 1.0)
    assert top.shape == sums.shape == (0,)
    assert points.nearest(own, other, near)[0].shape == (0,)
    assert points.columns(own, other, near, None, 1.0, top, sums).tolist() == [0, 0, 0]
    top, sums = points.soft_rows(other, own, near[:0], None, 1.0)
    assert top.tolist() == [-INF] * 3
    assert sums.tolist() == [0] * 3


@pytest.mark.parametrize("dtype", [F16, F32])
@pytest.mark.parametrize("d", [8, 100])
def test_the_lowest_of_equals(place, dtype, d):
    x = torch.randn(30, d, generator=torch.Generator().manual_seed(0)).to(place, dtype)
    c = torch.cat([torch.zeros(3, d, device=place), x[:5].float(), x[:5].float(), x[:5].float()]).to(dtype)
    own, other = sides(x, c, "sqeuclidean")
    near = torch.zeros(len(c), device=place)
    for after in (None, torch.zeros_like(near)):
        labels, best = points.nearest(own, other, near, after)
        assert labels[:5].tolist() == [3, 4, 5, 6, 7]
        assert best[:5].abs().max() <= 1e-5 * d


def test_what_potentials_lost_decides(place):
    x = torch.ones(2, 40, device=place)
    own, other = sides(x, x[:1].repeat(50, 1), "dot")
    near = torch.full((50,), 1e4, dtype=torch.float64, device=place)
    near[20] += 1e-5  # less than a float32 near 10,000 holds
    assert points.nearest(own, other, near, epsilon=1e-4)[0].tolist() == [20, 20]
    after = torch.zeros(50, device=place)
    after[30] = 0.2  # in nats: at this epsilon twice as much
    assert points.nearest(own, other, near, after, epsilon=1e-4)[0].tolist() == [30, 30]


@pytest.mark.parametrize("shape", [(2, 200, 40), (200, 2, 40)], ids=str)
def test_spans_are_merged(place, shape):
    case = Case(place, "cosine", (F32, F32), shape)
    few, many = (case.own, case.other) if shape[0] == 2 else (case.other, case.own)
    grid, span, _ = points._layout(few.parts, many.parts)
    assert grid[1] > 1 or not INTERPRETED
    assert grid[1] * span >= many.count > (grid[1] - 1) * span
    check(case)
    lost = torch.zeros(case.c.shape[0], device=place)
    assert torch.equal(points.nearest(case.own, case.other, case.near.float(), lost)[0], (case.wide + case.near).argmax(1))


def test_blocks_fit_a_small_device(place, monkeypatch):
    side = Side(torch.zeros(2, 500, 128, dtype=F16, device=place))
    monkeypatch.setattr(points, "blocks_of", lambda *_: points.Blocks(128, 64, 128, 8, 2))
    for shared, depth in ((227 << 10, 128), (99 << 10, 32)):
        monkeypatch.setattr(points, "shared_memory", lambda _, shared=shared: shared)
        names = points._layout(side.parts, side.parts)[2]
        assert names["DEPTH"] == depth
        laid = points.Blocks(names["OWN"], names["OTHER"], names["DEPTH"], names["num_warps"], names["num_stages"])
        assert points.shared_bytes(laid, 128, 2, 2) <= shared


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_far_away_data_keep_their_precision(place, dtype):
    case = Case(place, "sqeuclidean", (dtype, F32), (40, 30, 64), 0.5, offset=300.0)
    labels, best = points.nearest(case.own, case.other, torch.zeros_like(case.near))
    error, plain = ((each - case.wide.amax(1)).abs().max() for each in (best, case.plain.amax(1).double()))
    allowed = 2 * plain + 1e-6
    if dtype != F32:
        # Not moved to the centre: products are as large as the way to it, and not as its square.
        spread = (case.c - case.c.mean(0)).double().norm(dim=1).max()
        allowed += EPS * case.x.double().norm(dim=1).max() * spread
    assert error <= allowed
    assert (case.wide.amax(1) - case.wide.gather(1, labels[:, None])[:, 0]).max() <= 2 * allowed


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("d", [5, 64])
def test_directions_of_tiny_and_huge_vectors(place, dtype, size, d):
    drawn = torch.Generator().manual_seed(0)
    x, c = (torch.randn(count, d, generator=drawn).mul(size).to(place, dtype) for count in (20, 30))
    x[3] = 0
    own, other = sides(x, c, "cosine")
    top, _ = points.soft_rows(own, other, torch.zeros(30, device=place), None, 0.05)
    exact = otc.PointScores(x.double(), c.double(), metric="cosine").whole()
    assert (top - exact.amax(1)).abs().max() <= 1e-6
    assert top[3] == 0


def test_products_where_the_user_allows_less(place):
    case = Case(place, "cosine", (F32, F32), SHAPES[0])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        own, other = sides(case.x, case.c, "cosine")
    finally:
        torch.set_float32_matmul_precision(before)
    assert (own.parts.shape[0], other.parts.shape[0], case.own.parts.shape[0]) == (1, 1, 2)
    top, _ = points.soft_rows(own, other, torch.zeros_like(case.near), None, 1.0)
    assert 1e-6 < (top - case.wide.amax(1)).abs().max() < 1e-3


@pytest.mark.parametrize("metric", METRICS)
def test_rounds_are_those_of_the_solver(place, metric):
    case = Case(place, metric, (F32, F32), (60, 20, 40), 0.1)
    answer = otc.sinkhorn_knopp(
        otc.PointScores(case.x.double(), case.c.double(), metric=metric), epsilon=0.1, max_iter=3
    )  # fmt: skip
    top, sums = points.soft_rows(case.other, case.own, torch.zeros(60, device=place), None, 0.1)
    g = 0.1 * (math.log(3) - sums.log()) - top
    for _ in range(2):
        top, sums = points.soft_rows(case.own, case.other, g, None, 0.1)
        g = g + 0.1 * (math.log(3) - points.columns(case.own, case.other, g, None, 0.1, top, 1 / sums).log())
    exact = answer.potentials[1]
    torch.testing.assert_close(g - g.mean(), exact - exact.mean(), rtol=0, atol=1e-5)
    assert torch.equal(points.nearest(case.own, case.other, g)[0], answer.labels())


def test_what_is_not_supported_is_said():
    x = torch.zeros(3, 2)
    assert unfit_points(x, x.half()) is None
    assert "x is float64" in unfit_points(x.double(), x)
    assert "centroids is int64" in unfit_points(x, x.long())
    assert "one problem at a time" in unfit_points(x[None], x)
    assert "no dimensions" in unfit_points(x[:, :0], x[:, :0])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("metric", METRICS)
def test_large(cuda, metric, dtype):
    check(Case(cuda, metric, (dtype, dtype), (20_011, 3_001, 256)))


@pytest.mark.gpu
def test_more_entries_than_an_int32_counts(cuda):
    n, d = 9_000_000, 256
    x = torch.zeros(n, d, dtype=F16, device=cuda)
    x[-1, -1] = x[-2, 0] = 1
    own, other = Side(x[None]), Side(torch.eye(d, device=cuda, dtype=F16)[None])
    labels, best = points.nearest(own, other, torch.zeros(d, device=cuda))
    assert labels[-3:].tolist() == [0, 0, d - 1]
    assert best[-3:].tolist() == [0, 1, 1]
    top, _ = points.soft_rows(other, own, torch.zeros(n, device=cuda), None, 1.0)
    assert top.sum() == 2


@pytest.mark.gpu
def test_compiled_whole_and_in_a_graph(cuda):
    case = Case(cuda, "cosine", (F16, F16), (4096, 1000, 128))

    def rounds(x, c, near):
        own, other = sides(x, c, "cosine")
        top, sums = points.soft_rows(own, other, near, None, EPSILON)
        return points.columns(own, other, near, None, EPSILON, top, 1 / sums), points.nearest(own, other, near)[0]

    eager = rounds(case.x, case.c, case.near)
    compiled = torch.compile(rounds, fullgraph=True)(case.x, case.c, case.near)
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-5, atol=1e-9)
    assert (compiled[1] == eager[1]).float().mean() > 0.999
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = rounds(case.x, case.c, case.near)
    graph.replay()
    assert all(torch.equal(one, two) for one, two in zip(held, eager, strict=True))
