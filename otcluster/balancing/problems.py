"""Every problem of a batch, or every group, balanced on its own and put together again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from otcluster import labelling
from otcluster._ops.generic import Array
from otcluster.balancing.exact import balance
from otcluster.balancing.pairs import Ints
from otcluster.balancing.rounding import near_balance
from otcluster.balancing.sizes import Bools, counted, rounded_masses, samples_of
from otcluster.checks import InfeasibleError
from otcluster.problem import Problem


class Balanced(NamedTuple):
    """Labels that meet the sizes, in the library of the problem."""

    labels: Array
    """(batches, n), int64; -1 for a sample without mass that may join no cluster."""
    g: Array
    """Minus the prices, (n_problems, k), wide."""
    best: Array
    """The largest score + g of each sample, (batches, n)."""
    gap: Array
    """How far at most from the optimum, (n_problems,), wide."""


def balance_all(problem: Problem, takes_place: Bools, low: Ints, high: Ints, start: Array | None = None) -> Balanced:
    """Assign the samples that take a place, ``low`` to ``high`` to each cluster, and others to what is best for them.

    ``start``, (n_problems, k), is minus the prices to begin from; the answer is as good from any.

    Raises:
        InfeasibleError: A problem cannot be solved; the message says which and why.
    """
    ops = problem.ops
    labels = np.full(takes_place.shape, -1, dtype=np.int64)
    best = np.full(takes_place.shape, -np.inf)
    g, gap = np.full(low.shape, -np.inf), np.zeros(len(low))
    begin = None if start is None else -np.asarray(ops.to_numpy(start), dtype=np.float64)
    for at, batch, rows in _problems(problem, takes_place):
        with _placed(problem, at):
            answer = balance(problem.scores.part(at, rows), low[at], high[at], None if begin is None else begin[at])
        place = slice(None) if rows is None else rows
        labels[batch, place], best[batch, place] = answer.labels, answer.best
        g[at], gap[at] = -answer.prices, answer.gap
    wide = ops.asarray(g, dtype=ops.wide)
    if not takes_place.all():
        nearest = [np.asarray(ops.to_numpy(each)) for each in labelling.nearest(problem, wide)]
        labels, best = np.where(takes_place, labels, nearest[0]), np.where(takes_place, best, nearest[1])
    return Balanced(ops.asarray(labels), wide, ops.asarray(best, dtype=problem.dtype), ops.asarray(gap, dtype=ops.wide))


def rounded_labels(problem: Problem, g: Array, epsilon: float | None) -> Array:
    """Labels near those with the largest sum of scores among all with the masses of the clusters, rounded: (batches, n).

    Those are the likeliest such labels under an entropic plan, whatever its potentials: they add the same to all of them.

    Args:
        problem: Of any masses that are equal for all samples.
        g: The potentials of an answer, (n_problems, k).
        epsilon: Its strength; None for a hard answer.
    """
    takes_place = counted(problem)
    sizes = rounded_masses(problem, samples_of(problem, takes_place))
    labels = np.full(takes_place.shape, -1, dtype=np.int64)
    prices = -np.asarray(problem.ops.to_numpy(g), dtype=np.float64)
    prices = np.where(np.isfinite(prices), prices, 0.0)
    for at, batch, rows in _problems(problem, takes_place):
        start = None if epsilon is None else prices[at]
        with _placed(problem, at):
            found = near_balance(problem.scores.part(at, rows), sizes[at], start, epsilon or 0.0)
        labels[batch, slice(None) if rows is None else rows] = found
    if not takes_place.all():
        labels = np.where(takes_place, labels, problem.ops.to_numpy(labelling.nearest(problem, g)[0]))
    return problem.ops.asarray(labels)


@contextmanager
def _placed(problem: Problem, at: int) -> Iterator[None]:
    """Say of which problem an InfeasibleError speaks."""
    try:
        yield
    except InfeasibleError as error:
        raise InfeasibleError(f"{error}{_place(problem, at)}") from None


def _problems(problem: Problem, takes_place: Bools) -> Iterator[tuple[int, int, Ints | None]]:
    """Each problem, its batch and its samples that take a place, None for all of the batch."""
    if problem.groups is None:
        for at in range(problem.n_problems):
            yield at, at, None if takes_place[at].all() else np.flatnonzero(takes_place[at])
        return
    groups = np.asarray(problem.ops.to_numpy(problem.groups))
    own = np.flatnonzero(takes_place[0])
    own = own[np.argsort(groups[own], kind="stable")]
    ends = np.searchsorted(groups[own], np.arange(problem.n_problems + 1))
    for at in range(problem.n_problems):
        yield at, 0, own[ends[at] : ends[at + 1]]


def _place(problem: Problem, at: int) -> str:
    if problem.n_groups is not None:
        return f" (group {at}, samples counted within it)"
    return f" (problem {at} of the batch)" if problem.problem_shape else ""
