"""Processes that are forked from one with everything imported, and ranks of them: what a launcher does, without one.

Importing torch, timm and the rest takes a new interpreter seconds; a fork has them. What is seen from the outside, such as the
command line and what is imported at all, is tried in interpreters of its own elsewhere.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parent.parent
_IMPORTED = ["pytest", "numba", "sklearn.datasets", "otcluster.dnc.commands", "tests.strategies"]  # those that are there


@functools.cache
def forks():
    """The context of multiprocessing whose processes are such forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


@dataclass(frozen=True)
class Fork:
    """A process, and the files of what it prints."""

    process: BaseProcess
    output: Path
    errors: Path


def start(function, *arguments, variables=None):
    """Call ``function``, "module:name", in a process of its own, under some variables of the environment: its :class:`Fork`."""
    folder = Path(tempfile.mkdtemp(prefix="otcluster-fork-"))
    output, errors = folder / "output", folder / "errors"
    process = forks().Process(target=_call, args=(function, arguments, variables or {}, output, errors))
    process.start()
    return Fork(process, output, errors)


def _call(function, arguments, variables, output, errors):
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.update(variables)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    module, name = function.split(":")
    getattr(importlib.import_module(module), name)(*arguments)


def end(forks, seconds=240):
    """Wait for all of them: (exit code, output, errors) of each."""
    latest = time.monotonic() + seconds
    try:
        for fork in forks:
            fork.process.join(max(latest - time.monotonic(), 0))
            assert not fork.process.is_alive(), f"a process has not ended after {seconds} seconds: {fork.errors.read_text()}"
        return [(fork.process.exitcode, fork.output.read_text(), fork.errors.read_text()) for fork in forks]
    finally:
        for fork in forks:
            fork.process.kill()


def variables(rank, n_ranks, port):
    """What a launcher tells each of ``n_ranks`` processes of one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_ranks),
        "LOCAL_WORLD_SIZE": str(n_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_ranks(n_ranks, function, folder):
    """Call ``function``, "module:name", with ``folder`` on each of ``n_ranks`` ranks, of which each is a process of its own."""
    port = free_port()
    return [start(function, folder, variables=variables(rank, n_ranks, port)) for rank in range(n_ranks)]


def run_ranks(n_ranks, function, folder):
    """As :func:`start_ranks`; raise unless all end well."""
    for rank, (code, _, errors) in enumerate(end(start_ranks(n_ranks, function, folder))):
        assert code == 0, f"rank {rank}: {errors}"
