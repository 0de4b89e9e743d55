"""What brings a solve to its tolerance: Newton's method, Anderson's mixing, or Sinkhorn's rounds alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from otcluster.checks import check_whole
from otcluster.problem import Problem
from otcluster.solvers.base import settle
from otcluster.solvers.mixing import MixedSteps
from otcluster.solvers.newton import NewtonSteps
from otcluster.solvers.steps import PlainSteps, Steps

_MOST_CLUSTERS = 1024
_FEW = 1 << 22
_FEW_ROUNDS = 8  # about what Newton's method needs at least
_CLUSTERS = 128  # at so many, measuring curvature costs about as much as the rest of a pass


@runtime_checkable
class Acceleration(Protocol):
    """What :class:`otcluster.LogSinkhorn` takes as ``acceleration``."""

    def patience(self, n_clusters: int) -> float:
        """How many plain rounds are done rather than steps, where so many promise to be enough."""
        ...

    def steps(self, problem: Problem, epsilon: float) -> Steps:
        """Begin to bring ``problem`` to its answer at ``epsilon``."""
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

    def patience(self, n_clusters: int) -> float:
        """As many rounds as cost about as much as the steps of an easy problem."""
        return _FEW_ROUNDS * (1 + n_clusters / _CLUSTERS)  # the same for a group as for a problem alone

    def steps(self, problem: Problem, epsilon: float) -> Steps:
        """Steps that know k x k numbers for each problem."""
        return NewtonSteps(problem, epsilon)


@dataclass(frozen=True)
class Anderson:
    """Anderson's mixing of Sinkhorn's rounds: each starts from the best mixture of the last few.

    What :class:`otcluster.LogSinkhorn` does by itself where clusters are too many for :class:`Newton`: a pass costs no more
    than a round, and all that is kept are k numbers for each round that is remembered. It needs a few times as many passes as
    Newton's method, and far fewer than :class:`PlainRounds`. Mixtures that lead nowhere are given up for a plain round.

    Args:
        memory: Differences between rounds that a mixture is made of, at least 1.

    Raises:
        TypeError: ``memory`` is no whole number.
        ValueError: ``memory`` is below 1.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> otc.solve(otc.Problem(scores), otc.LogSinkhorn(epsilon=0.01, acceleration=Anderson())).status.name
        'CONVERGED'

    Source: Anderson, "Iterative procedures for nonlinear integral equations" (1965); Walker & Ni, "Anderson acceleration for
    fixed-point iterations" (2011).
    """

    memory: int = 10

    def __post_init__(self) -> None:
        settle(self, memory=check_whole("memory", self.memory, 1))

    def patience(self, n_clusters: int) -> float:
        """A few rounds, whatever the clusters: a step costs no more than one."""
        return _FEW_ROUNDS

    def steps(self, problem: Problem, epsilon: float) -> Steps:
        """Steps that know the last rounds."""
        return MixedSteps(problem, epsilon, self.memory)


@dataclass(frozen=True)
class PlainRounds:
    """Sinkhorn's rounds and nothing else: what is known to work, and to be slow at small epsilon.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> otc.solve(otc.Problem(scores), otc.LogSinkhorn(epsilon=0.2, acceleration=PlainRounds())).status.name
        'CONVERGED'

    Source: Sinkhorn & Knopp (1967).
    """

    def patience(self, n_clusters: int) -> float:
        """Without bound: there is nothing else."""
        return math.inf

    def steps(self, problem: Problem, epsilon: float) -> Steps:
        """Rounds."""
        return PlainSteps(problem, epsilon)


def default_acceleration(problem: Problem) -> Acceleration:
    """:class:`Newton` where curvature is small beside the scores, else :class:`Anderson`."""
    k = problem.n_clusters
    n_scores = math.prod(problem.scores.batch_shape) * problem.n_everywhere * k
    small = k <= _MOST_CLUSTERS and problem.n_problems * k * k <= max(_FEW, 2 * n_scores)
    return Newton() if small else Anderson()
