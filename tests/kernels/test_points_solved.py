"""Solvers on points: by kernels the answers of the generic path, through the public face."""

from __future__ import annotations

import pytest
import torch

import otcluster as otc
from otcluster import on_device_points, passes
from otcluster._kernels import points
from otcluster.scores import DenseScores
from tests.kernels.conftest import INTERPRETED

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
DTYPES = [F16, BF16, F32]
METRICS = ["dot", "cosine", "sqeuclidean"]
N, K, D = 60, 21, 40


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(points, "blocks_of", lambda dtype, d, *parts: points.Blocks(32, 16, 64, 4, 2))


def drawn(place, dtype=F32, n=N):
    seed = torch.Generator().manual_seed(0)
    x, c = (torch.randn(count, D, generator=seed) / D**0.5 + 0.1 for count in (n, K))
    return x.to(place, dtype), c.to(place, dtype)


def with_and_without(monkeypatch, make, solve):
    """What ``solve`` gives for a problem by kernels, and by the generic path."""
    answers = []
    for kernels in ("1", "0"):
        monkeypatch.setenv("OTCLUSTER_KERNELS", kernels)
        problem = make()
        answers.append(solve(problem))
        assert (problem.scores.laid is not None) == (kernels == "1")
    return answers


def made(x, c, metric="cosine", **masses):
    """With a byte of memory the scores are not formed once, however few."""
    return lambda: otc.Problem(otc.PointScores(x, c, metric=metric, memory=1), **masses)


def told(answer):
    f, g = answer.potentials
    labels, sizes = answer.labels(), answer.cluster_sizes()
    return labels, sizes, answer.plan(), f, g, answer.marginal_error


