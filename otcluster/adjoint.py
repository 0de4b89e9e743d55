"""Vector-Jacobian products of plans, in tiles: what a gradient of the plan says about the scores and the potential.

A plan whose rows are exact is a soft maximum over each row of ``scores + g``. For a gradient G of the plan, its derivative is
``H = plan * (G - mean)`` over epsilon, where ``mean`` is the average of G over the row by the plan. That is the gradient at the
scores while g is held, and its column sums are the gradient at g. What a gradient at g means for the scores is the business of
:mod:`otcluster.gradients`: it comes back from there as *prices*, numbers per cluster that join G at the same or another g.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from otcluster import passes
from otcluster._ops.generic import Array
from otcluster.plans import worth
from otcluster.problem import Problem
from otcluster.scores import PointScores

Upstream: TypeAlias = Callable[[slice, slice, Array], Array]
"""The gradient of a tile of the plan, given its batches, its rows and its scores."""


@dataclass(frozen=True)
class Chain:
    """How the scores act on an answer: at each potential that was on the way, what a change of its column sums costs."""

    answer: tuple[Array, Array]
    """The potential of the answer and its prices, which join the gradient of the plan: (n_problems, k) both."""
    rounds: Sequence[tuple[Array, Array]] = ()
    """Earlier potentials and their prices."""
    first: tuple[Array, Array] | None = None
    """The potential that the first half-round made of the scores alone, and epsilon times the gradient at it."""


def column_gradient(problem: Problem, g: Array, epsilon: float, upstream: Upstream) -> Array:
    """Epsilon times the gradient at g, (n_problems, k), of what has the gradient ``upstream`` at the plan of g.

    Of the samples of all ranks. Wide throughout: clusters that compete only with each other have a sum of zero, and dividing by
    how little others compete with them must not make something of rounding.
    """
    ops = problem.ops
    plan_of = passes.tile_plan(problem, g, epsilon)

    def read(batches: slice, rows: slice, scores: Array) -> Array:
        plan = ops.cast(plan_of(batches, rows, scores), ops.wide)
        down = _through_rows(problem, plan, ops.cast(upstream(batches, rows, scores), ops.wide))
        return passes.summed_rows(problem, rows, down)

    nothing = ops.full((problem.n_problems, problem.n_clusters), 0.0, ops.wide)
    return problem.summed(passes.fold(problem, read, operator.add, nothing))[0]


def prices_as_upstream(problem: Problem, prices: Array) -> Upstream:
    """What the column sums cost, as a gradient of the plan: the same for all samples of a problem."""
    return lambda batches, rows, scores: passes.over_tile(problem, batches, rows, prices)


def source_gradients(
    problem: Problem, epsilon: float, chain: Chain, upstream: Upstream, direct: Array | None, needed: Sequence[bool]
) -> list[Array | None]:
    """Gradients at the arrays that the scores were made of, None where not ``needed``; by way of the rows here.

    Args:
        problem: What was solved.
        epsilon: The strength it was solved at.
        chain: What the gradient at the potential of the answer led to.
        upstream: The gradient at the plan.
        direct: What scores weigh in the value beside the plan: times the plan, (n_problems, 1); None for nothing.
        needed: For each of ``problem.scores.sources``, whether its gradient is wanted.
    """
    ops = problem.ops

    def part(g: Array, prices: Array, batches: slice, rows: slice, scores: Array, add: Array | None = None) -> Array:
        plan = passes.tile_plan(problem, g, epsilon)(batches, rows, scores)
        at_plan = passes.over_tile(problem, batches, rows, ops.cast(prices, problem.dtype))
        total = _through_rows(problem, plan, at_plan if add is None else at_plan + add) / epsilon
        if direct is not None and add is not None:
            total += plan * passes.over_tile(problem, batches, rows, ops.cast(direct, problem.dtype))
        return total

    def of_tile(batches: slice, rows: slice, scores: Array) -> Array:
        total = part(*chain.answer, batches, rows, scores, upstream(batches, rows, scores))
        for earlier in chain.rounds:
            total += part(*earlier, batches, rows, scores)
        if chain.first is not None:
            total -= _first_round(problem, epsilon, chain.first, batches, rows, scores) / epsilon
        return total

    inside = problem.scores.inside
    if isinstance(inside, PointScores):
        return _at_points(problem, inside, of_tile, needed)
    given = problem.given["scores"]
    gradient = ops.full((int(problem.weights.shape[0]), problem.n_samples, inside.n_clusters), 0.0, problem.dtype)
    for batches, rows, scores in passes.tiles(problem):
        gradient[batches, rows] = of_tile(batches, rows, scores)[..., : inside.n_clusters]
    return [ops.cast(ops.xp.reshape(gradient, given.shape), given.dtype)] if needed[0] else [None]


def value_upstream(problem: Problem, factor: Array) -> Upstream:
    """The gradient at the plan of the transport value, whose own gradient is ``factor``, (n_problems, 1)."""
    near = problem.ops.cast(factor, problem.dtype)
    return lambda batches, rows, scores: passes.over_tile(problem, batches, rows, near) * worth(problem, scores)


def _through_rows(problem: Problem, plan: Array, upstream: Array) -> Array:
    """Through the soft maximum of each row. A pair without mass passes nothing on, whatever its gradient."""
    ops, xp = problem.ops, problem.ops.xp
    upstream = xp.where(plan > 0, upstream, xp.zeros_like(plan))
    mass = ops.row_sum(plan)
    mean = ops.row_sum(plan * upstream) / xp.where(mass > 0, mass, xp.ones_like(mass))
    return plan * (upstream - mean[..., None])


def _first_round(
    problem: Problem, epsilon: float, first: tuple[Array, Array], batches: slice, rows: slice, scores: Array
) -> Array:
    """The plan of the first half-round, whose columns are exact, as shares of each column; times what they cost."""
    ops, xp = problem.ops, problem.ops.xp
    g, price = first
    mass = xp.log(xp.where(problem.clusters > 0, problem.clusters, xp.ones_like(problem.clusters)))
    # In the wide dtype: a column is only right if no digit of g is lost.
    exponent = (ops.cast(scores, ops.wide) + passes.over_tile(problem, batches, rows, g)) / epsilon
    exponent = exponent - passes.over_tile(problem, batches, rows, mass)
    weights = ops.cast(problem.weights[batches, rows], ops.wide)[..., None]
    share = weights * xp.exp(xp.where(weights > 0, exponent, xp.zeros_like(exponent)))
    return ops.cast(share * passes.over_tile(problem, batches, rows, price), problem.dtype)


def _at_points(problem: Problem, scores: PointScores, of_tile: Upstream, needed: Sequence[bool]) -> list[Array | None]:
    """Gradients at points and centroids, tile by tile: nothing of size n x k is kept."""
    ops, xp = problem.ops, problem.ops.xp
    arrays = (scores.x, scores.centroids)
    shapes = [(math.prod(array.shape[:-2]), *(int(size) for size in array.shape[-2:])) for array in arrays]
    x, centroids = (xp.reshape(array, shape) for array, shape in zip(arrays, shapes, strict=True))
    at_x, at_centroids = ops.full(shapes[0], 0.0, problem.dtype), ops.full(shapes[1], 0.0, ops.wide)
    for batches, rows, tile in passes.tiles(problem):
        groups = None if problem.groups is None else problem.groups[rows]
        alone = groups is None and shapes[1][0] == 1  # one set of centroids for all
        theirs = batches if groups is None and not alone else slice(None)

        def form(points: Array, near: Array, groups: Array | None = groups, alone: bool = alone) -> Array:
            points = points if groups is None else points[0, ...]
            part = PointScores(points, near[0, ...] if alone else near, metric=scores.metric)
            return part.tiles(groups)(slice(None), slice(None))

        some = of_tile(batches, rows, tile)[..., : scores.n_clusters]
        found = ops.autograd.vector_jacobian(form, (x[batches, rows, :], centroids[theirs, :, :]), some)
        at_x[batches, rows] += found[0]
        at_centroids[theirs] += found[1]
    given = (scores.given_x, scores.given_centroids)
    return [
        ops.cast(xp.reshape(gradient, source.shape), source.dtype) if wanted else None
        for gradient, source, wanted in zip((at_x, at_centroids), given, needed, strict=True)
    ]
