"""What Newton's method asks of the scores beside the column sums: how strongly clusters compete for the same samples.

The mass that clusters j and l share, ``A[j, l] = sum_i plan[i, j] plan[i, l] / mass[i]``, is all there is in the second
derivative of the dual problem in g: the derivative of column j after g[l] is ``(columns[j] [j = l] - A[j, l]) / epsilon``. Its
rows sum to the columns, so that diagonals can be had from the rest without cancellation.
"""

from __future__ import annotations

from otcluster import passes
from otcluster._ops.generic import Array
from otcluster.problem import Problem

_FEW_PRODUCTS = 1 << 20


def columns_and_shared_mass(problem: Problem, g: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """In one pass, what :func:`otcluster.passes.plan_columns` gives and the mass that each pair of clusters shares.

    Returns:
        The column sums, (n_problems, k), the mass that no cluster may take, (n_problems,), and the shared mass,
        (n_problems, k, k); all wide.
    """
    ops, xp, k = problem.ops, problem.ops.xp, problem.n_clusters
    parts: list[tuple[slice, Array]] = []
    # Rows of unit mass need no division.
    given = problem.given.get("sample_mass") is not None

    def look(batches: slice, rows: slice, plan: Array) -> None:
        if given:
            weights = problem.weights[batches, rows]
            root = xp.sqrt(xp.where(weights > 0, weights, xp.ones_like(weights)))
            plan = ops.weighted(plan, xp.where(weights > 0, 1 / root, xp.zeros_like(root)))
        shared = ops.gram(plan) if problem.groups is None else _grouped(problem, plan[0, ...], rows)
        if parts and parts[-1][0] == batches:
            parts[-1] = (batches, parts[-1][1] + shared)
        else:
            parts.append((batches, shared))

    columns, lost = passes.plan_columns(problem, g, epsilon, look)
    if not parts:
        parts = [(slice(0), ops.full((problem.n_problems, k, k), 0.0, ops.wide))]
    shared = parts[0][1] if len(parts) == 1 else xp.concat([part for _, part in parts], axis=0)
    return columns, lost, *problem.summed(shared)


def _grouped(problem: Problem, plan: Array, rows: slice) -> Array:
    """Shared mass of each group from a tile (rows, k), as a segment sum of the products of each row."""
    ops, xp, k, n_groups = problem.ops, problem.ops.xp, problem.n_clusters, problem.n_problems
    some = max(1, max(_FEW_PRODUCTS, n_groups * k * k) // (k * k))
    total = None
    n_rows = int(plan.shape[0])
    for start in range(0, n_rows, some):
        stop = min(start + some, n_rows)
        part = plan[start:stop, :]
        products = xp.reshape(part[:, :, None] * part[:, None, :], (-1, k * k))
        segments = problem.groups[rows][start:stop]  # type: ignore[index]
        shared = ops.segment_sum(products, segments, n_groups)
        total = shared if total is None else total + shared
    return xp.reshape(total, (n_groups, k, k))


def spread(problem: Problem) -> Array:
    """The largest difference between two permitted scores of one sample, (n_problems,); what epsilon is small beside."""
    ops, xp = problem.ops, problem.ops.xp
    infinity = float("inf")
    widest = ops.full((problem.n_problems, 1), 0.0, problem.dtype)
    parts: list[tuple[slice, Array]] = []
    for batches, rows, scores in passes.tiles(problem):
        closed = problem.clusters <= 0
        shut = closed[batches, None, :] if problem.groups is None else xp.take(closed, problem.groups[rows], axis=0)[None, ...]
        shut = shut | (scores == -infinity)
        top = ops.row_max(xp.where(shut, ops.full((), -infinity, scores.dtype), scores))
        bottom = -ops.row_max(xp.where(shut, ops.full((), -infinity, scores.dtype), -scores))
        counts = (problem.weights[batches, rows] > 0) & (top > -infinity)
        width = xp.where(counts, top - bottom, xp.zeros_like(top))
        if problem.groups is not None:
            widest = xp.maximum(widest, ops.segment_max(width[0, :, None], problem.groups[rows], problem.n_problems))
            continue
        most = xp.max(width, axis=-1)[:, None]
        if parts and parts[-1][0] == batches:
            parts[-1] = (batches, xp.maximum(parts[-1][1], most))
        else:
            parts.append((batches, most))
    if parts:
        widest = xp.concat([part for _, part in parts], axis=0)
    return problem.greatest(ops.cast(widest[:, 0], ops.wide))
