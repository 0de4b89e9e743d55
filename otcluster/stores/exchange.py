"""What the ranks of a store exchange at an update: sums and counts at once, and what is wrong on any of them with these."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from otcluster.distributed import Reducer, check_reducer
from otcluster.solvers.base import check_number
from otcluster.stores.batch import Batch, Layout, assigned_sums, raise_bad_assignment, raise_bad_labels, take_in
from otcluster.stores.checks import check_finite

_FAULTS = (TypeError, ValueError, RuntimeError)


class Parts(NamedTuple):
    """The batch of this rank, and over all ranks: sums (n_classes * k, d), counts (n_classes * k,), impossible values ().

    Those are None where nobody asks for them.
    """

    batch: Batch
    sums: Tensor
    counts: Tensor
    n_bad: Tensor | None


def collect(layout: Layout, given: tuple[Any, Any, Any, Any], reducer: Reducer | None, looks: bool) -> Parts:
    """Sum what goes to each centroid, in one exchange.

    Args:
        layout: The centroids.
        given: Features, labels, assignment and mask of this rank's samples.
        reducer: The sums over the ranks; None where all samples are here.
        looks: Whether impossible values are asked for. With ``reducer`` they are counted anyway: another rank may ask.

    Raises:
        TypeError, ValueError, RuntimeError: What is given on this rank does not fit. The others are told, by ``n_bad``.
    """
    check_reducer(reducer)
    if reducer is None:
        return _own_parts(layout, *given, looks)
    fault: Exception | None = None
    try:
        parts = _own_parts(layout, *given, True)
    except _FAULTS as error:  # the others wait for the part of this rank
        fault = error
        rows = layout.rows
        parts = Parts(_nothing(layout), torch.zeros_like(rows), rows.new_zeros(len(rows)), rows.new_ones(()))
    shape = parts.sums.shape
    assert parts.n_bad is not None
    packed = reducer.sum(torch.cat([parts.sums.flatten(), parts.counts, parts.n_bad[None].to(layout.rows.dtype)]))
    if fault is not None:
        raise fault
    sums, counts, n_bad = packed.split([shape.numel(), shape[0], 1])
    return Parts(parts.batch, sums.view(shape), counts, n_bad[0])


def look(layout: Layout, parts: Parts, assignment: Any, momentum: float | Tensor) -> None:
    """Raise, on all ranks, if a value is impossible on any; the device is waited for once.

    Raises:
        TypeError: The momentum is no number.
        ValueError: Labels or assignments are out of range, features are not finite, or the momentum is none.
    """
    assert parts.n_bad is not None
    least, greatest = torch.aminmax(parts.sums)
    if isinstance(momentum, Tensor):
        share = momentum.to(least.device)
    else:
        check_number("momentum", momentum)
        share = least.new_full((), momentum)
    n_bad, low, high, share_now = torch.stack([each.to(least.dtype) for each in (parts.n_bad, least, greatest, share)]).tolist()
    if n_bad:
        raise_bad_labels(parts.batch, len(layout.is_open))
        raise_bad_assignment(parts.batch, assignment, layout.is_open)
        _raise_elsewhere()
    if not -torch.inf < low <= high < torch.inf:
        raise ValueError("features must be finite, got NaN or infinity, or numbers whose sum is too large for their dtype")
    if not 0 <= share_now <= 1:
        raise ValueError(f"momentum must lie in [0, 1], and its schedule gave {share_now}")


def checked(layout: Layout, given: tuple[Any, Any, Any], reducer: Reducer | None, owner: str = "store") -> Batch:
    """The batch of features, labels and mask, its values looked at; an error of one rank is raised on all.

    Raises:
        TypeError, ValueError: What is given does not fit, here or on another rank.
    """
    check_reducer(reducer)
    try:
        batch = take_in(layout, *given)
        raise_bad_labels(batch, len(layout.is_open))
        check_finite(batch.features if batch.used is None else batch.features[batch.used])
    except _FAULTS:
        if reducer is not None:
            reducer.sum(layout.rows.new_ones(1))
        raise
    if reducer is not None and bool(reducer.sum(layout.rows.new_zeros(1))):
        _raise_elsewhere(owner)
    return batch


def _own_parts(layout: Layout, features: Any, labels: Any, assignment: Any, sample_mask: Any, looks: bool) -> Parts:
    batch = take_in(layout, features, labels, sample_mask)
    sums, counts, bad = assigned_sums(batch, assignment, layout.is_open)
    return Parts(batch, sums, counts, bad.sum() + batch.n_bad if looks else None)


def _nothing(layout: Layout) -> Batch:
    rows = layout.rows
    return Batch(rows.new_zeros(0, rows.shape[1]), None, None, len(layout.is_open), rows.dtype)


def _raise_elsewhere(owner: str = "store") -> None:
    raise ValueError(f"what another rank gave its {owner} does not fit: see the error there")
