"""Where a solve begins, when the caller knows better than to begin anew."""

from __future__ import annotations

from typing import Any

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment
from otcluster.problem import Problem


def start_potential(problem: Problem, start: Any) -> Array:
    """The potential of the clusters to begin from, (n_problems, k), wide: finite for open clusters, -inf for closed ones.

    Args:
        problem: What is to be solved.
        start: Potentials ``(f, g)``, of which only g is read since f follows from it (f may be None), or an assignment.

    Raises:
        TypeError: ``start`` is neither, or g is of another library.
        ValueError: g has not the shape of the clusters, or is on another device.
    """
    ops, xp = problem.ops, problem.ops.xp
    shape = (*problem.problem_shape, problem.n_clusters)
    g: Any
    if isinstance(start, Assignment):
        if (*start.problem.problem_shape, start.problem.n_clusters) != shape:
            found = (*start.problem.problem_shape, start.problem.n_clusters)
            raise ValueError(f"start must be an assignment to clusters of shape {shape}, got one of {found}")
        g = xp.reshape(start.cluster_potential, shape) if ops.owns(start.cluster_potential) else start.cluster_potential
    elif isinstance(start, (tuple, list)) and len(start) == 2:
        f, g = start
        if f is not None and tuple(getattr(f, "shape", ())) != problem.sample_shape:
            raise ValueError(
                f"start[0], the potential of the samples, must have shape {problem.sample_shape} or be None, got "
                f"{tuple(getattr(f, 'shape', ())) or type(f).__name__}: f follows from g, so None will do"
            )
    else:
        raise TypeError(f"start must be potentials (f, g) or an Assignment, got {type(start).__name__}")
    if not ops.owns(g):
        raise TypeError(f"start must be of the library of the scores, got {type(g).__name__}: convert it first")
    if ops.device_of(g) != ops.device:
        raise ValueError(f"start is on {ops.device_of(g)}, the scores are on {ops.device}: move one to the other")
    if tuple(g.shape) != shape:
        raise ValueError(f"start[1], the potential of the clusters, must have shape {shape}, got {tuple(g.shape)}")
    wide = xp.reshape(ops.cast(g, ops.wide), (problem.n_problems, problem.n_clusters))
    # A cluster that was closed then and is open now knows nothing of its place: no price.
    finite = xp.where(xp.isfinite(wide), wide, xp.zeros_like(wide))
    return xp.where(problem.clusters > 0, finite, xp.full_like(finite, -float("inf")))
