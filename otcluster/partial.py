"""Partial problems: what is not to be assigned goes to one more cluster, the outside, which every sample likes the same."""

from __future__ import annotations

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment, Status
from otcluster.masses import RelaxedInside
from otcluster.problem import Problem
from otcluster.scores import Scores, Tile

_INFINITY = float("inf")


class WithOutside:
    """Scores with one more column, which is the same number everywhere.

    Args:
        inside: The scores of the clusters.
        level: That number; it changes no answer.
    """

    def __init__(self, inside: Scores, level: float) -> None:
        self.inside, self.level = inside, level
        self.ops, self.dtype, self.batch_shape = inside.ops, inside.dtype, inside.batch_shape
        self.n_samples, self.n_clusters, self.memory = inside.n_samples, inside.n_clusters + 1, inside.memory

    def __repr__(self) -> str:
        return f"WithOutside({self.inside!r})"

    @property
    def sources(self) -> dict[str, Array]:
        return self.inside.sources

    @property
    def n_groups(self) -> int | None:
        return self.inside.n_groups

    @property
    def known_bounds(self) -> tuple[float, float] | None:
        bounds = self.inside.known_bounds
        return None if bounds is None else (min(bounds[0], self.level), max(bounds[1], self.level))

    def range_facts(self) -> tuple[Array, Array]:
        return self.inside.range_facts()

    def raise_not_finite(self) -> None:
        self.inside.raise_not_finite()

    def tile_shape(self, groups: Array | None) -> tuple[int, int]:
        return self.inside.tile_shape(groups)

    def part(self, problem: int, rows: Array | None) -> WithOutside:
        return WithOutside(self.inside.part(problem, rows), self.level)

    def column(self, rows: Array, cluster: int) -> Array:
        if cluster < self.inside.n_clusters:
            return self.inside.column(rows, cluster)
        return self.ops.full((int(rows.shape[0]),), self.level, self.dtype)

    def tiles(self, groups: Array | None) -> Tile:
        tile, ops = self.inside.tiles(groups), self.ops

        def wider(batches: slice, rows: slice) -> Array:
            scores = tile(batches, rows)
            return ops.xp.concat([scores, ops.full((*scores.shape[:-1], 1), self.level, scores.dtype)], axis=-1)

        return wider


def extended(problem: Problem) -> Problem:
    """The same problem with the outside as its last cluster, whose mass is what is not to be assigned."""
    ops, xp = problem.ops, problem.ops.xp
    # Within the range of the scores, so that the outside costs no digits and no rounds.
    level = problem.bounds[1] if problem.bounds is not None else 0.0
    left = (problem.totals - problem.assigned)[:, None]
    clusters = xp.concat([problem.clusters, left], axis=-1)
    shape = (*problem.problem_shape, problem.n_clusters + 1)
    mass = ops.cast(xp.reshape(clusters, shape), problem.dtype)
    other = problem.copied()
    other._set(
        scores=WithOutside(problem.scores, level),
        clusters=clusters,
        cluster_mass=mass,
        cluster_side=None if problem.cluster_side is None else RelaxedInside(problem.cluster_side.strength),
        closed=xp.concat([problem.closed, left == 0], axis=-1),
        given={**problem.given, "cluster_mass": mass},
    )
    return other


def extended_start(problem: Problem, g: Array) -> Array:
    """The potential ``g`` of the clusters of a partial problem, as its extended problem has it: (n_problems, k + 1)."""
    xp, left = problem.ops.xp, problem.clusters[:, -1:]
    level = problem.scores.level  # type: ignore[attr-defined]
    return xp.concat([g, xp.where(left > 0, xp.full_like(left, -level), xp.full_like(left, -_INFINITY))], axis=-1)


class PartialAssignment(Assignment):
    """An answer that leaves mass outside.

    ``plan()`` has rows that sum to at most ``sample_mass``, and ``cluster_sizes()`` are of the clusters alone. Labels are -1
    where more stays outside than goes to any cluster. Of the constants that potentials leave free, the one is chosen by which
    ``exp(f / epsilon)`` is the mass of each sample that stays outside. ``marginal_error`` counts the outside as a cluster.

    Attributes:
        extended: The answer with the outside as one more cluster, the last.
    """

    def __init__(self, problem: Problem, answer: Assignment) -> None:
        xp, whole = problem.ops.xp, answer.cluster_potential
        outside = whole[:, -1:]
        level = answer.problem.scores.level  # type: ignore[attr-defined]
        shift = xp.where(xp.isfinite(outside), outside + level, xp.zeros_like(outside))
        super().__init__(problem, answer.solver, whole[:, :-1] - shift, answer._n_iter)
        self.extended, self._shift = answer, shift

    @property
    def status(self) -> Status:
        return self.extended.status

    @property
    def marginal_error(self) -> Array:
        return self.extended.marginal_error

    @property
    def dual_gap(self) -> Array:
        """How far from the optimum an answer of :class:`otcluster.ExactBalanced` is at most; others have no such number."""
        gap: Array = self.extended.dual_gap  # type: ignore[attr-defined]
        return gap

    @property
    def potentials(self) -> tuple[Array, Array]:
        problem, ops, xp = self.problem, self.problem.ops, self.problem.ops.xp
        f, _ = self.extended.potentials
        shift = ops.cast(self._shift, f.dtype)
        with ops.quiet():
            if problem.groups is None:
                raised = xp.reshape(f, tuple(problem.weights.shape)) + shift
            else:
                raised = xp.reshape(f, (-1,)) + xp.take(shift[:, 0], problem.groups, axis=0)
            return self._per_sample(raised), self._per_cluster(self._g)

    def labels(self) -> Array:
        return self._inside(self.extended.labels())

    def balanced_labels(self) -> Array:
        """As :meth:`Assignment.balanced_labels`, with -1 for the samples that stay outside: as many as their mass asks for."""
        return self._inside(self.extended.balanced_labels())

    def plan(self) -> Array:
        return self.extended.plan()[..., :-1]

    def transport_value(self) -> Array:
        return self.extended.transport_value()  # what is outside is worth nothing

    def cluster_sizes(self) -> Array:
        return self.extended.cluster_sizes()[..., :-1]

    def _for_samples(self, problem: Problem, g: Array) -> Assignment:
        whole = extended(problem)
        return PartialAssignment(problem, self.extended._for_samples(whole, extended_start(whole, g)))

    def _inside(self, labels: Array) -> Array:
        xp = self.problem.ops.xp
        return xp.where(labels == self.problem.n_clusters, xp.full_like(labels, -1), labels)
