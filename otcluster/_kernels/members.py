"""Rounds of k-means on a device: which centroid is nearest to each sample, and the sums that the next centroids are made of.

The two are apart. Sums in the program that finds the labels would have to be added into (k, d) numbers that all programs share
- atomically, and in another order each time - for there is no room for them beside a block of samples. What is saved, one more
reading of the samples, is a small part of the products of all samples with all centroids.

Sums are made in the order of the labels: the sorted samples are cut where a cluster begins and after every 512 samples, the
pieces are summed side by side, and then the pieces of each cluster, always in the same order. So sums are the same in each run,
however uneven the clusters are.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from otcluster._kernels import points
from otcluster._kernels.launching import launch, operator
from otcluster._kernels.members_loops import merged_kernel, moments_kernel, own_squares_kernel, piece_sums_kernel
from otcluster._kernels.sides import HIGHEST, Side, directions, inverse_lengths, moved_samples, split, stay

__all__ = [
    "Side",
    "assign",
    "compared",
    "inverse_lengths",
    "labels",
    "moments",
    "own_squares",
    "rounded_clusters",
    "segment_sums",
    "stay",
]

PIECE = 512
"""How many samples a program sums at most."""
CHUNK = 1024
"""How many samples a program reads for the moments."""
ROWS = 32
WIDEST = 128
_SHORT = 32_767


def assign(samples: Side, clusters: Side) -> tuple[Tensor, Tensor]:
    """The nearest cluster of each sample, and the squared distance to its centroid.

    Args:
        samples: Of :func:`otcluster._kernels.sides.centred_samples`.
        clusters: Of :func:`otcluster._kernels.sides.centred_clusters`, with ``half=True``.

    Returns:
        Labels (n,) int64, the lowest among equals; and squared distances (n,) float64, with the errors of float32 products (as
        large as those of the squared lengths: :func:`own_squares` has none such).
    """
    assert samples.shift is not None
    assert clusters.shift is not None
    labels, best = points.nearest(samples, clusters, torch.zeros_like(clusters.shift, dtype=torch.float32))
    return labels, (-(2 * best - samples.shift)).clamp(min=0)


def compared(x: Tensor, centre: Tensor | None) -> Side:
    """Samples (n, d) as :func:`labels` compares them: around ``centre``, (d,) float32, or for None their directions."""
    if centre is None:
        return directions(x)
    return moved_samples(x, centre)


def labels(samples: Side, centroids: Tensor, around: Tensor | None) -> Tensor:
    """The nearest centroid of each sample, (n,) int64: the lowest among equals.

    Args:
        samples: Of :func:`compared`.
        centroids: (k, d), float64 or float32, in the coordinates of the samples.
        around: Where these begin, of samples that :func:`otcluster._kernels.sides.stay`; else None.
    """
    wide = centroids.double()
    shift = -(wide * (wide / 2 if around is None else wide / 2 + around)).sum(1)
    # One power of two for all, which changes no order: a factor for each cluster would cost a multiplication for each score.
    up = torch.ldexp(torch.ones_like(shift[:1]), HIGHEST - torch.frexp(wide.abs().amax())[1])
    return points.nearest(samples, split(wide * up), (shift * up).float())[0]


def rounded_clusters(centroids: Tensor, dtype: torch.dtype) -> Side:
    """Centroids (k, d) rounded to the dtype of samples, float16 or bfloat16, for half the negative squared distances.

    One product serves, and labels are the nearest of the rounded centroids. The samples are compared as they are,
    ``Side(x[None])``: their dimensions must be a multiple of 16.
    """
    rounded = centroids.to(dtype)
    lengths = torch.linalg.vector_norm(rounded, dim=1, dtype=torch.float64).square()
    return Side(rounded[None].contiguous(), None, -lengths / 2)


def segment_sums(
    x: Tensor,
    labels: Tensor,
    k: int,
    weights: Tensor | None = None,
    *,
    centre: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums of ``(x - centre) * scale`` over the samples (n, d) of each label, and how many there are.

    Args:
        x: float16, bfloat16 or float32.
        labels: (n,) whole numbers below ``k``; samples with negative ones are left out.
        k: How many clusters there are.
        weights: (n,) float32, with which each sample counts; None for ones.
        centre: (d,) float32; None for zeros.
        scale: (n,) float32; None for ones.

    Returns:
        The sums, (k, d) float64, and the weight of each cluster, (k,) float64.
    """
    n, d = x.shape
    if n == 0 or d == 0:
        counts = torch.zeros(k, dtype=torch.float64, device=x.device)
        return torch.zeros((k, d), dtype=torch.float64, device=x.device), counts
    return points_segment_sums(x.contiguous(), labels, weights, centre, scale, k)


