"""What becomes of a cluster that no sample is nearest to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from otcluster._ops.generic import Array
from otcluster.clustering.passes import NearestPass, Step
from otcluster.clustering.samples import Samples


@runtime_checkable
class EmptyClusters(Protocol):
    """What :func:`otcluster.kmeans` takes as ``empty``."""

    def fill(self, samples: Samples, current: NearestPass, step: Step, centroids: Array) -> Step:
        """The sums and counts of all ranks, with something for the clusters that have none where there is something."""
        ...


@dataclass(frozen=True)
class KeepEmpty:
    """Leave the centroid of an empty cluster where it is.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> x = np.array([[0.0], [1.0]])
        >>> otc.kmeans(x, 2, init=np.array([[0.0], [50.0]]), empty=otc.KeepEmpty()).centroids
        array([[ 0.5],
               [50. ]])
    """

    def fill(self, samples: Samples, current: NearestPass, step: Step, centroids: Array) -> Step:
        return step


@dataclass(frozen=True)
class RelocateFarthest:
    """Move the centroid of an empty cluster to the sample that is farthest from its own, as scikit-learn does.

    Copies of that sample go with it, so that a sample of weight w counts as w samples here too.
    Where every sample lies on its centroid there are fewer distinct samples than clusters, and the centroid stays where it is.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> x = np.array([[0.0], [1.0]])
        >>> otc.kmeans(x, 2, init=np.array([[0.0], [50.0]]), empty=otc.RelocateFarthest()).centroids
        array([[0.],
               [1.]])
    """

    def fill(self, samples: Samples, current: NearestPass, step: Step, centroids: Array) -> Step:
        ops = samples.ops
        counts = ops.to_numpy(step.counts).copy()
        empty = [int(at) for at in (counts <= 0).nonzero()[0]]
        distances = ops.to_numpy(current.distances(centroids)).astype("float64")
        if samples.weights is not None:
            distances = distances * (ops.to_numpy(samples.weights) > 0)
        sums = ops.to_numpy(step.sums).copy()
        labels = ops.to_numpy(current.labels)
        for cluster in empty:
            mine = float(distances.max()) if samples.n else 0.0
            farthest = samples.greatest(mine)
            if farthest <= 0:
                break
            rows = self._copies(samples, (distances == farthest).nonzero()[0])
            packed = ops.full((samples.dim + 3,), 0.0, ops.wide)
            if len(rows):
                rows = rows[labels[rows] == labels[rows[0]]]
                weight = float(len(rows)) if samples.weights is None else float(ops.to_numpy(samples.weights)[rows].sum())
                row = ops.to_numpy(samples.row(int(rows[0]))).astype("float64")
                packed = ops.asarray([*row, weight, float(labels[rows[0]]), 1.0], dtype=ops.wide)
                distances[rows] = 0.0
                current.relabel(rows, cluster)
            found = ops.to_numpy(samples.summed(packed))
            n_owners = found[-1]
            row, weight, old = found[:-3] / n_owners, found[-3], round(found[-2] / n_owners)
            sums[cluster] += weight * row
            counts[cluster] += weight
            sums[old] -= weight * row
            counts[old] -= weight
        return Step(ops.asarray(sums, dtype=ops.wide), ops.asarray(counts, dtype=ops.wide), float("inf"))

    def _copies(self, samples: Samples, rows: Any) -> Any:
        """Of equally far rows of all ranks those that are last in the order of their coordinates, of this rank."""
        ops = samples.ops
        held = samples.summed(ops.full((1,), float(len(rows)), ops.wide))
        if float(held[0]) == 1:
            return rows
        values = ops.to_numpy(samples.some(rows)) if len(rows) else np.zeros((0, samples.dim))
        for axis in range(samples.dim):
            kept = values[:, axis] == samples.greatest(float(values[:, axis].max(initial=-np.inf)))
            rows, values = rows[kept], values[kept]
        return rows
