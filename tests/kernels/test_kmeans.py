"""k-means by kernels finds what the plain pass finds, through the public face."""

from __future__ import annotations

import pytest
import torch

import otcluster as otc
from otcluster._kernels import members, points
from otcluster.clustering.nearest import nearest_centroids
from otcluster.clustering.on_device import KernelPass
from otcluster.clustering.passes import PlainPass
from otcluster.clustering.samples import Samples
from tests.kernels.conftest import INTERPRETED

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
METRICS = ["sqeuclidean", "cosine"]
# With every dtype and metric, and either of these with weights and without.
FORMS = [(dtype, metric, (at + of) % 2 == 1) for at, dtype in enumerate(DTYPES) for of, metric in enumerate(METRICS)]
N, K, D = 110, 7, 40


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(members, "PIECE", 48)
        monkeypatch.setattr(points, "blocks_of", lambda dtype, d, *parts: points.Blocks(32, 16, 64, 4, 2))


def drawn(place, dtype=torch.float32, d=D, offset=2.0):
    seed = torch.Generator().manual_seed(d)
    true = 3 * torch.randn(K, d, generator=seed)
    x = true[torch.arange(N) % K] + torch.randn(N, d, generator=seed) + offset
    return x.to(place, dtype), torch.rand(N, generator=seed).to(place)


def both(monkeypatch, solve):
    answers = []
    for kernels in ("1", "0"):
        monkeypatch.setenv("OTCLUSTER_KERNELS", kernels)
        answers.append(solve())
    return answers


def agree(mine, theirs):
    assert mine.labels.dtype == theirs.labels.dtype == torch.int64
    assert torch.equal(mine.labels, theirs.labels)
    assert (mine.n_iter, mine.status) == (theirs.n_iter, theirs.status)
    assert mine.inertia == pytest.approx(theirs.inertia, rel=1e-5)
    assert mine.centroids.dtype == theirs.centroids.dtype == torch.float32
    torch.testing.assert_close(mine.centroids, theirs.centroids, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "metric", "weighted"), FORMS, ids=str)
def test_the_same_answer(place, monkeypatch, metric, dtype, weighted):
    x, weights = drawn(place, dtype)
    start = x[10 : 10 + K].float()
    agree(*both(monkeypatch, lambda: otc.kmeans(
        x, K, metric=metric, init=start, tol=0, sample_weight=weights if weighted else None
    )))  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [3, 130])
