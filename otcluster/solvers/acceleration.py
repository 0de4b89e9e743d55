"""What brings a solve to its tolerance: Newton's method, or Sinkhorn's rounds alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from otcluster.problem import Problem

_MOST_CLUSTERS = 1024
_FEW = 1 << 22


@runtime_checkable
class Acceleration(Protocol):
    """What :class:`otcluster.LogSinkhorn` takes as ``acceleration``."""

    @property
    def curved(self) -> bool:
        """Whether the curvature of the dual problem, k x k numbers for each problem, is measured."""
        ...


@dataclass(frozen=True)
class Newton:
    """Newton's method on the potentials of the clusters, with Sinkhorn's rounds to fall back on.

    What :class:`otcluster.LogSinkhorn` does by itself up to 1,024 clusters, where the k x k numbers of each problem are not
    far more than its scores. Ask for it to have it anywhere. Rounds that promise to converge soon are left to do so.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> otc.solve(otc.Problem(scores), otc.LogSinkhorn(epsilon=0.01, acceleration=Newton())).status.name
        'CONVERGED'

    Source: Brauer, Clason, Lorenz & Wirth, "A Sinkhorn-Newton method for entropic optimal transport" (2017).
    """

    @property
    def curved(self) -> bool:
        """True: k x k numbers are measured for each problem."""
        return True


@dataclass(frozen=True)
class PlainRounds:
    """Sinkhorn's rounds and nothing else: what is known to work, and to be slow at small epsilon.

    What :class:`otcluster.LogSinkhorn` does by itself where clusters are too many for :class:`Newton`.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> otc.solve(otc.Problem(scores), otc.LogSinkhorn(epsilon=0.2, acceleration=PlainRounds())).status.name
        'CONVERGED'

    Source: Sinkhorn & Knopp (1967).
    """

    @property
    def curved(self) -> bool:
        """False: only column sums are measured."""
        return False


def default_acceleration(problem: Problem) -> Acceleration:
    """:class:`Newton` where curvature is small beside the scores."""
    k = problem.n_clusters
    n_scores = math.prod(problem.scores.batch_shape) * problem.n_everywhere * k
    small = k <= _MOST_CLUSTERS and problem.n_problems * k * k <= max(_FEW, 2 * n_scores)
    return Newton() if small else PlainRounds()
