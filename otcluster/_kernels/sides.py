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
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FEW = 32
"""Up to so many dimensions all is computed in float32: there is little to gain."""
_MULTIPLE = 16
_HIGHEST = 14  # entries lie below 2**15: float16 holds up to 2**16 - 32


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


def supported(x: Tensor, centroids: Tensor) -> str | None:
    """Why the kernels for points do not take these arrays: a reason, or None where they do.

    Example:
        >>> import torch
        >>> supported(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(4, 2))
        'x is float64, and the kernels take float16, bfloat16 and float32'
    """
    for name, array in (("x", x), ("centroids", centroids)):
        if array.dtype not in (*HALVES, torch.float32):
            return f"{name} is {str(array.dtype).removeprefix('torch.')}, and the kernels take float16, bfloat16 and float32"
        if array.ndim != 2:
            return f"{name} has shape {tuple(array.shape)}, and the kernels take one problem at a time, (count, d)"
    return None if x.shape[1] else "the vectors have no dimensions"


def sides(x: Tensor, centroids: Tensor, metric: str) -> tuple[Side, Side]:
    """Samples (n, d) and centroids (k, d) for scores of a metric: those that :class:`otcluster.PointScores` defines.

    Args:
        x: float16, bfloat16 or float32, as :func:`supported` allows.
        centroids: The same; its dtype may be another.
        metric: ``"dot"``, ``"cosine"`` or ``"sqeuclidean"``.

    Returns:
        The sides of the samples and of the clusters.
    """
    halves = x.dtype in HALVES and x.dtype == centroids.dtype
    if metric == "sqeuclidean":
        centre = centroids.double().mean(0)
        return centred_samples(x, centre), centred_clusters(centroids.double() - centre, centre if stay(x) else None)
    if metric == "cosine":
        if halves:
            return _directions(x), _directions(centroids)
        x, centroids = normalised(x.float()), normalised(centroids.float())
    elif halves:
        return Side(_padded(x)[None]), Side(_padded(centroids)[None])
    if x.shape[1] <= FEW:
        return Side(_padded(x.float())[None]), Side(_padded(centroids.float())[None])
    return _exact(x), _exact(centroids)


def stay(x: Tensor) -> bool:
    """Whether samples are compared as they are, and the clusters make up for their centre."""
    return x.dtype in HALVES and x.shape[1] > FEW


def centred_samples(x: Tensor, centre: Tensor) -> Side:
    """Samples (n, d) around ``centre``, (d,), with ``-|x - centre|^2`` as their shift: for squared distances.

    Where :func:`stay` says so the vectors themselves are not moved.
    """
    difference = x.float() - centre.float()
    if x.shape[1] <= FEW:
        return Side(_padded(difference)[None], None, -_squares(difference))
    side = _exact(x if stay(x) else difference)
    return Side(side.parts, side.factor, -_squares(difference))


def centred_clusters(centred: Tensor, centre: Tensor | None, *, half: bool = False) -> Side:
    """Centroids (k, d) around a centre, in float64, for squared distances.

    Args:
        centred: What is left of each centroid when the centre is subtracted.
        centre: (d,), of samples that :func:`stay`; else None.
        half: For half the negative squared distances.
    """
    lengths = centred.square().sum(1)
    if centre is not None:
        lengths = lengths + 2 * (centred @ centre.to(centred.dtype))
    twice = 1.0 if half else 2.0
    if centred.shape[1] <= FEW:
        factor = torch.full_like(lengths, twice, dtype=torch.float32)
        return Side(_padded(centred.float())[None], factor, lengths * (-twice / 2))
    side = pair(centred)
    assert side.factor is not None
    return Side(side.parts, side.factor * twice, lengths * (-twice / 2))


def pair(vectors: Tensor) -> Side:
    """Vectors (count, d), float32 or float64, as two parts of float16 each."""
    scaled, factor = _raised(vectors)
    parts = torch.empty((2, vectors.shape[0], _width(vectors.shape[1])), dtype=torch.float16, device=vectors.device)
    if vectors.shape[1] != parts.shape[2]:
        scaled = F.pad(scaled, (0, int(parts.shape[2]) - int(vectors.shape[1])))
    parts[0] = scaled
    parts[1] = scaled - parts[0]
    return Side(parts, factor)


def normalised(vectors: Tensor) -> Tensor:
    """Vectors divided by their lengths; zero stays zero. Squares neither overflow nor vanish."""
    largest = vectors.abs().amax(1, keepdim=True)
    scaled = vectors / torch.where(largest == 0, 1.0, largest)
    squares = scaled.square().sum(1, keepdim=True)
    return scaled / torch.where(squares == 0, 1.0, squares).sqrt()


def _exact(vectors: Tensor) -> Side:
    single = _single(vectors)
    return pair(vectors) if single is None else single


def _single(vectors: Tensor) -> Side | None:
    """Narrow vectors as one part of float16; None of wide ones."""
    if vectors.dtype == torch.float16:
        return Side(_padded(vectors)[None])
    if vectors.dtype != torch.bfloat16:
        return None
    scaled, factor = _raised(vectors.float())
    return Side(_padded(scaled.half())[None], factor)


def _directions(vectors: Tensor) -> Side:
    """Vectors of float16 or bfloat16 as they are, with one over their lengths as factors."""
    if vectors.dtype == torch.bfloat16:  # whose squares may overflow; a power of two changes no digit
        vectors = _raised(vectors.float(), 0)[0].to(vectors.dtype)
    lengths = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    return Side(_padded(vectors)[None], torch.where(lengths == 0, 1.0, lengths).reciprocal().float())


def _raised(vectors: Tensor, highest: int = _HIGHEST) -> tuple[Tensor, Tensor]:
    """Each vector times a power of two, for its largest entry to lie just below ``2**(highest + 1)``; and what undoes that."""
    exponents = torch.frexp(vectors.abs().amax(1).float())[1].clamp(min=-100) - 1
    return vectors * _power(highest - exponents)[:, None], _power(exponents - highest)


def _power(exponents: Tensor) -> Tensor:
    """Two to whole numbers between -126 and 127, to the bit."""
    return ((exponents.to(torch.int32) + 127) << 23).view(torch.float32)


def _squares(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).square()


def _width(d: int) -> int:
    return -(-d // _MULTIPLE) * _MULTIPLE


def _padded(vectors: Tensor) -> Tensor:
    """Contiguous, with the dimensions filled up with zeros."""
    missing = _width(int(vectors.shape[1])) - int(vectors.shape[1])
    return F.pad(vectors, (0, missing)) if missing else vectors.contiguous()