def agree(one, two, tolerance=2e-5):
    """Answers with all they tell; potentials up to the constant that nothing fixes."""
    assert one[0].dtype == two[0].dtype
    assert (one[0] == two[0]).float().mean() > 0.98
    for mine, theirs in zip(one[1:3], two[1:3], strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=10 * tolerance, atol=tolerance)
    away = (one[4] - two[4])[torch.isfinite(two[4])].mean()
    torch.testing.assert_close(one[3] + away, two[3], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one[4] - away, two[4], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one[5], two[5], rtol=1e-2, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_fixed_rounds(place, monkeypatch, metric, dtype):
    epsilon = (0.02, 0.5)[(METRICS.index(metric) + DTYPES.index(dtype)) % 2]
    x, c = drawn(place, dtype)
    assert passes.is_scaled(made(x, c, metric)(), epsilon) == (epsilon == 0.5)
    agree(*with_and_without(
        monkeypatch, made(x, c, metric), lambda problem: told(otc.solve(problem, otc.SinkhornKnopp(epsilon=epsilon)))
    ))  # fmt: skip


@pytest.mark.parametrize("what", ["sample_mass", "cluster_share", "closed", "relaxed", "all"])
@pytest.mark.parametrize("epsilon", [0.03, 0.05])
def test_masses(place, monkeypatch, what, epsilon):
    x, c = drawn(place)
    mass = torch.linspace(0, 3, N, device=place)
    share = torch.linspace(1, 4, K, device=place)
    closed = share.clone()
    closed[3:7] = 0
    masses = {
        "sample_mass": {"sample_mass": mass},
        "cluster_share": {"cluster_share": share},
        "closed": {"cluster_share": closed},
        "relaxed": {"cluster_side": 0.3},
        "all": {"sample_mass": mass, "cluster_share": closed, "cluster_side": 0.3},
    }[what]
    solver = otc.LogSinkhorn(epsilon=epsilon, max_iter=4, tol=None)
    one, two = with_and_without(monkeypatch, made(x, c, **masses), lambda problem: told(otc.solve(problem, solver)))
    agree(one, two)
    assert (one[1][3:7] == 0).all() == ("cluster_share" in masses and masses["cluster_share"] is closed)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("epsilon", [0.2, 0.01])
def test_to_a_tolerance(place, monkeypatch, metric, epsilon):
    x, c = drawn(place)
    solver = otc.LogSinkhorn(epsilon=epsilon, tol=1e-4, max_iter=300)

    def solve(problem):
        answer = otc.solve(problem, solver)
        assert answer.status is otc.Status.CONVERGED
        assert float(answer.marginal_error) <= 1e-4
        return answer.labels(), answer.plan()

    one, two = with_and_without(monkeypatch, made(x, c, metric), solve)
    assert (one[0] == two[0]).float().mean() > 0.98
    # Both are within the tolerance of the one answer.
    assert (one[1] - two[1]).abs().sum() <= 4e-4 * N * (1 + 1 / epsilon)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_nearest(place, monkeypatch, metric, dtype):
    x, c = drawn(place, dtype)
    share = torch.ones(K, device=place)
    share[[0, 5]] = 0

    def solve(problem):
        answer = otc.solve(problem, otc.Nearest())
        return answer.labels(), answer.transport_value(), answer.potentials[0]

    one, two = with_and_without(monkeypatch, made(x, c, metric, cluster_share=share), solve)
    assert torch.equal(one[0], two[0])
    assert not ((one[0] == 0) | (one[0] == 5)).any()
    torch.testing.assert_close(one[2], two[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one[1], two[1], rtol=1e-5, atol=1e-5)


def test_no_squared_distance_is_below_zero(place, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    x, _ = drawn(place)
    x = x * 30
    assert (otc.solve(made(x, x[:K], "sqeuclidean")(), otc.Nearest()).potentials[0] >= 0).all()


def test_new_samples(place, monkeypatch):
    x, c = drawn(place)
    more = drawn(place, n=2 * N)[0]

    def solve(problem):
        answer = otc.solve(problem, otc.SinkhornKnopp(epsilon=0.1))
        return answer.assign(otc.PointScores(more, c, metric="cosine", memory=1)).labels()

    one, two = with_and_without(monkeypatch, made(x, c), solve)
    assert torch.equal(one, two)


def test_vectors_are_laid_out_once(place, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    calls = []
    laid = points.sides
    monkeypatch.setattr(points, "sides", lambda *given: calls.append(given) or laid(*given))
    x, c = drawn(place)
    answer = otc.solve(made(x.requires_grad_(), c)(), otc.LogSinkhorn(epsilon=0.05, max_iter=3, tol=None))
    answer.labels(), answer.potentials, answer.cluster_sizes()
    assert len(calls) == 1


def test_few_scores_are_formed_once(place, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "auto")
    x, c = drawn(place)
    few = otc.Problem(otc.PointScores(x, c))
    assert isinstance(passes.held(few).scores, DenseScores)
    assert not on_device_points.takes_points(few)
    monkeypatch.setattr(on_device_points, "FEW_SCORES", 100)
    monkeypatch.setattr(on_device_points, "_FEW_ON_DEVICE", 100)
    assert passes.held(few) is few
    assert on_device_points.takes_points(few)
    monkeypatch.setenv("OTCLUSTER_KERNELS", "0")
    assert passes.held(few) is not few


def test_what_no_kernel_takes(place, monkeypatch):
    x, c = drawn(place)
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    with pytest.raises(ValueError, match="rounds over points: float64"):
        otc.solve(made(x.double(), c)(), otc.SinkhornKnopp())
    with pytest.raises(ValueError, match="one problem at a time"):
        otc.solve(made(x[None], c)(), otc.SinkhornKnopp())
    monkeypatch.setenv("OTCLUSTER_KERNELS", "auto")
    assert otc.solve(made(x[None], c)(), otc.SinkhornKnopp()).labels().shape == (1, N)
    # Vectors are copied anyway, so they may lie as they like.
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    turned = otc.solve(made(x.T.contiguous().T, c)(), otc.SinkhornKnopp())
    assert torch.equal(turned.labels(), otc.solve(made(x, c)(), otc.SinkhornKnopp()).labels())


def test_no_samples(place, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    x, c = drawn(place)
    assert otc.solve(made(x[:0], c)(), otc.Nearest()).labels().shape == (0,)


@pytest.mark.parametrize("side", [None, 0.3])
def test_one_of_several_ranks(place, monkeypatch, side):
    x, c = drawn(place)
    twice = TwoAlike()
    solver = otc.LogSinkhorn(epsilon=0.05, max_iter=3, tol=None)
    one, two = with_and_without(
        monkeypatch,
        made(x, c, sharded=True, cluster_side=side),
        lambda problem: told(otc.solve(problem, solver, reducer=twice)),
    )
    agree(one, two)
    assert one[1].sum() == pytest.approx(2 * N)


class TwoAlike:
    """Sums and maxima over two ranks with the same samples."""

    def sum(self, values):
        return 2 * values

    def max(self, values):
        return values


@pytest.mark.gpu
def test_large(cuda, monkeypatch):
    n, k, d = 65_536, 131_072, 256
    seed = torch.Generator(cuda).manual_seed(0)
    x, c = (torch.randn(count, d, device=cuda, generator=seed, dtype=F16) for count in (n, k))
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    answer = otc.solve(otc.Problem(otc.PointScores(x, c, metric="cosine")), otc.SinkhornKnopp(epsilon=0.05, max_iter=3))
    labels = answer.labels()
    assert torch.cuda.max_memory_allocated() - before < 4e9
    f, g = answer.potentials
    scores = torch.nn.functional.normalize(x[:64].double()) @ torch.nn.functional.normalize(c.double()).T
    exponents = scores + g.double()
    assert (exponents.amax(1) - exponents.gather(1, labels[:64, None])[:, 0]).max() <= 1e-5
    torch.testing.assert_close(f[:64].double(), -0.05 * torch.logsumexp(exponents / 0.05, 1), rtol=0, atol=1e-5)
