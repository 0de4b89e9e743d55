"""What the dtype of a problem can carry: strengths, and scores without the maximum of each row."""

from __future__ import annotations

from otcluster.problem import Problem

_SAFE_RANGE = (44.0, 400.0)  # of scores / epsilon, in float32 and float64


def representable(problem: Problem, epsilon: float) -> float:
    """The strength, or the least that the dtype knows."""
    return max(epsilon, float(problem.ops.xp.finfo(problem.dtype).smallest_normal))


def small_range(problem: Problem, epsilon: float) -> tuple[float, float] | None:
    """Bounds of the scores if ``exp(scores / epsilon)`` is in no danger, whatever the potentials."""
    if problem.bounds is None:
        return None
    low, high = problem.bounds
    # The cluster with the largest g gives each row an entry of at least exp(low - high): row sums stay far from underflow, and
    # masses divided by them from overflow. Scores that are large beside their range would lose digits when they are multiplied.
    safe = (high - low) / epsilon <= _SAFE_RANGE[problem.dtype == problem.ops.xp.float64]
    return problem.bounds if safe and max(abs(low), abs(high)) <= 2 * (high - low) else None
