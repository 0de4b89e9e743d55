"""How much of a centroid stays at an update, where that changes in the course of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from otcluster.checks import check_whole

Schedule = Callable[[Tensor], "float | Tensor"]
"""From the number of updates done, an integer tensor of shape (), to a momentum in [0, 1]."""


@dataclass(frozen=True)
class CosineMomentum:
    """A momentum that goes from ``first`` to ``last`` along half a cosine, and stays there.

    Args:
        first: Momentum of the first update, in [0, 1].
        last: Momentum after ``n_updates`` updates, in [0, 1].
        n_updates: After how many updates ``last`` is reached.

    Raises:
        TypeError: A number is no number.
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> schedule = CosineMomentum(0.9, 1.0, n_updates=100)
        >>> [round(float(schedule(torch.tensor(done))), 4) for done in (0, 50, 100, 1000)]
        [0.9, 0.95, 1.0, 1.0]

    Source: Grill et al., "Bootstrap your own latent" (2020), appendix.
    """

    first: float
    last: float
    n_updates: int

    def __post_init__(self) -> None:
        check_momentum("first", self.first)
        check_momentum("last", self.last)
        check_whole("n_updates", self.n_updates, 1)

    def __call__(self, done: Tensor) -> Tensor:
        """The momentum after ``done`` updates."""
        wide = torch.float32 if done.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        part = (done.to(wide) / self.n_updates).clamp(max=1)
        return self.last + (self.first - self.last) * (torch.cos(math.pi * part) + 1) / 2


def check_momentum(name: str, value: object) -> float:
    """Return ``value`` as a float, or raise unless it is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}")
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return number
