"""The values of a problem, looked at once: NaN, impossible masses, group ids out of range, and what cannot be assigned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from otcluster._ops.generic import Array
from otcluster.scores import DenseScores

if TYPE_CHECKING:
    from otcluster.problem import Problem

# How far the totals of the two sides may lie apart, relative to the larger, for masses of each precision.
_AGREEMENT = {"bfloat16": 3e-2, "float16": 4e-3, "float32": 1e-5}
_EXACT = 1e-9


class InfeasibleError(ValueError):
    """No assignment meets what was asked."""


def check_values(problem: Problem, clusters: Array, given: str | None) -> tuple[bool, tuple[float, float] | None]:
    """Raise for the first impossible value of ``problem``, waiting for the device once.

    Args:
        problem: Its shapes and dtypes are right already.
        clusters: Cluster masses or shares as they came in, (n_problems, k).
        given: The argument by which they came in; None for the default.

    Returns:
        Whether any pair is forbidden, and bounds of the scores where they are finite.
    """
    ops, xp = problem.ops, problem.ops.xp
    zero = ops.full((), 0.0, ops.wide)
    sums = xp.sum(clusters, axis=-1)
    larger = xp.maximum(problem.totals, sums)
    apart = xp.abs(problem.totals - sums) / xp.where(larger > 0, larger, xp.ones_like(larger))
    ids = problem.groups if problem.groups is not None and problem.n_samples else None
    facts = [
        zero if ids is None else xp.min(ids),
        zero if ids is None else xp.max(ids),
        _least(problem, problem.weights),
        _least(problem, clusters),
        xp.max(apart) if problem.n_problems else zero,
        *problem.scores.range_facts(),
    ]
    # Where looking costs a wait, the whole survey travels with the first look.
    dense = isinstance(problem.scores, DenseScores)
    survey = _Survey(problem, clusters) if dense and not ops.eager_checks else None
    first, last, least_sample, least_cluster, furthest, low, high, *found = ops.facts(
        [*facts, *(survey.facts if survey else [])]
    )
    finite = math.isfinite(low) and math.isfinite(high)

    if problem.n_groups is not None and ids is not None and (first < 0 or last >= problem.n_groups):
        raise ValueError(f"groups must lie in [0, {problem.n_groups}), got ids from {int(first)} to {int(last)}")
    for name, least in (("sample_mass", least_sample), (given or "cluster_mass", least_cluster)):
        if not least >= 0:
            raise ValueError(f"{name} must be finite and not negative, got {'NaN or infinity' if least != least else least}")
    if not finite:
        problem.scores.raise_not_finite()
        if dense and survey is None:
            survey = _Survey(problem, clusters)
            found = ops.facts(survey.facts)
    if survey is not None and found[0]:
        survey.raise_bad_score()
    tolerance = _tolerance(problem)
    if given == "cluster_mass" and furthest > tolerance:
        at = _first(problem, apart > tolerance)
        raise ValueError(
            "sample_mass and cluster_mass must have the same total, got "
            f"{float(problem.totals[at])} and {float(sums[at])}{_place(problem, at)}: scale one of them, or give cluster_share"
        )
    if given == "cluster_share" and furthest >= 1:
        closed = (sums == 0) & (problem.totals > 0)
        if bool(xp.any(closed)):
            at = _first(problem, closed)
            raise InfeasibleError(f"cluster_share closes every cluster{_place(problem, at)}, but there are samples to assign")
    bounds = (low, high) if finite else problem.scores.known_bounds
    if survey is None:
        return False, bounds
    if found[2] or found[3]:
        survey.raise_unreachable()
    return bool(found[1]), bounds


class _Survey:
    """What a full look at an array of scores finds: bad values, forbidden pairs, rows and columns without any pair."""

    def __init__(self, problem: Problem, clusters: Array) -> None:
        ops, xp = problem.ops, problem.ops.xp
        self.problem = problem
        values = xp.reshape(problem.scores.values, (-1, problem.n_samples, problem.n_clusters))  # type: ignore[attr-defined]
        self.bad = xp.isnan(values) | (values == float("inf"))
        allowed = values > -float("inf")
        spread = clusters[:, None, :] if problem.groups is None else xp.take(clusters, problem.groups, axis=0)[None, :, :]
        weighted = problem.weights > 0
        self.lost_rows = weighted & ~xp.any(allowed & (spread > 0), axis=-1)
        reached = allowed & weighted[..., None]
        if problem.groups is None:
            some = xp.any(reached, axis=-2)
        else:
            counts = ops.segment_sum(ops.cast(reached[0, ...], ops.wide), problem.groups, problem.n_problems)
            some = counts > 0
        self.lost_columns = (clusters > 0) & ~some & (problem.totals > 0)[:, None]
        self.facts = [xp.any(self.bad), xp.any(~allowed), xp.any(self.lost_rows), xp.any(self.lost_columns)]

    def raise_bad_score(self) -> None:
        at = _index(self.problem, self.bad)
        value = self.problem.scores.values[at]  # type: ignore[attr-defined]
        raise ValueError(f"scores must not be NaN or +inf, got {float(value)} at {at}: use -inf to forbid a pair")

    def raise_unreachable(self) -> None:
        if bool(self.problem.ops.xp.any(self.lost_rows)):
            at = _index(self.problem, self.lost_rows)
            name = at[0] if len(at) == 1 else at
            raise InfeasibleError(
                f"sample {name} may join no open cluster: every score of its row is -inf or meets a closed cluster. "
                "Allow one, or give the sample no mass"
            )
        row, column = divmod(_first(self.problem, self.lost_columns), self.problem.n_clusters)
        raise InfeasibleError(
            f"cluster {column}{_place(self.problem, row)} may receive no sample: every score of its column is -inf. "
            "Allow one, or close the cluster with cluster_share or cluster_mass of 0"
        )


def _least(problem: Problem, masses: Array) -> Array:
    """The smallest mass, or NaN where one is NaN or infinite."""
    if math.prod(masses.shape) == 0:
        return problem.ops.full((), 0.0, problem.ops.wide)
    return problem.ops.xp.min(masses + 0 * masses)


def _tolerance(problem: Problem) -> float:
    dtypes = [str(getattr(value, "dtype", "")) for name, value in problem.given.items() if name.endswith("_mass")]
    return max((limit for dtype in dtypes for name, limit in _AGREEMENT.items() if dtype.endswith(name)), default=_EXACT)


def _first(problem: Problem, marked: Array) -> int:
    flat = problem.ops.xp.reshape(marked, (-1,))
    return int(problem.ops.argmax(problem.ops.cast(flat, problem.ops.wide)))


def _index(problem: Problem, marked: Array) -> tuple[int, ...]:
    """The index of the first marked entry in the shape that the caller gave."""
    at = _first(problem, marked)
    shape = problem.sample_shape + tuple(marked.shape[2:])
    index: tuple[int, ...] = ()
    for size in reversed(shape):
        at, rest = divmod(at, size)
        index = (rest, *index)
    return index


def _place(problem: Problem, at: int) -> str:
    if problem.n_groups is not None:
        return f" in group {at}"
    return f" in problem {at} of the batch" if problem.problem_shape else ""
