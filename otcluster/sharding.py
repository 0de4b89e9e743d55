"""From the problem of one rank's rows to that rank's part of the problem of all: totals, masses and errors made common.

Everything here that decides what happens next is the result of an exchange, so that no rank goes a way of its own: a rank that
exchanged more often than another would wait forever.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from otcluster._ops.generic import Array
from otcluster.checks import InfeasibleError, agreement, check_assigned, check_totals, raise_unreached, reached_clusters
from otcluster.distributed import Reducer
from otcluster.problem import Problem

_KINDS: tuple[type[Exception], ...] = (ValueError, InfeasibleError, RuntimeError)
_MESSAGE = 600  # bytes of an error's text that other ranks are told
_INFINITY = float("inf")
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")  # where an object lies, in a repr that says nothing else of it


def joined(problem: Problem, solver: Any, reducer: Reducer, *, started: bool, gradient: Any = None) -> Problem:
    """The part of one rank in the problem that all ranks hold together.

    Args:
        problem: The rows of this rank.
        solver: What will be run, the same on every rank.
        reducer: The sums over the ranks.
        started: Whether a potential to begin from was given, too.
        gradient: Which derivative will be asked for, if any.

    Raises:
        ValueError: The problem of some rank is impossible, ranks ask for different things, or the totals do not agree. All
            ranks raise.
        InfeasibleError: No assignment exists. All ranks raise.
        RuntimeError: An input of some rank was changed in place. All ranks raise.
    """
    xp = problem.ops.xp
    fault = _fault(problem)
    code = 0 if fault is None else _digest(f"{type(fault).__name__}: {fault}") + 1
    signature = _signature(problem, solver, started, gradient)
    least, greatest = (_INFINITY, _INFINITY) if problem.bounds is None else (-problem.bounds[0], problem.bounds[1])
    if problem.n_samples == 0:
        least, greatest = -_INFINITY, -_INFINITY  # no rows, no scores to bound
    numbers = list(signature.values())
    facts = [code, *numbers, *(-number for number in numbers), _forbidden_code(problem), least, greatest, agreement(problem)]
    found = _exchanged(problem, reducer, facts)
    if found[0]:
        _raise_together(problem, reducer, fault, code, int(found[0]))
    for at, what in enumerate(signature, start=1):
        if found[at] != -found[at + len(numbers)]:
            raise ValueError(
                f"ranks must agree on {what}, and do not: make the same problem and solver on each, of its own rows"
            )
    forbidden, least, greatest, tolerance = found[1 + 2 * len(numbers) :]

    if least == greatest == -_INFINITY:
        least = greatest = 0.0
    bounds = None if _INFINITY in (least, greatest) else (-least, greatest)
    whole = problem.copied()
    whole._set(reducer=reducer, has_forbidden={0: False, 1: True}.get(int(forbidden)), bounds=bounds)
    clusters, name = problem.asked_clusters()
    if name is not None:
        _check_same(problem, reducer, clusters, name)
    counts = problem.ops.full((problem.n_problems, 1), float(problem.n_samples), problem.ops.wide)
    exact, totals, counts = whole.summed(problem.exact_totals()[:, None], problem.totals[:, None], counts)
    exact, totals = exact[:, 0], totals[:, 0]
    whole._set(totals=totals, assigned=totals, n_everywhere=int(xp.max(counts)) if problem.n_problems else 0)
    if problem.assigned_mass is not None:
        asked = problem.asked_assigned()
        _check_same(problem, reducer, asked[:, None], "assigned_mass")
        if forbidden < 2:
            check_assigned(whole, asked, exact, tolerance)
        whole.assign(asked, tolerance)
        exact = asked
    if forbidden < 2 and name == "cluster_mass":
        check_totals(whole, exact, xp.sum(clusters, axis=-1), tolerance)
    if whole.has_forbidden and problem.cluster_side is None:
        reached = whole.summed(problem.ops.cast(reached_clusters(problem, clusters), problem.ops.wide))[0]
        raise_unreached(whole, (clusters > 0) & (reached == 0) & (totals > 0)[:, None])
    whole.share(clusters, name)
    return whole


def _fault(problem: Problem) -> Exception | None:
    """What is wrong with this rank's problem, if anything."""
    if problem.fault is not None:
        return problem.fault
    try:
        problem.check_unchanged()
    except RuntimeError as error:
        return error
    return None


def _signature(problem: Problem, solver: Any, started: bool, gradient: Any) -> dict[str, float]:
    """What must be the same on every rank, as numbers."""
    required = any(getattr(source, "requires_grad", False) for source in problem.scores.sources.values())
    return {
        "n_clusters": problem.n_clusters,
        "the batch shape, or n_groups": _digest(repr((problem.problem_shape, problem.n_groups))),
        "the dtype": float(problem.dtype == problem.ops.xp.float64),
        "the solver": _digest(_ADDRESS.sub("", repr(solver))),
        "whether a start is given": float(started),
        "the gradient, and whether scores, points or centroids require one": (
            _digest(repr(gradient)) + required if gradient is not None else 0
        ),
        "how cluster masses are given": _digest(problem.asked_clusters()[1] or ""),
        "cluster_side": _digest(repr(problem.cluster_side)),
        "whether assigned_mass is given": float(problem.assigned_mass is not None),
        "whether values are checked": float(problem.has_forbidden is None and problem.fault is None),
        "whether numba is installed (pip install 'otcluster[fast]', or OTCLUSTER_COMPILED=0)": float(
            problem.ops.kernels(problem.dtype) is not None
        ),
    }


def _forbidden_code(problem: Problem) -> int:
    return 2 if problem.has_forbidden is None else int(problem.has_forbidden)


def _digest(text: str) -> int:
    """A number for a text, small enough to be exact in float32."""
    return zlib.crc32(text.encode()) & 0x7FFFFF


def _exchanged(problem: Problem, reducer: Reducer, facts: list[float]) -> list[float]:
    ops = problem.ops
    sent = ops.asarray([float(fact) for fact in facts], ops.wide)
    return [float(value) for value in ops.to_numpy(reducer.max(sent))]


def _check_same(problem: Problem, reducer: Reducer, masses: Array, name: str) -> None:
    """Raise on all ranks if they ask for different masses, (n_problems, ...), by the argument ``name``."""
    xp, width = problem.ops.xp, int(masses.shape[1])
    most = reducer.max(xp.concat([masses, -masses], axis=1))
    if not bool(xp.all(most[:, :width] == -most[:, width:])):
        raise ValueError(f"{name} must be the same on every rank, that of all samples together, and is not")


def _raise_together(problem: Problem, reducer: Reducer, fault: Exception | None, code: int, chosen: int) -> None:
    """Raise the fault of this rank, or that of the rank with the ``chosen`` code."""
    sent = [0.0] * (_MESSAGE + 1)
    if fault is not None and code == chosen:
        sent[0] = float(next(at for at in (1, 0, 2) if isinstance(fault, _KINDS[at])))
        text = str(fault).encode()[:_MESSAGE]
        sent[1 : len(text) + 1] = [float(byte) for byte in text]
    kind, *letters = (int(number) for number in _exchanged(problem, reducer, sent))
    if fault is not None:
        raise fault
    text = bytes(letter for letter in letters if letter)
    raise _KINDS[kind](f"on another rank: {text.decode(errors='ignore')}")
