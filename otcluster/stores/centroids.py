"""Centroids that move with momentum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from otcluster.assignment import Assignment
from otcluster.checks import check_seed, check_whole
from otcluster.distributed import Reducer
from otcluster.stores.averaging import Averaging, MomentumMean
from otcluster.stores.batch import Batch, Layout
from otcluster.stores.by_kernels import absorbed_by_kernel
from otcluster.stores.checks import may_look, refuse_closed
from otcluster.stores.exchange import checked, collect, look
from otcluster.stores.momentum import Schedule, check_momentum
from otcluster.stores.revival import Averages, Candidates, Revival
from otcluster.stores.seeding import draw_far
from otcluster.stores.usage import UsageStatistics, find_dead, usage_statistics

StoreMetric = Literal["cosine", "sqeuclidean"]


class CentroidStore(nn.Module):
    """Centroids, of one set or of every class, that follow what is assigned to them.

    By default ``p <- momentum * p + (1 - momentum) * mean(features assigned to p)``, and to unit length with
    ``metric="cosine"``. A centroid that nothing was assigned to stays, and so does a class without samples, with all that is
    kept of it. State is buffers only, no parameters: an optimizer never sees it, and ``state_dict`` holds all of it. It stays
    in float32 (or float64), whatever the features are and under ``autocast`` too. Nothing changes but by :meth:`update`,
    :meth:`start` and :meth:`revive`.

    Args:
        n_classes: Number of classes, each with its own centroids; None for one set without classes.
        n_centroids: Centroids of each class: one number, or one for each class. Where they differ, every class has room for
            the most, and those that a class does not have are closed: zero (see ``is_open``), for ever without ``room``.
        dim: Length of a feature vector.
        momentum: How much of a centroid stays at an update, in [0, 1]; or a schedule that gives it from the number of updates
            done, such as :class:`otcluster.CosineMomentum`.
        metric: ``"cosine"`` keeps centroids at unit length; ``"sqeuclidean"`` leaves their length.
        averaging: How centroids follow. Default: :class:`otcluster.MomentumMean`; the other is
            :class:`otcluster.SumsAndCounts`.
        revival: What becomes of dead centroids at an update: :class:`otcluster.Reseed` or :class:`otcluster.SplitLargest`.
            Default: they stay where they are.
        dtype: Of the centroids, ``torch.float32`` or ``torch.float64``.
        seed: Seed of the directions that centroids have before they are started from data.
        room: Room for so many centroids of each class, for numbers that change (:meth:`rearrange`); ``is_open`` is then part of
            ``state_dict``. Default: as many as the most that a class has.

    Attributes:
        centroids: (n_classes, k, dim), or (k, dim) without classes.
        is_open: Which of them there are, booleans (n_classes, k) or (k,): for ``Problem(..., cluster_share=store.is_open)``.
        all_open: Whether all are there, and always will be.
        started: Which classes were started from data, (n_classes,), or () without classes.
        usage: Decayed counts (n_classes, k) or (k,): ``momentum * usage + (1 - momentum) * counts`` at each update with samples
            of the class.
        age: Updates with samples of its class since a centroid was placed, of the same shape.
        n_updates: Updates done, ().

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range, or the metric is unknown.

    Example:
        >>> import torch
        >>> store = CentroidStore(n_classes=2, n_centroids=1, dim=2, momentum=0.5)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> _ = store.start(x, y)
        >>> store.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), torch.tensor([0]))
        >>> store.centroids
        tensor([[[0.7071, 0.7071]],
                [[0.0000, 1.0000]]])

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023).
    """

    centroids: Tensor
    is_open: Tensor
    started: Tensor
    usage: Tensor
    age: Tensor
    n_updates: Tensor
    lengths: Tensor | None

    def __init__(
        self,
        *,
        n_centroids: int | Sequence[int],
        dim: int,
        n_classes: int | None = None,
        momentum: float | Schedule = 0.999,
        metric: StoreMetric = "cosine",
        averaging: Averaging | None = None,
        revival: Revival | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        room: int | None = None,
    ) -> None:
        super().__init__()
        self.n_classes = None if n_classes is None else check_whole("n_classes", n_classes, 1)
        counts = _counts(n_centroids, self.n_classes)
        self.n_centroids = max(counts) if room is None else check_whole("room", room, max(counts))
        self.dim = check_whole("dim", dim, 1)
        self.has_room = room is not None
        self.all_open = not self.has_room and min(counts) == self.n_centroids
        if metric not in get_args(StoreMetric):
            raise ValueError(f"metric must be one of {', '.join(get_args(StoreMetric))}, got {metric!r}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}: half precision loses small steps")
        _check_policy("averaging", averaging, Averaging, "SumsAndCounts()")
        _check_policy("revival", revival, Revival, "Reseed()")
        self.momentum = momentum if callable(momentum) else check_momentum("momentum", momentum)
        self.metric: StoreMetric = metric
        self.averaging: Averaging = MomentumMean() if averaging is None else averaging
        self.revival = revival
        classes = () if self.n_classes is None else (self.n_classes,)
        shape = (*classes, self.n_centroids)
        noise = torch.randn((*shape, self.dim), generator=torch.Generator().manual_seed(check_seed(seed)))
        is_open = (torch.arange(self.n_centroids) < torch.tensor(counts)[:, None]).view(shape)
        first = nn.functional.normalize(noise.to(dtype), dim=-1) * is_open[..., None]
        self.register_buffer("centroids", first)
        self.register_buffer("is_open", is_open, persistent=self.has_room)
        self.register_buffer("started", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("usage", torch.zeros(shape, dtype=dtype))
        self.register_buffer("age", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        lengths = torch.ones(shape, dtype=dtype) if self.averaging.keeps_length and metric == "cosine" else None
        self.register_buffer("lengths", lengths)
        self.register_load_state_dict_pre_hook(refuse_closed)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return (
            f"n_classes={self.n_classes}, n_centroids={self.n_centroids}, dim={self.dim}, momentum={self.momentum}, "
            f"metric={self.metric!r}, averaging={self.averaging}, revival={self.revival}"
        )

    @torch.no_grad()
    def update(
        self,
        features: Tensor,
        labels: Tensor | None,
        assignment: Assignment | Tensor,
        *,
        sample_mask: Tensor | None = None,
        reducer: Reducer | None = None,
        check_values: bool = True,
    ) -> None:
        """Take one step, for all classes at once.

        Args:
            features: (n, dim).
            labels: Class of each feature, integers of shape (n,); None without classes.
            assignment: Which centroid of its class each feature goes to: an assignment, of which the labels are taken;
                integers of shape (n,), where -1 leaves a feature out; or weights of shape (n, k), such as a plan.
            sample_mask: Booleans of shape (n,): those that are False count for nothing, whatever their label and features are.
                For correct predictions only, or an index to ignore (``labels != 255``).
            reducer: The sums over the processes that share the samples, each with its own: every one then takes the step of
                all samples together. None where all are here.
            check_values: Raise for labels and assignments out of range and for features that are not finite; the device is
                waited for once (twice with ``revival``). Otherwise, and while ``torch.compile`` traces, what is out of range
                is left out.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices do not fit, or a value is impossible. The store is then unchanged. With ``reducer``
                every rank raises for what is wrong on any, unless it was told not to look.
        """
        with torch.autocast(self.centroids.device.type, enabled=False):
            momentum = self.momentum(self.n_updates) if callable(self.momentum) else self.momentum
            layout = self._layout
            looks = may_look(check_values)
            parts = collect(layout, (features, labels, assignment, sample_mask), reducer, looks)
            if looks:
                look(layout, parts, assignment, momentum)
            self._absorb(parts.sums, parts.counts, momentum)
            if self.revival is not None:
                self._revive(self.revival, parts.batch, reducer, check_values)

    @torch.no_grad()
    def start(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        *,
        seed: int = 0,
        sample_mask: Tensor | None = None,
        reducer: Reducer | None = None,
    ) -> Tensor:
        """Start the centroids from data by k-means++, for every class at once that has enough samples and has not started.

        Samples are drawn for what they are, not for where they stand: their order does not matter. The device is waited for.

        Args:
            features: (n, dim).
            labels: Class of each feature, integers of shape (n,); None without classes.
            seed: Seed of the draws.
            sample_mask: Booleans of shape (n,): those that are False are not looked at.
            reducer: The sums over the processes that share the samples; the draws are those of one process with all of them.

        Returns:
            Which classes have been started by this call, (n_classes,), or () without classes.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices do not fit, or a value is impossible, with ``reducer`` on any rank. The store is
                then unchanged.
        """
        with torch.autocast(self.centroids.device.type, enabled=False):
            if bool(self.started.all()):
                return torch.zeros_like(self.started)
            layout, seed = self._layout, check_seed(seed)
            n_classes, k = layout.is_open.shape
            batch = checked(layout, (features, labels, sample_mask), reducer)
            counts = self.usage.new_zeros(n_classes + 1)
            counts.scatter_add_(0, batch.owner, torch.ones_like(batch.owner, dtype=counts.dtype))
            counts = counts if reducer is None else reducer.sum(counts)
            begins = (counts[:n_classes] >= layout.is_open.sum(dim=1)) & ~self.started.view(-1)
            if not bool(begins.any()):
                return begins.view(self.started.shape)
            owner = torch.where(torch.cat([begins, begins.new_zeros(1)])[batch.owner], batch.owner, n_classes)
            points = torch.where((owner < n_classes)[:, None], batch.features, 0.0)
            points = nn.functional.normalize(points, dim=1) if self.metric == "cosine" else points
            found = draw_far(points, owner, n_classes, k, seed=seed, reducer=reducer)
            fresh = begins[:, None] & layout.is_open
            self._place(fresh, Averages(found, self.usage.view(fresh.shape).masked_fill(fresh, 0.0)))
            self.started |= begins.view(self.started.shape)
            return begins.view(self.started.shape)

    @torch.no_grad()
    def revive(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        *,
        sample_mask: Tensor | None = None,
        reducer: Reducer | None = None,
    ) -> Tensor:
        """Replace dead centroids now, as ``revival`` says, with other features to choose from: those of a queue.

        :meth:`update` does the same with the features that it is given; after it only those are dead for which it had none.

        Args:
            features: (n, dim).
            labels: Class of each feature, integers of shape (n,); None without classes.
            sample_mask: Booleans of shape (n,): those that are False are not chosen.
            reducer: The sums over the processes, each with features of its own.

        Returns:
            Which centroids were replaced, of the shape of ``usage``.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices do not fit, or a value is impossible; or the store was made without ``revival``.
        """
        if self.revival is None:
            raise ValueError("the store leaves dead centroids alone: make it with revival=Reseed() or SplitLargest()")
        with torch.autocast(self.centroids.device.type, enabled=False):
            batch = checked(self._layout, (features, labels, sample_mask), reducer)
            return self._revive(self.revival, batch, reducer, True).view(self.usage.shape)

    @torch.no_grad()
    def rearrange(self, is_open: Tensor, fresh: Tensor, means: Tensor, usage: Tensor) -> None:
        """Open, close and place centroids, as a policy has decided; nothing is drawn, and nothing exchanged.

        Args:
            is_open: Which there are from now on, booleans of the shape of ``usage``. Those that are closed become zero.
            fresh: Which of the open ones are put elsewhere, with no past but their count; all that are opened must be.
            means: Where to, of the shape of ``centroids``; they get unit length with ``metric="cosine"``.
            usage: The decayed counts of all afterwards.

        Raises:
            ValueError: The store was made without ``room``.

        Example:
            >>> import torch
            >>> store = CentroidStore(n_centroids=1, room=2, dim=2)
            >>> both = torch.tensor([True, True])
            >>> store.rearrange(both, both, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2))
            >>> store.centroids
            tensor([[1., 0.],
                    [0., 1.]])
        """
        if not self.has_room:
            raise ValueError("the store has as many centroids as it was made with: make it with room=")
        self.is_open.copy_(is_open)
        self._place((fresh & is_open).view(-1, self.n_centroids), Averages(means, usage * is_open))
        self.centroids.mul_(is_open[..., None])
        self.age.mul_(is_open)

    def usage_statistics(self, *, below: float = 0.1) -> UsageStatistics:
        """How evenly the centroids of each class are used, from ``usage``: over as many updates as momentum remembers.

        Args:
            below: What share of the fair one a centroid must have not to count as dead.

        Returns:
            Perplexity, share of dead centroids and balance, each of shape (n_classes,), or () without classes.
        """
        return usage_statistics(self.usage, self.is_open, below)

    def check(self, features: Tensor, labels: Tensor | None, *, reducer: Reducer | None = None, owner: str = "store") -> None:
        """Raise unless the arguments fit, with ``reducer`` on all ranks; ``owner`` is what they were given to."""
        checked(self._layout, (features, labels, None), reducer, owner)

    @property
    def _layout(self) -> Layout:
        return Layout(
            self.centroids.view(-1, self.dim), self.is_open.view(-1, self.n_centroids), has_classes=self.n_classes is not None
        )

    def _absorb(self, sums: Tensor, counts: Tensor, momentum: float | Tensor) -> None:
        """Take the step, given what all ranks add to each centroid."""
        rows, usage, k = self.centroids.view(-1, self.dim), self.usage.view(-1), self.n_centroids
        keep, add = self.averaging.shares(usage, counts, momentum)
        kept = (self.centroids, self.usage, self.age, self.n_updates, self.lengths)
        if absorbed_by_kernel(kept, (sums, counts, keep, add), self.is_open, momentum, self.metric == "cosine"):
            return
        keep = keep if self.lengths is None else keep * self.lengths.view(-1)
        self._write((counts > 0) & self.is_open.view(-1), torch.addcmul(rows * keep[:, None], sums, add[:, None]))
        here = (counts.view(-1, k).sum(dim=1, keepdim=True) > 0).expand(-1, k).reshape(-1)
        usage.copy_(torch.where(here, momentum * usage + (1 - momentum) * counts, usage))
        self.age += here.view(self.age.shape)
        self.n_updates += 1

    def _revive(self, revival: Revival, batch: Batch, reducer: Reducer | None, check_values: bool) -> Tensor:
        """Replace dead centroids by what the policy makes of the batch: which were, (n_classes, k)."""
        is_open = self._layout.is_open
        usage = self.usage.view(is_open.shape)
        dead = find_dead(usage, self.age.view(is_open.shape), is_open, revival.below, revival.patience)
        if may_look(check_values) and not bool(dead.any()):  # the same on every rank
            return dead
        means = self.centroids if self.lengths is None else self.centroids * self.lengths[..., None]
        before = Averages(means.view(*is_open.shape, self.dim), usage)
        found, after = revival.revived(dead, before, Candidates(batch.features, batch.owner), self.n_updates, reducer)
        self._place(found, after)
        return found

    def _place(self, fresh: Tensor, averages: Averages) -> None:
        """Put the ``fresh`` ones, (n_classes, k), where they are said to be, with no past but their count."""
        self._write(fresh.reshape(-1), averages.means.reshape(-1, self.dim))
        self.usage.copy_(averages.usage.view(self.usage.shape))
        self.age.masked_fill_(fresh.view(self.age.shape), 0)

    def _write(self, which: Tensor, means: Tensor) -> None:
        """Set some centroids, (n_classes * k,), to means, which get unit length where the metric asks for it."""
        rows = self.centroids.view(-1, self.dim)
        if self.metric == "cosine":
            length = torch.linalg.vector_norm(means, dim=1)
            which = which & (length > 0)  # no direction: it stays
            means = means / length.clamp(min=torch.finfo(means.dtype).tiny)[:, None]
            if self.lengths is not None:
                self.lengths.copy_(torch.where(which, length, self.lengths.view(-1)).view(self.lengths.shape))
        rows.copy_(torch.where(which[:, None], means, rows))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CentroidStore:
        return super()._apply(precise(fn), recurse)  # type: ignore[no-untyped-call]


def precise(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What moves state as ``fn`` does, and keeps its dtype where that of ``fn`` is half a precision.

    ``model.half()`` and ``model.to(torch.bfloat16)`` are for weights: state would lose its small steps.
    """

    def kept(tensor: Tensor) -> Tensor:
        new = fn(tensor)
        lossy = new.is_floating_point() and torch.finfo(new.dtype).bits < 32
        return tensor.to(new.device) if lossy else new

    return kept


def _counts(n_centroids: Any, n_classes: int | None) -> list[int]:
    """Centroids of each class, from one number or one for each."""
    if not isinstance(n_centroids, Sequence):
        return [check_whole("n_centroids", n_centroids, 1)] * (n_classes or 1)
    counts = [check_whole("n_centroids", each, 1) for each in n_centroids]
    if n_classes is None:
        raise ValueError(f"n_centroids must be one number where there are no classes, got {len(counts)} of them: set n_classes")
    if len(counts) != n_classes:
        raise ValueError(f"n_centroids must be one number, or one for each of {n_classes} classes, got {len(counts)} of them")
    return counts


def _check_policy(name: str, policy: Any, kind: type, instead: str) -> None:
    if policy is not None and (isinstance(policy, type) or not isinstance(policy, kind)):
        raise TypeError(f"{name} must be None or an object such as {instead}, got {policy!r}")
