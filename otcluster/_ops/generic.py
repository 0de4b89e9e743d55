"""The primitives on the array-API standard: the definition that every faster form is held to.

Shapes here: a *tile* of scores is (batches, rows, clusters); ``segments`` names the segment of each row.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat
import numpy as np

Array = Any

BELOW = 3.0
"""How far the exponents of a kernel are kept below zero. Under -2, floats lie so far apart that different exponents have
different exponentials, so the largest entry of a row can be told from the exponents."""


def dtype_name(dtype: Any) -> str:
    """What messages call a dtype: NumPy's are classes, which say more than that of themselves."""
    return getattr(dtype, "__name__", str(dtype))


class GenericOps:
    """Primitives over one array library and device."""

    tile_elements = 1 << 20
    """How many scores a pass handles at once: small enough to stay in a cache, large enough to hide the calls."""

    on_host = True
    """Whether arrays lie in the memory of the host: a value can be looked at without waiting for a device."""

    may_check = True
    """Whether values may be looked at now."""

    rounds_between_syncs = 1
    """How many rounds may pass before a loop asks whether everything has converged."""

    may_have_kernels = False
    """Whether it is worth asking for kernels of a device."""

    wide: Any
    """The dtype of sums and potentials, one step wider than float32 where the device has it."""

    integer: Any
    """The dtype of labels and counts: int64, but for what has none (JAX, unless ``jax_enable_x64`` is set)."""

    def __init__(self, xp: Any, device: Any, *, wide: Any = None, integer: Any = None) -> None:
        self.xp = xp
        self.device = device
        self.wide = (xp.float64 if self._has("float64") else xp.float32) if wide is None else wide
        self.integer = (xp.int64 if self._has("int64") else xp.int32) if integer is None else integer

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "xp": self.xp.__name__}  # a module is neither pickled nor copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, xp=importlib.import_module(state["xp"]))

    @property
    def autograd(self) -> Any:
        """What gradients are recorded with (:mod:`otcluster._ops.torch_gradients`), None where there is nothing."""
        return None

    # Types and creation

    @property
    def n_threads(self) -> int:
        """How many threads compiled loops may use."""
        return 1

    def _has(self, dtype: str) -> bool:
        info = getattr(self.xp, "__array_namespace_info__", None)
        return info is None or dtype in info().dtypes(device=self.device)

    def float_dtype(self, array: Array, argument: str) -> Any:
        """The dtype to compute in: float16 and bfloat16 are lifted to float32, float32 and float64 stay."""
        kept = {self.xp.float32: self.xp.float32, self.xp.float64: self.xp.float64}
        lifted = {getattr(self.xp, name): self.xp.float32 for name in ("float16", "bfloat16") if hasattr(self.xp, name)}
        for dtype, target in {**kept, **lifted}.items():
            if array.dtype == dtype:
                return target
        raise TypeError(
            f"{argument} must be float16, bfloat16, float32 or float64, got {array.dtype}: convert it to float32 first"
        )

    def is_integer(self, array: Array) -> bool:
        return bool(self.xp.isdtype(array.dtype, "integral"))

    def owns(self, array: Array) -> bool:
        """Whether ``array`` is of this library."""
        return array_api_compat.is_array_api_obj(array) and array_api_compat.array_namespace(array) is self.xp

    def device_of(self, array: Array) -> Any:
        return array_api_compat.device(array)

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Bring ``values`` to this library and device, without a copy where nothing has to change."""
        return self.xp.asarray(values, dtype=dtype, device=self.device)

    def copy(self, array: Array) -> Array:
        return self.xp.asarray(array, copy=True)

    def cast(self, array: Array, dtype: Any) -> Array:
        return self.xp.astype(array, dtype, copy=False)

    def full(self, shape: tuple[int, ...], value: float, dtype: Any) -> Array:
        return self.xp.full(shape, value, dtype=dtype, device=self.device)

    def room(self, shape: tuple[int, ...], dtype: Any) -> Array | None:
        """Memory that a primitive may write its result to; None where arrays are never written to."""
        return None

    def arange(self, stop: int) -> Array:
        return self.xp.arange(stop, dtype=self.integer, device=self.device)

    def facts(self, values: Sequence[Array]) -> list[float]:
        """Bring scalars to the host, all in one wait."""
        self._look()
        return [float(value) for value in values]

    def _look(self) -> None:
        if not self.may_check:
            raise TypeError(
                "values cannot be looked at while jax.jit traces: use fixed rounds (tol=None) or Nearest, or solve outside"
            )

    def to_numpy(self, array: Array) -> Any:
        self._look()
        # CuPy's arrays leave their device only when told to.
        return np.asarray(array_api_compat.to_device(array, "cpu") if array_api_compat.is_cupy_array(array) else array)

    def version(self, array: Array) -> int | None:
        """A counter that in-place changes raise, or None where the library keeps none."""
        return None

    def kernels(self, dtype: Any) -> Any:
        """Compiled loops over rows for scores of ``dtype`` (:mod:`otcluster._ops.compiled`), None where there are none."""
        return None

    def dense_kernels(self, scores: Array, weights: Array | None) -> Any:
        """Kernels of passes over scores that exist (:mod:`otcluster._kernels.dense`), None where there are none for these."""
        return None

    def point_kernels(self, x: Array, centroids: Array) -> Any:
        """Kernels of passes over scores of points (:mod:`otcluster._kernels.points`), None where there are none for these."""
        return None

    def member_kernels(self, x: Array) -> Any:
        """Kernels of rounds of k-means (:mod:`otcluster._kernels.members`), None where there are none for these rows."""
        return None

    def survey_kernels(self, arrays: Sequence[Array]) -> Any:
        """Kernels that look for what is wrong with scores (:mod:`otcluster._kernels.survey`), None where there are none."""
        return None

    def group_kernels(self, arrays: Sequence[Array], k: int, rows_each: float) -> Any:
        """Kernels that balance groups of some rows each over k clusters, in one launch, None where there are none for these."""
        return None

    def quiet(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which computing records no gradients, changes no precision and warns of no infinity."""
        return np.errstate(all="ignore")  # for the libraries that compute with NumPy inside

    # Rows and columns of a tile

    def row_max(self, values: Array) -> Array:
        """The largest entry of each row, NaN where there is one."""
        return self.xp.max(values, axis=-1)

    def extremes(self, values: Array) -> tuple[Array, Array]:
        """The smallest and the largest entry of all, NaN where there is one."""
        return self.xp.min(values), self.xp.max(values)

    def picked(self, values: Array, rows: Array, column: int) -> Array:
        """The entries of some rows of a matrix in one column."""
        return self.xp.take(values[:, column], rows)

    def column_max(self, values: Array) -> Array:
        return self.xp.max(values, axis=-2)

    def argmax(self, values: Array) -> Array:
        """The index of the largest entry of each row, the lowest one among equals."""
        return self.cast(self.xp.argmax(values, axis=-1), self.integer)

    def two_best(self, values: Array) -> tuple[Array, Array]:
        """Places and values of the two largest entries of each row of a matrix, (2, rows) both; the lowest place among equals.

        A second of -inf is at place 0.
        """
        first = self.argmax(values)
        columns = self.arange(int(values.shape[-1]))[None, :]
        others = self.xp.where(first[:, None] == columns, self.full((), -float("inf"), values.dtype), values)
        where = self.xp.stack([first, self.argmax(others)])
        return where, self.xp.stack([self.row_max(values), self.row_max(others)])

    def row_exponents(
        self, scores: Array, potential: Array, after: Array | None, epsilon: float, out: Array | None = None
    ) -> tuple[Array, Array]:
        """(scores + potential - top) / epsilon + after - BELOW, where ``top`` is the maximum of each row; both are returned.

        A row that is -inf throughout stays so. ``out`` is where the result may be written.
        """
        shifted = scores + potential
        top = self.row_max(shifted)
        finite = self.xp.clip(top, float(self.xp.finfo(top.dtype).min), None)
        exponent = (shifted - finite[..., None]) / epsilon
        return (exponent if after is None else exponent + after) - BELOW, top

    def scaled(self, scores: Array, factor: float, offset: Array, out: Array | None = None) -> Array:
        """``scores * factor + offset``: exponents where nothing is in danger of overflow, in one step."""
        return scores * factor + offset

    def log(self, values: Array) -> Array:
        """The logarithm of something small, such as the masses of the clusters; -inf of zero."""
        return self.xp.log(values)

    def exp(self, exponents: Array) -> Array:
        """The exponential of an array that nobody else holds."""
        return self.xp.exp(exponents)

    def column_kernel(self, scores: Array, top: Array, epsilon: float) -> Array:
        """exp((scores - top) / epsilon) where ``top`` is at least the maximum of each column, and finite."""
        return self.xp.exp((scores - top) / epsilon)

    def row_sum(self, kernel: Array) -> Array:
        return self.xp.sum(kernel, axis=-1)

    def weighted(self, kernel: Array, weights: Array) -> Array:
        """Each row times its weight."""
        return kernel * weights[..., None]

    def lowered(self, values: Array, columns: Array, rows: Array) -> Array:
        """``values - columns[..., None, :] - rows[..., None]``, at most zero. ``values`` may be written to."""
        return self.xp.clip(values - columns[..., None, :] - rows[..., None], None, 0.0)

    def column_sum(self, values: Array) -> Array:
        """Sum over the rows, in the wide dtype. Equal columns give equal sums, so that ties stay ties."""
        return self.cast(self.xp.sum(values, axis=-2), self.wide)

    def gram(self, values: Array) -> Array:
        """Products of all pairs of columns, summed over the rows: (..., columns, columns), in the wide dtype."""
        return self.cast(self.xp.matrix_transpose(values) @ values, self.wide)

    def solve(self, matrices: Array, right: Array) -> Array:
        """The solution of each system (..., k, k) for its right side (..., k); the matrices are regular."""
        return self.xp.linalg.solve(matrices, right[..., None])[..., 0]

    def affine(self, rows: Array, matrix: Array, offset: Array) -> Array:
        """``rows @ matrix + offset``, with one number of ``offset`` for each column."""
        return rows @ matrix + offset

    def bit_sums(self, values: Array, factors: Any) -> Any:
        """Of each row the sum of the bits of its entries, read as whole numbers, times ``factors``; uint64 in NumPy.

        ``factors`` are uint64 in NumPy, one for each column, and sums are modulo 2**64. Minus zero counts as zero.
        """
        host = np.ascontiguousarray(self.to_numpy(values)) + 0.0
        bits = host.view(np.uint64 if host.dtype == np.float64 else np.uint32)
        few = range(0, len(bits), 1024)  # what the cache holds
        parts = [bits[at : at + 1024].astype(np.uint64) @ factors for at in few]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    # Segments

    def segment_sum(self, values: Array, segments: Array, n_segments: int) -> Array:
        """Sum of the rows of ``values`` (rows, columns) in each segment, in the wide dtype."""
        return self._segment_reduce(self.cast(values, self.wide), segments, n_segments, 0.0, lambda a, b: a + b)

    def segment_max(self, values: Array, segments: Array, n_segments: int) -> Array:
        """Maximum of the rows of ``values`` (rows, columns) in each segment, -inf for an empty one."""
        return self._segment_reduce(values, segments, n_segments, -float("inf"), self.xp.maximum)

    def _segment_reduce(
        self, values: Array, segments: Array, n_segments: int, empty: float, combine: Callable[[Array, Array], Array]
    ) -> Array:
        # The standard has no segment reduction. Sort the rows by segment, then fold each row with the one 1, 2, 4, ...
        # behind it while both are of one segment: log2(n) steps leave the whole of a segment in its first row. Unlike
        # differences of cumulative sums, no segment sees the rounding of another.
        xp = self.xp
        n, columns = values.shape
        nothing = self.full((n_segments, columns), empty, values.dtype)
        if n == 0 or n_segments == 0:
            return nothing
        order = xp.argsort(segments, stable=True)
        keys, folded = xp.take(segments, order, axis=0), xp.take(values, order, axis=0)
        step = 1
        while step < n:
            same = (keys[:-step] == keys[step:])[:, None]
            head = xp.where(same, combine(folded[:-step, :], folded[step:, :]), folded[:-step, :])
            folded = xp.concat([head, folded[-step:, :]], axis=0)
            step *= 2
        ids = xp.astype(self.arange(n_segments), keys.dtype)
        first = xp.searchsorted(keys, ids)
        found = xp.clip(first, 0, n - 1)
        present = xp.take(keys, found, axis=0) == ids
        return xp.where(present[:, None], xp.take(folded, found, axis=0), nothing)
