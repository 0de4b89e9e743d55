"""Random choices that follow from counters and features alone: the same on every rank, without the state of a generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The finaliser of splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014), as signed integers.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_BITS = 24
_FINENESS = 4096.0  # periods of a lot along a unit vector: samples that differ by less than its inverse may draw alike


def uniform(shape: tuple[int, ...], device: torch.device, *keys: int | Tensor) -> Tensor:
    """Numbers strictly between 0 and 1 that depend on ``keys`` alone; float32, so that they are the same on every device."""
    bits = torch.arange(math.prod(shape), device=device)
    for key in keys:
        bits = _mixed(bits * _STEP + key)
    return ((bits & ((1 << _BITS) - 1)).to(torch.float32) + 0.5).view(shape) / (1 << _BITS)


def directions(shape: tuple[int, ...], like: Tensor, *keys: int | Tensor) -> Tensor:
    """Entries of mean 0 and variance 1 that depend on ``keys`` alone, in the dtype and on the device of ``like``."""
    return ((uniform(shape, like.device, *keys) - 0.5) * math.sqrt(12)).to(like.dtype)


def lots(features: Tensor, *keys: int | Tensor) -> Tensor:
    """A number in [0, 1) for each feature, (n,), that depends on what the feature is and not on where it stands.

    So a sample draws the same lot whichever rank holds it. Rounding of the features moves a lot a little; copies draw alike.
    Features of one direction differ by the logarithms of their lengths.
    """
    way = directions((features.shape[1] + 1,), features, *keys)
    along = torch.mv(features, way[:-1])
    length = torch.linalg.vector_norm(features, dim=1).clamp(min=torch.finfo(features.dtype).tiny)
    return torch.remainder((along / length + way[-1] * length.log()) * _FINENESS, 1.0)


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # zeros from the left, where >> brings copies of the sign
