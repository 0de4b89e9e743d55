"""Ranks as processes: what a launcher does, without one."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


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


def start(n_ranks, *arguments):
    """``python *arguments`` on each of ``n_ranks`` ranks, of which each is a process of its own; the processes."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **variables(rank, n_ranks, port)},
        )
        for rank in range(n_ranks)
    ]


def end(processes, seconds=240):
    """Wait for all of them: (exit code, output, errors) of each."""
    try:
        return [(process.returncode, *texts) for process in processes for texts in [process.communicate(timeout=seconds)]]
    finally:
        for process in processes:
            process.kill()


def run(n_ranks, function, folder):
    """Call ``function``, "module:name", with ``folder`` on each rank; raise unless all end well."""
    for rank, (code, _, errors) in enumerate(end(start(n_ranks, "-m", "tests.processes", function, str(folder)))):
        assert code == 0, f"rank {rank}: {errors}"


if __name__ == "__main__":
    module, name = sys.argv[1].split(":")
    getattr(importlib.import_module(module), name)(Path(sys.argv[2]))
