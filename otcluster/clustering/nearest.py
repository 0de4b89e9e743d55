"""What centroids say of vectors: the nearest one of each, and how far all are. No array of n x k for labels."""

from __future__ import annotations

import math
import warnings
from typing import Any

from otcluster._ops import select
from otcluster._ops.generic import Array
from otcluster.assignment import Assignment
from otcluster.clustering.bounded import nearest_pass
from otcluster.clustering.samples import Geometry, Samples
from otcluster.distributed import Reducer
from otcluster.problem import Problem
from otcluster.scores import PointScores
from otcluster.solve import solve
from otcluster.solvers import Nearest

_DISTANCES = 1 << 21  # at once: enough for the threads of a matrix product to be worth waking


def nearest_centroids(x: Any, centroids: Array, *, metric: Geometry = "sqeuclidean") -> tuple[Array, Array]:
    """The nearest centroid of each vector, and the squared distance to it.

    Of the vectors that :func:`otcluster.kmeans` clustered with :class:`otcluster.Nearest`, the labels that it gave them.

    Args:
        x: Vectors (n, dim), finite, or what reads them from files.
        centroids: (k, dim), of any array library.
        metric: ``"sqeuclidean"``, or ``"cosine"``: distances between directions.

    Returns:
        Labels (n,) int64, the lowest among equals, and squared distances (n,), in the library and dtype of ``x`` (float32 for
        narrower ones).

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not fit, or ``x`` is not finite.

    Example:
        >>> import numpy as np
        >>> nearest_centroids(np.array([[1.0], [5.0]]), np.array([[4.0], [0.0]]))
        (array([1, 0]), array([1., 1.]))
    """
    samples, laid = _prepared(x, centroids, metric)
    current = nearest_pass(samples, int(laid.shape[0]), alone=True)
    with samples.ops.quiet():
        current.run(laid)
        return samples.to_face(current.labels), samples.to_face(current.distances(laid))


def distances(x: Array, centroids: Array, *, metric: Geometry = "sqeuclidean") -> Array:
    """The distance of each vector to each centroid.

    Args:
        x: Vectors (n, dim), finite.
        centroids: (k, dim), of any array library.
        metric: ``"sqeuclidean"`` for Euclidean distances; ``"cosine"`` for those between directions, sqrt(2 - 2 cos).

    Returns:
        (n, k), in the library and dtype of ``x`` (float32 for narrower ones). Not squared.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not fit, or ``x`` is not finite.

    Example:
        >>> import numpy as np
        >>> distances(np.array([[1.0], [5.0]]), np.array([[4.0], [0.0]]))
        array([[3., 1.],
               [1., 5.]])
    """
    samples, laid = _prepared(x, centroids, metric)
    ops, xp = samples.ops, samples.ops.xp
    found = []
    with ops.quiet():
        points = ops.cast(laid, samples.dtype)
        squares, turned = xp.sum(points * points, axis=-1), -2 * points.T
        unsure = math.sqrt(float(xp.finfo(samples.dtype).eps))
        for rows, block in samples.blocks(max(64, _DISTANCES // int(points.shape[0]))):
            row = samples.prepared(block, rows)
            between = row @ turned
            lengths = xp.sum(row * row, axis=-1)[:, None] + squares
            between += lengths
            # Of near ones the difference of the squares has few digits left.
            lengths *= unsure
            at, to = xp.nonzero(between <= lengths)
            if int(at.shape[0]):
                difference = xp.take(row, at, axis=0) - xp.take(points, to, axis=0)
                between[at, to] = xp.sum(difference * difference, axis=-1)
            found.append(xp.sqrt(between))
        whole = xp.concat(found) if found else ops.full((0, int(points.shape[0])), 0.0, samples.dtype)
    return samples.to_face(whole)


def nearest_assignment(
    x: Any, centroids: Array, metric: Geometry, sample_weight: Array | None = None, reducer: Reducer | None = None
) -> Assignment:
    """The answer of :class:`otcluster.Nearest` for vectors in memory.

    Raises:
        TypeError: The vectors are read from files.
    """
    if hasattr(x, "read"):
        raise TypeError("the samples were read from a file, and an assignment needs them in memory: use labels")
    points = PointScores(x, centroids, metric=metric)
    problem = Problem(points, sample_mass=sample_weight, check_values=False, sharded=reducer is not None)
    return solve(problem, Nearest(), reducer=reducer)


def warn_of_empty(sizes: Any, *, stacklevel: int) -> None:
    """Warn if some of the sizes, in NumPy, are zero."""
    n_used = int((sizes > 0).sum())
    if n_used < len(sizes):
        warnings.warn(
            f"{len(sizes) - n_used} of {len(sizes)} clusters hold no sample: there may be fewer distinct samples than clusters",
            UserWarning,
            stacklevel=stacklevel,
        )


def _prepared(x: Any, centroids: Any, metric: Geometry) -> tuple[Samples, Array]:
    """The vectors, and the centroids in their coordinates, which depend on the centroids alone."""
    samples = Samples(x, None, metric, None)
    values = samples.from_face(like(samples.face, centroids))
    if values.ndim != 2 or int(values.shape[1]) != samples.dim or int(values.shape[0]) == 0:
        raise ValueError(f"centroids must have shape (n_clusters, {samples.dim}), got {tuple(values.shape)}")
    samples.begin_at(values)
    with samples.ops.quiet():
        return samples, samples.laid(values)


def like(ops: Any, array: Array) -> Array:
    """An array of any library in that of ``ops`` and on its device."""
    return (
        array
        if ops.owns(array) and ops.device_of(array) == ops.device
        else ops.asarray(select(array, "centroids").to_numpy(array))
    )
