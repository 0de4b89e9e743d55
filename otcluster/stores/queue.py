"""A memory of the most recent features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from otcluster.checks import check_seed, check_whole
from otcluster.stores.checks import check_features, check_finite, check_ids, check_rows, may_look


class QueueSample(NamedTuple):
    """Some of what a queue holds: features (n, dim), labels (n,), and payloads (n,) by name."""

    features: Tensor
    labels: Tensor
    payloads: dict[str, Tensor]


class Queue(nn.Module):
    """What queues share: rows with features, labels and payloads, of which some are filled."""

    stored_features: Tensor
    stored_labels: Tensor

    def __init__(
        self,
        room: int,
        n_rows: int,
        dim: int,
        dtype: torch.dtype,
        payloads: Mapping[str, torch.dtype] | None,
        ready_at: int | None,
    ) -> None:
        super().__init__()
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point dtype such as torch.float16, got {dtype!r}")
        self.dim = check_whole("dim", dim, 1)
        self.ready_at = room if ready_at is None else check_whole("ready_at", ready_at, 0)
        if self.ready_at > room:
            raise ValueError(f"ready_at must be at most {room}, for how many there is room, got {ready_at}")
        self.room = room
        payloads = {} if payloads is None else payloads
        self.payload_names = _payload_names(payloads)
        self.register_buffer("stored_features", torch.zeros(n_rows, self.dim, dtype=dtype))
        self.register_buffer("stored_labels", torch.full((n_rows,), -1, dtype=torch.int64))
        for name, kind in payloads.items():
            self.register_buffer(f"stored_{name}", torch.zeros(n_rows, dtype=kind))

    @abstractmethod
    def __len__(self) -> int:
        """How many features are held."""

    @abstractmethod
    def _order(self) -> Tensor:
        """The filled rows, oldest first."""

    @abstractmethod
    def _places(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the new samples are written, and in which rows; they are counted as held from now on."""

    @torch.no_grad()
    def push(self, features: Tensor, labels: Tensor | None = None, *, check_values: bool = True, **payloads: Tensor) -> None:
        """Remember ``features``, forgetting the oldest where there is no room.

        Args:
            features: (n, dim), any n; converted to the dtype of the queue, and kept without gradient.
            labels: Integers, (n,). None stands for -1, where the queue does not divide its room by them.
            check_values: Raise for features that are not finite, in the dtype of the queue, and for labels out of range; the
                device is waited for.
            **payloads: The further payloads of the queue, all of them, (n,) each.

        Raises:
            TypeError: ``features`` is no floating-point tensor, ``labels`` are no integers, or a payload is missing, unknown
                or no tensor.
            ValueError: Shapes or devices do not fit, or a value is impossible. The queue is then unchanged.
        """
        check_features(features, self.dim, self.stored_features.device, "queue")
        if payloads.keys() != set(self.payload_names):
            raise TypeError(f"payloads must be {list(self.payload_names)}, as the queue was made, got {sorted(payloads)}")
        if labels is None:
            labels = self._without_labels(features)
        check_ids("labels", labels, features)
        for name, payload in payloads.items():
            if not isinstance(payload, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(payload).__name__}")
            check_rows(name, payload, features)
        features = features.detach().to(self.stored_features.dtype)
        if may_look(check_values):
            check_finite(features)
            self._check_labels(labels)
        kept, places = self._places(labels.to(torch.int64))
        given = {"features": features, "labels": labels, **payloads}
        for name, values in given.items():
            stored = getattr(self, f"stored_{name}")
            stored[places] = values[kept].to(stored.dtype)
            stored[self.room :] = 0  # several may have been written there, in any order

    @property
    def ready(self) -> bool:
        """Whether ``ready_at`` features are held."""
        return len(self) >= self.ready_at

    @property
    def features(self) -> Tensor:
        """What is held, (len, dim), oldest first; a copy, which later pushes leave alone."""
        return self.stored_features[self._order()]

    @property
    def labels(self) -> Tensor:
        """The labels of :attr:`features`, (len,)."""
        return self.stored_labels[self._order()]

    def payload(self, name: str) -> Tensor:
        """A payload of :attr:`features`, (len,), in the dtype that it was given when the queue was made.

        Raises:
            KeyError: The queue has no such payload.
        """
        self._need(name)
        return getattr(self, f"stored_{name}")[self._order()]

    def sample(self, n: int, *, seed: int | torch.Generator) -> QueueSample:
        """Draw ``n`` of the features held, each at most once.

        Args:
            n: How many, at most ``len(queue)``.
            seed: Seed of the draw (another one for each, or the same are drawn), or a torch generator on the CPU.

        Returns:
            Features, labels and payloads, in the order drawn.

        Raises:
            TypeError: ``n`` is no whole number, or ``seed`` is no seed.
            ValueError: Fewer are held, or ``seed`` is negative.
        """
        held = len(self)
        if check_whole("n", n, 0) > held:
            raise ValueError(f"n must be at most {held}, for so many are held, got {n}: wait until the queue is ready")
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(check_seed(seed))
        rows = self._order()[torch.randperm(held, generator=generator)[:n].to(self.stored_labels.device)]
        payloads = {name: getattr(self, f"stored_{name}")[rows] for name in self.payload_names}
        return QueueSample(self.stored_features[rows], self.stored_labels[rows], payloads)

    def _need(self, name: str) -> None:
        if name not in self.payload_names:
            raise KeyError(f"the queue has no payload {name!r}: it was made with {list(self.payload_names)}")

    def _without_labels(self, features: Tensor) -> Tensor:
        return features.new_full((len(features),), -1, dtype=torch.int64)

    def _check_labels(self, labels: Tensor) -> None:
        """Raise for labels that the queue has no room for."""


