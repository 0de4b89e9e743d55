"""Kernels for groups: all rounds of each against a loop over the groups in float64, and scores with own centroids."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from otcluster._kernels import grouped
from otcluster._kernels.grouped import METRICS, grouped_rounds, own_scores
from tests.kernels import reference
from tests.kernels.conftest import INTERPRETED
from tests.kernels.reference import DTYPES, EPS, F16, F32, INF, agree, are_best, closer, unit

# An empty group, one of one sample, and one much larger than a tile of the others.
SIZES = [5, 0, 1, 35, 17]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that the largest group of these tests fills several times."""
    if INTERPRETED:
        monkeypatch.setattr(grouped, "_TILE", 64)


class Case:
    """Groups whose ids are not sorted."""

    def __init__(self, place, k, dtype=F32, epsilon=0.05, *, sizes=SIZES, size=1.0, weighted=True, forbidden=0.0, closed=False):
        drawn = torch.Generator().manual_seed(k)
        ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.ids = ids[torch.randperm(len(ids), generator=drawn)].to(place)
        n, n_groups = len(ids), len(sizes)
        self.order = torch.argsort(self.ids, stable=True)
        self.starts = torch.searchsorted(self.ids[self.order], torch.arange(n_groups + 1, device=place))
        self.scores = ((torch.rand((n, k), generator=drawn) * 2 - 1) * size).to(place, dtype)
        if forbidden:
            self.scores.masked_fill_((torch.rand((n, k), generator=drawn) < forbidden).to(place), -INF)
            self.scores[self.order[self.starts[2:-1]]] = 0  # a row of each group has all pairs
            self.scores[self.order[int(self.starts[4]) - 1]] = -INF  # a lost one
        self.given = None
        if weighted:
            self.given = (torch.rand(n, generator=drawn) + 0.1).to(place)
            self.given[1::9] = 0
            self.given[self.order[self.starts[2:-1]]] = 1
        self.weights = torch.ones(n, device=place) if self.given is None else self.given
        share = torch.rand((n_groups, k), generator=drawn, dtype=torch.float64).to(place) + 0.1
        if closed:
            share[:, 1::3] = 0
        totals = torch.zeros(n_groups, dtype=torch.float64, device=place).index_add_(0, self.ids, self.weights.double())
        self.masses = share / share.sum(1, keepdim=True) * totals[:, None]
        self.epsilon = epsilon
        self.noise = epsilon * torch.randn((n_groups, k), generator=drawn, dtype=torch.float64).to(place)
        self.start = torch.where(self.masses > 0, self.noise, -INF)

    def solve(self, most, limit=None, *, best=False, start=None):
        return grouped_rounds(
            self.scores, self.order, self.starts, self.given, self.masses, start, self.epsilon, most, limit, best
        )  # fmt: skip

    def groups(self, *more):
        """What belongs to each group that has samples, and then of each array of ``more`` what belongs to it."""
        for group, mass in enumerate(self.masses):
            mine = self.ids == group
            if mine.any():
                yield (self.scores[mine], self.weights[mine], mass), group, *(each[mine] for each in more)

    def check(self, rounds, *, start=None):
        """Fixed rounds."""
        g, labels, error, n_iter = self.solve(rounds, start=start)
        assert error.shape == n_iter.shape == (0,)
        assert g.dtype == torch.float64
        for given, group, its in self.groups(labels):
            begin = None if start is None else start[group]
            exact, _ = reference.rounds(*given, self.epsilon, rounds + 1, begin)[-1]
            agree(g[group] / self.epsilon, exact / self.epsilon, (rounds + 1) * 2 * unit(given[0], exact, self.epsilon))
            are_best(its, given[0], g[group][None, :], self.epsilon)
        self.check_empty(g)

    def check_empty(self, g):
        for group in range(len(self.masses)):
            if not (self.ids == group).any():
                assert (g[group] == -INF).all()

    def check_to_limit(self, most, limit, *, best=False, start=None):
        """Rounds to a limit: which one is answered with, and its error."""
        g, labels, error, n_iter = self.solve(most, limit, best=best, start=start)
        assert error.dtype == torch.float64
        assert n_iter.dtype == torch.int64
        for given, group, its in self.groups(labels):
            begin = None if start is None else start[group]
            seen = reference.rounds(*given, self.epsilon, most, begin)
            errors, count, got = [each for _, each in seen], int(n_iter[group]), float(error[group])
            slack = (most + 1) * 2 * unit(given[0], seen[0][0], self.epsilon)
            assert 1 <= count <= most
            assert count == most or errors[count - 1] <= limit + slack
            assert all(each > limit - slack for each in errors[: count - 1])
            at = min(range(count), key=lambda each: errors[each]) if best else count - 1
            assert abs(got - errors[at]) <= slack
            assert abs(got - float(reference.error_of(*given, g[group], self.epsilon))) <= slack
            if not best:
                agree(g[group] / self.epsilon, seen[at][0] / self.epsilon, slack)
            are_best(its, given[0], g[group][None, :], self.epsilon)
        self.check_empty(g)
        for group in range(len(self.masses)):
            if not (self.ids == group).any():
                assert (error[group], n_iter[group]) == (0, 1)


