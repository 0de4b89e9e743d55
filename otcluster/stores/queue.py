"""A memory of the most recent features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otcluster.stores.checks import check_features, check_ids, check_number


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
        >>> import torch
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
        self.capacity, self.dim = check_number("capacity", capacity, 0), check_number("dim", dim, 1)
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
            ValueError: Shapes or devices do not fit, or a feature is NaN or infinite. The queue is then unchanged.
        """
        check_features(features, self.dim, self.stored_features.device, "queue")
        if labels is None:
            labels = features.new_full((len(features),), -1, dtype=torch.int64)
        check_ids("labels", labels, features)
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
