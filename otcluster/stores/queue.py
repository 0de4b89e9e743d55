"""A memory of the most recent features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryQueue(nn.Module):
    """The last ``capacity`` features with their labels, first in first out.

    All state is in buffers, so ``state_dict`` saves it and ``.to(device)`` moves it. Nothing changes but by :meth:`push`.

    Args:
        capacity: How many features to remember; 0 remembers nothing.
        dim: Length of a feature vector.

    Raises:
        TypeError: ``capacity`` or ``dim`` is no whole number.
        ValueError: ``capacity`` is negative or ``dim`` is less than 1.

    Example:
        >>> queue = MemoryQueue(capacity=3, dim=2)
        >>> queue.push(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        >>> queue.push(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
        >>> queue.features[:, 0], queue.labels
        (tensor([2., 3., 4.]), tensor([1, 0, 1]))

    Source: the queue of features of He et al., "Momentum contrast" (2020).
    """

    stored_features: Tensor
    stored_labels: Tensor
    n_pushed: Tensor

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        for name, value, least in (("capacity", capacity, 0), ("dim", dim, 1)):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.capacity, self.dim = int(capacity), int(dim)
        self.register_buffer("stored_features", torch.zeros(self.capacity, self.dim))
        self.register_buffer("stored_labels", torch.full((self.capacity,), -1, dtype=torch.int64))
        self.register_buffer("n_pushed", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}, dim={self.dim}"

    def __len__(self) -> int:
        """How many features are held."""
        return min(int(self.n_pushed), self.capacity)

    @torch.no_grad()
    def push(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Remember ``features``, forgetting the oldest where there is no room.

        Args:
            features: (n, dim), any n; converted to the dtype of the queue, and kept without gradient.
            labels: Integers, (n,). None stands for -1.

        Raises:
            TypeError: ``features`` is no floating-point tensor, or ``labels`` are no integers.
            ValueError: Shapes or devices do not fit. The queue is then unchanged.
        """
        if not isinstance(features, Tensor) or not features.is_floating_point():
            got = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"features must be a floating-point tensor, got {got}")
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features must have shape (n, {self.dim}), got {tuple(features.shape)}")
        if labels is None:
            labels = features.new_full((len(features),), -1, dtype=torch.int64)
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be an integer tensor, got {getattr(labels, 'dtype', type(labels).__name__)}")
        if labels.shape != features.shape[:1]:
            raise ValueError(f"labels must have shape ({len(features)},), one per feature, got {tuple(labels.shape)}")
        if features.device != self.stored_features.device:
            raise ValueError(
                f"features are on {features.device}, the queue is on {self.stored_features.device}: move one to the other"
            )
        n = len(features)
        kept = min(n, self.capacity)
        if kept:
            order = torch.arange(n - kept, n, device=features.device)
            places = (self.n_pushed + order) % self.capacity
            self.stored_features[places] = features[n - kept :].to(self.stored_features.dtype)
            self.stored_labels[places] = labels[n - kept :].to(self.stored_labels)
        self.n_pushed += n

    @property
    def features(self) -> Tensor:
        """What is held, (len, dim), oldest first; a copy, which later pushes leave alone."""
        return self.stored_features[self._order()]

    @property
    def labels(self) -> Tensor:
        """The labels of :attr:`features`, (len,)."""
        return self.stored_labels[self._order()]

    def _order(self) -> Tensor:
        held = len(self)
        ages = torch.arange(held, device=self.n_pushed.device)
        return (self.n_pushed - held + ages) % max(self.capacity, 1)
