"""Sub-centroids that choose their own number, class by class, while the head learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.distributed import Reducer
from otcluster.scores import PointScores
from otcluster.solve import nearest
from otcluster.stores.centroids import CentroidStore, precise
from otcluster.stores.sums import place_sums
from otcluster.stores.twofold import divide, sides

_KEPT = 0.5  # of the shares at a round, for they are counted from few samples
_DEAD = 0.1  # part of the fair share below which a sub-centroid is closed
_FLOOR = 0.1  # part of the fair share that assignment gives an open one at least


@dataclass(frozen=True)
class Evidence:
    """Open and close sub-centroids as the remembered features of their class ask for it.

    Every so many steps each feature at hand is counted to the nearest sub-centroid of its class. The features of each
    sub-centroid are divided in two, and so are those of each two that are nearest to each other; divisions are judged by
    features that they were not made from (:func:`otcluster.stores.twofold.divide`). A sub-centroid whose features have two
    modes is split. Two whose features have one are merged, and one that hardly any feature is nearest to is closed. It has to
    be so for several rounds running, and a changed sub-centroid begins anew, so that no passing state of the features counts.

    Once the warm-up is over features are assigned in the shares that the sub-centroids had at the last rounds, no longer in
    equal ones: with equal shares, two sub-centroids would stand on a mode with two thirds of its class, and one between two
    that have a sixth each.

    Args:
        k_min: The fewest sub-centroids of a class.
        k_max: The most. There is room for so many of every class.
        every: Steps from one round to the next. Memory should change in between.
        warmup: Steps before the first.
        patience: Rounds running that have to agree before something is changed.
        least: Features of each side that a division asks for. A class of which fewer than twice as many are at hand keeps the
            number that it has; one that they are too few of to start from is given fewer to start with.
        margin: What splitting must gain, in nats a feature. A Gaussian has -0.19, an even spread 0, and two narrow modes 0.1
            where they are four standard deviations apart. Below 0 two are merged.

    Raises:
        TypeError: A number is none, or not whole where it must be.
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> from otcluster.dnc import DNCHead, Evidence
        >>> growth = Evidence(k_max=4, every=1, warmup=5)
        >>> head = DNCHead(2, n_classes=2, n_subcentroids=1, memory=0, growth=growth)
        >>> angle = torch.cat([torch.linspace(0.0, 0.2, 50), torch.linspace(1.0, 1.2, 50), torch.linspace(3.0, 3.2, 100)])
        >>> features, labels = torch.stack([angle.cos(), angle.sin()], dim=1), torch.arange(200) // 100
        >>> for _ in range(10):
        ...     head.observe(features, labels)
        >>> head.n_open  # the first class has two modes
        tensor([2, 1])
    """

    k_min: int = 1
    k_max: int = 16
    every: int = 20
    warmup: int = 100
    patience: int = 2
    least: int = 8
    margin: float = 0.1

    def __post_init__(self) -> None:
        check_whole("k_min", self.k_min, 1)
        check_whole("k_max", self.k_max, self.k_min)
        check_whole("every", self.every, 1)
        check_whole("warmup", self.warmup, 0)
        check_whole("patience", self.patience, 1)
        check_whole("least", self.least, 2)
        if isinstance(self.margin, bool) or not isinstance(self.margin, (int, float)):
            raise TypeError(f"margin must be a number, got {self.margin!r}")
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin must be finite and not negative, got {self.margin}: it is what splitting must gain")

    def check_start(self, n_subcentroids: int | Sequence[int]) -> None:
        """Raise unless the numbers that classes start with, one or one for each, lie from ``k_min`` to ``k_max``."""
        counts = n_subcentroids if isinstance(n_subcentroids, Sequence) else [n_subcentroids]
        least, most = min(counts, default=self.k_min), max(counts, default=self.k_max)
        if not self.k_min <= least <= most <= self.k_max:
            raise ValueError(
                f"n_subcentroids must lie from k_min={self.k_min} to k_max={self.k_max} of the growth, got {least} to {most}: "
                "it is the number that a class starts with"
            )


class _Round(NamedTuple):
    """What a round found, of shape (n_classes, k) where nothing else is said."""

    partner: Tensor
    """The nearest other sub-centroid of the class."""
    is_two: Tensor
    is_one: Tensor
    """Of two that are nearest to each other, at the first."""
    gain: Tensor
    """Of splitting, -1 where it was not tried."""
    tried: Tensor
    cuts: Tensor
    """Across the features of each that was tried, (m, 2, dim)."""


class Growing(nn.Module):
    """How far the evidence has come: what :class:`Evidence` has to remember from one step to the next.

    State is buffers only, and changes in :meth:`step` alone.

    Args:
        policy: When to split and to merge.
        store: The sub-centroids, with room for ``policy.k_max``.

    Attributes:
        shares: Part of its class's features that is nearest to each sub-centroid, (n_classes, k), over the last rounds.
        splits, merges, deaths: For how many rounds running each was to be split, merged or closed, (n_classes, k).
    """

    shares: Tensor
    splits: Tensor
    merges: Tensor
    deaths: Tensor

    def __init__(self, policy: Evidence, store: CentroidStore) -> None:
        super().__init__()
        self.policy = policy
        self.register_buffer("shares", _fair(store.is_open).to(store.usage.dtype))
        for name in ("splits", "merges", "deaths"):
            self.register_buffer(name, torch.zeros(store.is_open.shape, dtype=torch.int64))

    def extra_repr(self) -> str:
        return repr(self.policy)

    def cluster_share(self, store: CentroidStore) -> Tensor:
        """In which shares features are to be assigned, (n_classes, k): 0 to those that are closed."""
        return torch.maximum(self.shares, _FLOOR * _fair(store.is_open).to(self.shares.dtype)) * store.is_open

    @torch.no_grad()
    def step(self, store: CentroidStore, features: Tensor, labels: Tensor, reducer: Reducer | None) -> None:
        """Hold a round, if it is time for one.

        Args:
            store: The sub-centroids, as they are after an update.
            features: The unit vectors at hand, (n, dim).
            labels: Class of each, (n,).
            reducer: The ranks that share the features. All decide by the same sums.
        """
        policy, turn = self.policy, int(store.n_updates)
        if turn % policy.every:
            return
        n_classes, k = store.is_open.shape
        points = PointScores(features, store.centroids, metric="cosine")
        share = store.is_open.to(features.dtype)
        which = nearest(points, cluster_share=share, groups=labels, n_groups=n_classes, check_values=False).labels()
        counts = place_sums(features[:, :1], labels * k + which, n_classes * k)[1]
        counts = (counts if reducer is None else reducer.sum(counts)).view(n_classes, k)
        self._allow(store, counts)
        if turn <= policy.warmup:
            return
        counts = counts * store.started[:, None]
        n, n_open = counts.sum(dim=1, keepdim=True), store.is_open.sum(dim=1, keepdim=True)
        known = n >= policy.least * n_open
        self.shares.copy_(torch.where(known, _KEPT * self.shares + (1 - _KEPT) * counts / n.clamp(min=1), self.shares))
        dead = store.is_open & known & (self.shares < _DEAD / n_open)
        self.deaths.copy_(torch.where(dead, self.deaths + 1, 0))
        place = labels * k + which
        found = self._look(store, features, place, counts, turn, reducer)
        second = torch.zeros_like(found.is_one, dtype=torch.int64).scatter_add_(1, found.partner, found.is_one.to(torch.int64))
        self.merges.copy_(torch.where(found.is_one | (second > 0), self.merges + 1, 0))
        self.splits.copy_(torch.where(found.is_two, self.splits + 1, 0))
        closing = store.is_open & (self.deaths >= policy.patience)
        merging = found.is_one & (torch.minimum(self.merges, self.merges.gather(1, found.partner)) >= policy.patience)
        splitting = found.is_two & (self.splits >= policy.patience) & (n_open < policy.k_max)
        if bool((closing | merging | splitting).any()):
            rows, number = _numbered(splitting)
            halves = sides(features, number[place], found.cuts[splitting[found.tried]], reducer) if len(rows) else None
            self._change(store, found, (closing, merging, splitting), number, halves)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Growing:
        return super()._apply(precise(fn), recurse)  # type: ignore[no-untyped-call]

    def _allow(self, store: CentroidStore, counts: Tensor) -> None:
        """Close what a class cannot start with, of which too few samples are at hand."""
        n, n_open = counts.sum(dim=1), store.is_open.sum(dim=1)
        waits = ~store.started & (n > 0) & (n < n_open)
        allowed = torch.where(waits, (n.to(torch.int64) // self.policy.least).clamp(min=self.policy.k_min), n_open)
        if bool((allowed < n_open).any()):
            is_open = store.is_open & (store.is_open.cumsum(dim=1) <= allowed[:, None])
            store.rearrange(is_open, torch.zeros_like(is_open), store.centroids, store.usage)
            self.shares.copy_(torch.where(waits[:, None], _fair(is_open).to(self.shares.dtype), self.shares))

    def _look(
        self, store: CentroidStore, features: Tensor, place: Tensor, counts: Tensor, turn: int, reducer: Reducer | None
    ) -> _Round:
        """Judge the features of each sub-centroid, and of each two that are nearest to each other."""
        policy, is_open = self.policy, store.is_open
        k = is_open.shape[1]
        slots = torch.arange(k, device=is_open.device)
        cosines = store.centroids @ store.centroids.transpose(1, 2)
        apart = is_open[:, :, None] & is_open[:, None, :] & (slots[:, None] != slots)
        closest, partner = cosines.masked_fill(~apart, -torch.inf).max(dim=2)
        mutual = (partner.gather(1, partner) == slots) & (closest > -torch.inf)
        enough = is_open & (counts >= 2 * policy.least)
        pairs = mutual & (slots < partner) & (counts + counts.gather(1, partner) >= 2 * policy.least)
        gain, cuts = _judged(features, place, enough, None, turn, reducer)
        other = place - place % k + partner.flatten()[place]
        lead = torch.where(mutual.flatten()[place], torch.minimum(place, other), place)
        second = partner + k * torch.arange(len(partner), device=partner.device)[:, None]
        rows = store.centroids.flatten(0, 1)
        begin = torch.stack([store.centroids[pairs], rows[second[pairs]]], dim=1)
        together, _ = _judged(features, lead, pairs, begin, turn, reducer)
        return _Round(partner, enough & (gain > policy.margin), pairs & (together < 0), gain, enough, cuts)

    def _change(
        self,
        store: CentroidStore,
        found: _Round,
        ready: tuple[Tensor, Tensor, Tensor],
        number: Tensor,
        halves: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Close, merge and split, in the classes where something is ready for it.

        Args:
            store: The sub-centroids.
            found: What the round found.
            ready: Which are to be closed, merged with their partner, and split, (n_classes, k) each.
            number: Which of those to be split each is, (n_classes * k,).
            halves: Their two means and counts.
        """
        policy, partner = self.policy, found.partner
        closing, merging, splitting = ready
        classes = torch.nonzero((closing | merging | splitting).any(dim=1)).flatten().tolist()
        is_open, fresh = store.is_open.clone(), torch.zeros_like(store.is_open)
        means, usage = store.centroids.clone(), store.usage.clone()
        by_gain = torch.argsort(found.gain, dim=1, descending=True, stable=True)
        for label in classes:
            n_open = int(is_open[label].sum())
            for slot in _slots(closing[label])[: n_open - policy.k_min]:
                is_open[label, slot], n_open = False, n_open - 1
            for slot in _slots(merging[label]):
                other = int(partner[label, slot])
                if n_open > policy.k_min and bool(is_open[label, slot] & is_open[label, other]):
                    both = self.shares[label, [slot, other]]
                    means[label, slot] = (both[:, None] * means[label, [slot, other]]).sum(dim=0)
                    for kept in (self.shares, usage):
                        kept[label, slot] += kept[label, other]
                    is_open[label, other], fresh[label, slot], n_open = False, True, n_open - 1
            for slot in by_gain[label][splitting[label][by_gain[label]]].tolist():
                if halves is not None and n_open < policy.k_max and bool(is_open[label, slot] & ~fresh[label, slot]):
                    other = _slots(~is_open[label])[0]
                    at = int(number[label * len(fresh[label]) + slot])
                    parts = halves[1][at] / halves[1][at].sum()
                    means[label, [slot, other]] = halves[0][at]
                    for kept in (self.shares, usage):
                        kept[label, [slot, other]] = parts * kept[label, slot]
                    is_open[label, other], n_open = True, n_open + 1
                    fresh[label, [slot, other]] = True
        left = self.shares * is_open
        self.shares.copy_(left / left.sum(dim=1, keepdim=True))
        for votes in (self.splits, self.merges, self.deaths):
            votes.masked_fill_(fresh | ~is_open, 0)
        store.rearrange(is_open, fresh, means, usage)


