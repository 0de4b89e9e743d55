"""Clustered scores until the masses are right, against POT's log-domain Sinkhorn and against plain rounds."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import ot
import torch

import otcluster as otc
from benchmarks.timing import side_by_side
from tests.oracles import error_of
from tests.strategies import clustered_scores, to_numpy

_TOL = 1e-6
_EPSILON = 0.01


def rows() -> Iterator[dict[str, Any]]:
    """POT in NumPy and torch, float64, both at the same recomputed L1 error; then our own rounds without acceleration."""
    scores = clustered_scores(1024, 128)
    threshold = _threshold(scores)
    for library, lay in (("NumPy", np.asarray), ("torch", torch.from_numpy)):
        given = lay(scores)
        yield _row(
            f"1024 x 128 {library} float64, epsilon {_EPSILON}, to {_TOL:g}, plan",
            "POT sinkhorn_log",
            lambda given=given: _pot(given, threshold),
            lambda given=given: otc.log_sinkhorn(given, epsilon=_EPSILON, tol=_TOL).plan(),
        )
    given = torch.from_numpy(clustered_scores(20_000, 100)).float()
    for epsilon in (0.05, 0.01):
        problem = otc.Problem(given)
        yield _row(
            f"20000 x 100 torch float32, epsilon {epsilon}, to 1e-4, plan",
            "plain rounds",
            lambda problem=problem, epsilon=epsilon: _solved(
                problem, otc.LogSinkhorn(epsilon, 20_000, 1e-4, otc.PlainRounds())
            ),
            lambda problem=problem, epsilon=epsilon: _solved(problem, otc.LogSinkhorn(epsilon, tol=1e-4)),
        )


def _row(what: str, peer: str, theirs: Any, ours: Any) -> dict[str, Any]:
    # Theirs takes so long that it is called once; ours is then called for as long as is needed to be sure of it.
    start = time.perf_counter()
    peer_plan = theirs()
    peer_seconds = time.perf_counter() - start
    seconds = statistics.median(side_by_side({"ours": ours}, 9)["ours"])
    return {
        "case": "converged",
        "what": what,
        "peer": peer,
        "peer_seconds": peer_seconds,
        "seconds": seconds,
        "ratio": peer_seconds / seconds,
        "error": _error(ours()),
        "peer_error": _error(peer_plan),
    }


def _solved(problem: otc.Problem, solver: otc.LogSinkhorn) -> Any:
    return otc.solve(problem, solver).plan()


def _pot(scores: Any, threshold: float) -> Any:
    n, k = scores.shape
    w, c = np.full(n, 1 / n), np.full(k, 1 / k)
    if isinstance(scores, torch.Tensor):
        w, c = torch.from_numpy(w), torch.from_numpy(c)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # POT warns where it has not converged
        return ot.sinkhorn(w, c, -scores, _EPSILON, method="sinkhorn_log", stopThr=threshold, numItermax=100_000)


def _threshold(scores: Any) -> float:
    """What POT must be asked for: it stops by a Euclidean norm, and is to stop where the L1 error is ours."""
    threshold = _TOL
    while (error := _error(_pot(scores, threshold))) > _TOL:
        threshold *= 0.95 * _TOL / error
    return threshold


def _error(plan: Any) -> float:
    """The L1 error of both sides over the mass; the masses are equal ones."""
    plan = to_numpy(plan).astype(np.float64)
    n, k = plan.shape
    total = round(plan.sum(), 6)
    return float(error_of(plan, np.full(n, total / n), np.full(k, total / k)))
