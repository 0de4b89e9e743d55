"""The processes of a launch, or the one that runs alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from otcluster.distributed import TorchReducer
from otcluster.runs.errors import RunError

_T = TypeVar("_T")
_NEEDED = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# What other launchers say to processes that they start beside each other, without what these need to find each other.
_OTHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun", "SLURM_STEP_NUM_TASKS": "srun"}


def announced() -> int:
    """How many processes the launcher says there are.

    Raises:
        RunError: They cannot find each other by what it says.
    """
    n = _number("WORLD_SIZE")
    if n == 1:
        for name, launcher in _OTHERS.items():
            if _number(name) > 1:
                raise RunError(
                    f"{launcher} started {_number(name)} processes ({name}), each of which would run alone: start them with "
                    f"torchrun, or unset {name} where they are to have nothing to do with each other"
                )
    elif missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise RunError(f"WORLD_SIZE is {n} and {', '.join(missing)} not set: start the processes with torchrun")
    there = _group_size()
    if there is not None and there != n:
        raise RunError(f"there is a process group of {there} ranks, and WORLD_SIZE is {n}: start them with torchrun")
    return n


def processes_here() -> int:
    """How many of them the launcher started on this machine."""
    return _number("LOCAL_WORLD_SIZE")


def _group_size() -> int | None:
    """Of the process group; None where there is none. torch is not imported to find that out."""
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else None


def _number(name: str) -> int:
    value = os.environ.get(name) or "1"
    if not value.isdigit() or value == "0":
        raise RunError(f"{name} must be a number of processes, and is {value!r} in the environment")
    return int(value)


def need_one_process(what: str) -> None:
    """Raise RunError where more than one process was launched for ``what``."""
    if (n := announced()) > 1:
        raise RunError(f"{what} runs in one process, and WORLD_SIZE is {n}: start it without torchrun")


@contextmanager
def connected(seconds: float) -> Iterator[Processes]:
    """The processes of this launch, which exchange arrays in host memory and give up on each other after ``seconds``.

    Raises:
        RunError: The launcher does not say who there is, or a rank does not answer.
    """
    n = announced()
    if n == 1:
        yield Processes(0, 1)
        return
    import torch.distributed as dist

    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
        yield Processes(dist.get_rank(), n)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            f"another process has ended, or has not answered for {seconds:g} seconds; what was saved is whole, and the same "
            "command goes on from there"
        ) from error


def disconnect() -> None:
    """Close the connection, at the end of all."""
    if _group_size() is not None:
        import torch.distributed as dist

        dist.destroy_process_group()


class Processes:
    """One process among those of a launch. Methods that exchange are called by all of them, in the same order.

    Attributes:
        rank: The place of this process, from 0.
        n: How many there are.
        reducer: What a solve takes; None where there is one process.
    """

    def __init__(self, rank: int, n: int) -> None:
        self.rank, self.n = rank, n
        self.reducer = TorchReducer() if n > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def total(self, *numbers: float) -> list[float]:
        """Sums over the ranks."""
        if self.reducer is None:
            return list(numbers)
        return self.reducer.sum(np.array(numbers, np.float64)).tolist()

    def greatest(self, number: int) -> int:
        """The maximum over the ranks."""
        return number if self.reducer is None else int(self.reducer.max(np.array([number]))[0])

    def gathered(self, value: _T) -> list[_T]:
        """What each rank has, of anything that can be pickled."""
        if self.n == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.n
        dist.all_gather_object(values, value)
        return values

    def together(self, action: Callable[[], _T]) -> _T:
        """What ``action`` returns here; what it raises on one rank is raised on all.

        Raises:
            RunError: It failed on another rank.
        """
        if self.n == 1:
            return action()
        fault = None
        try:
            value = action()
        except Exception as error:
            fault = error
        if self.total(fault is not None)[0] == 0:
            return value
        texts = self.gathered("" if fault is None else str(fault) if isinstance(fault, RunError) else repr(fault))
        if fault is not None:
            raise fault
        raise RunError(next(f"on rank {rank}: {text}" for rank, text in enumerate(texts) if text))

    def from_first(self, action: Callable[[], _T]) -> _T:
        """What ``action`` returns on the first rank, which alone does it."""
        value = self.together(lambda: action() if self.is_first else None)
        if self.n > 1:
            import torch.distributed as dist

            values = [value]
            dist.broadcast_object_list(values, 0)
            value = values[0]
        return value  # type: ignore[return-value]

    def joined(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows of all ranks in their order, on the first rank; elsewhere those that are here."""
        if self.n == 1:
            return rows
        import torch
        import torch.distributed as dist

        counts = self.gathered(len(rows))
        if not self.is_first:
            if len(rows):
                dist.send(torch.from_numpy(np.ascontiguousarray(rows)), 0)
            return rows
        whole = np.empty((sum(counts), *rows.shape[1:]), rows.dtype)
        whole[: counts[0]] = rows
        start = counts[0]
        for rank in range(1, self.n):
            if counts[rank]:
                dist.recv(torch.from_numpy(whole[start : start + counts[rank]]), rank)
            start += counts[rank]
        return whole

    def check_same(self, what: str, value: str) -> None:
        """Raise RunError unless all ranks have the same."""
        if len(set(self.gathered(value))) > 1:
            raise RunError(f"{what} must be the same on all ranks, and are not")
