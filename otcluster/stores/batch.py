"""What a store is given at an update: checked, and laid out by class and centroid."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from otcluster.assignment import Assignment
from otcluster.stores.by_kernels import kernel_sums
from otcluster.stores.checks import check_features, check_ids, check_range, check_rows
from otcluster.stores.sums import place_sums


class Batch:
    """Features (n, d), labels and mask as they were given; the rest is computed when it is asked for, once.

    (torch.compile does not trace ``functools.cached_property`` in every Python.)
    """

    def __init__(self, given: Tensor, labels: Tensor | None, used: Tensor | None, n_classes: int, dtype: torch.dtype) -> None:
        self.given, self.labels, self.used, self.n_classes, self.dtype = given, labels, used, n_classes, dtype
        self._features: Tensor | None = None
        self._owner: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """In the dtype of the store."""
        if self._features is None:
            self._features = self.given.to(self.dtype)
        return self._features

    @property
    def owner(self) -> Tensor:
        """The class of each feature: 0 without classes, ``n_classes`` if it is left out."""
        if self._owner is None:
            self._owner = self._found_owner()
        return self._owner

    def _found_owner(self) -> Tensor:
        if self.labels is None:
            owner = torch.zeros(len(self.given), dtype=torch.int64, device=self.given.device)
            return owner if self.used is None else torch.where(self.used, owner, self.n_classes)
        owner = self.labels.to(torch.int64)
        fits = (owner >= 0) & (owner < self.n_classes)
        return torch.where(fits if self.used is None else fits & self.used, owner, self.n_classes)

    @property
    def n_bad(self) -> Tensor:
        """How many labels are out of range, (); those are left out."""
        left_out = self.owner == self.n_classes
        return (left_out if self.used is None else left_out & self.used).sum()


class Layout(NamedTuple):
    """The centroids of a store: (n_classes * k, d); which of them there are, (n_classes, k); whether classes were asked for."""

    rows: Tensor
    is_open: Tensor
    has_classes: bool


def take_in(layout: Layout, features: Any, labels: Any, sample_mask: Any) -> Batch:
    """The batch of a store.

    Raises:
        TypeError, ValueError: Types, shapes or devices do not fit.
    """
    n_classes = len(layout.is_open)
    check_features(features, layout.rows.shape[1], layout.rows.device, "store")
    if sample_mask is not None:
        if not isinstance(sample_mask, Tensor) or sample_mask.dtype != torch.bool:
            got = sample_mask.dtype if isinstance(sample_mask, Tensor) else type(sample_mask).__name__
            raise TypeError(f"sample_mask must be a boolean tensor, True for what counts, got {got}")
        check_rows("sample_mask", sample_mask, features)
    if not layout.has_classes:
        if labels is not None:
            raise ValueError("labels are given, but the store has no classes: pass None, or set n_classes")
    elif labels is None:
        raise ValueError(f"labels are needed: the store has {n_classes} classes")
    else:
        check_ids("labels", labels, features)
    return Batch(features, labels, sample_mask, n_classes, layout.rows.dtype)


def raise_bad_labels(batch: Batch, n_classes: int) -> None:
    """Raise for labels out of range."""
    labels = batch.labels
    if labels is not None:
        check_range("labels", labels if batch.used is None else labels[batch.used], 0, n_classes)


def assigned_sums(batch: Batch, assignment: Any, is_open: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (n_classes * k, d) and counts (n_classes * k,) of what goes to each centroid; numbers of impossible assignments.

    Those are for parts of the samples, or for each: only their sum says something.

    Raises:
        TypeError, ValueError: Types or shapes do not fit.
    """
    chosen = assignment.labels() if isinstance(assignment, Assignment) else assignment
    if isinstance(chosen, Tensor) and chosen.is_floating_point():
        return _soft_sums(batch, chosen, is_open)
    check_ids("assignment", chosen, batch.given)
    n_classes, k = is_open.shape
    solved = assignment if isinstance(assignment, Assignment) else None
    found = kernel_sums(batch.given, batch.labels, batch.used, batch.dtype, chosen, is_open, solved)
    if found is not None:
        return found
    chosen = chosen.to(torch.int64)
    counted = batch.owner < n_classes
    own = batch.owner.clamp(max=n_classes - 1)
    fits = (chosen >= 0) & (chosen < k) & is_open[own, chosen.clamp(0, k - 1)]
    places = torch.where(counted & fits, own * k + chosen, n_classes * k)
    sums, counts = place_sums(batch.features, places, n_classes * k)
    return sums, counts, counted & ~fits & (chosen != -1)


def _soft_sums(batch: Batch, weights: Tensor, is_open: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n_classes, k = is_open.shape
    features = batch.features
    check_rows("assignment", weights, features, k)
    weights = weights.to(features.dtype)
    counted = (batch.owner < n_classes)[:, None]
    own = batch.owner.clamp(max=n_classes - 1)
    fits = (weights >= 0) & torch.isfinite(weights) & (is_open[own] | (weights == 0))
    bad = counted & ~fits
    if n_classes == 1:
        weights = torch.where(counted & fits, weights, 0.0)
        features = features if batch.used is None else torch.where(counted, features, 0.0)
        return weights.T @ features, weights.sum(dim=0), bad
    places = own[:, None] * k + torch.arange(k, device=own.device)
    places = torch.where(counted & fits, places, n_classes * k)
    return *place_sums(features, places, n_classes * k, weights), bad


def raise_bad_assignment(batch: Batch, assignment: Any, is_open: Tensor) -> None:
    """Raise for an assignment that cannot be, saying what is wrong with it."""
    chosen = assignment.labels() if isinstance(assignment, Assignment) else assignment
    n_classes, k = is_open.shape
    counted = batch.owner < n_classes
    chosen, owner = chosen[counted], batch.owner[counted]
    if not chosen.is_floating_point():
        check_range("assignment", chosen, -1, k)
        wrong = (chosen >= 0) & ~is_open[owner, chosen.clamp(min=0)]
    else:
        if not bool((torch.isfinite(chosen) & (chosen >= 0)).all()):
            raise ValueError("assignment must hold weights that are finite and not negative")
        wrong = ((chosen > 0) & ~is_open[owner]).any(dim=1)
    if bool(wrong.any()):
        label = int(owner[wrong][0])
        raise ValueError(
            f"assignment gives a sample to a centroid that class {label} does not have: it has {int(is_open[label].sum())} "
            "(close the others with cluster_share=store.is_open)"
        )
