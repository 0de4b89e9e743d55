"""What every store asks of features and ids before it changes anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_number(name: str, value: Any, least: int) -> int:
    """Return ``value`` as an int, or raise unless it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_features(features: Any, dim: int, device: torch.device, owner: str) -> None:
    """Raise unless ``features`` are finite vectors of length ``dim`` on the device of their owner."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        got = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"features must be a floating-point tensor, got {got}")
    if features.ndim != 2 or features.shape[1] != dim:
        raise ValueError(f"features must have shape (n, {dim}), got {tuple(features.shape)}")
    if features.device != device:
        raise ValueError(f"features are on {features.device}, the {owner} is on {device}: move one to the other")
    if not bool(features.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinity")


def check_ids(name: str, ids: Any, features: Tensor, least: int | None = None, stop: int | None = None) -> None:
    """Raise unless ``ids`` are integers, one for each of ``features``, in [least, stop) where that is given."""
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if ids.shape != features.shape[:1]:
        raise ValueError(f"{name} must have shape ({len(features)},), one per feature, got {tuple(ids.shape)}")
    if ids.device != features.device:
        raise ValueError(f"{name} are on {ids.device}, the features on {features.device}: move one to the other")
    if least is None or stop is None or not len(ids):
        return
    low, high = torch.stack([ids.min(), ids.max()]).tolist()
    if low < least or high >= stop:
        raise ValueError(f"{name} must lie in [{least}, {stop}), got values from {low} to {high}")