@pytest.mark.parametrize("k", [1, 2, 5, 33])
def test_all_numbers_of_clusters(place, k):
    Case(place, k).check(2)
    Case(place, k, weighted=False).check_to_limit(6, 1e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"closed": True}, {"forbidden": 0.3}, {"forbidden": 0.2, "weighted": False}], ids=str)
def test_all_dtypes_and_masses(place, dtype, options):
    case = Case(place, 5, dtype, **options)
    case.check(2)
    case.check_to_limit(8, 1e-2)


@pytest.mark.parametrize(("size", "epsilon"), [(1.0, 1.0), (1.0, 0.02), (100.0, 5.0), (1e4, 500.0)])
def test_sizes_of_scores(place, size, epsilon):
    case = Case(place, 4, F32, epsilon, size=size)
    case.check(2)
    case.check_to_limit(10, 1e-3, best=True)


@pytest.mark.parametrize(("size", "epsilon"), [(1.0, 1e-3), (1.0, 1e-4), (100.0, 1.0), (1e4, 1e-2)])
def test_hard_plans_are_what_their_potential_says(place, size, epsilon):
    """Columns without a float32 of mass are raised step by step: compared is what follows from the potential."""
    case = Case(place, 4, F32, epsilon, size=size)
    for best in (False, True):
        g, labels, error, _ = case.solve(7, 1e-3, best=best)
        for given, group, its in case.groups(labels):
            assert g[group].isfinite().all()
            are_best(its, given[0], g[group][None, :], epsilon)
            exact = float(reference.error_of(*given, g[group], epsilon))
            assert abs(float(error[group]) - exact) <= 2 * unit(given[0], g[group], epsilon)


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_start(place, rounds):
    case = Case(place, 5, closed=True, forbidden=0.2)
    case.check(rounds, start=case.start)
    if rounds:
        case.check_to_limit(rounds, 1e-2, start=case.start)
        case.check_to_limit(rounds, 1e-2, start=case.start, best=True)


def test_a_start_is_left_as_it_was(place):
    case = Case(place, 5)
    before = case.start.clone()
    case.solve(3, start=case.start)
    assert torch.equal(case.start, before)


def test_of_all_rounds_the_best_is_kept(place):
    """Errors fall until rounding hides them; from there on the last is not the least."""
    case, most = Case(place, 5, epsilon=2.0), 8
    seen = [case.solve(rounds, 0.0) for rounds in range(1, most + 1)]
    errors = torch.stack([error for _, _, error, _ in seen])
    g, labels, error, n_iter = case.solve(most, 0.0, best=True)
    least = errors.argmin(0)  # the first
    assert (least < n_iter - 1).any()
    assert torch.equal(error, errors.amin(0))
    for group, at in enumerate(least.tolist()):
        assert torch.equal(g[group], seen[at][0][group])
        assert torch.equal(labels[case.ids == group], seen[at][1][case.ids == group])


@pytest.mark.parametrize(("limit", "count"), [(0.0, 4), (10.0, 1)])
def test_limits_that_all_or_none_meet(place, limit, count):
    case = Case(place, 5)
    _, _, error, n_iter = case.solve(4, limit)
    assert n_iter.tolist() == [count, 1, *[count] * 3]  # of the empty one nothing is in the wrong place
    assert (error[[0, 3]] > 0).all()


def test_the_lowest_of_equals_and_none_open(place):
    case = Case(place, 3, weighted=False)
    case.scores.fill_(0.5)
    flat = torch.ones_like(case.masses)
    kept = torch.where(flat > 0, 0.0, flat)
    given = case.scores, case.order, case.starts, None
    _, labels, _, _ = grouped_rounds(*given, flat, kept, 0.05, 0, None, False)
    assert (labels == 0).all()
    flat[:, 0] = 0
    kept = torch.where(flat > 0, 0.0, -INF)
    _, labels, _, _ = grouped_rounds(*given, flat, kept, 0.05, 2, None, False)
    assert (labels == 1).all()
    g, labels, _, _ = grouped_rounds(*given, 0 * flat, None, 0.05, 2, 0.5, False)
    assert (labels == -1).all()
    assert (g == -INF).all()
    ties = torch.randint(-2, 3, case.scores.shape, generator=torch.Generator().manual_seed(0)).to(place, F16) / 2
    flat[:] = 1
    _, labels, _, _ = grouped_rounds(ties, *given[1:], flat, 0 * flat, 0.05, 0, None, False)
    assert torch.equal(labels.cpu(), ties.float().cpu().argmax(1))


