"""How many samples each cluster must hold: from masses, shares or bounds to whole numbers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from otcluster.balancing.pairs import Ints
from otcluster.problem import Problem

Size: TypeAlias = int | tuple[int, ...] | None
Bools: TypeAlias = npt.NDArray[np.bool_]
_WHOLE = 1e-6
"""How far from a whole number a mass may lie, as a share of the samples, to be taken for it."""


def counted(problem: Problem) -> Bools:
    """Which samples take a place, (batches, n): those that have mass.

    Raises:
        ValueError: Samples have mass, but not all the same.
    """
    weights = _host(problem, problem.weights)
    heavy = weights[weights > 0]
    if heavy.size and float(heavy.max() - heavy.min()) > 1e-6 * float(heavy.max()):
        raise ValueError(
            f"sample_mass must be equal for all samples that have any, got {float(heavy.min())} to {float(heavy.max())}: "
            "whole samples are counted here, so repeat a sample instead"
        )
    return weights > 0


def samples_of(problem: Problem, takes_place: Bools) -> Ints:
    """How many samples each problem counts, (n_problems,)."""
    if problem.groups is None:
        return takes_place.sum(axis=1).astype(np.int64)
    return np.bincount(_host(problem, problem.groups)[takes_place[0]], minlength=problem.n_problems).astype(np.int64)


def rounded_masses(problem: Problem, n: Ints) -> Ints:
    """The masses of the clusters in samples, rounded by largest remainder so that they sum to ``n``: (n_problems, k)."""
    mass = _host(problem, problem.clusters).astype(np.float64)
    totals = mass.sum(axis=1, keepdims=True)
    shares = mass * (n[:, None] / np.where(totals > 0, totals, 1.0))
    near = np.rint(shares)
    # What rounding left beside a whole number is no remainder.
    shares = np.where(np.abs(shares - near) <= 1e-9 * np.maximum(near, 1), near, shares)
    low = np.floor(shares).astype(np.int64)
    # Nor do remainders differ that only rounding tells apart: of a third each, the first clusters have the samples left over.
    order = np.argsort(-np.round(shares - low, 6), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    return low + (rank < (n - low.sum(axis=1))[:, None])


def asked_bounds(problem: Problem, n: Ints, size_min: Size, size_max: Size) -> tuple[Ints, Ints]:
    """Fewest and most samples of each cluster, (n_problems, k) both.

    Raises:
        ValueError: Masses are no whole numbers, or are given as well as bounds, or a tuple has the wrong length.
    """
    k = problem.n_clusters
    is_open = ~_host(problem, problem.closed).astype(bool)
    if size_min is not None or size_max is not None:
        if "cluster_mass" in problem.given:
            raise ValueError("size_min and size_max replace cluster_mass: give the bounds or the masses, not both")
        if "cluster_share" in problem.given and not _equal(problem, is_open):
            raise ValueError(
                "beside size_min and size_max, cluster_share may only close clusters: give shares of zero and one, or no bounds"
            )
        low = _each("size_min", size_min, k)
        high = _each("size_max", size_max, k)
        low = np.broadcast_to(0 if low is None else low, is_open.shape)
        high = np.broadcast_to(n[:, None] if high is None else high, is_open.shape)
        return np.where(is_open, low, 0), np.where(is_open, np.minimum(high, np.maximum(n[:, None], low)), 0)
    if "cluster_mass" not in problem.given and _equal(problem, is_open):
        clusters = np.maximum(is_open.sum(axis=1), 1)
        low = np.where(is_open, (n // clusters)[:, None], 0)
        return low, np.where(is_open, -(-n // clusters)[:, None], 0)
    mass = _host(problem, problem.clusters).astype(np.float64)
    whole = np.rint(mass)
    off = np.abs(mass - whole) > _WHOLE * np.maximum(n[:, None], 1)
    if off.any():
        name = "cluster_mass" if "cluster_mass" in problem.given else "cluster_share"
        name += "" if problem.assigned_mass is None else ", or its part of assigned_mass,"
        at = np.argwhere(off)[0]
        raise ValueError(
            f"{name} must ask for whole numbers of samples, got {mass[tuple(at)]:g} for cluster {at[1]}: give whole numbers as "
            "cluster_mass, or bounds as size_min and size_max"
        )
    sizes = whole.astype(np.int64)
    return sizes, sizes


def _each(name: str, size: Size, k: int) -> Ints | None:
    if size is None:
        return None
    sizes = np.asarray(size, dtype=np.int64)
    if sizes.ndim == 1 and len(sizes) != k:
        raise ValueError(f"{name} must be one number or a tuple of {k}, one per cluster, got {len(sizes)}")
    return sizes


def _equal(problem: Problem, is_open: Bools) -> bool:
    """Whether the open clusters of each problem have equal masses."""
    mass = _host(problem, problem.clusters).astype(np.float64)
    greatest = mass.max(axis=1, keepdims=True, initial=0.0)
    return bool(np.all(~is_open | (greatest - mass <= 1e-9 * greatest)))


def _host(problem: Problem, array: Any) -> npt.NDArray[Any]:
    return np.asarray(problem.ops.to_numpy(array))