class MemoryQueue(Queue):
    """The last ``capacity`` features with their labels, first in first out.

    Prefer :class:`otcluster.ClassQueue` where some classes are rare and are to be remembered as well as the others. All state
    is in buffers, so ``state_dict`` saves it and ``.to(device)`` moves it. Nothing changes but by :meth:`push`.

    Args:
        capacity: How many features to remember; 0 remembers nothing.
        dim: Length of a feature vector.
        dtype: In which features are kept.
        payloads: What else to remember of each feature: a dtype by name, as ``{"ids": torch.int64}``.
        ready_at: How many features must be held for ``ready``. Default: ``capacity``.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range, or a payload has a name that is taken.

    Example:
        >>> import torch
        >>> queue = MemoryQueue(capacity=3, dim=2, payloads={"ids": torch.int64})
        >>> queue.push(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]), ids=torch.tensor([10, 11]))
        >>> queue.ready
        False
        >>> queue.push(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]), ids=torch.tensor([12, 13]))
        >>> queue.features[:, 0], queue.labels, queue.payload("ids")
        (tensor([2., 3., 4.]), tensor([1, 0, 1]), tensor([11, 12, 13]))

    Source: the queue of features of He et al., "Momentum contrast" (2020).
    """

    n_pushed: Tensor

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        payloads: Mapping[str, torch.dtype] | None = None,
        ready_at: int | None = None,
    ) -> None:
        self.capacity = check_whole("capacity", capacity, 0)
        super().__init__(self.capacity, self.capacity, dim, dtype, payloads, ready_at)
        self.register_buffer("n_pushed", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}, dim={self.dim}, dtype={self.stored_features.dtype}"

    def __len__(self) -> int:
        """How many features are held."""
        return min(int(self.n_pushed), self.capacity)

    def _places(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        n = len(labels)
        kept = torch.arange(n - min(n, self.capacity), n, device=labels.device)
        places = (self.n_pushed + kept) % max(self.capacity, 1)
        self.n_pushed += n
        return kept, places

    def _order(self) -> Tensor:
        held = len(self)
        ages = torch.arange(held, device=self.n_pushed.device)
        return (self.n_pushed - held + ages) % max(self.capacity, 1)


def _payload_names(payloads: Mapping[str, Any]) -> tuple[str, ...]:
    if not isinstance(payloads, Mapping):
        raise TypeError(f"payloads must give a dtype for each name, as {{'ids': torch.int64}}, got {payloads!r}")
    for name, kind in payloads.items():
        if not isinstance(name, str) or not name.isidentifier() or name in ("features", "labels", "check_values", "self"):
            raise ValueError(f"payloads must have names of their own that Python can read, got {name!r}")
        if not isinstance(kind, torch.dtype):
            raise TypeError(f"payloads must give a dtype for each name, got {kind!r} for {name!r}")
    return tuple(payloads)
