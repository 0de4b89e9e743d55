"""How kernels are made and launched: compiled, traced by torch.compile, or interpreted on the host."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
import triton

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether kernels are run by NumPy, on the host: slow, for tests. It is decided when this is imported."""

_SHARED = 96 << 10  # bytes of shared memory, where torch does not say
_traced = False


def jit(function: Callable[..., Any]) -> Any:
    """A kernel, or what one is made of."""
    return triton.jit(function)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run ``kernel`` on a grid of programs; nothing where there are none."""
    if 0 in grid:
        return
    (torch.library.wrap_triton(kernel) if _traced else kernel)[grid](*arguments, **options)


def operator(function: Callable[..., Any] | None = None, *, mutates: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Let torch.compile see ``function``, which launches kernels, as one operator; called without it, it is what it was.

    The dispatcher costs more than the launches of a small problem, so nothing goes through it but what is compiled. Arguments
    that kernels write to are named by ``mutates``: torch counts the change, as of its own operations.
    """
    if function is None:
        return functools.partial(operator, mutates=mutates)
    plain = function
    written = [place for place, name in enumerate(inspect.signature(plain).parameters) if name in mutates]

    @functools.wraps(plain)
    def counted(*arguments: Any) -> Any:
        answer = plain(*arguments)
        torch.autograd.graph.increment_version([arguments[place] for place in written if arguments[place] is not None])
        return answer

    direct = counted if written else plain
    if INTERPRETED:
        return direct

    @functools.wraps(plain)
    def traced(*arguments: Any) -> Any:
        global _traced
        before, _traced = _traced, True
        try:
            return plain(*arguments)
        finally:
            _traced = before

    traced.__signature__ = inspect.signature(plain, eval_str=True)  # type: ignore[attr-defined]
    registered = torch.library.triton_op(f"otcluster::{plain.__name__}", traced, mutates_args=mutates)

    @functools.wraps(plain)
    def called(*arguments: Any) -> Any:
        return (registered if torch.compiler.is_compiling() else direct)(*arguments)

    return called


@functools.cache
def processors(device: torch.device) -> int:
    """How many multiprocessors there are."""
    return 4 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def shared_memory(device: torch.device) -> int:
    """How many bytes of shared memory a program may take."""
    if INTERPRETED:
        return 1 << 18
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", _SHARED))


def power(least: int, most: int, value: float) -> int:
    """The smallest power of two that is at least ``value``, within the two given."""
    found = least
    while found < value and found < most:
        found *= 2
    return found
