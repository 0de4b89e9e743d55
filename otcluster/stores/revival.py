"""What becomes of centroids that hardly any sample comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from otcluster.checks import check_whole
from otcluster.distributed import Reducer
from otcluster.solvers.base import check_number
from otcluster.stores.lots import directions, lots
from otcluster.stores.sums import place_sums


class Averages(NamedTuple):
    """What a store holds of its centroids: means (classes, k, d) before unit length, and decayed counts (classes, k)."""

    means: Tensor
    usage: Tensor


class Candidates(NamedTuple):
    """Features (n, d) that may become centroids, and the class of each; ``n_classes`` for those that may not."""

    features: Tensor
    owner: Tensor


@runtime_checkable
class Revival(Protocol):
    """What :class:`otcluster.CentroidStore` takes as ``revival``: which centroids are dead, and what takes their place."""

    @property
    def below(self) -> float:
        """Dead are those with less than this part of the fair share of their class's samples."""
        ...

    @property
    def patience(self) -> int:
        """But not before this many updates of their class since they were placed."""
        ...

    def revived(
        self, dead: Tensor, averages: Averages, candidates: Candidates, turn: Tensor, reducer: Reducer | None
    ) -> tuple[Tensor, Averages]:
        """Which of the ``dead`` (classes, k) are replaced, and the averages after it; ``turn`` counts the updates done."""
        ...


def _check(below: float, patience: int) -> None:
    check_number("below", below)
    if not 0 < below < 1:
        raise ValueError(f"below must lie strictly between 0 and 1, got {below}: it is a part of the fair share")
    check_whole("patience", patience, 1)


@dataclass(frozen=True)
class Reseed:
    """Put a dead centroid where a sample of its class lies, drawn at random from those at hand.

    Several dead centroids of a class get different samples; one for which there is none waits for the next update. Its past is
    forgotten: under :class:`otcluster.SumsAndCounts` too, the samples that come to it next decide where it goes.

    Args:
        below: Dead is what has less than this part of the fair share of the samples of its class.
        patience: For how many updates with samples of its class a centroid is left alone after it was placed.

    Raises:
        TypeError: A number is none, or ``patience`` is no whole number.
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> import otcluster as otc
        >>> store = otc.CentroidStore(n_centroids=2, dim=2, momentum=0.5, revival=Reseed(patience=4))
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> for _ in range(4):
        ...     store.update(x, None, torch.tensor([0, 0]))  # nothing comes to centroid 1
        >>> store.centroids[1] in x
        True

    Source: Dhariwal et al., "Jukebox: a generative model for music" (2020), section 3.1.
    """

    below: float = 0.1
    patience: int = 100

    def __post_init__(self) -> None:
        _check(self.below, self.patience)

    def revived(
        self, dead: Tensor, averages: Averages, candidates: Candidates, turn: Tensor, reducer: Reducer | None
    ) -> tuple[Tensor, Averages]:
        """Which of the dead are replaced, and the averages after it."""
        n_classes, k = dead.shape
        n_places = n_classes * k
        features, owner = candidates
        n_dead = dead.sum(dim=1)
        # Each sample stands for one of the dead centroids of its class, so that no sample becomes two centroids.
        dead_first = torch.argsort((~dead).to(torch.int8), dim=1, stable=True)
        own = owner.clamp(max=n_classes - 1)
        chance = lots(features, 1, turn)
        # What is masked out may be NaN, and draws no number.
        which = torch.minimum((chance * n_dead[own]).to(torch.int64), n_dead[own] - 1).clamp(min=0)
        places = torch.where((owner < n_classes) & (n_dead[own] > 0), own * k + dead_first[own, which], n_places)
        key = lots(features, 2, turn)
        best = key.new_full((n_places + 1,), -1.0).scatter_reduce_(0, places, key, "amax")
        best = best if reducer is None else reducer.max(best)
        sums, counts = place_sums(features, torch.where(key == best[places], places, n_places), n_places)
        if reducer is not None:
            sums, counts = reducer.sum(torch.cat([sums, counts[:, None]], dim=1)).split([sums.shape[1], 1], dim=1)
            counts = counts[:, 0]
        found = (counts > 0).view(n_classes, k)
        means = (sums / counts.clamp(min=1)[:, None]).view(averages.means.shape)
        return found, Averages(torch.where(found[..., None], means, averages.means), torch.where(found, 0.0, averages.usage))


@dataclass(frozen=True)
class SplitLargest:
    """Put a dead centroid beside the most used one of its class, whose samples the two then share.

    Several dead centroids of a class go beside different ones, in order of use. The copy takes half of the decayed count with
    it. Needs no samples, and no exchange between ranks.

    Args:
        below: Dead is what has less than this part of the fair share of the samples of its class.
        patience: For how many updates with samples of its class a centroid is left alone after it was placed.
        distance: How far from the other it is put, as a part of the other's length.

    Raises:
        TypeError: A number is none, or ``patience`` is no whole number.
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> import otcluster as otc
        >>> store = otc.CentroidStore(n_centroids=2, dim=2, momentum=0.5, revival=SplitLargest(patience=4))
        >>> for _ in range(4):
        ...     store.update(torch.tensor([[1.0, 0.0]]), None, torch.tensor([0]))
        >>> bool(store.centroids[1] @ store.centroids[0] > 0.999)
        True
    """

    below: float = 0.1
    patience: int = 100
    distance: float = 0.01

    def __post_init__(self) -> None:
        _check(self.below, self.patience)
        check_number("distance", self.distance)
        if not 0 < self.distance < 1:
            raise ValueError(f"distance must lie strictly between 0 and 1, got {self.distance}: it is a part of a length")

    def revived(
        self, dead: Tensor, averages: Averages, candidates: Candidates, turn: Tensor, reducer: Reducer | None
    ) -> tuple[Tensor, Averages]:
        """Which of the dead are replaced, and the averages after it."""
        means, usage = averages
        alive = ~dead & (usage > 0)
        n_alive = alive.sum(dim=1, keepdim=True)
        by_use = torch.argsort(torch.where(alive, usage, -1.0), dim=1, descending=True, stable=True)
        turns = (dead.cumsum(dim=1) - 1).clamp(min=0) % n_alive.clamp(min=1)
        found = dead & (n_alive > 0)
        source = by_use.gather(1, turns)
        copies = torch.zeros_like(usage).scatter_add_(1, source, found.to(usage.dtype))
        shared = usage / (1 + copies)
        beside = means.gather(1, source[..., None].expand(means.shape))
        away = torch.nn.functional.normalize(directions(tuple(means.shape), means, 3, turn), dim=-1)
        length = torch.linalg.vector_norm(beside, dim=-1, keepdim=True)
        copied = beside + self.distance * length * away
        return found, Averages(
            torch.where(found[..., None], copied, means), torch.where(found, shared.gather(1, source), shared)
        )
