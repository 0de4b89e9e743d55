"""Vectors as the kernels for points read them: exact parts in a dtype of the tensor cores, a factor and a shift for each.

Scores are ``s[i, j] = own.factor[i] * other.factor[j] * <own[i], other[j]> + own.shift[i] + other.shift[j]``. The parts of a
side are summed: two of float16 hold 22 of the 24 bits of a float32, so that three products in float16 serve for one in
float32, at five times the rate. Factors are powers of two there, chosen so that the largest entry of each vector uses the range
of float16; entries below 2**-40 of it vanish, as the rounding of float32 hides below 2**-24.

A vector of float16 is one exact part. So is the difference ``c - m`` between a centroid and the mean of the centroids of two
parts: with it, ``<x, c - m>`` needs no centred copy of x, and far-away data keep their precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from otcluster._kernels.launching import launch, operator
from otcluster._kernels.sides_loops import laid_kernel

HALVES = (torch.float16, torch.bfloat16)
FEW = 32
"""Up to so many dimensions all is computed in float32: there is little to gain."""
_MULTIPLE = 16
HIGHEST = 14  # entries lie below 2**15: float16 holds up to 2**16 - 32
_ROWS, _DIMS = 16, 128


@dataclass(frozen=True)
class Side:
    """Vectors of one side of the scores: the samples, or the clusters.

    Attributes:
        parts: (parts, count, d), float16, bfloat16 or float32, contiguous; d is a multiple of 16, filled up with zeros.
        factor: (count,) float32, or None for ones.
        shift: (count,) float64, what belongs to all scores of a vector; or None for zeros.
    """

    parts: Tensor
    factor: Tensor | None = None
    shift: Tensor | None = None

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return int(self.parts.shape[1])


def sides(x: Tensor, centroids: Tensor, metric: str) -> tuple[Side, Side]:
    """Samples (n, d) and centroids (k, d) for scores of a metric: those that :class:`otcluster.PointScores` defines.

    Args:
        x: float16, bfloat16 or float32, as :func:`otcluster._kernels.select.unfit_points` allows.
        centroids: The same; its dtype may be another.
        metric: ``"dot"``, ``"cosine"`` or ``"sqeuclidean"``.

    Returns:
        The sides of the samples and of the clusters.
    """
    if metric == "sqeuclidean":
        centre = centroids.double().mean(0).float()
        return centred_samples(x, centre), centred_clusters(centroids.double() - centre, centre if stay(x) else None)
    alike = x.dtype == centroids.dtype and x.dtype in HALVES
    one, two = (_one(vectors, alike, metric == "cosine") for vectors in (x, centroids))
    return one, two


def stay(x: Tensor) -> bool:
    """Whether samples are compared as they are, and the clusters make up for their centre."""
    return x.dtype in HALVES and x.shape[1] > FEW


def centred_samples(x: Tensor, centre: Tensor) -> Side:
    """Samples (n, d) around ``centre``, (d,) float32, with ``-|x - centre|^2`` as their shift: for squared distances.

    Where :func:`stay` says so the vectors themselves are not moved.
    """
    if stay(x) and x.dtype == torch.float16:
        return Side(_padded(x)[None], None, _laid(x, centre, "", n_parts=0)[2])
    if x.shape[1] <= FEW:
        parts, _, shift = _laid(x, centre, "float32", moved=True)
        return Side(parts, None, shift)
    return Side(*_laid(x, centre, "float16", 1 if stay(x) else 2, moved=not stay(x), raised=True))


def moved_samples(x: Tensor, centre: Tensor) -> Side:
    """As :func:`centred_samples`, without the shifts: for who compares the clusters of each sample alone."""
    if stay(x) and x.dtype == torch.float16:
        return Side(_padded(x)[None])
    if x.shape[1] <= FEW:
        return Side(_laid(x, centre, "float32", moved=True)[0])
    parts, factor, _ = _laid(x, centre, "float16", 1 if stay(x) else 2, moved=not stay(x), raised=True)
    return Side(parts, factor)


def split(vectors: Tensor) -> Side:
    """Vectors (count, d) in exact parts without factors; their entries lie in the range of float16."""
    dtype, n_parts = ("float32", 1) if vectors.shape[1] <= FEW else ("float16", 2)
    return Side(_laid(vectors, None, dtype, n_parts)[0])


def directions(x: Tensor) -> Side:
    """Samples (n, d) whose products are those of their directions."""
    return _one(x, False, True)


def inverse_lengths(x: Tensor) -> Tensor:
    """One over the length of each vector, (count,) float32; 1 for a zero vector, which any number leaves as it is."""
    return _laid(x, None, "", n_parts=0, direction=True)[1]


def centred_clusters(centred: Tensor, centre: Tensor | None, *, half: bool = False) -> Side:
    """Centroids (k, d) around a centre, for squared distances.

    Args:
        centred: What is left of each centroid when the centre is subtracted, float64 or float32.
        centre: (d,) float32, of samples that :func:`stay`; else None.
        half: For half the negative squared distances.
    """
    few = centred.shape[1] <= FEW
    dtype, n_parts = ("float32", 1) if few else ("float16", 2)
    return Side(*_laid(centred, centre, dtype, n_parts, around=True, raised=not few, multiplier=1.0 if half else 2.0))


def _one(vectors: Tensor, alike: bool, direction: bool) -> Side:
    """Vectors for products, or for those of their directions; ``alike`` says that both sides are of one narrow dtype."""
    if alike or (vectors.dtype == torch.float16 and vectors.shape[1] > FEW):
        if not direction:
            return Side(_padded(vectors)[None])
        if vectors.dtype == torch.float16:
            return Side(_padded(vectors)[None], _laid(vectors, None, "", n_parts=0, direction=True)[1])
        # Squares of bfloat16 may overflow; a power of two changes no digit.
        parts, factor, _ = _laid(vectors, None, "bfloat16", raised=True, highest=0, direction=True)
        return Side(parts, factor)
    if vectors.shape[1] <= FEW:
        if not direction:
            return Side(_padded(vectors.float())[None])
        parts, factor, _ = _laid(vectors, None, "float32", raised=True, highest=0, direction=True)
        return Side(parts, factor)
    n_parts = 1 if vectors.dtype in HALVES else 2
    parts, factor, _ = _laid(vectors, None, "float16", n_parts, raised=True, direction=direction)
    return Side(parts, factor)


def _laid(
    vectors: Tensor, centre: Tensor | None, dtype: str, n_parts: int = 1, *, raised: bool = False, highest: int = HIGHEST,
    moved: bool = False, around: bool = False, direction: bool = False, multiplier: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Parts, factors and shifts of vectors (count, d).

    Args:
        vectors: In any floating-point dtype.
        centre: (d,) float32, or None for zeros.
        dtype: Of the parts.
        n_parts: How many; none leaves the parts empty. Of two of float16, the second is left out where
            ``torch.set_float32_matmul_precision`` allows TF32, which holds as many digits as one.
        raised: Whether each vector is multiplied with a power of two, which its factor undoes.
        highest: Where the largest entry lies then: between that power of two and the next.
        moved: Whether the parts are those of ``vectors - centre``.
        around: Whether the vectors are around the centre: the shift is then that of ``-|v|^2 - 2 <v, centre>``, else of
            ``-|vectors - centre|^2``.
        direction: Whether the factors divide by the lengths as well.
        multiplier: Of the factors; the shifts are for as many halves.
    """
    if centre is None:
        centre = torch.zeros(vectors.shape[1], dtype=torch.float32, device=vectors.device)
    half = multiplier if around else 2.0
    flags = [highest, raised, moved, around, direction]
    return points_side(vectors.contiguous(), centre, dtype, n_parts, [int(flag) for flag in flags], multiplier, half)


