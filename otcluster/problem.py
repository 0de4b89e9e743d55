"""What is asked: scores, the masses to respect and the groups that samples belong to, checked once."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from otcluster._ops import GenericOps
from otcluster._ops.generic import Array
from otcluster._ops.lazy import lazy
from otcluster.checks import InfeasibleError, agreement, check_values
from otcluster.group_ids import group_ids
from otcluster.masses import RelaxedKL, relaxed_side
from otcluster.scores import DenseScores, PointScores, Scores

if TYPE_CHECKING:
    from otcluster.distributed import Reducer

__all__ = ["InfeasibleError", "Problem"]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Problem:
    """Samples to be assigned to clusters: scores, and how much mass each side has.

    Args:
        scores: Similarities of shape (..., n, k), larger is closer (a cost enters as ``-cost``), or a
            :class:`PointScores` that forms them from vectors. -inf forbids a pair; NaN and +inf are errors.
        sample_mass: Mass of each sample, (..., n). Default: ones. A sample of mass w counts as w samples.
        cluster_mass: Mass of each cluster, (..., k), or (n_groups, k) when grouped. The total must be that of the samples.
            Default: the total, shared equally. Zero closes a cluster.
        cluster_share: Relative masses of the same shapes, scaled to the mass of each problem. Excludes ``cluster_mass``.
        assigned_mass: How much of the samples' mass the clusters of each problem share: a number, or one for each, of the shape
            of the leading dimensions or (n_groups,). The rest stays outside. ``cluster_mass`` must then have this total, and
            its default and ``cluster_share`` are scaled to it. Default: all of it.
        cluster_side: How the masses of the clusters bind: None, they are met; a :class:`RelaxedKL`, or its strength as a
            number, lets columns differ from them at a price.
        groups: Integers of shape (n,): the problem each sample belongs to. Every group has k clusters of its own and
            ``scores[i, j]`` is sample i against cluster j *of its group*. Groups may be empty.
        n_groups: How many groups there are, required with ``groups``.
        check_values: Look for NaN, +inf, disagreeing totals, group ids out of range and samples or clusters that nothing may
            be assigned to. Shapes and dtypes are checked always.
        sharded: The rows are those of one rank, and ``solve(..., reducer=)`` is to join them with those of the others.
            ``cluster_mass`` and ``cluster_share`` are then those of all samples together, and impossible values are raised
            by ``solve``, on every rank. ``assigned_mass`` is of all samples, too.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not fit, or values are impossible.
        InfeasibleError: One row or column alone shows that no assignment exists.

    Example:
        >>> import numpy as np
        >>> problem = Problem(np.array([[1.0, 0.0], [0.9, 0.8]]))
        >>> problem.cluster_mass
        array([1., 1.])
    """

    scores: Scores
    assigned_mass: Array | None
    """What the clusters share, one number per problem in the dtype of the answer; None where that is everything."""
    cluster_side: RelaxedKL | None
    """What the masses of the clusters are held to; None where they are to be met."""
    groups: Array | None
    n_groups: int | None
    given: dict[str, Any]
    """The caller's own arrays, by argument."""
    versions: dict[str, int | None]
    """How often each was changed in place, where its library counts."""
    clusters: Array
    """Cluster masses as passes read them: (n_problems, k), in the wide dtype, with the totals that are assigned."""
    has_forbidden: bool | None
    """Whether any pair is forbidden; None if nobody looked."""
    bounds: tuple[float, float] | None
    """Between what the scores lie, where that is known without looking again; None where some are -inf."""
    sharded: bool
    fault: ValueError | None
    """What is wrong with the values of a sharded problem."""
    reducer: Reducer | None
    """Sums over the ranks that share the samples; None where all are here."""
    n_everywhere: int
    """Samples of all ranks."""

    def __init__(
        self,
        scores: Array | Scores,
        *,
        sample_mass: Array | None = None,
        cluster_mass: Array | None = None,
        cluster_share: Array | None = None,
        assigned_mass: Array | float | None = None,
        cluster_side: RelaxedKL | float | None = None,
        groups: Array | None = None,
        n_groups: int | None = None,
        check_values: bool = True,
        sharded: bool = False,
    ) -> None:
        if cluster_mass is not None and cluster_share is not None:
            raise ValueError("give cluster_mass (absolute) or cluster_share (relative), not both")
        if not isinstance(sharded, bool):
            raise TypeError(f"sharded must be True or False, got {sharded!r}")
        self._set(sharded=sharded, fault=None, reducer=None, cluster_side=relaxed_side(cluster_side))
        source: Scores = scores if isinstance(scores, (DenseScores, PointScores)) else DenseScores(scores)
        with source.ops.quiet():
            self._take_in(source, groups, n_groups, sample_mass, cluster_mass, cluster_share, assigned_mass, check_values)

    def _take_in(
        self,
        source: Scores,
        groups: Any,
        n_groups: Any,
        sample_mass: Any,
        cluster_mass: Any,
        cluster_share: Any,
        assigned_mass: Any,
        check: bool,
    ) -> None:
        ops, xp = source.ops, source.ops.xp
        ids, count = group_ids(source, groups, n_groups)
        arguments = {
            "sample_mass": sample_mass, "cluster_mass": cluster_mass, "cluster_share": cluster_share,
            "assigned_mass": assigned_mass, "groups": groups,
        }  # fmt: skip
        given = {**source.sources, **{name: value for name, value in arguments.items() if value is not None}}
        versions = {name: ops.version(value) for name, value in given.items() if ops.owns(value)}
        self._set(scores=source, groups=ids, n_groups=count, given=given, versions=versions, n_everywhere=source.n_samples)

        self._set(has_forbidden=None, bounds=source.known_bounds, assigned_mass=None)
        if self.is_weighted:
            # The totals of the two sides are compared as they were given, before the dtype of the answer rounds them.
            exact = self._exact_masses()
            given_totals = self._totals(exact)
            self._set(weights=ops.copy(ops.cast(exact, source.dtype)))
        if assigned_mass is not None:
            shared = self.asked_assigned()
            self._set(assigned_mass=ops.cast(xp.reshape(shared, self.problem_shape), source.dtype), assigned=shared)
        is_plain = self.has_equal_clusters and assigned_mass is None
        clusters, name = (self._equal_shares(), None) if is_plain else self.asked_clusters()
        self._set(clusters=clusters)
        if not is_plain:
            self._set(closed=clusters == 0)
        if check and ops.may_check:
            try:
                masses, totals = (exact, given_totals) if self.is_weighted else (None, self.totals)
                has_forbidden, bounds = check_values(self, masses, totals, clusters, name)
                self._set(has_forbidden=has_forbidden, bounds=bounds)
            except ValueError as error:
                if not self.sharded:
                    raise
                self._set(fault=error)
        if is_plain:
            return
        if assigned_mass is not None:
            self.assign(self.assigned, agreement(self))
        self.share(clusters, name)

    def asked_assigned(self) -> Array:
        """What the clusters are to share, as it came in: (n_problems,), wide."""
        asked = self.given["assigned_mass"]
        number = isinstance(asked, Real) and not isinstance(asked, bool)
        shared = self.ops.full((), float(asked), self.ops.wide) if number else asked
        shared = self._masses(shared, "assigned_mass", self.problem_shape, self.ops.wide, spread=number)
        return self.ops.xp.reshape(shared, (self.n_problems,))

    def assign(self, asked: Array, tolerance: float) -> None:
        """Let the clusters share ``asked`` of the totals. What rounding leaves of nothing is no outside."""
        everything = asked >= (1 - tolerance) * self.totals
        self._set(assigned=self.ops.xp.where(everything, self.totals, asked))

    def asked_clusters(self) -> tuple[Array, str | None]:
        """Cluster masses or shares as they came in, (n_problems, k), and the argument by which; ones and None by default."""
        name = next((name for name in ("cluster_mass", "cluster_share") if name in self.given), None)
        shape = (*self.problem_shape, self.n_clusters)
        clusters = self._masses(self.given.get(name or ""), name or "cluster_mass", shape, self.ops.wide)
        return self.ops.xp.reshape(clusters, (self.n_problems, self.n_clusters)), name

    def share(self, clusters: Array, name: str | None) -> None:
        """Share what is assigned among the clusters as asked: ``clusters``, by the argument ``name``."""
        xp = self.ops.xp
        if name == "cluster_share":  # sums of shares of any size stay in range
            largest = xp.max(clusters, axis=-1, keepdims=True)
            clusters = clusters / xp.where(largest > 0, largest, xp.ones_like(largest))
        # Scaled also where the totals agree to rounding: a tolerance below that rounding can then be met.
        sums = xp.sum(clusters, axis=-1)
        self._set(clusters=clusters * (self.assigned / xp.where(sums > 0, sums, xp.ones_like(sums)))[:, None])

    def _equal_shares(self) -> Array:
        """What is assigned, shared equally by the clusters: (n_problems, k)."""
        shape = (self.n_problems, self.n_clusters)
        if self.groups is None and not self.is_weighted:
            return self.ops.full(shape, self.n_samples / self.n_clusters, self.ops.wide)
        xp = self.ops.xp
        return xp.broadcast_to((self.assigned / self.n_clusters)[:, None], shape) + 0.0

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        grouped = f", n_groups={self.n_groups}" if self.n_groups is not None else ""
        return f"Problem({self.scores!r}{grouped})"

    @property
    def ops(self) -> GenericOps:
        return self.scores.ops

    @property
    def dtype(self) -> Any:
        """The dtype of the answer: float32 or float64."""
        return self.scores.dtype

    @property
    def n_samples(self) -> int:
        return self.scores.n_samples

    @property
    def n_clusters(self) -> int:
        """Clusters of each problem (of each group, when grouped)."""
        return self.scores.n_clusters

    @property
    def is_weighted(self) -> bool:
        """Whether masses of the samples were given."""
        return "sample_mass" in self.given

    @property
    def has_equal_clusters(self) -> bool:
        """Whether no masses of the clusters were given."""
        return "cluster_mass" not in self.given and "cluster_share" not in self.given

    @lazy
    def weights(self) -> Array:
        """Sample masses as passes read them: (batches, n)."""
        return self._exact_masses()

    @lazy
    def sample_mass(self) -> Array:
        """(..., n), in the dtype of the answer."""
        return self.ops.xp.reshape(self.weights, self.sample_shape)

    @lazy
    def totals(self) -> Array:
        """Mass of the samples of each problem: (n_problems,), in the wide dtype."""
        return self._totals(self.weights if self.is_weighted or self.groups is not None else None)

    @lazy
    def assigned(self) -> Array:
        """What the clusters share of it."""
        return self.totals

    @lazy
    def sorted_rows(self) -> tuple[Array, Array]:
        """The rows of a grouped problem sorted by group, (n,), and where each group begins there, (n_groups + 1,)."""
        xp, ops = self.ops.xp, self.ops
        assert self.groups is not None
        order = xp.argsort(self.groups, stable=True)
        return order, ops.cast(xp.searchsorted(xp.take(self.groups, order), ops.arange(self.n_problems + 1)), ops.integer)

    @lazy
    def cluster_mass(self) -> Array:
        """(..., k) or (n_groups, k), in the dtype of the answer."""
        shape = (*self.problem_shape, self.n_clusters)
        return self.ops.cast(self.ops.xp.reshape(self.clusters, shape), self.dtype)

    @lazy
    def closed(self) -> Array:
        """Which clusters the caller closed, by giving them no mass: (n_problems, k)."""
        return self.clusters != self.clusters

    @property
    def problem_shape(self) -> tuple[int, ...]:
        """The shape of what there is one of per problem: the batch dimensions, or (n_groups,)."""
        return self.scores.batch_shape if self.n_groups is None else (self.n_groups,)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of what there is one of per sample."""
        return (*self.scores.batch_shape, self.n_samples)

    @property
    def n_problems(self) -> int:
        return math.prod(self.problem_shape)

    def summed(self, *parts: Array) -> tuple[Array, ...]:
        """Sums over all samples from ``parts``, the sums over the rows here, (n_problems, ...) each; in one exchange."""
        if self.reducer is None:
            return parts
        xp = self.ops.xp
        widths = [math.prod(part.shape[1:]) for part in parts]
        laid = [xp.reshape(part, (self.n_problems, width)) for part, width in zip(parts, widths, strict=True)]
        total = self.reducer.sum(laid[0] if len(laid) == 1 else xp.concat(laid, axis=1))
        stops = list(itertools.accumulate(widths))
        sums = [total[:, stop - width : stop] for stop, width in zip(stops, widths, strict=True)]
        return tuple(xp.reshape(each, tuple(part.shape)) for each, part in zip(sums, parts, strict=True))

    def greatest(self, values: Array) -> Array:
        """The maximum over all samples from that over the rows here."""
        return values if self.reducer is None else self.reducer.max(values)

    def need_all_samples(self, what: str) -> None:
        """Raise ValueError where other ranks hold samples too: ``what`` looks at all at once."""
        if self.reducer is not None:
            raise ValueError(f"{what} needs all samples in one process: gather them, and leave sharded and reducer out")

    def exact_totals(self) -> Array:
        """Mass of the rows here in each problem, (n_problems,), before the dtype of the answer rounds it."""
        return self._totals(self._exact_masses())

    def check_unchanged(self) -> None:
        """Raise RuntimeError if an input was changed in place since: what was found of it may be true no more."""
        for name, version in self.versions.items():
            if version is not None and self.ops.version(self.given[name]) != version:
                raise RuntimeError(
                    f"{name} was changed in place after this problem was made, which stands for it as it was: "
                    f"ask before the change, or make the problem of {name}.clone()"
                )

    def with_scores(self, values: Array) -> Problem:
        """The same problem, checked as it is, with other scores of the same shape."""
        other = self.copied()
        other._set(scores=DenseScores(values))
        return other

    def copied(self) -> Problem:
        """The same problem as another object, not checked again."""
        other: Problem = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        self.check_unchanged()
        return {name: value for name, value in self.__dict__.items() if name != "_device_passes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(**state)
        self._set(versions={name: self.ops.version(self.given[name]) for name in self.versions})

    def with_clusters(self, clusters: Array) -> Problem:
        """The same problem, checked as it is, with other masses of the clusters, (n_problems, k) and wide."""
        other = self.copied()
        other.__dict__.pop("cluster_mass", None)
        other._set(clusters=clusters)
        return other

    def _exact_masses(self) -> Array:
        """Sample masses as they came in, (batches, n), wide."""
        dtype = self.ops.wide if self.is_weighted else self.dtype
        exact = self._masses(self.given.get("sample_mass"), "sample_mass", self.sample_shape, dtype)
        return self.ops.xp.reshape(exact, (1 if self.groups is not None else self.n_problems, self.n_samples))

    def _masses(self, values: Any, name: str, shape: tuple[int, ...], dtype: Any, *, spread: bool = False) -> Array:
        """Masses in the library, device and shape of the scores, ones where none are given; with ``spread`` from one number."""
        ops = self.ops
        if values is None:
            return ops.full(shape, 1.0, dtype)
        if ops.owns(values) and ops.device_of(values) != ops.device:
            raise ValueError(f"{name} is on {ops.device_of(values)}, the scores are on {ops.device}: move one to the other")
        array = ops.asarray(values)
        if not ops.is_integer(array):
            ops.float_dtype(array, name)
        try:
            if not spread and tuple(array.shape[-1:]) != shape[-1:]:  # leading dimensions may be broadcast, single masses not
                raise ValueError
            return ops.xp.broadcast_to(ops.cast(array, dtype), shape)
        except (ValueError, RuntimeError):
            raise ValueError(f"{name} must have shape {shape}, got {tuple(array.shape)}") from None

    def _totals(self, weights: Array | None) -> Array:
        ops, xp = self.ops, self.ops.xp
        if self.groups is None and not self.is_weighted:
            return ops.full((self.n_problems,), float(self.n_samples), ops.wide)
        if not self.is_weighted and ops.may_have_kernels:
            starts = self.sorted_rows[1]
            return ops.cast(starts[1:] - starts[:-1], ops.wide)
        wide = ops.cast(weights, ops.wide)
        if self.groups is None:
            return xp.sum(wide, axis=-1)
        # Ids out of range are reported by the checks, which read these totals only after the ids.
        inside = (self.groups >= 0) & (self.groups < self.n_problems)
        if self.n_problems == 0:
            return ops.full((0,), 0.0, ops.wide)
        counted = xp.where(inside, wide[0, :], xp.zeros_like(wide[0, :]))[:, None]
        return ops.segment_sum(counted, xp.where(inside, self.groups, xp.zeros_like(self.groups)), self.n_problems)[:, 0]
