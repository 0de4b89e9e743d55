"""The values of a problem, looked at once: NaN, impossible masses, group ids out of range, and what cannot be assigned."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from otcluster._ops.generic import Array, dtype_name
from otcluster._ops.lazy import lazy
from otcluster.scores import DenseScores

if TYPE_CHECKING:
    from otcluster.problem import Problem

# How far the totals of the two sides may lie apart, relative to the larger, for masses of each precision.
_AGREEMENT = {"bfloat16": 3e-2, "float16": 4e-3, "float32": 1e-5}
_EXACT = 1e-9


class InfeasibleError(ValueError):
    """No assignment meets what was asked."""


def check_whole(name: str, value: Any, least: int) -> int:
    """Return ``value`` as an int, or raise unless it is a whole number of at least ``least``."""
    if not is_whole(value):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if (number := operator.index(value)) < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def is_whole(value: Any) -> bool:
    """Whether ``value`` is one whole number, of any library; booleans are none."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def check_seed(seed: Any) -> int:
    """The seed that is given, or the next draw of a NumPy generator: from 0 to 2**63 - 1. What is larger is wrapped."""
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(1 << 63))
    if not is_whole(seed):
        raise TypeError(f"seed must be a whole number or a numpy.random.Generator, got {seed!r}")
    return check_whole("seed", seed, 0) % (1 << 63)


def check_values(
    problem: Problem, masses: Array | None, totals: Array, clusters: Array, given: str | None
) -> tuple[bool, tuple[float, float] | None]:
    """Raise for the first impossible value of ``problem``, waiting for the device once.

    Args:
        problem: Its shapes and dtypes are right already.
        masses: Sample masses as they came in, (batches, n); None for ones.
        totals: Their sums, (n_problems,).
        clusters: Cluster masses or shares as they came in, (n_problems, k).
        given: The argument by which they came in; None for the default.

    Returns:
        Whether any pair is forbidden, and bounds of the scores where they are finite.
    """
    ops, xp = problem.ops, problem.ops.xp
    ids = problem.groups if problem.groups is not None and problem.n_samples else None
    dense = isinstance(problem.scores, DenseScores)
    survey = _Survey(problem, clusters) if dense else None
    seen = survey.seen() if survey is not None else None
    facts: dict[str, Array] = {}
    if ids is not None and seen is None:
        facts |= {"first": xp.min(ids), "last": xp.max(ids)}
    if masses is not None:
        facts["least sample"] = _least(problem, masses)
        facts["lightest"], facts["heaviest"] = _scale_facts(problem, masses)
    wanted = totals if problem.assigned_mass is None else problem.assigned
    sums = xp.sum(clusters, axis=-1) if given is not None else wanted
    if given is not None:
        starved = xp.any((sums == 0) & (totals > 0))
        facts |= {"least cluster": _least(problem, clusters), "starved": starved}
        if problem.n_problems:
            facts["furthest"] = xp.max(_apart(problem, wanted, sums))
    if problem.assigned_mass is not None:
        facts["beyond"] = xp.any(_out_of_bounds(problem, wanted, totals))
    if seen is None:
        facts["low"], facts["high"] = problem.scores.range_facts()
        if survey is not None and not ops.on_host:  # where looking costs a wait, the whole survey travels with the first look
            facts |= survey.facts()
    else:
        facts["seen"] = seen  # last: it is several
    values = ops.facts(list(facts.values())) if facts else []
    found = dict(zip(facts, values, strict=False))
    if seen is not None:
        found |= dict(zip(_SEEN, values[len(facts) - 1 :], strict=True))
    return _judged(problem, clusters, totals, given, found, survey, (wanted, sums))


def _judged(
    problem: Problem,
    clusters: Array,
    totals: Array,
    given: str | None,
    found: dict[str, float],
    survey: _Survey | None,
    sides: tuple[Array, Array],
) -> tuple[bool, tuple[float, float] | None]:
    """Raise for what was found; else what :func:`check_values` returns."""
    ops, xp = problem.ops, problem.ops.xp
    wanted, sums = sides
    low, high = found["low"], found["high"]
    finite = math.isfinite(low) and math.isfinite(high) and not found.get("too large")
    if found.get("bad ids", 0.0) or found.get("first", 0) < 0 or found.get("last", -1) >= (problem.n_groups or 0):
        first, last = ops.facts([xp.min(problem.groups), xp.max(problem.groups)])
        raise ValueError(f"groups must lie in [0, {problem.n_groups}), got ids from {int(first)} to {int(last)}")
    for name, least in (("sample_mass", found.get("least sample", 1.0)), (given or "", found.get("least cluster", 1.0))):
        if not least >= 0:
            raise ValueError(f"{name} must be finite and not negative, got {'NaN or infinity' if least != least else least}")
    _check_scale(problem, found.get("lightest", 1.0), found.get("heaviest", 1.0))
    if not finite:
        if survey is not None and "bad" not in found:
            names = survey.facts()
            found |= dict(zip(names, ops.facts(list(names.values())), strict=True))
        if survey is None or found["too large"]:
            problem.scores.raise_not_finite()
    if survey is not None and found.get("bad"):
        survey.raise_bad_score()
    if found.get("beyond"):
        _raise_beyond(problem, _out_of_bounds(problem, wanted, totals), wanted, totals)
    # What the rows of other ranks decide is checked when they are joined (otcluster.sharding).
    if given == "cluster_mass" and not problem.sharded and not found.get("furthest", 0.0) <= agreement(problem):
        check_totals(problem, wanted, sums, agreement(problem))
    if found.get("starved"):
        place = _place(problem, _first(problem, (sums == 0) & (totals > 0)))
        raise InfeasibleError(f"cluster_share closes every cluster{place}, but there are samples to assign")
    bounds = (low, high) if finite else problem.scores.known_bounds
    if survey is None or "bad" not in found:
        return False, bounds
    lost_columns = found["lost columns"] and problem.cluster_side is None and not problem.sharded
    if found["lost rows"] or lost_columns:
        survey.raise_unreachable()
    return bool(found["forbidden"]), bounds


