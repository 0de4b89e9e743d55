"""Compiled loops over rows for arrays in host memory: what a pass does with a row, done while the row is in the cache.

They need numba (``pip install 'otcluster[fast]'``) and are then used wherever they apply. Without it, or with
``OTCLUSTER_COMPILED=0`` in the environment, passes are made of the primitives of :mod:`otcluster._ops.generic`, which define
the results. A machine compiles each loop once.

The exponent of an entry is ``(score + near - top) * inverse + after``, in bits: exponentials are powers of two. Where nothing
can overflow, ``near`` is left out and one ``base`` serves as ``top``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

BELOW = 4.0
"""How many bits exponents are kept below zero. There floats lie so far apart that different exponents have different powers of
two, also after their rounding; further below, the digits of potentials would be lost."""

_loading = threading.Lock()  # what is loaded twice at once would be two modules of one name
_limiting = threading.Lock()
_limit: Any = None
_limited = 0  # how many threads hold the limit
_WORTH_A_THREAD = 1 << 16  # scores; below this, handing out work costs more than it saves


def kernels(dtype: str, file: str = "loops") -> Any:
    """The loops of a file for arrays of the dtype of this name, or None where they cannot be had; why not goes to the log."""
    if dtype not in ("float32", "float64") or os.environ.get("OTCLUSTER_COMPILED", "1") == "0":
        return None
    if not _numba_is_there():
        return None
    with _loading:
        return _load(file, dtype)


@functools.cache
def _numba_is_there() -> bool:
    found = importlib.util.find_spec("numba") is not None
    if not found:
        logger.debug("passes are not compiled: numba is not installed (pip install 'otcluster[fast]')")
    return found


def available_threads() -> int:
    """How many threads there are work for: ``OMP_NUM_THREADS`` where it is set, else the processors this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_rows(n_rows: int, n_columns: int, n_threads: int, work: Callable[[int, int, int], None]) -> None:
    """Call ``work(thread, start, stop)`` for ranges that cover the rows, on as many threads as are worth it."""
    n_threads = max(1, min(n_threads, n_rows, n_rows * n_columns // _WORTH_A_THREAD))
    if n_threads == 1:
        work(0, 0, n_rows)
        return
    edges = [n_rows * at // n_threads for at in range(n_threads + 1)]
    pool = _pool(n_threads - 1)
    rest = [pool.submit(work, at, edges[at], edges[at + 1]) for at in range(1, n_threads)]
    work(0, edges[0], edges[1])
    for each in rest:
        each.result()


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """A context in which matrix products start no threads, since there is a thread for each of them already.

    The limit is the process's. Of several threads that ask for it, the first sets it and the last takes it back.
    """
    global _limit, _limited
    found = _thread_pools()
    with _limiting:
        _limited += 1
        if _limited == 1 and found is not None:
            _limit = found.limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _limiting:
            _limited -= 1
            if _limited == 0 and _limit is not None:
                _limit.restore_original_limits()
                _limit = None


@functools.cache
def _thread_pools() -> Any:
    if importlib.util.find_spec("threadpoolctl") is None:
        logger.debug("matrix products in loops start threads of their own: threadpoolctl is not installed")
        return None
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="otcluster")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def two_best(loops: Any, values: Any, n_threads: int) -> tuple[Any, Any]:
    """The two largest entries of each row of a matrix: their places and their values, (2, rows) both."""
    where = np.empty((2, len(values)), dtype=np.int64)
    what = np.empty((2, len(values)), dtype=values.dtype)
    over_rows(
        values.shape[0],
        values.shape[1],
        n_threads,
        lambda thread, start, stop: loops.two_best(values, start, stop, where, what),
    )
    return where, what


def extremes(loops: Any, values: Any, n_threads: int) -> tuple[Any, Any]:
    """The smallest and the largest entry, NaN where there is one."""
    rows = values.reshape(-1, values.shape[-1])
    found = np.full((n_threads, 2), [np.inf, -np.inf], dtype=values.dtype)
    bits = rows.view(f"i{values.dtype.itemsize}")
    over_rows(rows.shape[0], rows.shape[1], n_threads, lambda thread, *span: loops.extremes(rows, bits, *span, found[thread]))
    return found[:, 0].min(), found[:, 1].max()


@functools.cache
def _load(file: str, name: str) -> ModuleType:
    """The loops for float32 or float64, compiled or found on disk."""
    spec = importlib.util.spec_from_file_location(f"{__package__}.{file}_{name}", Path(__file__).with_name(f"{file}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["REAL"] = np.dtype(name).type
    sys.modules[spec.name] = module  # where numba looks for the module of what it finds on disk
    spec.loader.exec_module(module)
    return module
