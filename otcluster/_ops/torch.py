"""The primitives for torch, on any device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import array_api_compat.torch
import numpy as np
import torch

from otcluster._kernels import select as kernels
from otcluster._ops import compiled, torch_gradients
from otcluster._ops.generic import BELOW, Array, GenericOps

_MANY_COLUMNS = 512


class TorchOps(GenericOps):
    """Primitives over torch tensors of one device."""

    def __init__(self, array: torch.Tensor, argument: str) -> None:
        if array.layout != torch.strided:
            raise TypeError(f"{argument} must be a dense tensor, got layout {array.layout}: call .to_dense() first")
        wide = torch.float32 if array.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        super().__init__(array_api_compat.torch, array.device, wide=wide, integer=torch.int64)
        self.on_host = array.device.type == "cpu"
        self.tile_elements = 1 << 19 if self.on_host else 1 << 28
        self._has_values = array.device.type != "meta"
        self.may_check = self._has_values and not torch.compiler.is_compiling()
        self.rounds_between_syncs = 1 if self.on_host else 8
        self.may_have_kernels = kernels.may_be_there(array.device)

    @property
    def n_threads(self) -> int:
        return torch.get_num_threads()

    @property
    def autograd(self) -> Any:
        return torch_gradients

    def owns(self, array: Array) -> bool:
        return isinstance(array, torch.Tensor)

    def device_of(self, array: Array) -> Any:
        return array.device

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        return torch.as_tensor(values, dtype=dtype, device=self.device)

    def copy(self, array: Array) -> Array:
        return array.clone()

    def cast(self, array: Array, dtype: Any) -> Array:
        return array.to(dtype)

    def facts(self, values: Sequence[Array]) -> list[float]:
        self._look()
        parts = [value.to(self.wide).reshape(-1) for value in values]
        host: list[float] = (parts[0] if len(parts) == 1 else torch.cat(parts)).tolist()
        return host

    def _look(self) -> None:
        if not self._has_values:
            raise TypeError(
                "tensors on meta have no values: use fixed rounds (tol=None) or Nearest to learn the shapes of answers"
            )

    def to_numpy(self, array: Array) -> Any:
        self._look()
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # NumPy has no bfloat16

    def version(self, array: Array) -> int | None:
        if torch.compiler.is_compiling() or array.is_inference():
            return None
        return int(array._version)

    def kernels(self, dtype: Any) -> Any:
        if not self.on_host or torch.compiler.is_compiling():
            return None
        return compiled.kernels(str(dtype).removeprefix("torch."))

    def dense_kernels(self, scores: Array, weights: Array | None) -> Any:
        if not kernels.takes("rounds over scores", [scores] if weights is None else [scores, weights]):
            return None
        from otcluster._kernels import dense

        return dense

    def point_kernels(self, x: Array, centroids: Array) -> Any:
        objection = kernels.unfit_points(x, centroids)
        if not kernels.takes("rounds over points", [x, centroids], [objection], any_layout=True):
            return None
        from otcluster._kernels import points

        return points

    def member_kernels(self, x: Array) -> Any:
        if not kernels.takes("rounds of k-means", [x], [kernels.unfit_points(x, x)], any_layout=True):
            return None
        from otcluster._kernels import members

        return members

    def survey_kernels(self, arrays: Sequence[Array]) -> Any:
        if not kernels.takes("the survey of scores", arrays):
            return None
        from otcluster._kernels import survey

        return survey

    def group_kernels(self, arrays: Sequence[Array], k: int, rows_each: float) -> Any:
        most, longest = 128, 65_536
        objections = (
            None if k <= most else f"groups of more than {most} clusters do not fit on chip",
            None if rows_each <= longest else f"one program would go through more than {longest} rows",
        )
        if not kernels.takes("the rounds of groups", arrays, objections):
            return None
        from otcluster._kernels import grouped

        return grouped

    def quiet(self) -> contextlib.AbstractContextManager[Any]:
        if self._has_values and torch.is_autocast_enabled(self.device.type):
            return _without_autocast(self.device.type)
        return torch.no_grad()

    def row_max(self, values: Array) -> Array:
        return torch.amax(values, dim=-1)

    def extremes(self, values: Array) -> tuple[Array, Array]:
        loops = self.kernels(values.dtype) if values.is_contiguous() else None
        if loops is None:
            least, greatest = torch.aminmax(values)
            return least, greatest
        # torch would wake its threads, and they keep a core from the passes for longer than this takes.
        least, greatest = compiled.extremes(loops, values.detach().numpy(), self.n_threads)
        return self.asarray(least), self.asarray(greatest)

    def picked(self, values: Array, rows: Array, column: int) -> Array:
        return values[rows, column]

    def column_max(self, values: Array) -> Array:
        return torch.amax(values, dim=-2)

    def argmax(self, values: Array) -> Array:
        k = values.shape[-1]
        if not self.on_host or k < _MANY_COLUMNS:
            return torch.argmax(values, dim=-1)
        block = 64 if k < 8192 else 256
        # On CPUs torch finds maxima many times faster than where they are: find the block, then look only there.
        whole = k - k % block
        tops = [values[..., :whole].unflatten(-1, (-1, block)).amax(dim=-1)]
        if whole < k:
            tops.append(values[..., whole:].amax(dim=-1, keepdim=True))
        start = (torch.cat(tops, dim=-1).argmax(dim=-1) * block).clamp(max=k - block)
        window = start.unsqueeze(-1) + torch.arange(block, device=self.device)
        return start + values.gather(-1, window).argmax(dim=-1)

    def two_best(self, values: Array) -> tuple[Array, Array]:
        loops = self.kernels(values.dtype)
        if loops is None:
            return super().two_best(values)
        where, what = compiled.two_best(loops, values.detach().numpy(), self.n_threads)
        return torch.from_numpy(where), torch.from_numpy(what)

    def room(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def row_exponents(
        self, scores: Array, potential: Array, after: Array | None, epsilon: float, out: Array | None = None
    ) -> tuple[Array, Array]:
        shifted = torch.add(scores, potential, out=out)
        top = torch.amax(shifted, dim=-1)
        shifted -= top.clamp(min=torch.finfo(top.dtype).min).unsqueeze(-1)
        shifted /= epsilon
        shifted += -BELOW if after is None else after - BELOW
        return shifted, top

    def scaled(self, scores: Array, factor: float, offset: Array, out: Array | None = None) -> Array:
        return torch.add(offset, scores, alpha=factor, out=out)

    def log(self, values: Array) -> Array:
        if not self.on_host or torch.compiler.is_compiling():
            return torch.log(values)
        # torch would wake its threads for a few thousand numbers, and they keep a core busy for longer than that takes.
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(values.detach().numpy()))

    def exp(self, exponents: Array) -> Array:
        return exponents.exp_()

    def column_kernel(self, scores: Array, top: Array, epsilon: float) -> Array:
        return (scores - top).div_(epsilon).exp_()

    def weighted(self, kernel: Array, weights: Array) -> Array:
        return kernel.mul_(weights.unsqueeze(-1))

    def lowered(self, values: Array, columns: Array, rows: Array) -> Array:
        return values.sub_(columns.unsqueeze(-2)).sub_(rows.unsqueeze(-1)).clamp_(max=0)

    def solve(self, matrices: Array, right: Array) -> Array:
        return torch.linalg.solve_ex(matrices, right.unsqueeze(-1))[0].squeeze(-1)  # does not wait for the device

    def affine(self, rows: Array, matrix: Array, offset: Array) -> Array:
        return torch.addmm(offset, rows, matrix)

    def bit_sums(self, values: Array, factors: Any) -> Any:
        if self.on_host:
            return super().bit_sums(values, factors)
        real = values + 0.0
        bits = real.view(torch.int64) if real.dtype == torch.float64 else real.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        # Whole numbers have no matrix product on a GPU. Their sums wrap around, as those without a sign do.
        sums = (bits * torch.as_tensor(factors.view(np.int64), device=self.device)).sum(dim=1)
        return sums.cpu().numpy().view(np.uint64)

    def segment_sum(self, values: Array, segments: Array, n_segments: int) -> Array:
        sums = torch.zeros((n_segments, values.shape[1]), dtype=self.wide, device=self.device)
        return sums.scatter_add_(0, segments[:, None].expand(values.shape), values.to(self.wide))

    def segment_max(self, values: Array, segments: Array, n_segments: int) -> Array:
        tops = torch.full((n_segments, values.shape[1]), -float("inf"), dtype=values.dtype, device=self.device)
        return tops.scatter_reduce_(0, segments[:, None].expand(values.shape), values, "amax")


@contextlib.contextmanager
def _without_autocast(device: str) -> Any:
    with torch.no_grad(), torch.autocast(device, enabled=False):
        yield
