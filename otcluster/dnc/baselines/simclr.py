"""Features learnt without labels: two views of an image are to be alike, and unlike those of other images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.distributed import TorchReducer
from otcluster.dnc.head import DNCHead
from otcluster.dnc.scaling import check_temperature


class SimCLRHead(DNCHead):
    """SimCLR: the backbone learns from pairs of views and sees no label; sub-centroids look on.

    :meth:`loss` sends the features of two views of each image through a small network, the projector, and takes NT-Xent of the
    result, by pytorch-metric-learning. :meth:`forward` and :meth:`observe` are those of :class:`otcluster.dnc.DNCHead` on
    features without gradient: they tell in the course of training how well the features would classify, and the backbone learns
    nothing by them.

    Args:
        dim: Length of a feature vector.
        n_classes: Number of classes.
        projection_dim: Length of what the projector makes of a feature; its hidden layer is as long as a feature.
        contrast: The temperature of NT-Xent.
        **onlooker: What :class:`otcluster.dnc.DNCHead` takes.

    Raises:
        ImportError: pytorch-metric-learning is not installed.
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range.

    Example:
        >>> head = SimCLRHead(4, n_classes=3)
        >>> _ = torch.manual_seed(0)
        >>> images = torch.randn(8, 4)
        >>> alike = head.loss(torch.cat([images, images]))
        >>> other = head.loss(torch.cat([images, images.flip(0)]))
        >>> bool(alike < other)
        True

    Source: Chen et al., "A simple framework for contrastive learning of visual representations" (ICML 2020).
    """

    def __init__(self, dim: int, n_classes: int, *, projection_dim: int = 128, contrast: float = 0.5, **onlooker: Any) -> None:
        super().__init__(dim, n_classes, **onlooker)
        try:
            from pytorch_metric_learning.losses import SupConLoss
            from pytorch_metric_learning.reducers import MeanReducer
        except ImportError as error:
            raise ImportError("SimCLR needs pytorch-metric-learning: pip install 'otcluster[dnc]'") from error
        width = check_whole("projection_dim", projection_dim, 1)
        self.projector = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, width))
        # With one partner for each view it is NT-Xent, for which that library's NTXentLoss takes memory for n^3 numbers.
        self.contrast = SupConLoss(temperature=check_temperature(contrast, "contrast"), reducer=MeanReducer())

    def forward(self, features: Tensor) -> Tensor:
        """Logits, (n, n_classes), of features (n, dim), to which no gradient goes back.

        Raises:
            ValueError: The features have another shape.
        """
        return super().forward(features.detach())

    def loss(self, features: Tensor, *, reducer: TorchReducer | None = None) -> Tensor:
        """NT-Xent, summed over the images.

        Args:
            features: (2n, dim): of the first views of n images, and then of the second ones in the same order.
            reducer: The ranks that share the batch, each with views of its own (there may be none). All images are compared
                with those of all ranks. The numbers add up to the loss of one process, and so do the gradients.

        Raises:
            ValueError: The features have another shape.
        """
        self._check_shape(features)
        if len(features) % 2:
            raise ValueError(f"features must be of two views of each image, got {len(features)} of them")
        with torch.autocast(features.device.type, enabled=False):
            weight = next(self.projector.parameters())
            first, second = self.projector(features.to(weight.dtype)).chunk(2)
            n_own = n = len(first)
            if reducer is not None:
                first, second = _among_all(first, reducer), _among_all(second, reducer)
                n = len(first)
            same = torch.arange(n, device=first.device).repeat(2)
            whole = self.contrast(torch.cat([first, second]), same) * n
            # The gradient is that of the whole, with respect to what is here; the number is the part of this rank.
            return whole if n == n_own else whole - whole.detach() * (1 - n_own / n)


def _among_all(rows: Tensor, reducer: TorchReducer) -> Tensor:
    """The rows of all ranks in their order, those of the others without gradient."""
    parts = [reducer.gather(torch.full((len(rows),), reducer.rank, device=rows.device)), reducer.gather(rows.detach())]
    before = int((parts[0] < reducer.rank).sum())
    return torch.cat([parts[1][:before], rows, parts[1][before + len(rows) :]])
