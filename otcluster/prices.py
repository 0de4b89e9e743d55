"""The linear system of the implicit gradient: what a gradient at the potential of the clusters costs, at convergence.

The column sums of a plan change with g by ``(D - A) / epsilon``, where D holds the columns and A the mass that clusters share
(:mod:`otcluster.curvature`). Since they must not change, a gradient at g is paid for with prices p where ``(D - A) p`` is
epsilon times that gradient. One number added to the prices of clusters that compete, directly or through others, changes
nothing.

A relaxed cluster, of pull q between 0 and 1 (:meth:`otcluster.RelaxedKL.pull`), holds its column only so far: its potential
itself resists, which adds ``(1 / q - 1) D`` to the system. Written on ``p / sqrt(q)`` that stays symmetric and regular, down to
clusters that are free.
"""

from __future__ import annotations

import warnings

from otcluster import curvature
from otcluster._ops.generic import Array
from otcluster.adjoint import column_gradient, prices_as_upstream
from otcluster.passes import plan_columns
from otcluster.problem import Problem

_MOST_CLUSTERS = 1024
_FEW_NUMBERS = 1 << 24
_MOST_STEPS = 2000
_FEW_ROUNDINGS = 4096


def prices(problem: Problem, g: Array, epsilon: float, right: Array) -> Array:
    """Solve ``(D - A + (1 / pull - 1) D) prices = right``, (n_problems, k) both.

    By whichever of the two ways below takes less memory and time.
    """
    k, xp, side = problem.n_clusters, problem.ops.xp, problem.cluster_side
    pull = xp.ones_like(problem.clusters) if side is None else side.pull(xp, problem.clusters, epsilon)
    n_scores = int(problem.weights.shape[0]) * problem.n_everywhere * k
    if k <= _MOST_CLUSTERS and problem.n_problems * k * k <= max(_FEW_NUMBERS, n_scores):
        found, columns = _direct(problem, g, epsilon, pull, right)
    else:
        found, columns = _iterative(problem, g, epsilon, pull, right)
    # Of the many answers the one around zero, which loses the fewest digits later on.
    total = xp.sum(columns, axis=-1, keepdims=True)
    return found - xp.sum(columns * found, axis=-1, keepdims=True) / xp.where(total > 0, total, xp.ones_like(total))


def _direct(problem: Problem, g: Array, epsilon: float, pull: Array, right: Array) -> tuple[Array, Array]:
    """By elimination, with k x k numbers for each problem."""
    ops, xp = problem.ops, problem.ops.xp
    columns, _, shared = curvature.columns_and_shared_mass(problem, g, epsilon)
    open_ = columns > 0
    mass = xp.where(open_, columns, xp.ones_like(columns))
    index = ops.arange(problem.n_clusters)
    diagonal = (index[:, None] == index[None, :])[None, ...]
    others = xp.where(diagonal, xp.zeros_like(shared), shared / mass[..., None])
    # A little damping makes the system regular, whose eigenvalues are at most 2. The diagonal is the sum of what is beside it:
    # where a plan is nearly hard the difference would have no digits.
    damping = _FEW_ROUNDINGS * float(xp.finfo(ops.wide).eps)
    damped, root = (1 - damping) * pull, xp.sqrt(pull)
    on = (damped * xp.sum(others, axis=-1) + (1 - damped))[..., None]
    right = xp.where(open_, root * right / mass, xp.zeros_like(mass))
    beside = (1 - damping) * root[..., :, None] * root[..., None, :] * others
    return root * ops.solve(xp.where(diagonal, on, -beside), right), columns


def _iterative(problem: Problem, g: Array, epsilon: float, pull: Array, right: Array) -> tuple[Array, Array]:
    """By conjugate gradients, with one reading of the scores a step and k numbers for each problem."""
    ops, xp = problem.ops, problem.ops.xp
    columns, _ = plan_columns(problem, g, epsilon)
    open_ = columns > 0
    inverse = xp.where(open_, 1 / xp.where(open_, columns, xp.ones_like(columns)), xp.zeros_like(columns))

    def product(one: Array, two: Array) -> Array:
        return xp.sum(one * two, axis=-1, keepdims=True)

    def ratio(one: Array, two: Array) -> Array:
        return xp.where(two > 0, one / xp.where(two > 0, two, xp.ones_like(two)), xp.zeros_like(two))

    root = xp.sqrt(pull)
    found = xp.zeros_like(columns)
    residual = xp.where(open_, root * right, found)
    way = inverse * residual
    size = product(residual, way)
    least = (_FEW_ROUNDINGS * float(xp.finfo(ops.wide).eps)) ** 2
    goal = least * size
    for _ in range(_MOST_STEPS):
        inside = size > goal
        if not ops.facts([xp.any(inside)])[0]:
            return root * found, columns
        image = root * column_gradient(problem, g, epsilon, prices_as_upstream(problem, root * way))
        image = image + (1 - pull) * columns * way
        step = xp.where(inside, ratio(size, product(way, image)), xp.zeros_like(size))
        found = found + step * way
        residual = residual - step * image
        ahead = inverse * residual
        before, size = size, product(residual, ahead)
        way = ahead + ratio(size, before) * way
    left = ops.facts([xp.max(ratio(size, goal / least) ** 0.5)])[0]
    warnings.warn(
        f"the implicit gradient is inexact: {_MOST_STEPS} steps of conjugate gradients left {left:.1g} of the residual; "
        "a larger epsilon or float64 makes the system easier",
        RuntimeWarning,
        stacklevel=2,
    )
    return root * found, columns
