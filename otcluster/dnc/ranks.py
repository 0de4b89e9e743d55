"""The processes that train one model together, or the one that trains alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
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

from otcluster.dnc.errors import RecipeError
from otcluster.dnc.recipe import TrainConfig
from otcluster.runs.errors import LostRankError
from otcluster.runs.ranks import Processes, announced, processes_here

_T = TypeVar("_T")


@contextmanager
def connected(config: TrainConfig) -> Iterator[Ranks]:
    """The ranks of this launch.

    They stay connected afterwards, for what a script does next: a rank that comes back sooner than another would else meet the
    connection that is about to close.

    Raises:
        RecipeError: This machine has not what the recipe asks for.
        RunError: The launcher does not say who there is.
        LostRankError: A rank does not answer.
    """
    n = announced()
    fabric = _fabric(config, n)
    try:
        fabric.launch()
        yield Ranks(fabric, config.shares)
    except RuntimeError as error:
        if n == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise LostRankError(
            f"another rank has ended, or has not answered for train.timeout={config.timeout:g} seconds ({error}); what was "
            "saved is whole, and the same command goes on from there"
        ) from error


def _fabric(config: TrainConfig, n: int) -> Fabric:
    """Device, precision and, for several ranks, gradients that are their mean."""
    double = config.precision == "64-true"
    plugins: list[Any] = [_Double()] if double else []
    many: dict[str, Any] = {"devices": 1}
    if n > 1:
        here = processes_here()
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


@contextmanager
def quick_convolutions(device: torch.device) -> Iterator[None]:
    """On a GPU, try out which algorithm of cuDNN is the quickest for each shape; afterwards all is as it was.

    Not ``torch.backends.cudnn.flags``, which turns cuDNN off unless told otherwise.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Double(DoublePrecision):
    """Features stay float64 on their way out of the module that averages gradients."""

    def convert_output(self, data: Any) -> Any:
        return data


class Ranks(Processes):
    """One process among those that train together. Methods that exchange are called by all of them, in the same order.

    Args:
        fabric: Device, precision and connection.
        shares: What part of each batch each rank takes, in any unit. Default: all the same.

    Raises:
        RecipeError: ``shares`` is not of so many ranks.
    """

    def __init__(self, fabric: Fabric, shares: Sequence[float] | None = None) -> None:
        super().__init__(fabric.global_rank, fabric.world_size)
        self.fabric = fabric
        if shares is not None and len(shares) != self.n:
            raise RecipeError(f"train.shares is of {len(shares)} ranks, and there are {self.n}: one share for each, or null")
        self._ends = list(accumulate(shares or [1.0] * self.n))

    def part(self, batch: list[int]) -> list[int]:
        """What this rank takes of a batch; the parts of all, one after the other, are the batch."""
        start, stop = (round(len(batch) * end / self._ends[-1]) for end in [0.0, *self._ends][self.rank : self.rank + 2])
        return batch[start:stop]

    def each(self, items: Iterator[_T]) -> Iterator[_T]:
        """The items, of which every rank has as many; an error of one rank is raised on all."""
        while (item := self.together(lambda: next(items, None))) is not None:
            yield item

    def share_buffers(self, module: nn.Module) -> None:
        """Give the buffers of the first rank to all: statistics of batches, of which each rank has seen its own."""
        if self.n > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in their order."""
        return rows if self.reducer is None else self.reducer.gather(rows)
