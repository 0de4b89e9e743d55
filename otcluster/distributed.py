"""Samples that several processes share: what a solve asks of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from otcluster._ops.generic import Array

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


@runtime_checkable
class Reducer(Protocol):
    """What :func:`otcluster.solve` takes as ``reducer``: sums and maxima over the ranks that share the samples.

    Every rank calls the same methods in the same order, with arrays of the same shape in the library and on the device of its
    scores. What comes back is of that kind too, and must be the same *to the bit* on every rank: loops end by it. Where a rank
    may die, its methods should raise after a while rather than wait for ever.

    Example:
        The reducer of one rank alone, to show the form. Between threads or processes each method waits for all ranks.

        >>> import numpy as np
        >>> import otcluster as otc
        >>> class Alone:
        ...     def sum(self, array):
        ...         return array
        ...     def max(self, array):
        ...         return array
        >>> problem = otc.Problem(np.array([[1.0, 0.0], [0.9, 0.8]]), sharded=True)
        >>> otc.solve(problem, otc.SinkhornKnopp(), reducer=Alone()).labels()
        array([0, 1])
    """

    def sum(self, array: Array) -> Array:
        """The sum over the ranks, entry by entry."""
        ...

    def max(self, array: Array) -> Array:
        """The maximum over the ranks, entry by entry."""
        ...


def check_reducer(reducer: Any) -> None:
    """Raise unless ``reducer`` is one, or None."""
    if reducer is not None and (isinstance(reducer, type) or not isinstance(reducer, Reducer)):
        raise TypeError(f"reducer must have the methods sum and max of otcluster.Reducer, got {reducer!r}")


class TorchReducer:
    """Sums and maxima over the ranks of a ``torch.distributed`` process group, whoever set it up.

    Nothing is exchanged, and no group needed, in a script that runs alone: it is the same script with and without a launcher.
    The group is looked for at each exchange, so a reducer may be made before ``init_process_group``. Each call is one
    all-reduce. Numbers keep their dtype; they travel on a device that the backend of the group serves, and come back to
    where they were.

    Args:
        group: The ranks that share the samples. Default: all ranks of the launch.

    Raises:
        TypeError: ``group`` is no process group.
        ValueError: This rank is not in ``group``.

    Every method raises RuntimeError where ``WORLD_SIZE`` announces other processes and there is no process group, and where an
    exchange fails: the waiting ends when a rank dies, or else by the ``timeout`` that the group was made with. With other
    ranks, TypeError is raised for arrays that are neither torch tensors nor NumPy's.

    Example:
        >>> import torch
        >>> import otcluster as otc
        >>> problem = otc.Problem(torch.tensor([[1.0, 0.0], [0.9, 0.8]]), sharded=True)
        >>> otc.solve(problem, otc.SinkhornKnopp(), reducer=otc.TorchReducer()).labels()
        tensor([0, 1])
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        import torch.distributed as dist

        if group is not None:
            is_group = dist.is_available() and isinstance(group, dist.ProcessGroup)
            outside: Any = dist.GroupMember.NON_GROUP_MEMBER if dist.is_available() else None  # of new_group, to ranks outside
            if group is outside or (is_group and dist.get_rank(group) < 0):
                raise ValueError("this rank is not in group: make the reducer, and solve, on the ranks of the group alone")
            if not is_group:
                raise TypeError(f"group must be a process group (of a device mesh, mesh.get_group()) or None, got {group!r}")
        self.group = group

    def __repr__(self) -> str:
        return f"TorchReducer({'' if self.group is None else self.group})"

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchReducer:
        return TorchReducer(self.group)  # a group is a connection: copies of whatever holds it share it

    def __reduce__(self) -> tuple[type[TorchReducer], tuple[()]]:
        if self.group is not None:
            raise TypeError("a TorchReducer of a group cannot be pickled: make it anew where it is read")
        return TorchReducer, ()

    @property
    def n_ranks(self) -> int:
        """How many ranks share the samples."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return dist.get_world_size(self.group)
        announced = os.environ.get("WORLD_SIZE", "")
        if self.group is not None or (announced.isdigit() and int(announced) > 1):
            raise RuntimeError(
                f"WORLD_SIZE is {announced!r} and there is no process group: call torch.distributed.init_process_group, or "
                "what does so in your framework, before samples are shared"
            )
        return 1

    @property
    def rank(self) -> int:
        """The place of this rank among them, from 0."""
        import torch.distributed as dist

        return dist.get_rank(self.group) if self.n_ranks > 1 else 0

    def sum(self, array: Array) -> Array:
        """The sum over the ranks, entry by entry."""
        return self._reduced(array, "SUM")

    def max(self, array: Array) -> Array:
        """The maximum over the ranks, entry by entry."""
        return self._reduced(array, "MAX")

    def gather(self, array: Array) -> Array:
        """The rows of all ranks, (n, ...), in the order of the ranks, of which each may have another number of rows."""
        import torch
        import torch.distributed as dist

        n_ranks = self.n_ranks
        if n_ranks == 1:
            return array
        rows = self._sent(array)
        with _explained():
            counts = torch.zeros(n_ranks, dtype=torch.int64, device=rows.device)
            counts[self.rank] = len(rows)
            dist.all_reduce(counts, group=self.group)
            most = int(counts.max())
            padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
            parts = [torch.empty_like(padded) for _ in range(n_ranks)]
            if padded.numel():
                dist.all_gather(parts, padded, group=self.group)
        return _as_before(torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]), array)

    def _reduced(self, array: Array, operation: str) -> Array:
        import torch.distributed as dist

        if self.n_ranks == 1:
            return array
        sent = self._sent(array)
        with _explained():
            dist.all_reduce(sent, getattr(dist.ReduceOp, operation), group=self.group)
        return _as_before(sent, array)

    def _sent(self, array: Array) -> Tensor:
        """A copy of ``array`` that the backend of the group can send."""
        import numpy as np
        import torch
        import torch.distributed as dist

        if isinstance(array, np.ndarray):
            copy = torch.from_numpy(np.array(array, order="C"))
        elif isinstance(array, torch.Tensor):
            copy = array.detach().clone(memory_format=torch.contiguous_format)
        else:
            raise TypeError(
                f"TorchReducer exchanges torch tensors and NumPy arrays, got {type(array).__name__}: convert the scores, or "
                "pass a Reducer of your own"
            )
        served = [each.split(":")[0] for each in dist.get_backend_config(self.group).split(",")]
        return copy if copy.device.type in served else copy.to(served[0])


def _as_before(tensor: Tensor, array: Array) -> Array:
    import torch

    return tensor.to(array.device) if isinstance(array, torch.Tensor) else tensor.cpu().numpy()


@contextmanager
def _explained() -> Iterator[None]:
    """Say what an exchange that failed means."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "an exchange with the other ranks failed: one of them has ended, has not answered within the timeout of the "
            f"process group, or exchanges something else ({error})"
        ) from error
