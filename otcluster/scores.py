"""Where scores come from: an array that exists, or points and centroids whose scores are formed as they are needed.

A source of scores hands out *tiles* of shape (batches, rows, clusters). Whoever asks sees no difference between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from otcluster._ops import GenericOps, select
from otcluster._ops.generic import Array, dtype_name
from otcluster._ops.lazy import lazy

Metric: TypeAlias = Literal["dot", "cosine", "sqeuclidean"]
_TILES_AT_ONCE = 32  # what a backward pass makes of a tile, much of it in float64, takes up to so many times its size
_HEADROOM = 16  # how much larger than a score the numbers made of it may become
Tile: TypeAlias = Callable[[slice, slice], Array]


class Scores(Protocol):
    """What a problem needs to know of its scores."""

    ops: GenericOps
    dtype: Any
    batch_shape: tuple[int, ...]
    n_samples: int
    n_clusters: int
    memory: int | None
    """Bytes that a pass may use beside its result, where the caller set them."""

    @property
    def sources(self) -> dict[str, Array]:
        """The arrays of the caller, by the names of their arguments."""
        ...

    @property
    def inside(self) -> Scores:
        """The scores that the sources make: these, or those that more was laid beside."""
        ...

    @property
    def n_groups(self) -> int | None:
        """How many groups the shapes of the scores speak for, where they do."""
        ...

    @property
    def known_bounds(self) -> tuple[float, float] | None:
        """Bounds of the scores that hold whatever the values, where there are such."""
        ...

    def range_facts(self) -> tuple[Array, Array]:
        """Bounds of the scores as scalars, not finite unless all scores are, with room to compute with them."""
        ...

    def raise_not_finite(self) -> None:
        """Raise for what made :meth:`range_facts` not finite, if no score may come from it."""
        ...

    def tile_shape(self, groups: Array | None) -> tuple[int, int]:
        """How many batches and rows to hand out at once."""
        ...

    def tiles(self, groups: Array | None) -> Tile:
        """Start a pass: the function returned gives the scores of a range of batches and rows."""
        ...

    def part(self, problem: int, rows: Array | None) -> Scores:
        """The scores of one problem (of a batch, or a group) with these rows of its samples, None for all."""
        ...

    def column(self, rows: Array, cluster: int) -> Array:
        """The scores of some samples of a lone problem with one cluster."""
        ...


class DenseScores:
    """Scores that exist as an array.

    Use :class:`PointScores` instead when the scores are similarities between vectors and n x k would not fit.

    Args:
        values: Similarities of shape (..., n_samples, n_clusters), larger is closer. -inf forbids a pair.

    Raises:
        TypeError: ``values`` is no array, or not of a floating-point dtype.
        ValueError: ``values`` has fewer than two dimensions, or no clusters.

    Example:
        >>> import numpy as np
        >>> DenseScores(np.zeros((5, 3))).n_clusters
        3
    """

    n_groups: int | None = None
    memory: int | None = None

    def __init__(self, values: Array) -> None:
        self.ops = select(values, "scores")
        if values.ndim < 2:
            raise ValueError(f"scores must have shape (..., n_samples, n_clusters), got {tuple(values.shape)}")
        if values.shape[-1] == 0:
            raise ValueError(f"scores of shape {tuple(values.shape)} have no clusters: the last dimension must be at least 1")
        self.dtype = self.ops.float_dtype(values, "scores")
        self.given = values
        *batch, self.n_samples, self.n_clusters = (int(size) for size in values.shape)
        self.batch_shape = tuple(batch)

    @lazy
    def values(self) -> Array:
        """The scores in the dtype to compute in."""
        with self.ops.quiet():
            return self.ops.cast(self.given, self.dtype)

    def __repr__(self) -> str:
        return f"DenseScores(shape={tuple(self.given.shape)}, dtype={self.given.dtype})"

    @property
    def sources(self) -> dict[str, Array]:
        return {"scores": self.given}

    @property
    def inside(self) -> DenseScores:
        return self

    known_bounds: tuple[float, float] | None = None

    def range_facts(self) -> tuple[Array, Array]:
        if not self.n_samples or 0 in self.batch_shape:
            nothing = self.ops.full((), 0.0, self.ops.wide)
            return nothing, nothing
        # On a device in the dtype of the caller, so that half of a precision is not written out as a whole one.
        values = self.values if self.ops.on_host else self.given
        least, greatest = (self.ops.cast(each, self.dtype) for each in self.ops.extremes(values))
        return _with_headroom(least), _with_headroom(greatest)

    def too_large(self) -> Array:
        """Which scores are finite, but so large that differences of them overflow."""
        return (self.ops.xp.abs(self.values) > self.limit) & self.ops.xp.isfinite(self.values)

    def raise_not_finite(self) -> None:
        """Raise that some are; -inf is a forbidden pair, and may be."""
        raise ValueError(
            f"scores beyond {self.limit:.3g} overflow {dtype_name(self.dtype)}: divide scores and epsilon by the same number"
        )

    @property
    def limit(self) -> float:
        return float(self.ops.xp.finfo(self.dtype).max) / _HEADROOM

    def tile_shape(self, groups: Array | None) -> tuple[int, int]:
        # Of few rows, the sums over them would cost as much as the rows.
        return _tile_shape(max(self.ops.tile_elements, 32 * self.n_clusters), self.n_samples, self.n_clusters)

    def tiles(self, groups: Array | None) -> Tile:
        values = self.ops.xp.reshape(self.values, (-1, self.n_samples, self.n_clusters)) if self.n_samples else self.values
        return lambda batches, rows: values[batches, rows, :]

    def part(self, problem: int, rows: Array | None) -> DenseScores:
        # Of groups the rows say which, so they are given, and there is one batch.
        values = self.values[_place(problem, self.batch_shape)] if self.batch_shape else self.values
        return DenseScores(values if rows is None else self.ops.xp.take(values, self.ops.asarray(rows), axis=0))

    def column(self, rows: Array, cluster: int) -> Array:
        return self.ops.picked(self.values, self.ops.asarray(rows), cluster)


class PointScores:
    """Similarities between samples and centroids, formed in tiles and never stored as a whole.

    Prefer plain scores when they exist anyway and fit.

    Args:
        x: Samples of shape (..., n_samples, d).
        centroids: Centroids of shape (..., n_clusters, d), or (n_groups, n_clusters, d) for a grouped problem.
        metric: ``"dot"``, ``"cosine"`` (a zero vector is similar to nothing: 0) or ``"sqeuclidean"`` (minus the squared
            distance, computed around the mean of the centroids so that far-away data keep their precision).
        memory: Bytes that a pass over the scores, forwards or backwards, may use beside its result and what is O((n_samples +
            n_clusters) d): it looks at as many rows at once as fit, at least one. Default: as many rows as are fastest, at
            least 64. With float32 on a processor that stays below 32 MiB in NumPy and 64 MiB in torch for up to 4,096
            clusters. ``ExactBalanced`` and ``balanced_labels`` hold some of the rows and O(n_clusters^2) besides.

    Raises:
        TypeError: An argument is no floating-point array, the two are of different libraries or devices, or ``memory`` is no
            whole number.
        ValueError: The shapes do not fit each other, there are no centroids, the metric is unknown, or ``memory`` is not
            positive.

    Example:
        >>> import numpy as np
        >>> points = PointScores(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 1.0]]), metric="cosine")
        >>> points.n_samples, points.n_clusters
        (1, 2)
    """

    laid: Any = None
    """What kernels read in place of the arrays, made by the first that does (:mod:`otcluster.on_device_points`)."""

    def __init__(self, x: Array, centroids: Array, *, metric: Metric = "dot", memory: int | None = None) -> None:
        self.ops = select(x, "x")
        other = select(centroids, "centroids")
        if type(self.ops) is not type(other) or self.ops.device_of(x) != other.device_of(centroids):
            raise TypeError(
                f"x and centroids must be of one library and device, got {type(x).__name__} on {self.ops.device_of(x)} "
                f"and {type(centroids).__name__} on {other.device_of(centroids)}: move one to the other"
            )
        if metric not in get_args(Metric):
            raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if x.ndim < 2 or centroids.ndim < 2 or x.shape[-1] != centroids.shape[-1]:
            raise ValueError(
                "x and centroids must have shapes (..., n_samples, d) and (..., n_clusters, d) with the same d, "
                f"got {tuple(x.shape)} and {tuple(centroids.shape)}"
            )
        if centroids.shape[-2] == 0:
            raise ValueError(f"centroids of shape {tuple(centroids.shape)} hold no clusters")
        if memory is not None and (isinstance(memory, bool) or not hasattr(memory, "__index__")):
            raise TypeError(f"memory must be None or a whole number of bytes, got {memory!r}")
        if memory is not None and memory < 1:
            raise ValueError(f"memory must be positive, got {memory}: it is in bytes, 64 * 2**20 say")
        self.memory = None if memory is None else int(memory)
        dtypes = [self.ops.float_dtype(x, "x"), self.ops.float_dtype(centroids, "centroids")]
        self.dtype = self.ops.xp.float64 if self.ops.xp.float64 in dtypes else self.ops.xp.float32
        self.metric = metric
        self.given_x, self.given_centroids = x, centroids
        with self.ops.quiet():
            self.x = self.ops.cast(x, self.dtype)
            self.centroids = self.ops.cast(centroids, self.dtype)
        self.n_samples, self.dim = int(x.shape[-2]), int(x.shape[-1])
        self.n_clusters = int(centroids.shape[-2])
        batch, own = tuple(x.shape[:-2]), tuple(centroids.shape[:-2])
        self.n_groups = int(own[0]) if not batch and len(own) == 1 else None
        if self.n_groups is None and batch and own and batch != own:
            raise ValueError(
                f"x and centroids must have the same leading dimensions, got {tuple(x.shape)} and {tuple(centroids.shape)}"
            )
        self.batch_shape = tuple(int(size) for size in (batch or own)) if self.n_groups is None else ()

    def __repr__(self) -> str:
        return (
            f"PointScores(x={tuple(self.given_x.shape)}, centroids={tuple(self.given_centroids.shape)}, metric={self.metric!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "laid"}

    @property
    def sources(self) -> dict[str, Array]:
        return {"x": self.given_x, "centroids": self.given_centroids}

    @property
    def inside(self) -> PointScores:
        return self

    @property
    def known_bounds(self) -> tuple[float, float] | None:
        return (-1.0, 1.0) if self.metric == "cosine" else None

    def range_facts(self) -> tuple[Array, Array]:
        xp = self.ops.xp
        longest = []
        for vectors in (self.x, self.centroids):
            squares = xp.sum(vectors * vectors, axis=-1)
            longest.append(xp.max(squares) if math.prod(squares.shape) else self.ops.full((), 0.0, self.dtype))
        # No product of two vectors exceeds that of their lengths; a squared distance is at most four times the larger square.
        greatest = _with_headroom(xp.maximum(*longest))
        if self.metric == "cosine":
            one = xp.ones_like(greatest) + 0 * greatest
            return -one, one
        if self.metric == "dot":
            product = xp.sqrt(longest[0]) * xp.sqrt(longest[1]) + 0 * greatest
            return -product, product
        return -4 * greatest, 0 * greatest

    def raise_not_finite(self) -> None:
        """Say which of the arrays has a value that cannot be computed with, if one has."""
        xp = self.ops.xp
        for name, vectors in (("x", self.x), ("centroids", self.centroids)):
            if not bool(xp.all(xp.isfinite(vectors))):
                raise ValueError(f"{name} must be finite, got NaN or infinity")
            limit = xp.finfo(self.dtype).max / (4 * max(self.dim, 1))
            if self.metric != "cosine" and bool(xp.any(vectors * vectors > limit)):
                raise ValueError(f"{name} is too large: its squares overflow {dtype_name(self.dtype)}, scale the data down")

    def tile_shape(self, groups: Array | None) -> tuple[int, int]:
        # Of groups, the centroids of each row's own are gathered.
        of_row = self.n_clusters * (1 if groups is None else max(self.dim, 1))
        if self.memory is not None:
            size = int(self.ops.xp.finfo(self.dtype).bits) // 8
            return _tile_shape(self.memory // (_TILES_AT_ONCE * size), self.n_samples, of_row)
        if groups is not None:
            return _tile_shape(self.ops.tile_elements, self.n_samples, of_row)
        # A product of few rows would read all centroids for little work.
        return _tile_shape(max(self.ops.tile_elements, 64 * self.n_clusters), self.n_samples, of_row)

    def tiles(self, groups: Array | None) -> Tile:
        xp = self.ops.xp
        x = xp.reshape(self.x, (math.prod(self.x.shape[:-2]), self.n_samples, self.dim))
        centroids = xp.reshape(self.centroids, (math.prod(self.centroids.shape[:-2]), self.n_clusters, self.dim))
        centre = None
        if self.metric == "cosine":
            centroids = self._normalised(centroids)
        elif self.metric == "sqeuclidean":
            centre = xp.mean(centroids, axis=-2, keepdims=True)
            centroids = centroids - centre
        squares = None
        if self.metric == "sqeuclidean":
            squares, centroids = xp.sum(centroids * centroids, axis=-1), 2 * centroids

        def tile(batches: slice, rows: slice) -> Array:
            points = x[batches if x.shape[0] > 1 else slice(None), rows, :]
            if groups is not None:
                own = groups[rows]
                points = points[0, :, None, :]
                near = xp.take(centroids, own, axis=0)
                middle = None if centre is None else xp.take(centre, own, axis=0)
                lengths = None if squares is None else xp.take(squares, own, axis=0)
            else:
                each = batches if centroids.shape[0] > 1 else slice(None)
                near = centroids[each, :, :]
                middle = None if centre is None else centre[each, :, :]
                lengths = None if squares is None else squares[each, :]
            values = self._compare(points, near, middle, lengths)
            return values[None, :, 0, :] if groups is not None else values

        return tile

    def whole(self) -> Array:
        """All scores as one array, (..., n_samples, n_clusters), formed in tiles."""
        xp = self.ops.xp
        batches, rows = self.tile_shape(None)
        tile, count = self.tiles(None), math.prod(self.batch_shape)
        parts = [
            xp.concat(
                [
                    tile(slice(first, min(first + batches, count)), slice(start, min(start + rows, self.n_samples)))
                    for start in range(0, max(self.n_samples, 1), rows)
                ],
                axis=1,
            )
            for first in range(0, count, batches)
        ]
        return xp.reshape(xp.concat(parts), (*self.batch_shape, self.n_samples, self.n_clusters))

    def part(self, problem: int, rows: Array | None) -> PointScores:
        def own(vectors: Array) -> Array:
            if vectors.ndim == 2:
                return vectors
            return vectors[_place(problem, tuple(vectors.shape[:-2]))]

        x, wide = own(self.x), self.ops.wide
        x = x if rows is None else self.ops.xp.take(x, self.ops.asarray(rows), axis=0)
        # Widened, for products that differ with the shape of a tile to differ by little.
        centroids = self.ops.cast(own(self.centroids), wide)
        return PointScores(self.ops.cast(x, wide), centroids, metric=self.metric, memory=self.memory)

    def column(self, rows: Array, cluster: int) -> Array:
        x = self.ops.xp.take(self.x, self.ops.asarray(rows), axis=0)
        one = PointScores(x, self.centroids[cluster : cluster + 1, :], metric=self.metric)
        return one.tiles(None)(slice(0, 1), slice(0, one.n_samples))[0, :, 0]

    def _compare(self, points: Array, centroids: Array, centre: Array | None, squares: Array | None) -> Array:
        xp = self.ops.xp
        if self.metric == "cosine":
            points = self._normalised(points)
        elif centre is not None:
            points = points - centre
        products = points @ xp.matrix_transpose(centroids)
        return products if squares is None else self.ops.lowered(products, squares, xp.sum(points * points, axis=-1))

    def _normalised(self, vectors: Array) -> Array:
        if self.dim == 0:
            return vectors
        xp = self.ops.xp
        largest = xp.max(xp.abs(vectors), axis=-1, keepdims=True)
        # Divided by the largest entry first, so that squares neither overflow nor vanish.
        scaled = vectors / xp.where(largest == 0, xp.ones_like(largest), largest)
        squares = xp.sum(scaled * scaled, axis=-1, keepdims=True)
        # Chosen before the root, which has no derivative at zero.
        return scaled / xp.sqrt(xp.where(squares == 0, xp.ones_like(squares), squares))


def _place(problem: int, batch_shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The index of a problem in an array with leading batch dimensions."""
    return (*(int(at) for at in np.unravel_index(problem, batch_shape)), ...)


def _with_headroom(value: Array) -> Array:
    """The value itself, unless it is so large that sums of it overflow: then what is not finite."""
    return value + 0 * (value * _HEADROOM)


def _tile_shape(elements: int, n_rows: int, row_elements: int) -> tuple[int, int]:
    whole = n_rows * row_elements
    if whole <= elements:
        return max(1, elements // max(whole, 1)), max(n_rows, 1)
    return 1, max(1, elements // row_elements)
