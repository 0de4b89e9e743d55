"""What a store is given at an update: checked, and laid out by class and centroid."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from otcluster.assignment import Assignment
from otcluster.stores.checks import check_features, check_ids, check_range, check_rows
from otcluster.stores.sums import place_sums


class Batch(NamedTuple):
    """Features (n, d) in the dtype of the store, and the class of each: 0 without classes, ``n_classes`` if it is left out."""

    features: Tensor
    owner: Tensor
    labels: Tensor | None
    """As they were given."""
    used: Tensor | None
    """Which are not masked out; None for all."""
    n_bad: Tensor
    """How many labels are out of range, (); those are left out."""


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
        owner = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        n_bad = owner.new_zeros(())
        owner = owner if sample_mask is None else torch.where(sample_mask, owner, 1)
    else:
        if labels is None:
            raise ValueError(f"labels are needed: the store has {n_classes} classes")
        check_ids("labels", labels, features)
        owner = labels.to(torch.int64)
        fits = (owner >= 0) & (owner < n_classes)
        bad = ~fits if sample_mask is None else sample_mask & ~fits
        n_bad = bad.sum()
        owner = torch.where(fits if sample_mask is None else fits & sample_mask, owner, n_classes)
    return Batch(features.to(layout.rows.dtype), owner, labels, sample_mask, n_bad)


def raise_bad_labels(batch: Batch, n_classes: int) -> None:
    """Raise for labels out of range."""
    labels = batch.labels
    if labels is not None:
        check_range("labels", labels if batch.used is None else labels[batch.used], 0, n_classes)


def assigned_sums(batch: Batch, assignment: Any, is_open: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (n_classes * k, d) and counts (n_classes * k,) of what goes to each centroid; how many assignments are impossible.

    Raises:
        TypeError, ValueError: Types or shapes do not fit.
    """
    chosen = assignment.labels() if isinstance(assignment, Assignment) else assignment
    if isinstance(chosen, Tensor) and chosen.is_floating_point():
        return _soft_sums(batch, chosen, is_open)
    check_ids("assignment", chosen, batch.features)
    n_classes, k = is_open.shape
    chosen = chosen.to(torch.int64)
    counted = batch.owner < n_classes
    own = batch.owner.clamp(max=n_classes - 1)
    fits = (chosen >= 0) & (chosen < k) & is_open[own, chosen.clamp(0, k - 1)]
    places = torch.where(counted & fits, own * k + chosen, n_classes * k)
    sums, counts = place_sums(batch.features, places, n_classes * k)
    return sums, counts, (counted & ~fits & (chosen != -1)).sum()


def _soft_sums(batch: Batch, weights: Tensor, is_open: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n_classes, k = is_open.shape
    features = batch.features
    check_rows("assignment", weights, features, k)
    weights = weights.to(features.dtype)
    counted = (batch.owner < n_classes)[:, None]
    own = batch.owner.clamp(max=n_classes - 1)
    fits = (weights >= 0) & torch.isfinite(weights) & (is_open[own] | (weights == 0))
    n_bad = (counted & ~fits).sum()
    if n_classes == 1:
        weights = torch.where(counted & fits, weights, 0.0)
        features = features if batch.used is None else torch.where(counted, features, 0.0)
        return weights.T @ features, weights.sum(dim=0), n_bad
    places = own[:, None] * k + torch.arange(k, device=own.device)
    places = torch.where(counted & fits, places, n_classes * k)
    return *place_sums(features, places, n_classes * k, weights), n_bad


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