def moments(x: Tensor, around: Tensor, weights: Tensor | None, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """One reading of samples (n, d): what k-means asks of them before it begins.

    Args:
        x: float16, bfloat16 or float32.
        around: (d,) float64.
        weights: (n,) float32; None for ones.
        scale: (n,) float32; None for ones.

    Returns:
        Weighted sums of ``x * scale - around`` and of its squares, (d,) float64 both; and the largest magnitude of an entry of
        ``x``, (), infinite where one is not finite.
    """
    if x.shape[0] == 0:
        nothing = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        return nothing, nothing, nothing.sum()
    first, second, top = points_moments(x.contiguous(), around.contiguous(), weights, scale)
    return first.sum(0), second.sum(0), top.amax().double()


def own_squares(
    x: Tensor, centroids: Tensor, labels: Tensor, centre: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """The squared distance of each sample (n, d) to the centroid of its label, (n,) float32, by the differences of entries.

    Args:
        x: float16, bfloat16 or float32.
        centroids: (k, d), around ``centre``.
        labels: (n,) int64, from zero.
        centre: (d,), subtracted from each sample; None for zeros.
        scale: (n,), what each sample is multiplied with then; None for ones.
    """
    if x.shape[0] == 0:
        return torch.zeros(0, dtype=torch.float32, device=x.device)
    if centre is None:
        centre = torch.zeros(x.shape[1], dtype=torch.float32, device=x.device)
    return points_own_squares(x.contiguous(), centroids.float().contiguous(), labels, centre.float().contiguous(), scale)


@operator
def points_segment_sums(
    x: Tensor, labels: Tensor, weights: Tensor | None, centre: Tensor | None, scale: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    n, d = x.shape
    # A radix sort reads as many bits as the keys have.
    keys, order = labels.to(torch.int16 if k <= _SHORT else torch.int32).sort(stable=True)
    starts = torch.searchsorted(keys, torch.arange(k, device=x.device, dtype=keys.dtype))
    cuts = torch.arange(0, n, PIECE, device=x.device)
    bounds = torch.cat([torch.cat([starts, cuts]).sort().values, torch.full((1,), n, device=x.device)])
    n_pieces = bounds.shape[0] - 1
    firsts = torch.cat([torch.searchsorted(bounds[:-1], starts), torch.full((1,), n_pieces, device=x.device)])
    width = min(max(triton.next_power_of_2(d), 16), WIDEST)
    pieces = torch.empty((n_pieces, d), dtype=torch.float64, device=x.device)
    masses = torch.empty((n_pieces, 1), dtype=torch.float64, device=x.device)
    sums = torch.empty((k, d), dtype=torch.float64, device=x.device)
    across = triton.cdiv(d, width)
    launch(
        piece_sums_kernel, (n_pieces, across),
        x, order, x if weights is None else weights, x if centre is None else centre, x if scale is None else scale,
        bounds, pieces, masses, d,
        HAS_WEIGHTS=weights is not None, HAS_CENTRE=centre is not None, HAS_SCALE=scale is not None,
        ROWS=ROWS, WIDTH=width, num_warps=4,
    )  # fmt: skip
    launch(merged_kernel, (k, across), pieces, firsts, sums, d, ROWS=16, WIDTH=width, num_warps=4)
    if weights is None:
        return sums, torch.diff(starts, append=torch.full((1,), n, device=x.device)).double()
    held = torch.empty((k, 1), dtype=torch.float64, device=x.device)
    launch(merged_kernel, (k, 1), masses, firsts, held, 1, ROWS=16, WIDTH=16, num_warps=1)
    return sums, held[:, 0].clone()


@operator
def points_own_squares(x: Tensor, centroids: Tensor, labels: Tensor, centre: Tensor, scale: Tensor | None) -> Tensor:
    n, d = x.shape
    squares = torch.empty(n, dtype=torch.float32, device=x.device)
    launch(
        own_squares_kernel, (triton.cdiv(n, ROWS),),
        x, centre if scale is None else scale, centre, centroids, labels, squares, n, d,
        HAS_SCALE=scale is not None, ROWS=ROWS, WIDTH=min(max(triton.next_power_of_2(d), 16), WIDEST), num_warps=4,
    )  # fmt: skip
    return squares


@operator
def points_moments(x: Tensor, around: Tensor, weights: Tensor | None, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    n, d = x.shape
    chunks = triton.cdiv(n, CHUNK)
    firsts, seconds = (torch.empty((chunks, d), dtype=torch.float64, device=x.device) for _ in range(2))
    tops = torch.empty((chunks, d), dtype=torch.float32, device=x.device)
    width = min(max(triton.next_power_of_2(d), 16), WIDEST)
    launch(
        moments_kernel, (chunks, triton.cdiv(d, width)),
        x, x if weights is None else weights, x if scale is None else scale, around, firsts, seconds, tops, n, d, CHUNK,
        HAS_WEIGHTS=weights is not None, HAS_SCALE=scale is not None, ROWS=16, WIDTH=width, num_warps=4,
    )  # fmt: skip
    return firsts, seconds, tops