def test_rows_of_no_group(place):
    case = Case(place, 5, weighted=False)
    case.starts[-1] -= 17  # the last group has lost its samples
    case.masses[-1] = 0
    _, labels, _, _ = case.solve(2)
    assert (labels[case.ids == 4] == -1).all()
    assert (labels[case.ids != 4] >= 0).all()


def test_repeated_calls_agree_to_the_bit(place):
    case = Case(place, 5, forbidden=0.2)
    for given in ((2, None), (6, 1e-3)):
        for one, two in zip(case.solve(*given), case.solve(*given), strict=True):
            assert torch.equal(one, two)


class Points:
    """Samples, the centroids of their groups, and all scores of each with its own, in float64 and by the plain formula."""

    def __init__(self, place, metric, dtypes, k, d, *, size=1.0, sizes=SIZES):
        drawn = torch.Generator().manual_seed(k + d)
        ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.ids = ids[torch.randperm(len(ids), generator=drawn)].to(place)
        self.order = torch.argsort(self.ids, stable=True)
        self.starts = torch.searchsorted(self.ids[self.order], torch.arange(len(sizes) + 1, device=place))
        self.x = (torch.randn((len(ids), d), generator=drawn) * size).to(place, dtypes[0])
        self.c = (torch.randn((len(sizes), k, d), generator=drawn) * size).to(place, dtypes[1])
        self.metric = metric

    def scores(self, dtype):
        x, c = self.x.to(dtype), self.c.to(dtype)[self.ids]
        if self.metric == "sqeuclidean":
            return -(x[:, None, :] - c).square().sum(2)
        if self.metric == "cosine":
            x, c = (normalize(each, dim=-1, eps=1e-300 if dtype == torch.float64 else 1e-12) for each in (x, c))
        return (x[:, None, :] * c).sum(2)

    def found(self):
        return own_scores(self.x, self.c, self.order, self.starts, METRICS[self.metric])

    def check(self):
        found, exact = self.found(), self.scores(torch.float64)
        assert found.dtype == F32
        size = (
            exact.abs().max()
            if self.metric != "dot"
            else (self.x.abs().double()[:, None] * self.c[self.ids].abs()).sum(2).max()
        )
        closer(found, exact, self.scores(F32), 2 * EPS * size)
        assert torch.equal(found, self.found())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (4, 20), (5, 131), (8, 64), (9, 70), (33, 17)])
def test_own_scores_of_all_shapes(place, metric, k, d):
    Points(place, metric, (F32, F32), k, d).check()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtypes", [(each, other) for each in DTYPES for other in (each, F32)], ids=str)
def test_own_scores_of_all_dtypes(place, metric, dtypes):
    for k in (3, 20):
        Points(place, metric, dtypes, k, 40, sizes=[7, 0, 1]).check()


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30])
@pytest.mark.parametrize("k", [3, 20])
def test_directions_of_tiny_and_huge_vectors(place, size, k):
    points = Points(place, "cosine", (F32, F32), k, 70, size=size, sizes=[3, 0, 4])
    points.x[2] = 0
    points.x[:, 5] = 0
    exact = points.scores(torch.float64)
    assert exact.abs().max() > 0.1
    assert (points.found() - exact).abs().max() <= (1e-6 if size > 1e-38 else 1e-3)  # digits that a subnormal number has


def test_only_some_vectors_are_tiny(place):
    points = Points(place, "cosine", (F32, F32), 4, 70, sizes=[9])
    points.x[3] *= 1e-30
    points.c[0, 1] *= 1e30
    points.check()


def test_scores_of_rows_of_no_group_are_zero(place):
    points = Points(place, "dot", (F32, F32), 4, 20)
    points.starts[-1] -= 17
    found, exact = points.found(), points.scores(torch.float64)
    assert (found[points.ids == 4] == 0).all()
    torch.testing.assert_close(found[points.ids != 4].double(), exact[points.ids != 4], rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("k", "sizes"), [(4, [16] * 997), (10, [0, 60_001, 3, 512]), (128, [300, 40])], ids=str)
def test_large(cuda, dtype, k, sizes):
    case = Case(cuda, k, dtype, sizes=sizes)
    case.check(2)
    case.check_to_limit(10, 1e-2)
    for metric in METRICS:
        Points(cuda, metric, (dtype, dtype), k, 300, sizes=sizes).check()
