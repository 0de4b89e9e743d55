"""How a figure is taken: two or more candidates in turn, medians of all, ratios within each turn."""

from __future__ import annotations

import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import otcluster

_TURN = 0.05  # seconds


def side_by_side(candidates: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of a call of each candidate, measured in turn so that a slow moment of the machine meets them all.

    A quick candidate is called several times in its turn, for all to work as warm as in a loop of their own.
    """
    calls = {}
    for name, call in candidates.items():
        call()
        start = time.perf_counter()
        call()
        calls[name] = max(1, round(_TURN / max(time.perf_counter() - start, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                call()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return seconds


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Median of the ratios of the turns: how many times faster ours is."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def peak_memory(call: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of this process grows at most during a call (Linux)."""

    def now(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

    if "linux" in sys.platform:  # freed memory that the allocator keeps would be used again unseen
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = now("VmRSS")
    call()
    return now("VmHWM") - before


def copy_speed(n_bytes: int = 1 << 28) -> float:
    """Bytes a second that are read while a large tensor is copied, the best of five."""
    source = torch.zeros(n_bytes // 4)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return n_bytes / min(seconds[1:])


def device() -> str:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return f"{cpu}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Of what was measured."""
    return {"otcluster": otcluster.__version__, "torch": torch.__version__, "numpy": np.__version__}
