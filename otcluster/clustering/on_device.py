"""The pass of k-means by kernels: labels without an array of n x k, and sums in the order of the labels."""

from __future__ import annotations

from typing import Any

from otcluster._ops.generic import Array
from otcluster.clustering.passes import Step, relabelled
from otcluster.clustering.samples import Samples


class KernelPass:
    """The nearest centroid of each row on a device; answers as :class:`otcluster.clustering.passes.PlainPass`.

    Rows are laid out once, for products of exact parts; a pass then waits for nothing.
    """

    def __init__(self, samples: Samples) -> None:
        x, kernels = samples.rows_of_kernels(), samples.kernels
        self.samples, self._x, self._kernels = samples, x, kernels
        self._centre = None if samples.metric == "cosine" else samples.centre
        self._rows = kernels.compared(x, self._centre)
        # The rows stay where they are if that costs no digits, and the centroids make up for it.
        self._around = self._centre if kernels.stay(x) else None
        self.labels: Array = samples.ops.full((samples.n,), -1, samples.ops.integer)

    def run(self, centroids: Array) -> Step:
        samples, ops = self.samples, self.samples.ops
        before, self.labels = self.labels, self._kernels.labels(self._rows, centroids, self._around)
        k = int(centroids.shape[0])
        sums, counts = self._kernels.segment_sums(
            self._x, self.labels, k, samples.weights, centre=self._centre, scale=samples.scale
        )
        return Step(sums, counts, ops.xp.sum(ops.cast(self.labels != before, ops.wide)))

    def distances(self, centroids: Array) -> Array:
        squares: Array = self._kernels.own_squares(self._x, centroids, self.labels, self._centre, self.samples.scale)
        return squares

    def relabel(self, rows: Any, cluster: int) -> None:
        self.labels = relabelled(self.samples, self.labels, rows, cluster)


def kernel_pass(samples: Samples) -> KernelPass | None:
    """The pass of kernels over ``samples``, None where there are none."""
    return None if samples.kernels is None else KernelPass(samples)
