"""What kernels do of an update, where a device has them; what they do not, torch does, and that is the definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otcluster._kernels import select
from otcluster.assignment import Assignment

_MOST_CENTROIDS = 32
_MOST_COUNTS = 1024
_LONGEST = 8192


def kernel_sums(
    features: Tensor,
    labels: Tensor | None,
    used: Tensor | None,
    dtype: torch.dtype,
    chosen: Tensor,
    is_open: Tensor,
    solved: Assignment | None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Sums of what goes to each centroid, as by :func:`otcluster.stores.batch.assigned_sums`.

    Args:
        features: (n, d), of any floating dtype.
        labels: The class of each, integers (n,); None without classes.
        used: Which are not masked out, booleans (n,); None for all.
        dtype: Of the sums.
        chosen: The centroid of its class that each goes to, integers (n,).
        is_open: Which centroids there are, booleans (n_classes, k).
        solved: Where ``chosen`` is from: if its problem was grouped by the same labels, they have been sorted already.

    Returns:
        Sums (n_classes * k, d), counts (n_classes * k,) and impossible choices, of which only the sum says something;
        None where no kernel does it.
    """
    if not select.may_be_there(features.device):
        return None
    n_classes, k = is_open.shape
    objections = (
        None if dtype == torch.float32 else f"a store in {dtype} is updated without kernels",
        None if k <= _MOST_CENTROIDS else f"the sums of more than {_MOST_CENTROIDS} centroids of a class do not fit on chip",
    )
    if not select.takes("the sums of a store", (features, is_open), objections):
        return None
    from otcluster._kernels import updates

    order, starts = (None, None) if labels is None else _sorted(labels, n_classes, solved)
    mask = None if used is None else used.contiguous()
    found = updates.class_sums(features.detach(), order, starts, chosen.contiguous(), mask, is_open)
    return updates.parted(found, n_classes, k, features.shape[1])


def absorbed_by_kernel(
    kept: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    is_open: Tensor,
    momentum: float | Tensor,
    unit: bool,
) -> bool:
    """Take the step of a store in place, where there is a kernel for it: whether it has been taken.

    Args:
        kept: Centroids, usage, age, number of updates, and lengths or None, as a store has them.
        parts: Sums (n_classes * k, d) and counts (n_classes * k,) of the samples; what centroids and sums are multiplied
            with, both (n_classes * k,).
        is_open: Which centroids there are.
        momentum: Of the usage.
        unit: Whether centroids get unit length.
    """
    rows, usage, age, n_updates, lengths = kept
    if not select.may_be_there(rows.device):
        return False
    sums, counts, keep, add = parts
    given = momentum if isinstance(momentum, Tensor) else None
    k, d = rows.shape[-2:]
    objections = (
        None if d <= _LONGEST else f"a centroid of more than {_LONGEST} dimensions does not fit on chip",
        None if k <= _MOST_COUNTS else f"the counts of more than {_MOST_COUNTS} centroids of a class do not fit on chip",
        None if keep.shape == add.shape == counts.shape else "the averaging gives other than one share for each centroid",
        None if given is None or (given.device == rows.device and not given.ndim) else "momentum is on another device",
    )
    if not select.takes("the step of a store", (rows, usage, sums, counts, keep, add, is_open), objections):
        return False
    from otcluster._kernels import updates

    number = 0.0 if isinstance(momentum, Tensor) else float(momentum)
    updates.absorb(rows, usage, age, n_updates, lengths, sums, counts, is_open, keep, add, given, number, unit)
    return True


def _sorted(labels: Tensor, n_classes: int, solved: Assignment | None) -> tuple[Tensor, Tensor]:
    """Rows sorted by class, (n,), and where each class begins there, (n_classes + 1,)."""
    problem: Any = None if solved is None else solved.problem
    # Whether labels were changed since, the assignment has looked when it was asked for its own.
    if problem is not None and problem.given.get("groups") is labels and problem.n_groups == n_classes:
        order, starts = problem.sorted_rows
        return order, starts
    ids, order = torch.sort(labels.to(torch.int64), stable=True)
    return order, torch.searchsorted(ids, torch.arange(n_classes + 1, device=ids.device))