def check_assigned(problem: Problem, wanted: Array, totals: Array, tolerance: float) -> None:
    """Raise unless ``wanted`` of the ``totals``, (n_problems,) each, can be assigned."""
    beyond = _beyond(wanted, totals, tolerance)
    if bool(problem.ops.xp.any(beyond)):
        _raise_beyond(problem, beyond, wanted, totals)


def _beyond(wanted: Array, totals: Array, tolerance: float) -> Array:
    return ~((wanted > 0) | ((wanted == 0) & (totals == 0))) | ~(wanted <= (1 + tolerance) * totals)


def _out_of_bounds(problem: Problem, wanted: Array, totals: Array) -> Array:
    # Of a sharded problem these are the totals of one rank, which say nothing of what all may be asked for.
    return ~(wanted >= 0) if problem.sharded else _beyond(wanted, totals, agreement(problem))


def _raise_beyond(problem: Problem, beyond: Array, wanted: Array, totals: Array) -> None:
    at = _first(problem, beyond)
    most = "" if problem.sharded and problem.reducer is None else f", {float(totals[at])}{_place(problem, at)}"
    raise ValueError(
        f"assigned_mass must be above 0 and at most the mass of the samples{most}, got "
        f"{float(wanted[at])}: give one number per problem where they differ"
    )


def check_totals(problem: Problem, totals: Array, sums: Array, tolerance: float) -> None:
    """Raise unless what is to be assigned and the masses of the clusters, (n_problems,) each, agree to ``tolerance``."""
    wrong = ~(_apart(problem, totals, sums) <= tolerance)
    if bool(problem.ops.xp.any(wrong)):
        at = _first(problem, wrong)
        other = "sample_mass" if problem.assigned_mass is None else "assigned_mass"
        raise ValueError(
            f"{other} and cluster_mass must have the same total, got "
            f"{float(totals[at])} and {float(sums[at])}{_place(problem, at)}: scale one of them, or give cluster_share"
        )


def reached_clusters(problem: Problem, clusters: Array) -> Array:
    """Which clusters some sample with mass may join, (n_problems, k); ``problem`` was checked."""
    if problem.has_forbidden:
        return _Survey(problem, clusters).reached
    return problem.ops.xp.broadcast_to((problem.totals > 0)[:, None], clusters.shape)


def raise_unreached(problem: Problem, lost: Array) -> None:
    """Raise for the first open cluster, of those marked in ``lost``, that no sample may join; if there is one."""
    if not bool(problem.ops.xp.any(lost)):
        return
    row, column = divmod(_first(problem, lost), problem.n_clusters)
    raise InfeasibleError(
        f"cluster {column}{_place(problem, row)} may receive no sample: every score of its column is -inf. "
        "Allow one, or close the cluster with cluster_share or cluster_mass of 0"
    )


def _apart(problem: Problem, totals: Array, sums: Array) -> Array:
    xp = problem.ops.xp
    larger = xp.maximum(totals, sums)
    return xp.abs(totals - sums) / xp.where(larger > 0, larger, xp.ones_like(larger))


def _scale_facts(problem: Problem, masses: Array) -> list[Array]:
    """The largest mass of a sample in each problem: the smallest of these that is not zero, and the largest."""
    ops, xp = problem.ops, problem.ops.xp
    one = ops.full((), 1.0, ops.wide)
    if "sample_mass" not in problem.given or not math.prod(masses.shape):
        return [one, one]
    if problem.groups is None:
        heaviest = xp.max(masses, axis=-1)
    else:
        inside = xp.where((problem.groups >= 0) & (problem.groups < problem.n_problems), problem.groups, 0 * problem.groups)
        heaviest = ops.segment_max(masses[0, :, None], inside, problem.n_problems)[:, 0]
    some = heaviest > 0
    return [xp.min(xp.where(some, heaviest, xp.ones_like(heaviest))), xp.max(xp.where(some, heaviest, xp.zeros_like(heaviest)))]


