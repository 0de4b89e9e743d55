"""Every sample to its best cluster: the E-step of k-means."""

from __future__ import annotations

from dataclasses import dataclass

from otcluster import labelling
from otcluster._ops.generic import Array
from otcluster.assignment import Assignment, HardAssignment
from otcluster.problem import Problem


@dataclass(frozen=True)
class Nearest:
    """Assign each sample to the cluster with its largest score, without any balance.

    Only whether a cluster is closed matters of the cluster masses. Prefer :class:`SinkhornKnopp` or :class:`LogSinkhorn` where
    the clusters must share the samples.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> otc.solve(otc.Problem(np.array([[1.0, 0.0], [0.9, 0.8]])), Nearest()).labels()
        array([0, 0])

    Source: Lloyd, "Least squares quantization in PCM" (1982).
    """

    def run(self, problem: Problem, start: Array | None = None) -> Assignment:
        """Solve ``problem``; prefer :func:`otcluster.solve`."""
        if start is not None:
            raise ValueError("Nearest takes no start: it looks once at every score, and there is nothing to begin from")
        if problem.assigned_mass is not None:
            raise ValueError("Nearest assigns every sample: leave assigned_mass away, or use LogSinkhorn or ExactBalanced")
        ops, xp = problem.ops, problem.ops.xp
        g = ops.full((problem.n_problems, problem.n_clusters), 0.0, ops.wide)
        g = xp.where(problem.closed, xp.full_like(g, -float("inf")), g)
        labels, best = labelling.nearest(problem, g)
        return HardAssignment(problem, self, g, labels, best)
