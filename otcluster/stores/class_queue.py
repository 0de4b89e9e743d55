"""A memory of which every class has an equal share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from otcluster.checks import check_whole
from otcluster.stores.checks import check_range
from otcluster.stores.queue import Queue


class ClassQueue(Queue):
    """The last ``capacity // n_classes`` features of each class, first in first out.

    A rare class keeps its samples, where :class:`otcluster.MemoryQueue` would have forgotten them for those of frequent ones. A
    push is a fixed number of kernels, whatever the classes. All state is in buffers, and nothing changes but by :meth:`push`.

    Args:
        capacity: How many features to remember, all classes together; what does not divide by the classes is not used.
        dim: Length of a feature vector.
        n_classes: Number of classes.
        dtype: In which features are kept.
        payloads: What else to remember of each feature: a dtype by name, as ``{"ids": torch.int64}``.
        ready_at: How many features must be held for ``ready``. Default: as many as there is room for; it may never be reached
            where a class is rare.

    Attributes:
        quota: How many features of each class are remembered.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range, or a payload has a name that is taken.

    Example:
        >>> import torch
        >>> queue = ClassQueue(capacity=4, dim=1, n_classes=2)
        >>> queue.push(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]), torch.tensor([1, 0, 0, 0, 0]))
        >>> queue.features[:, 0], queue.labels
        (tensor([1., 4., 5.]), tensor([1, 0, 0]))
    """

    stamps: Tensor
    n_pushed: Tensor

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        n_classes: int,
        dtype: torch.dtype = torch.float32,
        payloads: Mapping[str, torch.dtype] | None = None,
        ready_at: int | None = None,
    ) -> None:
        self.n_classes = check_whole("n_classes", n_classes, 1)
        self.capacity = check_whole("capacity", capacity, self.n_classes)
        self.quota = self.capacity // self.n_classes
        room = self.n_classes * self.quota
        # The last row takes what finds no room, so that no shape depends on the labels.
        super().__init__(room, room + 1, dim, dtype, payloads, ready_at)
        # When each row was filled, to give them out in order; -1 for those that are not.
        self.register_buffer("stamps", torch.full((room + 1,), -1, dtype=torch.int64))
        self.register_buffer("n_pushed", torch.zeros(self.n_classes, dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}, dim={self.dim}, n_classes={self.n_classes}, dtype={self.stored_features.dtype}"

    def __len__(self) -> int:
        """How many features are held."""
        return int(self.n_pushed.clamp(max=self.quota).sum())

    def by_class(self) -> tuple[Tensor, Tensor]:
        """Features by class, (n_classes, quota, dim), in no order, and which of them there are, booleans (n_classes, quota).

        No shape depends on what is held, and nothing is waited for. What is not there is of any value.

        Example:
            >>> queue = ClassQueue(capacity=4, dim=1, n_classes=2)
            >>> queue.push(torch.tensor([[7.0]]), torch.tensor([1]))
            >>> queue.by_class()[1]
            tensor([[False, False],
                    [ True, False]])
        """
        shape = self.n_classes, self.quota
        return self.stored_features[: self.room].view(*shape, self.dim), self.stamps[: self.room].view(shape) >= 0

    def _places(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        by_class, order = torch.sort(labels, stable=True)
        classes = torch.arange(self.n_classes, device=labels.device)
        starts = torch.searchsorted(by_class, classes)
        counts = torch.searchsorted(by_class, classes, right=True) - starts
        own = by_class.clamp(0, self.n_classes - 1)
        turn = torch.arange(len(labels), device=labels.device) - starts[own]
        kept = (own == by_class) & (turn >= counts[own] - self.quota)
        places = torch.where(kept, own * self.quota + (self.n_pushed[own] + turn) % self.quota, len(self.stamps) - 1)
        self.stamps[places] = torch.where(kept, self.n_pushed.sum() + order, -1)
        self.n_pushed += counts
        return order, places

    def _order(self) -> Tensor:
        return torch.argsort(self.stamps, stable=True)[len(self.stamps) - len(self) :]

    def _without_labels(self, features: Tensor) -> Tensor:
        raise ValueError(f"labels are needed: the queue has room for each of {self.n_classes} classes")

    def _check_labels(self, labels: Tensor) -> None:
        check_range("labels", labels, 0, self.n_classes)
