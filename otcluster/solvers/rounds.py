"""Sinkhorn's rounds: the clusters' half, then the samples', until the masses are right or the rounds are used up."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from otcluster import half_rounds, passes
from otcluster._ops.generic import Array, dtype_name
from otcluster.assignment import Assignment, EntropicAssignment
from otcluster.on_device import takes_half_rounds
from otcluster.problem import Problem
from otcluster.ranges import representable
from otcluster.scores import DenseScores, PointScores

logger = logging.getLogger(__name__)


def run_rounds(
    problem: Problem, solver: Any, *, epsilon: float, max_iter: int, tol: float | None, start: Array | None = None
) -> Assignment:
    """Balance ``problem`` in rounds, each reading the scores once.

    A round is written on the potential g of the clusters alone: the samples' half is exact in every plan formed from g. The
    column sums that a pass finds serve twice, as the error of the plan of the present g and as its correction. In a batch, a
    problem that has converged keeps its g.

    Raises:
        ValueError: ``epsilon`` is so large that potentials overflow the dtype.
    """
    check_range(problem, epsilon)
    found = rounds_at_once(problem, solver, epsilon=epsilon, max_iter=max_iter, tol=tol, start=start)
    if found is not None:
        return found
    ops, xp = problem.ops, problem.ops.xp
    asked, problem = problem, passes.held(problem)
    if tol is None:
        _say_form(problem, epsilon)
        g = half_rounds.after_rounds(problem, epsilon, start, max_iter - 1 if start is None else max_iter)
        return EntropicAssignment(asked, solver, g, epsilon, max_iter)

    g = first_guess(problem, epsilon, start)
    limit = limit_of(problem, tol)
    done = ops.full((problem.n_problems,), 0.0, ops.wide) > 0
    n_iter = xp.full_like(ops.cast(done, ops.integer), max_iter)
    for rounds in range(1, max_iter + 1):
        columns, lost = passes.plan_columns(problem, g, epsilon)
        error = passes.column_error(problem, g, columns, lost, epsilon)
        met = error <= limit
        n_iter = xp.where(met & ~done, xp.full_like(n_iter, rounds), n_iter)
        done = done | met
        if rounds == max_iter or (rounds % ops.rounds_between_syncs == 0 and ops.facts([xp.all(done)])[0]):
            break
        g = xp.where(done[:, None], g, half_rounds.raised(problem, g, columns, epsilon))
    return EntropicAssignment(asked, solver, g, epsilon, n_iter, error=error, converged=done)


def rounds_at_once(
    problem: Problem,
    solver: Any,
    *,
    epsilon: float,
    max_iter: int,
    tol: float | None,
    start: Array | None,
    best: bool = False,
) -> Assignment | None:
    """All rounds of all groups in one launch, where a device has a kernel for it; None elsewhere.

    With ``best``, the answer is the potential of least error, and not the last.
    """
    ops = problem.ops
    if problem.groups is None or not ops.may_have_kernels or not takes_half_rounds(problem):
        return None
    if not isinstance(problem.scores, DenseScores | PointScores) or not problem.n_samples or not problem.n_problems:
        return None
    arrays = [*problem.scores.sources.values(), *([problem.weights] if problem.is_weighted else [])]
    kernels = ops.group_kernels(arrays, problem.n_clusters, problem.n_samples / problem.n_problems)
    if kernels is None:
        return None
    order, starts = problem.sorted_rows
    if isinstance(problem.scores, PointScores):
        points = problem.scores
        scores = kernels.own_scores(points.given_x, points.given_centroids, order, starts, kernels.METRICS[points.metric])
    else:
        scores = problem.scores.given
    limit = None if tol is None else float(np.float32(limit_of(problem, tol)))
    most = max_iter - 1 if tol is None and start is None else max_iter
    weights = problem.weights[0, :] if problem.is_weighted else None
    g, labels, error, n_iter = kernels.grouped_rounds(
        scores, order, starts, weights, problem.clusters, start, representable(problem, epsilon), most, limit, best
    )
    if limit is None:
        return EntropicAssignment(problem, solver, g, epsilon, max_iter, labels=labels)
    return EntropicAssignment(problem, solver, g, epsilon, n_iter, error=error, converged=error <= limit, labels=labels)


def check_range(problem: Problem, epsilon: float) -> None:
    """Raise ValueError if potentials would overflow the dtype."""
    if epsilon > float(problem.ops.xp.finfo(problem.dtype).max) / 1e8:
        raise ValueError(
            f"epsilon {epsilon} is too large for {dtype_name(problem.dtype)}: divide scores and epsilon by the same number"
        )


def first_guess(problem: Problem, epsilon: float, start: Array | None) -> Array:
    """The potential that a solve begins with: what was given, or the first half-round. The log says if that is in log form."""
    _say_form(problem, epsilon)
    return half_rounds.after_rounds(problem, epsilon, start, 0)


def _say_form(problem: Problem, epsilon: float) -> None:
    if problem.ops.may_check and logger.isEnabledFor(logging.DEBUG) and not passes.is_scaled(problem, epsilon):
        low, high = problem.bounds or (-float("inf"), float("inf"))
        logger.debug(
            "epsilon %g is solved in the log form: scaling in %s cannot carry scores between %g and %g",
            epsilon, problem.dtype, low, high,
        )  # fmt: skip


def limit_of(problem: Problem, tol: float) -> float:
    """What an error is held to, so that it is below ``tol`` for whoever sums the plan again: in float32 entries are rounded."""
    # Two roundings of room: the sums of float32 plans were found to lie up to 0.72 of one above the error that a pass reports.
    return max(tol - 2 * float(problem.ops.xp.finfo(problem.dtype).eps), tol / 2)
