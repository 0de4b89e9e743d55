"""How much of a training step one part of it takes, looked at so seldom that looking costs nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_PASSED_OVER = 3  # steps; what runs for the first time takes longer


@dataclass
class Times:
    """Seconds that the steps looked at took, and that the part of them took."""

    whole: float = 0.0
    part: float = 0.0

    @property
    def share(self) -> float | None:
        """The share of the part; None before a step was looked at."""
        return self.part / self.whole if self.whole else None


class StepWatch:
    """Times one step in ``every``, and a part of it. An accelerator is waited for around these alone.

    Args:
        device: Where the work is done.
        times: To which it is added.
        every: One in how many steps.

    Example:
        >>> watch = StepWatch(torch.device("cpu"), Times())
        >>> for step in range(100):
        ...     with watch.whole(step):
        ...         with watch.part(step):
        ...             pass
        >>> 0 <= watch.times.share <= 1
        True
    """

    def __init__(self, device: torch.device, times: Times, every: int = 20) -> None:
        self.device, self.times, self.every = device, times, every

    @contextmanager
    def whole(self, step: int) -> Iterator[None]:
        """Around a step."""
        start = self._now(step)
        yield
        self.times.whole += self._now(step) - start

    @contextmanager
    def part(self, step: int) -> Iterator[None]:
        """Around the part."""
        start = self._now(step)
        yield
        self.times.part += self._now(step) - start

    def _now(self, step: int) -> float:
        """The time on the clock; always 0 for a step that is not looked at."""
        if step % self.every != min(_PASSED_OVER, self.every - 1):
            return 0.0
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()
