"""The softmax layer."""

from __future__ import annotations

from torch import Tensor, nn

from otcluster.distributed import TorchReducer


class LinearHead(nn.Linear):
    """The softmax classifier: one learnt weight vector and bias for each class.

    Args:
        dim: Length of a feature vector.
        n_classes: Number of classes.

    Example:
        >>> import torch
        >>> LinearHead(4, 3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int, n_classes: int) -> None:
        super().__init__(dim, n_classes)

    def observe(self, features: Tensor, labels: Tensor, *, reducer: TorchReducer | None = None) -> None:
        """Nothing to observe: all there is to learn is learnt by gradient."""
