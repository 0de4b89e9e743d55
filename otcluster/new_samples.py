"""The problem of samples that come later: other scores, and clusters that keep the shares they were solved with."""

from __future__ import annotations

from typing import Any

from otcluster._ops.generic import Array, dtype_name
from otcluster.problem import Problem
from otcluster.scores import DenseScores, PointScores, Scores


def problem_of_new_samples(
    problem: Problem, scores: Array | Scores, sample_mass: Array | None, groups: Array | None
) -> Problem:
    """The problem of other samples for the clusters of ``problem``, each with the share that it has there.

    A partial problem assigns the same share of the new mass. Not every cluster need be open to a new sample.

    Raises:
        TypeError: ``scores`` are of another library or precision.
        ValueError: They are on another device, or for other clusters; ``groups`` do not fit; values are impossible.
        InfeasibleError: A sample may join no cluster.
    """
    source: Scores = scores if isinstance(scores, (DenseScores, PointScores)) else DenseScores(scores)
    _check_kind(problem, source)
    if problem.n_groups is None and groups is not None:
        raise ValueError("groups are given, but the answer is not of a grouped problem: leave them away")
    if problem.n_groups is not None and groups is None:
        raise ValueError(f"groups must be given: which of the {problem.n_groups} groups each new sample belongs to")
    _check_clusters(problem, source)

    ops, xp = problem.ops, problem.ops.xp
    there = problem.totals > 0
    # Where there were no samples, clusters had no mass to share.
    share = xp.where(there[:, None], problem.clusters, ops.cast(~problem.closed, ops.wide))
    masses: dict[str, Any] = {
        "sample_mass": sample_mass,
        "cluster_share": xp.reshape(share, (*problem.problem_shape, problem.n_clusters)),
        "cluster_side": problem.cluster_side,
        "groups": groups,
        "n_groups": problem.n_groups,
    }
    with ops.quiet():
        if problem.assigned_mass is not None:
            one = xp.ones_like(problem.totals)
            part = xp.where(there, problem.assigned / xp.where(there, problem.totals, one), one)
            totals = Problem(source, **masses, check_values=False).totals
            masses["assigned_mass"] = xp.reshape(part * totals, problem.problem_shape)
    # Like the rows of one rank they are some of many, and need not reach every cluster.
    new = Problem(source, **masses, check_values=problem.has_forbidden is not None, sharded=True)
    if new.fault is not None:
        raise new.fault
    new._set(sharded=False)
    return new


def _check_kind(problem: Problem, source: Scores) -> None:
    """Raise unless the new scores are of the library, device and precision of the answer."""
    ops, first = problem.ops, next(iter(source.sources.values()))
    if type(source.ops) is not type(ops) or source.ops.xp is not ops.xp:
        raise TypeError(f"scores must be of the library of the answer, got {type(first).__name__}: convert them first")
    if source.ops.device != ops.device:
        raise ValueError(f"scores are on {source.ops.device}, the answer is on {ops.device}: move them there")
    if source.dtype != problem.dtype:
        raise TypeError(
            f"scores are computed in {dtype_name(source.dtype)}, the answer in {dtype_name(problem.dtype)}: convert them, "
            "for its potential to fit"
        )


def _check_clusters(problem: Problem, source: Scores) -> None:
    """Raise unless the new scores are for the clusters of ``problem``."""
    if source.n_clusters != problem.n_clusters:
        raise ValueError(
            f"scores must be for the {problem.n_clusters} clusters of the answer, got {source.n_clusters}: "
            "its potentials say nothing of others"
        )
    batch = problem.problem_shape if problem.n_groups is None else ()
    if source.batch_shape != batch:
        raise ValueError(
            f"scores must have the leading dimensions of the answer, {batch}, got {source.batch_shape}: each problem has "
            "potentials of its own"
        )
