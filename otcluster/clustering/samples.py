"""What k-means reads: rows in the coordinates of its metric, a block at a time, wherever they lie."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from otcluster._ops import GenericOps, compiled, select
from otcluster._ops.generic import Array, dtype_name
from otcluster.distributed import Reducer

Geometry: TypeAlias = Literal["cosine", "sqeuclidean"]
_BLOCK_BYTES = 1 << 25  # of rows read at once where they have to be converted or come from a file


class NotFiniteError(ValueError):
    """A row has NaN or infinity: ``row`` of this rank, or one of another rank where that is None."""

    def __init__(self, row: int | None) -> None:
        where = "on another rank" if row is None else f"in row {row}"
        super().__init__(f"x must be finite, got NaN or infinity {where}: drop such rows, or fill them")
        self.row = row

    def __reduce__(self) -> tuple[Any, ...]:
        return NotFiniteError, (self.row,)


class Samples:
    """The rows of one rank, their weights, and where the coordinates of k-means begin.

    A *prepared* row is ``(x - centre) * scale``: around the mean of all rows, so that far-away data keep their precision;
    or, for the cosine, of length one (a zero vector stays zero). Rows in host memory are worked on with NumPy, whatever
    library they came in.

    Attributes:
        ops: The primitives that the work is done with.
        n, dim: Rows of this rank, and their width.
        n_everywhere: Rows of all ranks.
        dtype: What rows are computed in.
        weights: (n,) in ``dtype``, or None for ones.
        total: Weight of all rows of all ranks.
        centre: (dim,) in ``dtype``.
        kernels: What works on the rows on a device (:mod:`otcluster._kernels.members`), None where there is nothing.
        variance: The weighted mean of the variances of the coordinates, over all ranks.
    """

    def __init__(self, x: Any, weights: Any, metric: Geometry, reducer: Reducer | None) -> None:
        if metric not in get_args(Geometry):
            raise ValueError(f"metric must be one of {', '.join(get_args(Geometry))}, got {metric!r}")
        self.metric: Geometry = metric
        self.reducer = reducer
        self.given = x
        self._source = x if hasattr(x, "read") else None
        if self._source is not None:
            real = np.float64 if np.dtype(x.dtype) == np.float64 else np.float32
            self._x: Any = np.zeros((0, 0), real)
            self.face = select(self._x, "x")
        else:
            self.face = select(x, "x")
            if x.ndim != 2:
                raise ValueError(f"x must have shape (n_samples, dim), got {tuple(x.shape)}")
            self.face.float_dtype(x, "x")
            self._x = _on_host(self.face, x)
        self.ops = self.face if self._source is None and self._x is x else select(self._x, "x")
        self.dtype = self.ops.float_dtype(self._x, "x")
        self.is_streamed = self._source is not None
        self.is_numpy = isinstance(self._x, np.ndarray)
        self.n, self.dim = (int(size) for size in x.shape)
        if self.dim == 0:
            raise ValueError(f"x of shape {tuple(x.shape)} has no features: the second dimension must be at least 1")
        self.kernels: Any = self.ops.member_kernels(self._x) if self.ops.may_have_kernels and not self.is_streamed else None
        if self.kernels is not None:
            self._x = self._x.contiguous()
        self.weights = None if weights is None else self._checked_weights(weights)
        self._survey()

    def _checked_weights(self, weights: Any) -> Array:
        with self.ops.quiet():
            values = self.ops.cast(self.from_face(checked_weights(self.face, weights, self.n)), self.dtype)
        if not bool(self.ops.xp.all(self.ops.xp.isfinite(values))):
            raise ValueError(f"sample_weight is too large for {values.dtype}, the dtype of the samples: scale the weights down")
        return np.ascontiguousarray(values) if self.is_numpy else values

    def _survey(self) -> None:
        """One reading: whether all is finite, the centre, the variance and the scales."""
        ops, xp = self.ops, self.ops.xp
        # Squares are taken around a row, since those of far-away data leave no digit to their differences.
        around = ops.full((self.dim,), 0.0, ops.wide) if self.metric == "cosine" else self._common_row()
        with ops.quiet():
            loops = self.loops()
            read = self._read_all if loops is None else functools.partial(self._read_compiled, loops)
            read = read if self.kernels is None else self._read_by_kernels
            first, second, total, largest, scale = read(around)
            numbers = xp.stack([total, ops.full((), float(self.n), ops.wide)])
            packed = self.summed(xp.concat([first, second, numbers]))
            largest = self.greatest(largest)
            limit = float(xp.finfo(self.dtype).max) ** 0.5 / (4 * self.dim)
            if not math.isfinite(largest):
                raise NotFiniteError(self._first_not_finite())
            if self.metric == "sqeuclidean" and largest > limit:
                raise ValueError(
                    f"x is too large: squares of its entries overflow {dtype_name(self.dtype)}, scale the data down"
                )
            self.total, rows_of_all = ops.facts([packed[-2], packed[-1]])
            self.n_everywhere = round(rows_of_all)
            whole = max(self.total, np.finfo(np.float64).tiny)
            mean = packed[: self.dim] / whole
            spread = xp.clip(packed[self.dim : 2 * self.dim] / whole - mean * mean, 0.0, None)
            self.variance = ops.facts([xp.mean(spread)])[0]
            if not math.isfinite(self.variance):
                raise ValueError("sample_weight is too large: weighted sums overflow float64, scale the weights down")
            self.scale: Array | None = scale
            self.centre = ops.cast(mean + around if scale is None else 0 * mean, self.dtype)

    def _first_not_finite(self) -> int | None:
        """The first row here with NaN or infinity; None where there is none, so that it is on another rank."""
        ops, xp = self.ops, self.ops.xp
        for rows, block in self.blocks(self._rows_at_once):
            bad = np.flatnonzero(ops.to_numpy(~xp.all(xp.isfinite(block), axis=-1)))
            if len(bad):
                return rows.start + int(bad[0])
        return None

    def _read_all(self, around: Array) -> tuple[Array, Array, Array, float, Array | None]:
        """Sums around a row, sums of squares, the weight, the largest magnitude (infinite if one is not finite), scales."""
        ops, xp = self.ops, self.ops.xp
        first, second = ops.full((self.dim,), 0.0, ops.wide), ops.full((self.dim,), 0.0, ops.wide)
        total, tops, scales = ops.full((), 0.0, ops.wide), [ops.full((), 0.0, ops.wide)], []
        for rows, block in self.blocks(self._rows_at_once):
            values = ops.cast(block, ops.wide)
            tops.append(xp.max(xp.abs(values)))
            weight = ops.full((rows.stop - rows.start,), 1.0, ops.wide)
            weight = weight if self.weights is None else ops.cast(self.weights[rows], ops.wide)
            if self.metric == "cosine":
                inverse = _inverse_lengths(ops, values, self.dtype)
                scales.append(ops.cast(inverse, self.dtype))
                values = values * inverse[:, None]
            values = values - around
            first = first + xp.sum(values * weight[:, None], axis=0)
            second = second + xp.sum(values * values * weight[:, None], axis=0)
            total = total + xp.sum(weight)
        nothing = ops.full((0,), 0.0, self.dtype)
        largest = max(top if math.isfinite(top) else math.inf for top in ops.facts(tops))
        return first, second, total, largest, (xp.concat([nothing, *scales]) if self.metric == "cosine" else None)

    def _read_compiled(self, loops: Any, around: Any) -> tuple[Any, Any, Any, float, Any]:
        """The same, in compiled loops."""
        threads, by_length = self.ops.n_threads, self.metric == "cosine"
        real = np.dtype(self.dtype)
        scale = np.empty(self.n if by_length else 0, real)
        first, second, facts = np.zeros((threads, self.dim)), np.zeros((threads, self.dim)), np.zeros((threads, 3))
        weights = np.zeros(0, real) if self.weights is None else self.weights
        for rows, block in self.blocks():
            given = block, weights[rows] if len(weights) else weights, around, by_length
            own = scale[rows] if by_length else scale

            def read(thread: int, *span: int, given: Any = given, own: Any = own) -> None:
                loops.survey(*given, *span, own, first[thread], second[thread], facts[thread])

            compiled.over_rows(len(block), self.dim, threads, read)
        largest = float(facts[:, 1].max()) if np.isfinite(facts[:, 2]).all() else math.inf
        return first.sum(0), second.sum(0), facts[:, 0].sum(), largest, scale if by_length else None

    def _read_by_kernels(self, around: Array) -> tuple[Array, Array, Array, float, Array | None]:
        """The same, in one reading of rows on a device."""
        ops = self.ops
        scale = self.kernels.inverse_lengths(self._x) if self.metric == "cosine" else None
        first, second, largest = self.kernels.moments(self._x, around, self.weights, scale)
        count = ops.full((), float(self.n), ops.wide)
        total = count if self.weights is None else ops.xp.sum(ops.cast(self.weights, ops.wide))
        return first, second, total, ops.facts([largest])[0], scale

    def _common_row(self) -> Array:
        """A row that all ranks know of: the largest of their first."""
        ops, xp = self.ops, self.ops.xp
        row = ops.full((self.dim,), -math.inf, ops.wide)
        if self.n:
            block = next(iter(self.blocks(1)))[1]
            row = ops.cast(block[0, :], ops.wide)
        row = self.maximum(row)
        return xp.where(xp.isfinite(row), row, xp.zeros_like(row))

    def blocks(self, rows: int | None = None) -> Iterator[tuple[slice, Array]]:
        """Ranges of rows, and the rows in ``dtype``, as they are: not prepared."""
        read = self.n if self._source is None and self._x.dtype == self.dtype and self._contiguous else self._rows_at_once
        if rows is not None:
            read = max(1, min(read, rows))
        for start in range(0, self.n, max(read, 1)):
            here = slice(start, min(start + read, self.n))
            yield here, self.block(here)

    def block(self, rows: slice) -> Array:
        """Some consecutive rows, not prepared."""
        block = self._source.read(rows.start, rows.stop) if self._source is not None else self._x[rows, :]
        with self.ops.quiet():
            block = self.ops.cast(block, self.dtype)
        return np.ascontiguousarray(block) if self.is_numpy else block

    def some(self, indices: Any) -> Array:
        """The rows at these places, in NumPy, not prepared; at least one."""
        if self._source is not None or self.is_numpy:
            return self.ops.xp.stack([self.block(slice(int(at), int(at) + 1))[0, :] for at in indices])
        with self.ops.quiet():
            return self.ops.cast(self.ops.xp.take(self._x, self.ops.asarray(indices), axis=0), self.dtype)

    @property
    def _contiguous(self) -> bool:
        return not self.is_numpy or bool(self._x.flags.c_contiguous and not isinstance(self._x, np.memmap))

    @property
    def _rows_at_once(self) -> int:
        of_device = 0 if self.ops.on_host else self.ops.tile_elements // 4
        return max(256, max(of_device, _BLOCK_BYTES // 8) // self.dim)

    def row(self, index: int) -> Array:
        """One prepared row, in the wide dtype."""
        return self.prepared(self.block(slice(index, index + 1)), slice(index, index + 1))[0, :]

    def prepared(self, block: Array, rows: slice) -> Array:
        """Rows in the coordinates of k-means, in ``dtype``."""
        if self.scale is None:
            return block - self.centre
        return block * self.scale[rows][:, None]

    def begin_at(self, centroids: Array) -> None:
        """Let the coordinates begin in the middle of centroids of the caller, whatever the rows are."""
        if self.scale is None:
            with self.ops.quiet():
                middle = self.ops.xp.mean(self.ops.cast(centroids, self.ops.wide), axis=0)
                self.centre = self.ops.cast(middle, self.dtype)

    def laid(self, centroids: Array) -> Array:
        """Centroids of the caller in the coordinates of k-means, in the wide dtype."""
        wide = self.ops.cast(centroids, self.ops.wide)
        if self.metric == "cosine":
            return wide * _inverse_lengths(self.ops, wide, wide.dtype)[:, None]
        return wide - self.ops.cast(self.centre, self.ops.wide)

    def given_back(self, centroids: Array) -> Array:
        """Centroids in the coordinates and dtype of the caller, still of :attr:`ops`."""
        return self.ops.cast(self.unlaid(centroids), self.dtype)

    def unlaid(self, centroids: Array) -> Array:
        """The same, as wide as they were."""
        return centroids if self.metric == "cosine" else centroids + self.ops.cast(self.centre, self.ops.wide)

    def told(self, centroids: Array) -> Array:
        """Centroids in the coordinates and library of the caller, in the wide dtype: to go on from."""
        return self.to_face(self.unlaid(centroids))

    def loops(self) -> Any:
        """The compiled loops of k-means for these rows, None where there are none."""
        return compiled.kernels(np.dtype(self.dtype).name, "kmeans_loops") if self.is_numpy else None

    def rows_of_kernels(self) -> Array:
        """All rows as they came in, for :attr:`kernels`."""
        return self._x

    def as_loops_take(self, block: Array, rows: slice) -> tuple[Any, ...]:
        """Some rows for compiled loops: as they are, the centre, scales and weights (empty for none)."""
        none = np.zeros(0, np.dtype(self.dtype))
        scale = none if self.scale is None else np.ascontiguousarray(self.scale[rows])
        return block, self.centre, scale, none if self.weights is None else self.weights[rows]

    def to_face(self, array: Array) -> Array:
        """An array of :attr:`ops` in the library and on the device of the caller."""
        return array if self.face is self.ops else self.face.asarray(array)

    def from_face(self, array: Array) -> Array:
        """The other way."""
        return _on_host(self.face, array) if self.face is not self.ops else array

    def summed(self, array: Array) -> Array:
        """The sum over the ranks."""
        if self.reducer is None:
            return array
        return self.from_face(self.reducer.sum(self.to_face(array)))

    def maximum(self, array: Array) -> Array:
        """The largest over the ranks, entry by entry."""
        if self.reducer is None:
            return array
        return self.from_face(self.reducer.max(self.to_face(array)))

    def greatest(self, value: float) -> float:
        """The largest of a number over the ranks."""
        return float(self.maximum(self.ops.full((1,), value, self.ops.wide))[0])


def checked_weights(ops: GenericOps, weights: Any, n: int) -> Array:
    """Weights of n samples in the library of ``ops``.

    Raises:
        TypeError: They are no numbers.
        ValueError: There is not one for each, or one is negative or not finite.
    """
    values = ops.asarray(weights)
    if not ops.xp.isdtype(values.dtype, ("integral", "real floating")):
        raise TypeError(f"sample_weight must be numbers, got {values.dtype}")
    if tuple(values.shape) != (n,):
        raise ValueError(f"sample_weight must hold one number for each of the {n} rows, got {tuple(values.shape)}")
    if n and not bool(ops.xp.all(ops.xp.isfinite(values) & (values >= 0))):
        raise ValueError("sample_weight must be finite and not negative")
    return values


def _on_host(ops: GenericOps, x: Array) -> Array:
    """The same memory as a NumPy array where NumPy can work on it; else ``x`` itself."""
    if not (type(x).__module__.startswith("torch") and ops.on_host) or ops.may_have_kernels:
        return x
    return ops.to_numpy(x)


def _inverse_lengths(ops: GenericOps, values: Array, dtype: Any) -> Array:
    """One over the length of each row, or the largest number of ``dtype`` where that is less; zero for a zero vector."""
    xp = ops.xp
    largest = xp.max(xp.abs(values), axis=-1)
    safe = xp.where(largest > 0, largest, xp.ones_like(largest))
    scaled = values / safe[:, None]
    length = xp.sqrt(xp.sum(scaled * scaled, axis=-1))
    inverse = 1 / (xp.where(largest > 0, length, xp.ones_like(length)) * safe)
    return xp.where(largest > 0, xp.clip(inverse, 0.0, float(xp.finfo(dtype).max)), xp.zeros_like(safe))
