"""What becomes of a cluster that no sample is nearest to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
            at = self._first(samples, (distances == farthest).nonzero()[0])
            packed = ops.full((samples.dim + 3,), 0.0, ops.wide)
            if at is not None:
                weight = 1.0 if samples.weights is None else float(samples.weights[at])
                row = ops.to_numpy(samples.row(at)).astype("float64")
                packed = ops.asarray([*row, weight, float(labels[at]), 1.0], dtype=ops.wide)
                distances[at] = 0.0
                current.relabel(at, cluster)
            found = ops.to_numpy(samples.summed(packed))
            n_owners = found[-1]
            row, weight, old = found[:-3] / n_owners, found[-3], round(found[-2] / n_owners)
            sums[cluster] += weight * row
            counts[cluster] += weight
            sums[old] -= weight * row
            counts[old] -= weight
        return Step(ops.asarray(sums, dtype=ops.wide), ops.asarray(counts, dtype=ops.wide), float("inf"))

    def _first(self, samples: Samples, rows: Any) -> int | None:
        """Of equally far rows of all ranks the last in the order of their coordinates, if it is here."""
        ops = samples.ops
        held = samples.summed(ops.full((1,), float(len(rows)), ops.wide))
        if float(held[0]) == 1:
            return int(rows[0]) if len(rows) else None
        values = [ops.to_numpy(samples.row(int(at))) for at in rows]
        for axis in range(samples.dim):
            top = samples.greatest(max((float(each[axis]) for each in values), default=float("-inf")))
            kept = [at for at, each in enumerate(values) if float(each[axis]) == top]
            rows, values = rows[kept], [values[at] for at in kept]
        return int(rows[0]) if len(rows) else None
