"""Hard labels with exact sizes and the largest sum of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment
from otcluster.balancing.problems import balance_all
from otcluster.balancing.sizes import Size, asked_bounds, counted, samples_of
from otcluster.checks import is_whole
from otcluster.priced import BalancedAssignment
from otcluster.problem import Problem
from otcluster.solvers.base import settle


@dataclass(frozen=True)
class ExactBalanced:
    """Assign each sample to one cluster, the sizes met exactly, with the largest sum of scores there is.

    Each cluster holds n / k samples, rounded down or up, whichever is better. A ``cluster_mass`` of whole numbers asks for
    other sizes; ``size_min`` and ``size_max`` give each cluster freedom between bounds. A ``cluster_share`` of zero closes a
    cluster, and the others share equally; other shares must come to whole numbers of samples. Samples have mass one, or none
    and then take no place. Prefer :class:`LogSinkhorn` for soft labels or for many thousands of clusters: this one computes
    on the host wherever the scores are, and holds a few arrays of k x k.

    Args:
        size_min: Fewest samples of a cluster: a number for all, or a tuple with one for each. Alone, sizes are open above.
        size_max: Most samples of a cluster. Alone, sizes are open below.

    Raises:
        TypeError: A bound is neither a whole number nor a tuple of them.
        ValueError: A bound is negative, or a smallest size exceeds the largest; from :func:`otcluster.solve`, more than 16,384
            clusters.
        InfeasibleError: From :func:`otcluster.solve`, where no assignment has the sizes; it says why.

    Example:
        >>> import numpy as np
        >>> import otcluster as otc
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8], [0.9, 0.1]])
        >>> otc.solve(otc.Problem(scores), ExactBalanced()).labels()
        array([0, 1, 0])
        >>> otc.solve(otc.Problem(scores), ExactBalanced(size_min=0, size_max=(1, 3))).labels()
        array([0, 1, 1])

    Source: Successive shortest paths, Ahuja, Magnanti & Orlin, "Network flows" (1993), here between clusters; the first prices
    from a smoothed dual, Cuturi & Peyré, "Semidual regularized optimal transport" (2018).
    """

    size_min: Size = None
    size_max: Size = None

    def __post_init__(self) -> None:
        settle(self, size_min=_check_size("size_min", self.size_min), size_max=_check_size("size_max", self.size_max))
        if self.size_min is not None and self.size_max is not None:
            low, high = np.atleast_1d(self.size_min), np.atleast_1d(self.size_max)
            if len(low) != len(high) and 1 not in (len(low), len(high)):
                raise ValueError(f"size_min and size_max must be of one length, got {len(low)} and {len(high)}")
            if np.any(low > high):
                raise ValueError(f"size_min must not exceed size_max, got {self.size_min} and {self.size_max}")

    def run(self, problem: Problem, start: Array | None = None) -> Assignment:
        """Solve ``problem``; prefer :func:`otcluster.solve`."""
        problem.need_all_samples("ExactBalanced")
        if problem.cluster_side is not None:
            raise ValueError("ExactBalanced meets sizes exactly: leave cluster_side away, or give size_min and size_max")
        takes_place = counted(problem)
        ops, xp = problem.ops, problem.ops.xp
        if bool(xp.any((problem.weights != 0) & (problem.weights != 1))):
            raise ValueError(
                "sample_mass must be one for each sample (or zero, to leave it out) with ExactBalanced: leave sample_mass away"
            )
        low, high = asked_bounds(problem, samples_of(problem, takes_place), self.size_min, self.size_max)
        answer = balance_all(problem, takes_place, low, high, start)
        bounds = ops.asarray(low), ops.asarray(high)
        return BalancedAssignment(problem, self, answer.g, answer.labels, answer.best, bounds, answer.gap)


def _check_size(name: str, size: Any) -> Size:
    """Return ``size`` as whole numbers of Python, or raise unless it is None, one of them or a tuple of them."""
    if size is None:
        return None
    each = size if isinstance(size, tuple) else (size,)
    if not all(map(is_whole, each)):
        raise TypeError(
            f"{name} must be None, a whole number or a tuple of them, one per cluster; got {size!r}: of a list or an array, "
            "give tuple(...)"
        )
    if any(one < 0 for one in each):
        raise ValueError(f"{name} must not be negative, got {size}: it is a number of samples")
    return tuple(map(int, each)) if isinstance(size, tuple) else int(size)
