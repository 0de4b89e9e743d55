"""The pass of k-means in which a solver decides: balanced k-means, and its entropic form."""

from __future__ import annotations

from typing import Any

from otcluster import passes
from otcluster._ops.generic import Array
from otcluster.assignment import Assignment, EntropicAssignment
from otcluster.clustering.bounded import nearest_pass
from otcluster.clustering.passes import NearestPass, Step, label_sums, n_changed, own_distances
from otcluster.clustering.samples import Samples
from otcluster.problem import Problem
from otcluster.scores import DenseScores, PointScores, Scores
from otcluster.solve import solve
from otcluster.solvers import ExactBalanced, LogSinkhorn, Nearest, Solver

_DENSE_BYTES = 1 << 28


class SolvedPass:
    """Assign by solving a problem whose scores are formed from the samples and the centroids."""

    def __init__(self, samples: Samples, solver: Solver, cluster_share: Any) -> None:
        if samples.is_streamed:
            raise TypeError(
                f"{type(solver).__name__} needs the rows in memory, and x is read from a file: load it, or use Nearest"
            )
        self.samples, self.solver, self.cluster_share = samples, solver, cluster_share
        self.labels: Array = samples.ops.full((samples.n,), -1, samples.ops.integer)
        self.answer: Assignment | None = None

    def solve(self, centroids: Array) -> Assignment:
        """The answer for centroids in the coordinates and dtype of the caller."""
        samples = self.samples
        points = PointScores(samples.given, samples.to_face(centroids), metric=samples.metric)
        few = samples.n * points.n_clusters * 4 <= _DENSE_BYTES
        scores: Scores = DenseScores(points.whole()) if few else points  # a solver looks at them many times
        weights = None if samples.weights is None else samples.to_face(samples.weights)
        problem = Problem(
            scores,
            sample_mass=weights,
            cluster_share=self.cluster_share,
            check_values=self.answer is None,  # for the shares: samples and centroids are known to be finite
            sharded=samples.reducer is not None,
        )
        start = self.answer if self._goes_on else None
        return solve(problem, self.solver, start=start, reducer=samples.reducer)

    @property
    def _goes_on(self) -> bool:
        """Whether the solver may begin where it ended before, and its answer does not depend on that."""
        return isinstance(self.solver, ExactBalanced) or (isinstance(self.solver, LogSinkhorn) and self.solver.tol is not None)

    def run(self, centroids: Array) -> Step:
        samples, ops = self.samples, self.samples.ops
        self.answer = self.solve(samples.given_back(centroids))
        before, self.labels = self.labels, ops.cast(samples.from_face(self.answer.labels()), ops.integer)
        if isinstance(self.answer, EntropicAssignment):
            # A plan may change where no label does.
            return Step(*self._plan_sums(self.answer), float("inf") if samples.n else 0.0)
        k = int(centroids.shape[0])
        sums, counts = ops.full((k, samples.dim), 0.0, ops.wide), ops.full((k,), 0.0, ops.wide)
        for rows, block in samples.blocks(1 << 14):
            more, held = label_sums(samples, rows, samples.prepared(block, rows), self.labels[rows], k)
            sums, counts = sums + more, counts + held
        return Step(sums, counts, n_changed(samples, before, self.labels))

    def _plan_sums(self, answer: EntropicAssignment) -> tuple[Array, Array]:
        samples, ops, xp = self.samples, self.samples.ops, self.samples.ops.xp
        problem = answer.problem
        plan_of = passes.tile_plan(problem, answer.cluster_potential, answer.epsilon)
        k = problem.n_clusters
        sums, counts = ops.full((k, samples.dim), 0.0, ops.wide), ops.full((k,), 0.0, ops.wide)
        with problem.ops.quiet():
            for batches, rows, scores in passes.tiles(problem):
                plan = samples.from_face(plan_of(batches, rows, scores))[0, :, :]
                row = samples.prepared(samples.block(rows), rows)
                sums = sums + ops.cast(xp.matrix_transpose(plan) @ row, ops.wide)
                counts = counts + ops.column_sum(plan)
        return sums, counts

    def distances(self, centroids: Array) -> Array:
        return own_distances(self.samples, self.labels, centroids)


def pass_for(samples: Samples, n_clusters: int, solver: Solver, cluster_share: Any = None) -> NearestPass | SolvedPass:
    """How a solver assigns the samples, over and over."""
    if isinstance(solver, Nearest):
        return nearest_pass(samples, n_clusters)
    return SolvedPass(samples, solver, cluster_share)
