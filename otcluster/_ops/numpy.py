"""The primitives for NumPy: the temporaries of a tile are reused in place, and segment sums are bin counts."""

from __future__ import annotations

from typing import Any

import array_api_compat.numpy
import numpy as np

from otcluster._ops import compiled
from otcluster._ops.generic import BELOW, Array, GenericOps

# Below this many columns a reduction along the rows is slower in NumPy than one operation per column.
_FEW_COLUMNS = 32
_RUN = 32


class NumpyOps(GenericOps):
    """Primitives over NumPy arrays."""

    tile_elements = 1 << 18

    def __init__(self) -> None:
        super().__init__(array_api_compat.numpy, "cpu", wide=np.float64, integer=np.int64)

    @property
    def n_threads(self) -> int:
        return compiled.available_threads()

    def owns(self, array: Array) -> bool:
        return isinstance(array, (np.ndarray, np.generic))

    def device_of(self, array: Array) -> Any:
        return "cpu"

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        return np.asarray(values, dtype=dtype)

    def copy(self, array: Array) -> Array:
        return array.copy()

    def cast(self, array: Array, dtype: Any) -> Array:
        return array.astype(dtype, copy=False)

    def kernels(self, dtype: Any) -> Any:
        return compiled.kernels(np.dtype(dtype).name)

    def row_max(self, values: Array) -> Array:
        if not 1 < values.shape[-1] <= _FEW_COLUMNS:
            return np.max(values, axis=-1)
        top = np.maximum(values[..., 0], values[..., 1])
        for column in range(2, values.shape[-1]):
            np.maximum(top, values[..., column], out=top)
        return top

    def extremes(self, values: Array) -> tuple[Array, Array]:
        loops = self.kernels(values.dtype) if values.flags.c_contiguous else None
        return super().extremes(values) if loops is None else compiled.extremes(loops, values, self.n_threads)

    def two_best(self, values: Array) -> tuple[Array, Array]:
        loops = self.kernels(values.dtype)
        return super().two_best(values) if loops is None else compiled.two_best(loops, values, self.n_threads)

    def picked(self, values: Array, rows: Array, column: int) -> Array:
        return values[rows, column]  # take would copy the whole column first

    def room(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.empty(shape, dtype=dtype)

    def row_exponents(
        self, scores: Array, potential: Array, after: Array | None, epsilon: float, out: Array | None = None
    ) -> tuple[Array, Array]:
        shifted = np.add(scores, potential, out=out)
        top = self.row_max(shifted)
        shifted -= np.maximum(top, np.finfo(top.dtype).min)[..., None]
        shifted /= epsilon
        shifted += -BELOW if after is None else after - BELOW
        return shifted, top

    def scaled(self, scores: Array, factor: float, offset: Array, out: Array | None = None) -> Array:
        exponents = np.multiply(scores, scores.dtype.type(factor), out=out)
        exponents += offset
        return exponents

    def exp(self, exponents: Array) -> Array:
        return np.exp(exponents, out=exponents)

    def column_kernel(self, scores: Array, top: Array, epsilon: float) -> Array:
        shifted = scores - top
        shifted /= epsilon
        return np.exp(shifted, out=shifted)

    def row_sum(self, kernel: Array) -> Array:
        if kernel.shape[-1] > _FEW_COLUMNS:
            return np.sum(kernel, axis=-1)
        return np.einsum("...ij->...i", kernel)

    def weighted(self, kernel: Array, weights: Array) -> Array:
        kernel *= weights[..., None]
        return kernel

    def lowered(self, values: Array, columns: Array, rows: Array) -> Array:
        values -= columns[..., None, :]
        values -= rows[..., None]
        return np.minimum(values, 0.0, out=values)

    def column_sum(self, values: Array) -> Array:
        # Along this axis NumPy adds one row after the other, so float32 would lose digits: sum short runs, then widen.
        if not values.shape[-2]:
            return np.sum(values, axis=-2, dtype=np.float64)
        runs = np.add.reduceat(values, np.arange(0, values.shape[-2], _RUN), axis=-2)
        return np.sum(runs, axis=-2, dtype=np.float64)

    def segment_sum(self, values: Array, segments: Array, n_segments: int) -> Array:
        columns = values.shape[1]
        flat = (segments[:, None] * columns + np.arange(columns)).reshape(-1)
        sums = np.bincount(flat, weights=values.reshape(-1), minlength=n_segments * columns)
        return self.cast(sums.reshape(n_segments, columns), self.wide)  # of no rows, bincount makes integers

    def segment_max(self, values: Array, segments: Array, n_segments: int) -> Array:
        result = np.full((n_segments, values.shape[1]), -np.inf, dtype=values.dtype)
        loops = self.kernels(values.dtype)
        if loops is not None:
            loops.segment_max(values, np.ascontiguousarray(segments), result)
        elif len(values):
            order = np.argsort(segments, kind="stable")
            keys = segments[order]
            starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
            result[keys[starts]] = np.maximum.reduceat(values[order], starts, axis=0)
        return result
