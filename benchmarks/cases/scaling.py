"""Time and error against n, k and epsilon, one point for each candidate: what the plots are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import otcluster as otc
from benchmarks import peers
from benchmarks.errors import l1_error
from benchmarks.rows import Point
from benchmarks.timing import copy_speed, measure, versions
from tests.strategies import clustered_scores

ABOUT = (
    "Against n, k and epsilon",
    """\
Plans of clustered scores in float64 (torch; for *POT sinkhorn* NumPy). What converges does so to an L1 error of 1e-4. The
error is the L1 error of the plan, both sides together, recomputed: three rounds leave a part of the mass in the wrong
clusters, whoever does them. A curve ends where a call took more than a second, or did not arrive within 2,000 rounds.
The dotted line is the floor: the scores read once at the speed of a copy. Other than on the axis, n is 4096, k is 64 and
epsilon is 0.05.""",
)
AXES = {
    "n": (256, 1024, 4096, 16_384, 65_536),
    "k": (8, 32, 128, 512),
    "epsilon": (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002),
}
BASE = {"n": 4096, "k": 64, "epsilon": 0.05}
_TOL, _ROUNDS, _LIMIT = 1e-4, 2000, 1.0


def rows() -> Iterator[Point]:
    """Along each axis in turn, the quick places first."""
    for axis, places in AXES.items():
        done: set[str] = set()
        for place in places:
            yield from _points(axis, {**BASE, axis: place}, done)


def _points(axis: str, at: dict[str, Any], done: set[str]) -> Iterator[Point]:
    """The points of one place; who was too slow here, or could not do it, is ``done`` with the axis."""
    n, k, epsilon = at["n"], at["k"], at["epsilon"]
    scores = torch.from_numpy(clustered_scores(n, k))
    candidates = [candidate for candidate in _candidates(scores, epsilon) if candidate.name not in done]
    calls = {candidate.name: candidate.ready(f"{n} x {k}, epsilon {epsilon:g}") for candidate in candidates}
    done.update(name for name, call in calls.items() if call is None)
    measured = measure({name: call for name, call in calls.items() if call is not None}, 3)
    for candidate in candidates:
        if candidate.name not in measured:
            continue
        found = measured[candidate.name]
        error = l1_error(found.answer)
        yield Point(
            case="scaling",
            axis=axis,
            n=n,
            k=k,
            epsilon=epsilon,
            candidate=candidate.name,
            seconds=found.median,
            error=error if np.isfinite(error) else None,
            memory=found.memory,
            floor_seconds=scores.nbytes / copy_speed(),
            versions=versions(*candidate.packages),
        )
        if found.median > _LIMIT:
            done.add(candidate.name)


def _candidates(scores: torch.Tensor, epsilon: float) -> list[peers.Peer]:
    def ours(solver: Any) -> Callable[[], Callable[[], Any]]:
        def build() -> Callable[[], Any]:
            def call() -> Any:
                return otc.solve(otc.Problem(scores), solver).plan()

            call()  # compiles
            return call

        return build

    return [
        peers.Peer("LogSinkhorn", (), ours(otc.LogSinkhorn(epsilon, tol=_TOL))),
        peers.Peer("SinkhornKnopp, 3 rounds", (), ours(otc.SinkhornKnopp(epsilon))),
        peers.three_rounds_of(scores, epsilon),
        peers.pot(scores, epsilon, _TOL, max_iter=_ROUNDS),
        peers.pot(scores.numpy(), epsilon, _TOL, method="sinkhorn", max_iter=_ROUNDS),
        peers.ott(scores, epsilon, _TOL, max_iter=_ROUNDS),
    ]