def test_few_and_many_dimensions(place, monkeypatch, metric, d):
    x, _ = drawn(place, d=d)
    agree(*both(monkeypatch, lambda: otc.kmeans(x, K, metric=metric, seed=3)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_far_away_rows(place, monkeypatch, dtype):
    x, _ = drawn(place, dtype, offset=100.0)
    start = x[:K].float()
    agree(*both(monkeypatch, lambda: otc.kmeans(x, K, init=start, tol=0)))


def test_empty_clusters_are_filled(place, monkeypatch):
    x, _ = drawn(place)
    start = x[:K].clone()
    start[2:4] = 1e3
    agree(*both(monkeypatch, lambda: otc.kmeans(x, K, init=start)))
    with pytest.warns(UserWarning, match="hold no sample"):
        agree(*both(monkeypatch, lambda: otc.kmeans(x, K, init=start, empty=otc.KeepEmpty(), max_iter=3)))


def test_shares_of_changed_rows(place, monkeypatch):
    x, _ = drawn(place)

    def told():
        seen = []
        otc.kmeans(x, K, init=x[:K], tol=0, progress=seen.append)
        return [(each.n_iter, each.changed) for each in seen]

    mine, theirs = both(monkeypatch, told)
    assert mine == theirs
    assert mine[1][1] == 1
    assert mine[-1][1] == 0


@pytest.mark.parametrize("metric", METRICS)
def test_two_ranks(place, monkeypatch, metric):
    x, _ = drawn(place)

    def solve():
        return otc.kmeans(x, K, metric=metric, init=x[10 : 10 + K], max_iter=4, tol=0, reducer=TwoAlike())

    mine, theirs = both(monkeypatch, solve)
    agree(mine, theirs)
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    alone = otc.kmeans(x, K, metric=metric, init=x[10 : 10 + K], max_iter=4, tol=0)
    assert torch.equal(mine.labels, alone.labels)
    assert mine.inertia == pytest.approx(2 * alone.inertia)


class TwoAlike:
    """Sums and maxima over two ranks with the same samples."""

    def sum(self, values):
        return 2 * values

    def max(self, values):
        return values


@pytest.mark.parametrize("metric", METRICS)
def test_a_pass_alone(place, monkeypatch, metric):
    """Sums, counts and distances, one by one; and no rows at all."""
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    x, weights = drawn(place)
    samples = Samples(x, weights, metric, None)
    mine, theirs = KernelPass(samples), PlainPass(samples)
    centroids = samples.laid(x[:K])
    one, two = mine.run(centroids), theirs.run(centroids)
    assert torch.equal(mine.labels, theirs.labels)
    torch.testing.assert_close(one.sums, two.sums, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(one.counts, two.counts, rtol=1e-6, atol=0)
    assert float(one.changed) == N
    assert float(mine.run(centroids).changed) == 0
    torch.testing.assert_close(mine.distances(centroids), theirs.distances(centroids), rtol=1e-5, atol=1e-5)
    mine.relabel([3], 5)
    assert mine.labels[3] == 5
    nobody = KernelPass(Samples(x[:0], None, metric, None)).run(centroids)
    assert nobody.sums.shape == (K, D)
    assert nobody.counts.tolist() == [0] * K


def test_nearest_centroids_of_new_rows(place, monkeypatch):
    x, _ = drawn(place)
    answer = otc.kmeans(x, K, seed=1)
    mine, theirs = both(monkeypatch, lambda: nearest_centroids(x, answer.centroids))
    assert torch.equal(mine[0], answer.labels)
    torch.testing.assert_close(mine, theirs)


def test_the_rows_are_laid_out_once(place, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    x, _ = drawn(place)
    calls, compared = [], members.compared
    monkeypatch.setattr(members, "compared", lambda *given: calls.append(given) or compared(*given))
    otc.kmeans(x, K, init=x[:K], max_iter=4, tol=0)
    assert len(calls) == 2  # for the rounds, and for the labels of the centroids as they are given back


@pytest.mark.parametrize(("dtype", "metric", "weighted"), FORMS, ids=str)
def test_what_is_asked_before_the_rounds(place, monkeypatch, metric, dtype, weighted):
    x, weights = drawn(place, dtype, d=130, offset=50.0)
    x[3] = 0
    monkeypatch.setattr(members, "CHUNK", 64)
    mine, theirs = both(monkeypatch, lambda: Samples(x, weights if weighted else None, metric, None))
    assert mine.total == pytest.approx(theirs.total)
    assert mine.variance == pytest.approx(theirs.variance, rel=1e-6)
    torch.testing.assert_close(mine.centre, theirs.centre, rtol=1e-6, atol=1e-6)
    if metric == "cosine":
        torch.testing.assert_close(mine.scale[4:], theirs.scale[4:], rtol=1e-6, atol=0)
        assert (mine.prepared(mine.block(slice(3, 4)), slice(3, 4)) == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_said(place, monkeypatch, value):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    x, _ = drawn(place)
    x[-1, -1] = value
    for metric in METRICS:
        with pytest.raises(ValueError, match="x must be finite"):
            otc.kmeans(x, K, metric=metric)


def test_what_no_kernel_takes(place, monkeypatch):
    x, _ = drawn(place)
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    with pytest.raises(ValueError, match="rounds of k-means: float64"):
        otc.kmeans(x.double(), K, init=x[:K])
    agree(otc.kmeans(x.T.contiguous().T, K, init=x[:K]), otc.kmeans(x, K, init=x[:K]))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large(cuda, monkeypatch, dtype):
    n, k, d = 200_000, 1000, 128
    x = torch.randn(n, d, device=cuda, generator=torch.Generator(cuda).manual_seed(0)).to(dtype)
    start = x[:k].float()
    mine, theirs = both(monkeypatch, lambda: otc.kmeans(x, k, init=start, max_iter=3, tol=0))
    assert (mine.labels != theirs.labels).float().mean() < 1e-3
    assert mine.inertia == pytest.approx(theirs.inertia, rel=1e-5)