def _check_scale(problem: Problem, lightest: float, heaviest: float) -> None:
    """Raise if masses are so small or large that sums of their shares leave the dtype."""
    limit = 1e100 if problem.dtype == problem.ops.xp.float64 else 1e15
    if heaviest > limit or lightest < 1 / limit:
        raise ValueError(
            f"the largest sample_mass of a problem must lie between {1 / limit:.0e} and {limit:.0e} in "
            f"{dtype_name(problem.dtype)}, got {heaviest if heaviest > limit else lightest}: scale sample_mass, "
            "and cluster_mass with it"
        )


_SEEN = ("low", "high", "bad", "forbidden", "lost rows", "lost columns", "too large", "bad ids")


class _Survey:
    """What a full look at an array of scores finds: bad values, forbidden pairs, rows and columns without any pair."""

    def __init__(self, problem: Problem, clusters: Array) -> None:
        self.problem, self.clusters = problem, clusters

    def seen(self) -> Array | None:
        """What a kernel sees in one look, as :data:`_SEEN` has it; None where there is none, or no score."""
        problem, ops = self.problem, self.problem.ops
        if 0 in self._shape or not ops.may_have_kernels:
            return None
        scores = ops.xp.reshape(problem.scores.given, self._shape)  # type: ignore[attr-defined]
        weights = problem.weights if problem.is_weighted else None
        kernels = ops.survey_kernels([scores, *([] if weights is None else [weights])])
        if kernels is None:
            return None
        limit, strict = problem.scores.limit, problem.assigned_mass is None  # type: ignore[attr-defined]
        found: Array = kernels.survey(scores, weights, self.clusters, problem.totals, problem.groups, limit, strict)
        return found

    def facts(self) -> dict[str, Array]:
        """Whether there are bad scores, forbidden pairs, rows and columns without any pair, scores that are too large."""
        found = (self.bad, ~self._allowed, self.lost_rows, self._lost_columns, self._too_large)
        return dict(zip(_SEEN[2:], (self.problem.ops.xp.any(each) for each in found), strict=False))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (math.prod(self.problem.scores.batch_shape), self.problem.n_samples, self.problem.n_clusters)

    @lazy
    def _values(self) -> Array:
        return self.problem.ops.xp.reshape(self.problem.scores.values, self._shape)  # type: ignore[attr-defined]

    @lazy
    def bad(self) -> Array:
        """Which scores are NaN or +inf."""
        return self.problem.ops.xp.isnan(self._values) | (self._values == float("inf"))

    @lazy
    def _allowed(self) -> Array:
        return self._values > -float("inf")

    @property
    def _ids(self) -> Array:
        """Group ids; those that there are not, which a device finds in the same look, count as 0."""
        ids = self.problem.groups
        assert ids is not None
        inside = (ids >= 0) & (ids < self.problem.n_problems)
        return self.problem.ops.xp.where(inside, ids, self.problem.ops.xp.zeros_like(ids))

    @lazy
    def lost_rows(self) -> Array:
        """Which samples with mass may join no open cluster, (batches, n)."""
        problem, xp = self.problem, self.problem.ops.xp
        weighted = problem.weights > 0
        if problem.assigned_mass is not None:  # who may join no cluster stays outside
            return xp.zeros_like(weighted)
        if not problem.n_problems:
            return xp.zeros_like(weighted)
        grouped = problem.groups is not None
        spread = xp.take(self.clusters, self._ids, axis=0)[None, :, :] if grouped else self.clusters[:, None, :]
        return weighted & ~xp.any(self._allowed & (spread > 0), axis=-1)

    @lazy
    def reached(self) -> Array:
        """Which clusters some sample with mass may join, (n_problems, k)."""
        problem, ops, xp = self.problem, self.problem.ops, self.problem.ops.xp
        reached = self._allowed & (problem.weights > 0)[..., None]
        if problem.groups is None:
            return xp.any(reached, axis=-2)
        if not problem.n_problems:
            return self.clusters > 0
        return ops.segment_sum(ops.cast(reached[0, ...], ops.wide), self._ids, problem.n_problems) > 0

    @lazy
    def _lost_columns(self) -> Array:
        return (self.clusters > 0) & ~self.reached & (self.problem.totals > 0)[:, None]

    @property
    def _too_large(self) -> Array:
        return self.problem.scores.too_large()  # type: ignore[attr-defined]

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
        raise_unreached(self.problem, self._lost_columns)


def _least(problem: Problem, masses: Array) -> Array:
    """The smallest mass, or NaN where one is NaN or infinite."""
    if math.prod(masses.shape) == 0:
        return problem.ops.full((), 0.0, problem.ops.wide)
    return problem.ops.xp.min(masses + 0 * masses)


def agreement(problem: Problem) -> float:
    """How far the totals of the two sides may lie apart, relative to the larger."""
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
