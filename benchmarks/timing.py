"""How a figure is taken: candidates in turn, medians of all, ratios within each turn, and the memory that a call takes."""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import otcluster

_TURN = 0.05  # seconds
_SLOW = 2.0  # seconds; who takes longer is called once
_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


@dataclass
class Measured:
    """Calls of one candidate: seconds of each turn, bytes at the peak beyond what was there before, and an answer."""

    seconds: list[float]
    memory: int | None
    answer: Any

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def measure(candidates: dict[str, Callable[[], Any]], repeats: int, slow: float | None = None) -> dict[str, Measured]:
    """Memory and answer of a warm call of each candidate, and its seconds in turns; of a slow one all from its first call."""
    measured = {name: once(call) for name, call in candidates.items()}
    quick = {name: call for name, call in candidates.items() if measured[name].seconds[0] < (slow or _SLOW)}
    for name, call in quick.items():
        measured[name] = once(call)
    for name, seconds in side_by_side(quick, repeats).items():
        measured[name].seconds = seconds
    return measured


def once(call: Callable[[], Any]) -> Measured:
    """One call."""
    measured = Measured([], None, None)

    def timed() -> None:
        start = time.perf_counter()
        measured.answer = call()
        measured.seconds.append(time.perf_counter() - start)

    measured.memory = peak_memory(timed)
    return measured


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
    """How many times faster ours is: the median of the ratios of the turns; where one was called once, that of the medians."""
    if len(theirs) == len(ours):
        return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    return statistics.median(theirs) / statistics.median(ours)


def peak_memory(call: Callable[[], Any]) -> int | None:
    """Bytes by which the resident memory of this process grows at most during a call; ``None`` where Linux does not tell.

    It sees every allocator (NumPy's, torch's, JAX's, those of compiled code), but of memory only what was written to.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        call()
        return None

    def now(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

    gc.collect()  # what waits to be freed, or was freed and is kept by the allocator, would be used again unseen
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = now("VmRSS")
    call()
    return max(0, now("VmHWM") - before)


@dataclass
class Growth:
    """How many bytes of its own a process held at most beyond those before, as far as it was looked at."""

    most: int = 0


@contextmanager
def private_memory(every: float = 0.02) -> Iterator[Growth]:
    """Watch the memory that is this process's alone: not the pages of files, which the system can take back."""

    def now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before, growth, done = now(), Growth(), threading.Event()

    def watch() -> None:
        while not done.wait(every):
            growth.most = max(growth.most, now() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()


def one_heap() -> None:
    """Let all threads of this process share one heap of the C library (glibc), for :func:`peak_memory` to see all of it.

    With a heap for each thread, what the threads of JAX freed would stay resident, and be used again unseen.
    """
    if hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns in a new process, where nothing of this one is in the way; all of it as JSON."""
    code = (
        "import json, sys; from benchmarks.timing import one_heap; one_heap(); "
        f"from {function.__module__} import {function.__qualname__} as call; "
        "print(json.dumps(call(*json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    root = Path(__file__).parent.parent
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout)


@functools.cache
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


@functools.cache
def product_speed(n: int = 2048) -> float:
    """Operations a second of a product of large float32 matrices, the best of five."""
    one, two = np.ones((n, n), np.float32), np.ones((n, n), np.float32)
    result = np.empty_like(one)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        np.matmul(one, two, out=result)
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds[1:])


def device() -> str:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return f"{cpu}, {torch.get_num_threads()} threads"


def versions(*packages: str) -> dict[str, str]:
    """Of what was measured: ourselves, what we compute with, and the packages of a peer, as far as they are installed."""
    found = {"Python": platform.python_version(), "otcluster": otcluster.__version__, "torch": torch.__version__}
    for package in ("numpy", "scipy", "numba", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
