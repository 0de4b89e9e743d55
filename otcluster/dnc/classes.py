"""Classes that a trained head gains or loses without training, since no weight is tied to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from otcluster.dnc.head import DNCHead
from otcluster.dnc.scaling import ScoreNorm
from otcluster.stores.centroids import CentroidStore
from otcluster.stores.class_queue import ClassQueue
from otcluster.stores.queue import MemoryQueue, Queue

# A class that training has not drawn together is spread wider, and takes more sub-centroids to describe than the others.
_TIMES_AS_MANY = 8
_ROUNDS = 50  # after which sub-centroids that still move are taken as they are


def append_class(head: DNCHead, features: Tensor, n_subcentroids: int | None = None) -> None:
    """Give a head one more class, the last one, described by sub-centroids of ``features``.

    They are what training would make of these features: started by k-means++, assigned by the head's solver, each the mean of
    its own, until they stay.

    Args:
        head: Changed in place.
        features: (n, dim), at least one.
        n_subcentroids: How many; at most n. Default: eight times the most that another class has, or n if less.

    Raises:
        ValueError: The features have another shape or are not finite, or there are fewer than sub-centroids.
    """
    store = head.store
    if features.ndim != 2 or features.shape[1] != store.dim or not len(features):
        raise ValueError(f"features must have shape (n, {store.dim}), n at least 1, got {tuple(features.shape)}")
    k = min(_TIMES_AS_MANY * max(counts_of(head)), len(features)) if n_subcentroids is None else n_subcentroids
    if not 1 <= k <= len(features):
        raise ValueError(f"n_subcentroids must lie in 1 to {len(features)}, the number of images, got {k}")
    alone = DNCHead(
        store.dim, 1, n_subcentroids=k, momentum=0.0, memory=0, solver=head.solver, seed=head.seed, metric=store.metric
    )
    alone.to(store.centroids)
    labels = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    for _ in range(_ROUNDS):
        before = alone.subcentroids.clone()
        alone.observe(features, labels)
        if torch.equal(before, alone.subcentroids):
            break
    is_open = head.store.is_open
    wider = nn.functional.pad(is_open, (0, max(k - is_open.shape[1], 0)))
    new = torch.arange(wider.shape[1], device=wider.device) < k
    _set_store(head, list(range(head.n_classes)), torch.cat([wider, new[None]]))
    head.store.centroids[-1, :k] = alone.subcentroids[0]
    head.store.started[-1] = True
    if isinstance(head.memory, ClassQueue):
        head.memory = _refilled(head.memory, head.n_classes, head.memory.features, head.memory.labels)


def drop_class(head: DNCHead, label: int) -> None:
    """Take a class from a head, and its features from the memory; the labels of later ones move down.

    Args:
        head: Changed in place; two classes or more.
        label: Which.

    Raises:
        ValueError: It is the only class, or there is no such class.
    """
    if not 0 <= label < head.n_classes:
        raise ValueError(f"label must lie in 0 to {head.n_classes - 1}, got {label}")
    if head.n_classes == 1:
        raise ValueError("the only class cannot be removed")
    kept = [each for each in range(head.n_classes) if each != label]
    _set_store(head, kept, head.store.is_open[kept])
    memory = head.memory
    features, labels = memory.features, memory.labels
    left = labels != label
    head.memory = _refilled(memory, head.n_classes, features[left], labels[left] - (labels[left] > label).to(torch.int64))


def _refilled(memory: Queue, n_classes: int, features: Tensor, labels: Tensor) -> Queue:
    """A queue like ``memory`` that remembers these; one of classes has for each the room that it had."""
    kind = memory.stored_features.dtype
    new: Queue
    if isinstance(memory, ClassQueue):
        new = ClassQueue(n_classes * memory.quota, memory.dim, n_classes=n_classes, dtype=kind)
    else:
        new = MemoryQueue(memory.room, memory.dim, dtype=kind)
    new.to(features.device).push(features, labels)
    return new


def counts_of(head: DNCHead) -> list[int]:
    """How many sub-centroids each class has."""
    return [int(count) for count in head.store.is_open.sum(dim=1).tolist()]


def give_places(head: DNCHead, places: Sequence[int] | Sequence[Sequence[bool]] | Tensor) -> None:
    """Let the classes of a new head have the sub-centroids of one that was saved after it was changed by hand.

    Args:
        head: Changed in place; what its sub-centroids are is to be loaded.
        places: Which each class has, booleans (n_classes, k); or how many, (n_classes,), where these are the first.
    """
    given = torch.as_tensor(places)
    is_open = given if given.ndim == 2 else torch.arange(int(given.max())) < given[:, None]
    _set_store(head, [], is_open.to(head.store.is_open))


def close_places(head: DNCHead, is_open: Tensor) -> None:
    """Let the classes of a head have these of their sub-centroids, (n_classes, k), and no others; their numbers stay."""
    _set_store(head, list(range(head.n_classes)), head.store.is_open & is_open.to(head.store.is_open))


def need_subcentroids(head: nn.Module, what: str = "classes come and go without training") -> DNCHead:
    """The head, which must be one of sub-centroids and without weights for each class; or else ``what`` cannot be.

    Raises:
        TypeError: It is not.
    """
    if isinstance(head, DNCHead) and isinstance(head.scaling, ScoreNorm):
        raise TypeError(f"{what} where only sub-centroids decide, and head.scaling=layer_norm has weights for each class")
    if not isinstance(head, DNCHead):
        raise TypeError(f"{what} where a head has sub-centroids, and this is {type(head).__name__}")
    return head


def need_cosines(head: nn.Module, what: str) -> DNCHead:
    """The head, which must be one of :func:`need_subcentroids` that compares by cosine: explanations are of cosines.

    Raises:
        TypeError: It has no sub-centroids, or weights for each class.
        ValueError: It compares by distance.
    """
    found = need_subcentroids(head, what)
    if found.store.metric != "cosine":
        raise ValueError(f"explanations are of cosines, and this head compares by metric={found.store.metric!r}")
    return found


def shows_cosines(head: nn.Module) -> bool:
    """Whether :func:`need_cosines` takes a head."""
    return isinstance(head, DNCHead) and not isinstance(head.scaling, ScoreNorm) and head.store.metric == "cosine"


def _set_store(head: DNCHead, kept: list[int], is_open: Tensor) -> None:
    """A store for classes with the sub-centroids ``is_open``, the first of which are the ``kept`` ones of the store before.

    Numbers stay as they are from now on: evidence for growth was of the classes as they were. What is closed between two that
    are open stays a gap, so that each sub-centroid keeps its number.
    """
    old = head.store
    is_open = is_open[:, : int(is_open.any(dim=0).nonzero().max()) + 1]
    counts = is_open.sum(dim=1)
    has_gaps = not torch.equal(is_open, torch.arange(is_open.shape[1], device=counts.device) < counts[:, None])
    new = CentroidStore(
        n_classes=len(counts),
        n_centroids=counts.tolist(),
        dim=old.dim,
        momentum=old.momentum,
        metric=old.metric,
        averaging=old.averaging,
        revival=old.revival,
        dtype=old.centroids.dtype,
        seed=head.seed,
        room=is_open.shape[1] if has_gaps else None,
    ).to(old.centroids.device)
    new.is_open.copy_(is_open)
    for name, buffer in new.named_buffers():
        if name == "is_open":
            continue
        source: Any = getattr(old, name)
        if not buffer.ndim:
            buffer.copy_(source)
        elif buffer.ndim == 1:
            buffer[: len(kept)] = source[kept]
        else:
            k = min(buffer.shape[1], source.shape[1])
            buffer[: len(kept), :k] = source[kept][:, :k]
            closed = (~is_open).view(*is_open.shape, *[1] * (buffer.ndim - 2))
            buffer.masked_fill_(closed, 1.0 if name == "lengths" else 0)
    head.store, head.growing, head.n_classes = new, None, len(counts)
