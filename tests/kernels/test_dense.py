"""Kernels for rounds over scores against the definition in float64, and against what the plain formula in float32 errs by."""

from __future__ import annotations

import pytest
import torch

from otcluster._kernels import dense
from tests.kernels import reference
from tests.kernels.conftest import INTERPRETED
from tests.kernels.reference import BF16, DTYPES, EPS, F16, F32, INF, agree, are_best, closer, unit

WIDE, NARROW = dense.WIDEST, 4

# batches, samples, clusters
SHAPES = [(1, 1, 1), (1, 1, 5), (1, 37, 1), (2, 37, 5), (1, 65, 30), (3, 10, 33), (1, 9, 70)]
if not INTERPRETED:
    SHAPES += [(2, 1000, 517), (1, 4100, 3000), (7, 300, 10), (1, 130, 20_000)]
FORMS = [(shape, widest) for shape in SHAPES for widest in (WIDE, NARROW) if widest == WIDE or shape[2] > NARROW]
each_form = pytest.mark.parametrize(("shape", "widest"), FORMS, ids=str)
small_forms = pytest.mark.parametrize(("shape", "widest"), [((2, 19, 41), WIDE), ((2, 19, 41), NARROW)], ids=str)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that several of the small problems of these tests fill."""
    if INTERPRETED:
        for name, value in {"_TILE": 256, "_CHUNK": 128, "_FEW": 32, "_COLUMNS": 32}.items():
            monkeypatch.setattr(dense, name, value)


class Case:
    """A batch of problems."""

    def __init__(self, place, shape, dtype=F32, epsilon=0.05, *, size=1.0, weighted=True, forbidden=0.0, closed=False):
        batches, n, k = shape
        drawn = torch.Generator().manual_seed(batches + n + k)
        self.scores = ((torch.rand(shape, generator=drawn) * 2 - 1) * size).to(place, dtype)
        if forbidden:
            never = torch.rand(shape, generator=drawn) < forbidden
            never[:, n // 2] = True  # lost
            never[:, n // 3] = False  # so that each column has a pair
            self.scores.masked_fill_(never.to(place), -INF)
        self.given = None
        if weighted:
            self.given = (torch.rand((batches, n), generator=drawn) + 0.1).to(place)
            self.given[:, 1::7] = 0
        self.weights = torch.ones((batches, n), device=place) if self.given is None else self.given
        share = torch.rand((batches, k), generator=drawn, dtype=torch.float64).to(place) + 0.1
        if closed:
            share[:, 1::5] = 0
        self.masses = share / share.sum(1, keepdim=True) * self.weights.double().sum(1, keepdim=True)
        self.epsilon = epsilon
        # Of a first round, with digits beyond those of a float32.
        self.g = self.first() + epsilon * torch.randn((batches, k), generator=drawn, dtype=torch.float64).to(place)
        self.unit = unit(self.scores, self.g, epsilon)
        self.heaviest = float(self.weights.max())

    def each(self, formula, *more, **options):
        found = [formula(*given, self.epsilon, **options) for given in zip(self.scores, self.weights, *more, strict=True)]
        return [torch.stack(parts) for parts in zip(*found, strict=True)] if isinstance(found[0], tuple) else torch.stack(found)

    def first(self, **options):
        return self.each(reference.first, self.masses, **options)

    def plan(self, **options):
        return self.each(reference.plan, self.g, **options)

    def rounds(self, start, count, widest):
        return dense.dense_rounds(self.scores, self.given, self.masses, start, self.epsilon, count, widest)

    def asked(self, widest):
        """What the kernels answer."""
        given = self.scores, self.given
        yield self.rounds(None, 0, widest)
        yield self.rounds(self.g, 1, widest)
        yield from dense.dense_columns(*given, self.g, self.epsilon, widest)
        yield dense.dense_labels(self.scores, self.g, self.epsilon, widest)
        yield dense.dense_plan(*given, self.g, self.epsilon, widest)

    def check(self, widest):
        """All that may be asked."""
        self.check_first(widest)
        self.check_columns(widest)
        self.check_plan(widest)

    def check_first(self, widest):
        g = self.rounds(None, 0, widest)
        exact, plain, open_ = self.first(), self.first(dtype=F32), self.masses > 0
        assert torch.equal(g == -INF, ~open_)
        closer(g[open_] / self.epsilon, exact[open_] / self.epsilon, plain[open_] / self.epsilon, 2 * self.unit)

    def check_columns(self, widest):
        columns, lost = dense.dense_columns(self.scores, self.given, self.g, self.epsilon, widest)
        exact, exactly_lost = self.plan()
        plain = self.plan(dtype=F32)[0].sum(1)
        total = self.weights.double().sum(1, keepdim=True)
        assert columns.dtype == lost.dtype == torch.float64
        closer(columns / total, exact.sum(1) / total, plain / total, 2 * self.unit)
        torch.testing.assert_close(lost, exactly_lost, rtol=4 * EPS, atol=0)
        torch.testing.assert_close(columns.sum(1) + lost, total[:, 0], rtol=16 * EPS, atol=0)
        g = self.rounds(self.g, 1, widest)
        expected = reference.raised(self.g, columns.log(), self.masses, self.epsilon)
        # The very sums, within a rounding of an exponential and of the last addition.
        size = float(expected[expected > -INF].abs().max())
        agree(g / self.epsilon, expected / self.epsilon, 8 * EPS + 1e-12 * size / self.epsilon)

    def check_plan(self, widest):
        plan = dense.dense_plan(self.scores, self.given, self.g, self.epsilon, widest)
        exact, _ = self.plan()
        plain, _ = self.plan(dtype=F32)
        assert plan.dtype == F32
        assert (plan >= 0).all()
        closer(plan / self.heaviest, exact / self.heaviest, plain / self.heaviest, 2 * self.unit)
        kept = torch.where((self.scores + self.g[:, None, :] > -INF).any(2), self.weights, 0.0)
        torch.testing.assert_close(plan.sum(2), kept, rtol=16 * EPS, atol=0)
        labels = dense.dense_labels(self.scores, self.g, self.epsilon, widest)
        are_best(labels, self.scores, self.g[:, None, :], self.epsilon)


@each_form
def test_all_shapes(place, shape, widest):
    Case(place, shape, weighted=False).check(widest)


@small_forms
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_dtypes(place, dtype, shape, widest):
    Case(place, shape, dtype, forbidden=0.3, closed=True).check(widest)


@small_forms
@pytest.mark.parametrize("masses", [{"closed": True}, {"forbidden": 0.3, "weighted": False}], ids=str)
def test_all_masses(place, masses, shape, widest):
    Case(place, shape, F16, **masses).check(widest)


@small_forms
@pytest.mark.parametrize(("size", "epsilon"), [(1.0, 1.0), (1.0, 1e-4), (100.0, 1.0), (100.0, 1e-2), (1e4, 1.0), (1e4, 1e-4)])
def test_large_scores_and_small_epsilons(place, size, epsilon, shape, widest):
    Case(place, shape, F32, epsilon, size=size, forbidden=0.1).check(widest)


@small_forms
def test_repeated_calls_agree_to_the_bit(place, shape, widest):
    case = Case(place, shape, forbidden=0.2)
    for one, two in zip(case.asked(widest), case.asked(widest), strict=True):
        assert torch.equal(one, two)


@small_forms
def test_columns_that_nothing_reaches(place, shape, widest):
    """Sums of zero are raised by what float32 resolves, and nothing is NaN."""
    case = Case(place, shape, F32, 1e-3)
    case.g[:, 0] -= 10  # exponents of -10,000
    columns, _ = dense.dense_columns(case.scores, case.given, case.g, case.epsilon, widest)
    assert (columns[:, 0] == 0).all()
    g = case.rounds(case.g, 1, widest)
    expected = reference.raised(case.g, columns.log(), case.masses, case.epsilon)
    torch.testing.assert_close(g[:, 0], expected[:, 0], rtol=1e-9, atol=0)
    assert (g[:, 0] - case.g[:, 0] > 80 * case.epsilon).all()


@small_forms
def test_what_a_sharded_problem_may_hold(place, shape, widest):
    """A column without a pair, which only other ranks have: its potential is finite, and nothing else hears of it."""
    case = Case(place, shape)
    case.scores[:, :, 2] = -INF
    g = case.rounds(None, 0, widest)
    assert g.isfinite().all()
    plan = dense.dense_plan(case.scores, case.given, g, case.epsilon, widest)
    assert (plan[:, :, 2] == 0).all()
    torch.testing.assert_close(plan.sum(2), case.weights, rtol=16 * EPS, atol=0)


@small_forms
def test_the_lowest_of_equals(place, shape, widest):
    batches, _, k = shape
    scores = torch.full(shape, 0.25, device=place)
    g = torch.zeros((batches, k), dtype=torch.float64, device=place)
    assert (dense.dense_labels(scores, g, 0.05, widest) == 0).all()
    torch.testing.assert_close(dense.dense_plan(scores, None, g, 0.05, widest), torch.full(shape, 1 / k, device=place))
    g[:, :2] = -INF
    assert (dense.dense_labels(scores, g, 0.05, widest) == 2).all()
    ties = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).to(place, F16) / 2
    assert torch.equal(dense.dense_labels(ties, torch.zeros_like(g), 0.05, widest), ties.float().cpu().argmax(2).to(place))


@small_forms
def test_no_cluster_is_open(place, shape, widest):
    case = Case(place, shape)
    closed = torch.full_like(case.g, -INF)
    assert (dense.dense_labels(case.scores, closed, case.epsilon, widest) == -1).all()
    assert (dense.dense_plan(case.scores, case.given, closed, case.epsilon, widest) == 0).all()
    columns, lost = dense.dense_columns(case.scores, case.given, closed, case.epsilon, widest)
    assert (columns == 0).all()
    torch.testing.assert_close(lost, case.weights.double().sum(1), rtol=4 * EPS, atol=0)
    assert (dense.dense_rounds(case.scores, case.given, 0 * case.masses, None, case.epsilon, 0, widest) == -INF).all()
    assert (dense.dense_rounds(case.scores, case.given, 0 * case.masses, case.g, case.epsilon, 1, widest) == -INF).all()


@pytest.mark.parametrize("widest", [WIDE, NARROW])
def test_what_potentials_lost_decides(place, widest):
    scores = torch.zeros(1, 2, 50, device=place)
    g = torch.full((1, 50), 1e4, dtype=torch.float64, device=place)
    g[0, 20] += 1e-5  # less than a float32 near 10,000 holds
    assert dense.dense_labels(scores, g, 1e-4, widest).tolist() == [[20, 20]]
    plan = dense.dense_plan(scores, None, g, 1e-4, widest)
    assert ((plan[..., 20] / plan[..., 0]).log() - 0.1).abs().max() <= 1e-5


@pytest.mark.parametrize("widest", [WIDE, NARROW])
def test_many_parts_are_merged(place, widest, monkeypatch):
    """More programs than one step of the merge takes."""
    if INTERPRETED:
        monkeypatch.setattr(dense, "processors", lambda device: 33)
    case = Case(place, (1, 540 if widest == WIDE else 520, 20), forbidden=0.2)
    case.check_columns(widest)
    case.scores = case.scores.sort(1).values.contiguous()  # the maxima of later parts are larger
    case.check_first(widest)


@pytest.mark.parametrize("widest", [WIDE, NARROW])
def test_a_whole_solve(place, widest):
    case = Case(place, (2, 40, 21), closed=True, forbidden=0.2)
    start = case.g.clone()
    for begin, count in ((None, 3), (case.g, 2), (case.g, 0)):
        g = case.rounds(begin, count, widest)
        for batch in range(2):
            given = case.scores[batch], case.weights[batch], case.masses[batch]
            exact, _ = reference.rounds(*given, case.epsilon, count + 1, None if begin is None else begin[batch])[-1]
            agree(g[batch] / case.epsilon, exact / case.epsilon, 10 * case.unit)
    assert torch.equal(case.g, start)
    g.zero_()  # an answer of its own
    assert torch.equal(case.g, start)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 4096, 3000), (1, 30_011, 129), (1, 517, 65_536), (64, 300, 40)], ids=str)
def test_large(cuda, dtype, shape):
    Case(cuda, shape, dtype, forbidden=0.05, closed=True).check(WIDE)


@pytest.mark.gpu
def test_more_entries_than_an_int32_counts(cuda):
    n, k = 35_000, 65_536
    scores = torch.zeros((1, n, k), dtype=BF16, device=cuda)
    scores[0, -1, -1] = scores[0, -2, 0] = 1
    g = torch.zeros((1, k), dtype=torch.float64, device=cuda)
    labels = dense.dense_labels(scores, g, 0.05)
    assert labels[0, -3:].tolist() == [0, 0, k - 1]
    columns, lost = dense.dense_columns(scores, None, g, 0.05)
    torch.testing.assert_close(columns.sum(), torch.tensor(float(n), dtype=torch.float64, device=cuda), rtol=1e-5, atol=0)
    assert lost.item() == 0
