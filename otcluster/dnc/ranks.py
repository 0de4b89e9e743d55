"""The processes that train one model together, or the one that trains alone."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.precision.double import DoublePrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from otcluster.distributed import TorchReducer
from otcluster.dnc.errors import RecipeError, RunError
from otcluster.dnc.recipe import TrainConfig

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
                    f"{launcher} started {_number(name)} processes ({name}), each of which would train alone: start them with "
                    f"torchrun, or unset {name} where they are to have nothing to do with each other"
                )
    elif missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise RunError(f"WORLD_SIZE is {n} and {', '.join(missing)} not set: start the processes with torchrun")
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() != n:
        raise RunError(
            f"there is a process group of {dist.get_world_size()} ranks, and WORLD_SIZE is {n}: start them with torchrun"
        )
    return n


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
def connected(config: TrainConfig) -> Iterator[Ranks]:
    """The ranks of this launch.

    They stay connected afterwards, for what a script does next: a rank that comes back sooner than another would else meet the
    connection that is about to close.

    Raises:
        RecipeError: This machine has not what the recipe asks for.
        RunError: The launcher does not say who there is, or a rank does not answer.
    """
    n = announced()
    fabric = _fabric(config, n)
    try:
        fabric.launch()
        yield Ranks(fabric, config.shares)
    except RuntimeError as error:
        if n == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            f"another rank has ended, or has not answered for train.timeout={config.timeout:g} seconds ({error}); what was "
            "saved is whole, and the same command goes on from there"
        ) from error


def disconnect() -> None:
    """Close the connection, at the end of all."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _fabric(config: TrainConfig, n: int) -> Fabric:
    """Device, precision and, for several ranks, gradients that are their mean."""
    double = config.precision == "64-true"
    plugins: list[Any] = [_Double()] if double else []
    many: dict[str, Any] = {"devices": 1}
    if n > 1:
        here = _number("LOCAL_WORLD_SIZE")
        # Nothing of the head is for the first rank to say, and the buffers of the backbone are shared when they are used.
        known = inspect.signature(DistributedDataParallel).parameters
        alone: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
        ddp = DDPStrategy(timeout=timedelta(seconds=config.timeout), **alone)
        plugins.append(TorchElasticEnvironment())
        many = {"devices": here, "num_nodes": n // here, "strategy": ddp}
    try:
        precision: Any = None if double else config.precision
        fabric = Fabric(accelerator=config.accelerator, precision=precision, plugins=plugins, **many)
    except Exception as error:  # whatever Fabric raises
        where = "" if n == 1 else f" for {many['devices']} processes on this machine"
        raise RecipeError(
            f"train.accelerator={config.accelerator} and train.precision={config.precision} cannot be had here{where}: {error}"
        ) from error
    if config.precision == "16-mixed" and fabric.device.type == "cpu":
        raise RecipeError("train.precision=16-mixed needs a GPU, and this would run on the CPU: pass bf16-mixed or 32-true")
    return fabric


class _Double(DoublePrecision):
    """Features stay float64 on their way out of the module that averages gradients."""

    def convert_output(self, data: Any) -> Any:
        return data


class Ranks:
    """One process among those that train together. Methods that exchange are called by all of them, in the same order.

    Args:
        fabric: Device, precision and connection.
        shares: What part of each batch each rank takes, in any unit. Default: all the same.

    Attributes:
        rank: The place of this process, from 0.
        n: How many there are.
        reducer: What a solve takes; None where there is one process.

    Raises:
        RecipeError: ``shares`` is not of so many ranks.
    """

    def __init__(self, fabric: Fabric, shares: Sequence[float] | None = None) -> None:
        self.fabric, self.rank, self.n = fabric, fabric.global_rank, fabric.world_size
        self.reducer = TorchReducer() if self.n > 1 else None
        if shares is not None and len(shares) != self.n:
            raise RecipeError(f"train.shares is of {len(shares)} ranks, and there are {self.n}: one share for each, or null")
        self._ends = list(accumulate(shares or [1.0] * self.n))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def part(self, batch: list[int]) -> list[int]:
        """What this rank takes of a batch; the parts of all, one after the other, are the batch."""
        start, stop = (round(len(batch) * end / self._ends[-1]) for end in [0.0, *self._ends][self.rank : self.rank + 2])
        return batch[start:stop]

    def total(self, *numbers: float) -> list[float]:
        """Sums over the ranks."""
        if self.reducer is None:
            return list(numbers)
        return self.reducer.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def greatest(self, number: int) -> int:
        """The maximum over the ranks."""
        return number if self.reducer is None else int(self.reducer.max(torch.tensor([number]))[0])

    def gathered(self, value: _T) -> list[_T]:
        """What each rank has, of anything that can be pickled."""
        if self.n == 1:
            return [value]
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
        return self.fabric.broadcast(value) if self.n > 1 else value  # type: ignore[return-value]

    def each(self, items: Iterator[_T]) -> Iterator[_T]:
        """The items, of which every rank has as many; an error of one rank is raised on all."""
        while (item := self.together(lambda: next(items, None))) is not None:
            yield item

    def check_same(self, what: str, value: str) -> None:
        """Raise RunError unless all ranks have the same."""
        if len(set(self.gathered(value))) > 1:
            raise RunError(f"{what} must be the same on all ranks, and are not")

    def share_buffers(self, module: nn.Module) -> None:
        """Give the buffers of the first rank to all: statistics of batches, of which each rank has seen its own."""
        if self.n > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in their order."""
        return rows if self.reducer is None else self.reducer.gather(rows)
