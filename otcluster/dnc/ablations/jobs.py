"""Several runs at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from otcluster.dnc.ablations.comparison import Outcome
from otcluster.dnc.ablations.plan import Run
from otcluster.dnc.ablations.training import lost, trained
from otcluster.runs.interruption import Interrupted

_LOOK_SECONDS = 0.2  # how often signals are looked for while nobody tells anything
_QUIET_SECONDS = 0.5  # between two messages of a process


@dataclass
class _Worker:
    """A process, the connection to it and the run that it is at."""

    process: BaseProcess
    connection: Connection
    run: Run | None = None


def run_jobs(
    runs: Sequence[Run],
    out: Path,
    jobs: int,
    caught: list[int],
    *,
    moved: Callable[[Run, float], None],
    ended: Callable[[Run, Outcome], None],
) -> None:
    """Train the runs in ``jobs`` processes, each of which takes the next run when it has ended one.

    Processors are shared out among them, and so are the GPUs, in turn. A process that dies is replaced, and its run has failed.

    Args:
        runs: What is to be trained.
        out: Directory of the ablation.
        jobs: How many processes.
        caught: Signals that have come; they are passed on, and the processes save and end.
        moved: Told how far a run has come.
        ended: Told what became of a run.

    Raises:
        Interrupted: A signal came.
    """
    todo = iter(runs)
    devices = visible_devices() if any(run.recipe.train.accelerator in ("auto", "cuda") for run in runs) else []
    threads = max(1, torch.get_num_threads() // jobs)
    workers = [_started(at, devices, threads) for at in range(min(jobs, len(runs)))]
    try:
        for worker in workers:
            _give(worker, todo, out)
        passed_on = False
        while any(worker.run is not None for worker in workers):
            if caught and not passed_on:
                passed_on, todo = True, iter(())
                for worker in workers:
                    if worker.run is not None:
                        worker.process.terminate()
            for connection in wait([worker.connection for worker in workers if worker.run is not None], _LOOK_SECONDS):
                at = next(at for at, worker in enumerate(workers) if worker.connection is connection)
                worker = workers[at]
                assert worker.run is not None
                try:
                    what, value = worker.connection.recv()
                except (EOFError, ConnectionError):
                    worker.process.join()
                    if not caught:
                        ended(worker.run, lost(worker.run, worker.process.exitcode))
                    worker.run = None
                    if not caught:
                        workers[at] = _started(at, devices, threads)
                        _give(workers[at], todo, out)
                    continue
                if what == "moved":
                    moved(worker.run, value)
                    continue
                if what == "ended":
                    ended(worker.run, value)
                if what == "raised":
                    raise value
                worker.run = None
                _give(worker, todo, out)
        if caught:
            raise Interrupted(caught[0], f"with {jobs} runs at once")
    finally:
        _end(workers)


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as they are named in ``CUDA_VISIBLE_DEVICES``; none where there are none."""
    n = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:n] if named else [str(at) for at in range(n)]


def _started(at: int, devices: list[str], threads: int) -> _Worker:
    here, there = multiprocessing.Pipe()
    device = devices[at % len(devices)] if devices else None
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(there, device, threads))
    process.start()
    there.close()
    return _Worker(process, here)


def _give(worker: _Worker, todo: Iterator[Run], out: Path) -> None:
    run = next(todo, None)
    if run is not None:
        worker.run = run
        with suppress(ConnectionError):  # it has died: what is received from it will say so
            worker.connection.send((run, out))


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        if worker.run is not None:  # after an error of ours
            worker.process.terminate()
        worker.connection.close()
    for worker in workers:
        worker.process.join()


def _work(connection: Connection, device: str | None, threads: int) -> None:
    """What a process does: it trains what it is given, until nobody gives any more."""
    os.setpgid(0, 0)  # Ctrl-C in a terminal is for the process that has started this one, which passes it on
    signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(128 + signum))  # between two runs
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    while True:
        try:
            run, out = connection.recv()
        except (EOFError, ConnectionError):
            return
        _tell(connection, *_answer(connection, run, out))


def _answer(connection: Connection, run: Run, out: Path) -> tuple[str, Any]:
    told = time.monotonic()

    def moved(share: float) -> None:
        nonlocal told
        if time.monotonic() - told >= _QUIET_SECONDS:
            told = time.monotonic()
            _tell(connection, "moved", share)

    try:
        return "ended", trained(run, out, moved)
    except Interrupted:
        return "stopped", None
    except Exception as error:  # ours to raise again where it is seen
        return "raised", error


def _tell(connection: Connection, what: str, value: Any) -> None:
    try:
        connection.send((what, value))
    except ConnectionError:  # nobody listens any more: save and end
        os.kill(os.getpid(), signal.SIGTERM)
