"""Rounds of k-means by kernels: labels, sums by label, squared distances."""

from __future__ import annotations

import pytest
import torch

from otcluster._kernels import members, points
from otcluster._kernels.sides import Side, centred_clusters, centred_samples, stay
from tests.kernels.conftest import INTERPRETED

DTYPES = [torch.float16, torch.bfloat16, torch.float32]

# samples, clusters, dimensions
SHAPES = [(1, 1, 1), (100, 5, 40), (130, 3, 130), (50, 30, 8)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(members, "PIECE", 48)
        monkeypatch.setattr(points, "blocks_of", lambda dtype, d, *parts: points.Blocks(16, 16, 64, 4, 2))


def drawn(place, dtype, shape):
    n, k, d = shape
    seed = torch.Generator().manual_seed(n)
    x, c = (torch.randn(count, d, generator=seed) + 2 for count in (n, k))
    labels = torch.randint(0, k, (n,), generator=seed)
    labels[: n // 2] = 0
    return x.to(place, dtype), c.to(place), labels.to(place), torch.rand(n, generator=seed).to(place)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_by_label(place, dtype, shape, weighted):
    x, _, labels, weights = drawn(place, dtype, shape)
    n, k, d = shape
    each = weights.double() if weighted else torch.ones(n, dtype=torch.float64, device=place)
    sums, counts = members.segment_sums(x, labels, k, weights if weighted else None)
    exact = torch.zeros(k, d, dtype=torch.float64, device=place).index_add_(0, labels, x.double() * each[:, None])
    plain = torch.zeros(k, d, device=place).index_add_(0, labels, x.float() * each.float()[:, None])
    assert (sums - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6 * exact.abs().max()
    torch.testing.assert_close(counts, torch.zeros(k, dtype=torch.float64, device=place).index_add_(0, labels, each))
    assert torch.equal(sums, members.segment_sums(x, labels, k, weights if weighted else None)[0])


def test_samples_without_a_label_are_left_out(place):
    x, _, labels, _ = drawn(place, torch.float32, (100, 5, 40))
    labels[::3] = -1
    sums, counts = members.segment_sums(x, labels, 7)
    kept = labels >= 0
    exact = torch.zeros(7, 40, dtype=torch.float64, device=place).index_add_(0, labels[kept], x[kept].double())
    torch.testing.assert_close(sums, exact, rtol=1e-5, atol=1e-5)
    assert counts.tolist() == labels[kept].bincount(minlength=7).tolist()
    assert counts[5:].tolist() == [0, 0]


def test_many_clusters_and_no_samples(place):
    # More than 16 bits number.
    x, labels = torch.ones(3, 2, device=place), torch.tensor([32_999, 0, 32_999], device=place)
    if not INTERPRETED:
        sums, counts = members.segment_sums(x, labels, 33_000)
        assert counts[[0, 1, 32_999]].tolist() == sums[[0, 1, 32_999], 1].tolist() == [1, 0, 2]
    sums, counts = members.segment_sums(x[:0], labels[:0], 4)
    assert sums.shape == (4, 2)
    assert counts.tolist() == [0] * 4
    assert members.own_squares(x[:0], x, labels[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_and_squared_distances(place, dtype, shape):
    x, c, _, _ = drawn(place, dtype, shape)
    centre = x.float().mean(0)
    around = c.double() - centre
    samples, clusters = centred_samples(x, centre), centred_clusters(around, centre if stay(x) else None, half=True)
    labels, squares = members.assign(samples, clusters)
    exact = (x.double()[:, None, :] - c.double()[None, :, :]).square().sum(2)
    unit = 2 * torch.finfo(torch.float32).eps * float(x.double().square().sum(1).max())
    assert (exact.gather(1, labels[:, None])[:, 0] - exact.amin(1)).max() <= 2 * unit
    assert (squares - exact.amin(1)).abs().max() <= 2 * unit
    scale = torch.rand(len(x), device=place)
    own = members.own_squares(x, around, labels, centre, scale)
    there = ((x.double() - centre.double()) * scale.double()[:, None] - around[labels]).square().sum(1)
    torch.testing.assert_close(own.double(), there, rtol=1e-5, atol=1e-5)
    bare = members.own_squares(x, around, labels)
    torch.testing.assert_close(bare.double(), (x.double() - around[labels]).square().sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_centroids_of_the_dtype_of_the_samples_take_one_product(place, dtype):
    x, c, _, _ = drawn(place, dtype, (100, 40, 48))
    clusters = members.rounded_clusters(c, dtype)
    assert clusters.parts.shape[0] == 1
    labels, _ = points.nearest(Side(x[None]), clusters, torch.zeros(40, device=place))
    exact = (x.double()[:, None, :] - c.to(dtype).double()[None, :, :]).square().sum(2)
    assert (exact.gather(1, labels[:, None])[:, 0] - exact.amin(1)).max() <= 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large(cuda, dtype):
    n, k, d = 200_003, 1_001, 128
    x, c, _, _ = drawn(cuda, dtype, (n, k, d))
    centre = x[:1000].float().mean(0)
    clusters = centred_clusters(c.double() - centre, centre if stay(x) else None, half=True)
    labels, squares = members.assign(centred_samples(x, centre), clusters)
    exact = torch.cdist(x[:2000].double(), c.double()).square()
    assert (exact.gather(1, labels[:2000, None])[:, 0] - exact.amin(1)).max() <= 1e-3
    assert (squares[:2000] - exact.amin(1)).abs().max() <= 1e-3
    sums, counts = members.segment_sums(x, labels, k)
    wide = torch.zeros(k, d, dtype=torch.float64, device=cuda).index_add_(0, labels, x.double())
    assert (sums - wide).abs().max() <= 1e-5 * wide.abs().max()
    assert torch.equal(counts, labels.bincount(minlength=k).double())
    everything, _ = members.segment_sums(x, labels * 0, k)
    torch.testing.assert_close(everything[0], x.double().sum(0), rtol=1e-6, atol=1e-2)
