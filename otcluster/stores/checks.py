"""What every store asks of features and ids before it changes anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_features(features: Any, dim: int, device: torch.device, owner: str) -> None:
    """Raise unless ``features`` are vectors of length ``dim`` on the device of their owner."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        got = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"features must be a floating-point tensor, got {got}")
    if features.ndim != 2 or features.shape[1] != dim:
        raise ValueError(f"features must have shape (n, {dim}), got {tuple(features.shape)}")
    if features.device != device:
        raise ValueError(f"features are on {features.device}, the {owner} is on {device}: move one to the other")


def check_finite(features: Tensor) -> None:
    """Raise if a feature is NaN or infinite."""
    values = features.detach()
    # The sum shows it in one reading; each is looked at only where that overflows.
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinity")


def check_ids(name: str, ids: Any, features: Tensor) -> None:
    """Raise unless ``ids`` are integers, one for each of ``features``."""
    whole = isinstance(ids, Tensor) and not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole:
        raise TypeError(f"{name} must be an integer tensor, got {ids.dtype if isinstance(ids, Tensor) else type(ids).__name__}")
    check_rows(name, ids, features)


def check_rows(name: str, values: Tensor, features: Tensor, *tail: int) -> None:
    """Raise unless ``values`` have one row of shape ``tail`` for each of ``features``, on their device."""
    if values.shape != (len(features), *tail):
        wanted = (len(features), *tail)
        raise ValueError(f"{name} must have shape {wanted}, one {'row ' if tail else ''}per feature, got {tuple(values.shape)}")
    if values.device != features.device:
        raise ValueError(f"{name} are on {values.device}, the features on {features.device}: move one to the other")


def check_range(name: str, ids: Tensor, least: int, stop: int) -> None:
    """Raise unless all ``ids`` lie in [least, stop)."""
    if not len(ids):
        return
    low, high = torch.stack([ids.min(), ids.max()]).tolist()
    if low < least or high >= stop:
        raise ValueError(f"{name} must lie in [{least}, {stop}), got values from {low} to {high}")


def may_look(check_values: bool) -> bool:
    """Whether values may be looked at, for which the device is waited for."""
    return check_values and not torch.compiler.is_compiling()


def refuse_closed(store: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Add an error to those of loading where ``state`` has centroids that ``store`` was made without, in classes of fewer."""
    given = state.get(f"{prefix}centroids")
    if store.has_room or not isinstance(given, Tensor) or given.is_meta or given.shape != store.centroids.shape:
        return
    if bool((given[~store.is_open.to(given.device)] != 0).any()):
        counts = store.is_open.sum(dim=-1).tolist()
        rest[-1].append(
            f"{prefix}centroids has centroids in other classes than n_centroids={counts}: make the store as the saved one"
        )
