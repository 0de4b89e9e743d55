"""Whether forbidden pairs leave any plan with the masses asked for.

By Hall's condition there is one unless some clusters are too small for the samples that may join no others. Which clusters?
Balancing a kernel of ones and zeros tells: where no plan exists its potentials drift apart without end, those of the clusters
that are asked for too much falling behind. So the clusters that are lowest at some moment are tried, all k ways of cutting
their order in one sweep, and a cut that violates the condition is a proof. The samples enter by their pattern of permitted
clusters, of which there are few.

On a relaxed side columns may be anything. There only the outside of a partial problem asks for its mass: it is too small if the
samples that may join no cluster are more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from otcluster import passes
from otcluster.problem import Problem

_ROUNDS = 2000
_SLACK = 1e-7
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def is_infeasible(problem: Problem) -> bool:
    """Whether it can be proven that no plan has the masses of ``problem`` (any of them, in a batch)."""
    if problem.cluster_side is not None and problem.assigned_mass is None:
        return False
    owners, allowed, mass = _patterns(problem)
    wanted = np.asarray(problem.ops.to_numpy(problem.clusters), dtype=np.float64)
    total = np.maximum(np.asarray(problem.ops.to_numpy(problem.totals), dtype=np.float64), np.finfo(float).tiny)
    if problem.assigned_mass is not None:
        lost = np.where(allowed[:, :-1].any(axis=1), 0.0, mass)[:, None]
        outside = _everywhere(problem, _segment_sum(lost, owners, len(wanted)))[:, 0]
        crowded = bool(np.any(outside - wanted[:, -1] > _SLACK * total))
        if crowded or problem.cluster_side is not None:
            return crowded
    kernel = allowed.astype(np.float64)
    scaling = np.where(wanted > 0, 1.0, 0.0)
    for rounds in range(_ROUNDS):
        sums = np.einsum("ij,ij->i", kernel, scaling[owners])
        factor = np.divide(mass, sums, out=np.zeros_like(mass), where=sums > 0)
        columns = scaling * _everywhere(problem, _segment_sum(kernel * factor[:, None], owners, len(wanted)))
        wrong = np.abs(columns - wanted).sum(axis=1) / total
        if np.all(wrong <= _SLACK):
            return False
        if rounds % 10 == 0 and _violated(problem, owners, allowed, mass, wanted, total, scaling):
            return True
        with np.errstate(divide="ignore"):
            scaling = np.where(wanted > 0, scaling * wanted / np.maximum(columns, 1e-300), 0.0)
        scaling /= np.maximum(scaling.max(axis=1, keepdims=True), 1e-300)
        scaling = np.where(wanted > 0, np.maximum(scaling, 1e-280), 0.0)
    return _violated(problem, owners, allowed, mass, wanted, total, scaling)


def _violated(
    problem: Problem, owners: Ints, allowed: Bools, mass: Floats, wanted: Floats, total: Floats, scaling: Floats
) -> bool:
    """Whether the lowest clusters, for any cut of their order, are too small for the samples confined to them."""
    order = np.argsort(scaling, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    highest = np.where(allowed, rank[owners], -1).max(axis=1)
    joins = highest >= 0
    confined = np.zeros_like(wanted)
    np.add.at(confined, (owners[joins], highest[joins]), mass[joins])
    confined = _everywhere(problem, confined)
    room = np.take_along_axis(wanted, order, axis=1)
    return bool(np.any(np.cumsum(confined, axis=1) - np.cumsum(room, axis=1) > _SLACK * total[:, None]))


def _patterns(problem: Problem) -> tuple[Ints, Bools, Floats]:
    """The distinct rows of permitted clusters in each problem, with the mass of the samples that have them."""
    ops = problem.ops
    weights = np.asarray(ops.to_numpy(problem.weights), dtype=np.float64)
    groups = None if problem.groups is None else np.asarray(ops.to_numpy(problem.groups))
    open_ = np.asarray(ops.to_numpy(problem.clusters)) > 0
    keys: list[npt.NDArray[np.uint8]] = []
    for batches, rows, scores in passes.tiles(problem):
        allowed = np.asarray(ops.to_numpy(scores)) > -np.inf
        for at, batch in enumerate(range(batches.start, batches.stop)):
            owner = np.full(allowed.shape[1], batch) if groups is None else groups[rows]
            bits = np.packbits(allowed[at] & open_[owner], axis=1)
            fields = [owner.astype("<i8")[:, None].view(np.uint8), bits, weights[batch, rows][:, None].view(np.uint8)]
            keys.append(np.concatenate(fields, axis=1))
    if not keys:  # a rank without rows
        return np.zeros(0, np.int64), np.zeros((0, problem.n_clusters), np.bool_), np.zeros(0)
    table = np.concatenate(keys)
    split = table.shape[1] - 8
    distinct, which = np.unique(np.ascontiguousarray(table[:, :split]), axis=0, return_inverse=True)
    row_mass = np.ascontiguousarray(table[:, split:]).view(np.float64)[:, 0]
    mass: Floats = np.bincount(which.reshape(-1), weights=row_mass, minlength=len(distinct)).astype(np.float64)
    owners = np.ascontiguousarray(distinct[:, :8]).view("<i8")[:, 0].astype(np.int64)
    allowed = np.unpackbits(distinct[:, 8:], axis=1, count=problem.n_clusters).astype(bool)
    return owners, allowed, mass


def _segment_sum(values: Floats, owners: Ints, n: int) -> Floats:
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, owners, values)
    return sums


def _everywhere(problem: Problem, sums: Floats) -> Floats:
    """The sums over all samples, from those over the rows here."""
    if problem.reducer is None:
        return sums
    ops = problem.ops
    (total,) = problem.summed(ops.asarray(sums, ops.wide))
    return np.asarray(ops.to_numpy(total), dtype=np.float64)