@operator
def points_side(
    vectors: Tensor, centre: Tensor, dtype: str, n_parts: int, flags: list[int], multiplier: float, halves: float
) -> tuple[Tensor, Tensor, Tensor]:
    count, d = vectors.shape
    # Asked here, where the tracing of torch.compile has no say.
    n_parts = 1 if n_parts == 2 and torch.get_float32_matmul_precision() != "highest" else n_parts
    width = -(-d // _MULTIPLE) * _MULTIPLE
    kind = getattr(torch, dtype) if n_parts else torch.float16
    parts = torch.empty((n_parts, count, width), dtype=kind, device=vectors.device)
    factors = torch.empty(count, dtype=torch.float32, device=vectors.device)
    shifts = torch.empty(count, dtype=torch.float64, device=vectors.device)
    highest, raised, moved, around, direction = flags
    launch(
        laid_kernel, (triton.cdiv(count, _ROWS),),
        vectors, centre, parts, factors, shifts, count, d, width, multiplier, halves,
        HIGHEST=highest, RAISED=bool(raised), MOVED=bool(moved), AROUND=bool(around), DIRECTION=bool(direction),
        PARTS=n_parts, ROWS=_ROWS, DIMS=min(triton.next_power_of_2(width), _DIMS), num_warps=4,
    )  # fmt: skip
    return parts, factors, shifts


def _padded(vectors: Tensor) -> Tensor:
    """Contiguous, with the dimensions filled up with zeros."""
    missing = -int(vectors.shape[1]) % _MULTIPLE
    return F.pad(vectors, (0, missing)) if missing else vectors.contiguous()