def _fair(is_open: Tensor) -> Tensor:
    return is_open / is_open.sum(dim=1, keepdim=True)


def _slots(which: Tensor) -> list[int]:
    return torch.nonzero(which).flatten().tolist()


def _numbered(which: Tensor) -> tuple[Tensor, Tensor]:
    """Some of the places, (n_classes, k): the m that there are, and the number of each place, m for all others."""
    flat = which.flatten()
    rows = torch.nonzero(flat).flatten()
    return rows, torch.where(flat, flat.cumsum(dim=0) - 1, len(rows))


def _judged(
    features: Tensor, place: Tensor, tried: Tensor, begin: Tensor | None, turn: int, reducer: Reducer | None
) -> tuple[Tensor, Tensor]:
    """Divide the features of the places that are ``tried``, (n_classes, k), and of no other.

    Returns:
        The gain at each place, -1 where none was tried; and the cuts of those tried, in their order.
    """
    rows, number = _numbered(tried)
    gain = features.new_full((tried.numel(),), -1.0)
    if not len(rows):
        return gain.view(tried.shape), features.new_zeros(0, 2, features.shape[1])
    found = divide(features, number[place], len(rows), begin=begin, seed=turn, reducer=reducer)
    gain[rows] = found.gain
    return gain.view(tried.shape), found.cuts
