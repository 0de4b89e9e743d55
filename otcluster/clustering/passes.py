"""One reading of the samples by k-means: the nearest centroid of each, and the sums that the next centroids are made of."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from otcluster._ops import compiled
from otcluster._ops.generic import Array
from otcluster.clustering.samples import Samples


class Step(NamedTuple):
    """What a pass found on this rank."""

    sums: Array
    """Weighted sums of the prepared rows of each cluster, (k, dim), in the wide dtype."""
    counts: Array
    """Weight of each cluster, (k,), in the wide dtype."""
    changed: Any
    """How many rows belong elsewhere than in the pass before: a number, or an array of one that nobody has waited for."""


class Pass(Protocol):
    """How the samples are assigned, over and over; holds what one pass knows from those before."""

    @property
    def labels(self) -> Array:
        """(n,), integers; -1 before the first pass."""
        ...

    def run(self, centroids: Array) -> Step:
        """Assign to centroids (k, dim) in the coordinates of the samples, in the wide dtype."""
        ...

    def distances(self, centroids: Array) -> Array:
        """Squared distance of each row to the centroid of its label, (n,)."""
        ...


class NearestPass(Pass, Protocol):
    """A pass that gives each sample to the nearest centroid, so that clusters may end empty."""

    def relabel(self, rows: Any, cluster: int) -> None:
        """Give rows (integers, at least one) to another cluster, in ``labels`` and in the sums that later passes start from.

        They are copies of one another.
        """
        ...


class PlainPass:
    """Every row against every centroid, made of the primitives of :mod:`otcluster._ops`: the definition."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.labels: Array = samples.ops.full((samples.n,), -1, samples.ops.integer)

    def run(self, centroids: Array) -> Step:
        samples, ops, xp = self.samples, self.samples.ops, self.samples.ops.xp
        k = int(centroids.shape[0])
        points = ops.cast(centroids, samples.dtype)
        half = xp.sum(points * points, axis=-1) / 2
        sums, counts = ops.full((k, samples.dim), 0.0, ops.wide), ops.full((k,), 0.0, ops.wide)
        found = []
        for rows, block in samples.blocks(max(64, ops.tile_elements // k)):
            row = samples.prepared(block, rows)
            label = ops.argmax(ops.affine(row, points.T, -half))
            found.append(label)
            more, held = label_sums(samples, rows, row, label, k)
            sums, counts = sums + more, counts + held
        before, self.labels = self.labels, xp.concat(found) if found else self.labels
        return Step(sums, counts, n_changed(samples, before, self.labels))

    def distances(self, centroids: Array) -> Array:
        return own_distances(self.samples, self.labels, centroids)

    def relabel(self, rows: Any, cluster: int) -> None:
        self.labels = relabelled(self.samples, self.labels, rows, cluster)


def label_sums(samples: Samples, rows: slice, row: Array, labels: Array, k: int) -> tuple[Array, Array]:
    """Weighted sums (k, dim) of some prepared rows by their labels, and the weight of each (k,), in the wide dtype."""
    ops = samples.ops
    if samples.weights is None:
        return ops.segment_sum(row, labels, k), ops.segment_sum(ops.xp.ones_like(row[:, :1]), labels, k)[:, 0]
    weight = samples.weights[rows][:, None]
    return ops.segment_sum(row * weight, labels, k), ops.segment_sum(weight, labels, k)[:, 0]


def relabelled(samples: Samples, labels: Array, rows: Any, cluster: int) -> Array:
    """Labels with those of some rows replaced."""
    ops = samples.ops
    which = np.zeros(samples.n, bool)
    which[rows] = True
    return ops.xp.where(ops.asarray(which), ops.full((), cluster, ops.integer), labels)


def n_changed(samples: Samples, before: Array, labels: Array) -> float:
    """How many labels are others than before."""
    ops = samples.ops
    return float(ops.xp.sum(ops.cast(labels != before, ops.wide))) if samples.n else 0.0


def own_distances(samples: Samples, labels: Array, centroids: Array) -> Array:
    """Squared distance of each row to the centroid of its label, (n,) in the dtype of the samples."""
    ops, xp = samples.ops, samples.ops.xp
    points = ops.cast(centroids, samples.dtype)
    found = []
    for rows, block in samples.blocks(max(256, ops.tile_elements // samples.dim)):
        difference = samples.prepared(block, rows) - xp.take(points, labels[rows], axis=0)
        found.append(xp.sum(difference * difference, axis=-1))
    return xp.concat(found) if found else ops.full((0,), 0.0, samples.dtype)


def nearer_squares(samples: Samples, points: Array, far: Array | None) -> tuple[Array, Array]:
    """Squared distance of each row to each point, or ``far`` where that is less: (n, points), in the dtype of the samples.

    And their weighted sums over the rows of this rank, (points,), in the wide dtype.
    """
    ops, xp = samples.ops, samples.ops.xp
    near, count = ops.cast(points, samples.dtype), int(points.shape[0])
    far = ops.full((samples.n,), math.inf, samples.dtype) if far is None else far
    loops = samples.loops()
    if loops is not None:
        return _compiled_squares(samples, loops, np.ascontiguousarray(near), np.ascontiguousarray(far))
    found, spread = [], ops.full((count,), 0.0, ops.wide)
    by_products = not ops.on_host and samples.dtype != ops.wide
    squares = _product_squares if by_products else _difference_squares
    at_once = samples.dim + count if by_products else samples.dim * count
    for rows, block in samples.blocks(max(1, ops.tile_elements // at_once)):
        distance = xp.minimum(squares(samples, samples.prepared(block, rows), near), far[rows][:, None])
        found.append(distance)
        weighted = distance if samples.weights is None else distance * samples.weights[rows][:, None]
        spread = spread + ops.column_sum(weighted)
    return (xp.concat(found) if found else ops.full((0, count), 0.0, samples.dtype)), spread


def _difference_squares(samples: Samples, row: Array, points: Array) -> Array:
    difference = row[:, None, :] - points
    return samples.ops.xp.sum(difference * difference, axis=-1)


def _product_squares(samples: Samples, row: Array, points: Array) -> Array:
    """The same of products in the wide dtype: on a device they cost less than differences, which have to be written down."""
    ops, xp = samples.ops, samples.ops.xp
    row, points = ops.cast(row, ops.wide), ops.cast(points, ops.wide)
    lengths = xp.sum(row * row, axis=-1)[:, None] + xp.sum(points * points, axis=-1)
    square = lengths - 2 * (row @ points.T)
    # Of a copy only rounding is left.
    some = square > (8 + samples.dim) * float(xp.finfo(ops.wide).eps) * lengths
    return ops.cast(xp.where(some, square, xp.zeros_like(square)), samples.dtype)


def _compiled_squares(samples: Samples, loops: Any, near: Any, far: Any) -> tuple[Any, Any]:
    result = np.empty((samples.n, len(near)), near.dtype)
    spread = np.zeros((samples.ops.n_threads, len(near)))
    for rows, block in samples.blocks():
        given = samples.as_loops_take(block, rows)

        def read(thread: int, *span: int, given: Any = given, rows: slice = rows) -> None:
            loops.nearer(*given, *span, near, far[rows], result[rows], spread[thread])

        compiled.over_rows(len(block), samples.dim * len(near), samples.ops.n_threads, read)
    return result, spread.sum(axis=0)
