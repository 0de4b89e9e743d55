"""How a centroid follows the samples that are assigned to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Averaging(Protocol):
    """What :class:`otcluster.CentroidStore` takes as ``averaging``: how much the old and the new weigh.

    At an update a centroid becomes ``keep * centroid + add * sum of its samples``, and then has unit length if the store asks
    for it. A centroid without samples is left alone.
    """

    @property
    def keeps_length(self) -> bool:
        """Whether the old is the average before it was given unit length, and not the centroid."""
        ...

    def shares(self, usage: Tensor, counts: Tensor, momentum: float | Tensor) -> tuple[Tensor, Tensor]:
        """``keep`` and ``add`` of each centroid, from its decayed count before the update and its count in the update."""
        ...


@dataclass(frozen=True)
class MomentumMean:
    """``p <- momentum * p + (1 - momentum) * mean of its samples``: every update weighs the same, however many samples it has.

    The default, and the rule of Deep Nearest Centroids. Prefer :class:`SumsAndCounts` where batches hold few samples of a
    centroid, and very different numbers of them.

    Example:
        >>> import torch
        >>> import otcluster as otc
        >>> store = otc.CentroidStore(n_centroids=1, dim=1, momentum=0.5, metric="sqeuclidean", averaging=MomentumMean())
        >>> _ = store.start(torch.tensor([[0.0]]))
        >>> store.update(torch.tensor([[1.0], [3.0]]), None, torch.tensor([0, 0]))
        >>> store.centroids
        tensor([[1.]])

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023).
    """

    keeps_length: ClassVar[bool] = False

    def shares(self, usage: Tensor, counts: Tensor, momentum: float | Tensor) -> tuple[Tensor, Tensor]:
        """``keep`` and ``add`` of each centroid."""
        keep = torch.zeros_like(counts) + momentum if isinstance(momentum, Tensor) else torch.full_like(counts, momentum)
        return keep, (1 - momentum) / counts.clamp(min=torch.finfo(counts.dtype).tiny)


@dataclass(frozen=True)
class SumsAndCounts:
    """The ratio of a decayed sum of samples to their decayed count: every sample weighs the same, but for its age.

    With ``N <- momentum * N + (1 - momentum) * n`` and likewise for sums, p is sum / N. The count N is the store's ``usage``;
    in place of the sum the store keeps p. A centroid that has just been started or re-seeded (N = 0) has no past: the first
    samples that come to it replace it.

    Example:
        >>> import torch
        >>> import otcluster as otc
        >>> store = otc.CentroidStore(n_centroids=1, dim=1, momentum=0.5, metric="sqeuclidean", averaging=SumsAndCounts())
        >>> for batch in (torch.tensor([[0.0]]), torch.tensor([[1.0], [3.0]])):
        ...     store.update(batch, None, torch.zeros(len(batch), dtype=torch.int64))
        >>> store.centroids  # (0.5 * 0 + 4) / (0.5 * 1 + 2)
        tensor([[1.6000]])

    Source: van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning" (2017), appendix A.1.
    """

    keeps_length: ClassVar[bool] = True

    def shares(self, usage: Tensor, counts: Tensor, momentum: float | Tensor) -> tuple[Tensor, Tensor]:
        """``keep`` and ``add`` of each centroid."""
        past = momentum * usage
        weight = past + (1 - momentum) * counts
        total = weight.clamp(min=torch.finfo(counts.dtype).tiny)
        # Nothing counted and a momentum of 1: the centroid stays.
        return torch.where(weight > 0, past / total, 1.0), (1 - momentum) / total
