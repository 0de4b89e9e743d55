"""Exact sizes against ``ot.emd``, a million samples by a thousand clusters, and what rounding a plan costs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ot

import otcluster as otc
from benchmarks.timing import copy_speed, ratio, side_by_side
from tests.strategies import clustered_scores

_LARGE = """
import json, time, numpy as np, otcluster as otc
from benchmarks.timing import peak_memory
from tests.strategies import clustered_scores
n, k, answer = 1_000_000, 1000, []
scores = clustered_scores(n, k, dtype=np.float32)
start = time.perf_counter()
grown = peak_memory(lambda: answer.append(otc.exact_balanced(scores)))
seconds = time.perf_counter() - start
sizes = np.bincount(answer[0].labels(), minlength=k)
assert (sizes == n // k).all()
print(json.dumps({"seconds": seconds, "memory": grown + scores.nbytes, "gap": float(answer[0].dual_gap)}))
"""


def rows() -> Iterator[dict[str, Any]]:
    """Two sizes beside ``ot.emd``; rounding at three strengths; the large one in a process of its own, for its memory."""
    speed = copy_speed()
    for n, k, repeats in ((20_000, 100, 5), (100_000, 100, 1)):
        scores = clustered_scores(n, k)
        mass = np.ones(n), np.full(k, n / k)

        def peer(scores: Any = scores, mass: Any = mass) -> Any:
            return ot.emd(*mass, -scores, numItermax=10**8)

        def ours(scores: Any = scores) -> Any:
            return otc.exact_balanced(scores)

        if repeats > 1:
            seconds = side_by_side({"emd": peer, "otcluster": ours}, repeats)
        else:
            seconds = {name: [_seconds(call)] for name, call in (("emd", peer), ("otcluster", ours))}
        answer = ours()
        best = float((peer() * scores).sum()) if repeats > 1 else None
        found = float(scores[np.arange(n), answer.labels()].sum())
        yield {
            "case": "exact",
            "what": f"{n} x {k} float64, exact sizes",
            "peer": "ot.emd",
            "peer_seconds": statistics.median(seconds["emd"]),
            "seconds": statistics.median(seconds["otcluster"]),
            "ratio": ratio(seconds["emd"], seconds["otcluster"]),
            "target": 5 if n == 20_000 else 10,
            "error": float(answer.dual_gap) if best is None else abs(best - found) / (n * float(np.ptp(scores))),
            # Any solver must read the scores twice: to choose, and to prove.
            "floor_seconds": 2 * scores.nbytes / speed,
        }
    yield from _rounding()
    result = json.loads(subprocess.run([sys.executable, "-c", _LARGE], check=True, capture_output=True, text=True).stdout)
    yield {
        "case": "exact",
        "what": "1000000 x 1000 float32, exact sizes, dual gap as the error",
        "peer": "the limit of 15 minutes",
        "peer_seconds": 900.0,
        "seconds": result["seconds"],
        "ratio": 900 / result["seconds"],
        "error": result["gap"],
        "memory_bytes": result["memory"],
        "floor_seconds": 2 * 4e9 / speed,
    }


def _rounding() -> Iterator[dict[str, Any]]:
    """Rounding a converged plan at three strengths beside the exact labels; the loss stands as the error."""
    n, k = 20_000, 100
    scores = clustered_scores(n, k)
    exact = otc.exact_balanced(scores)
    best = _value(scores, exact.labels())
    random = float(scores.mean(axis=0).sum()) * n / k
    for epsilon in (0.05, 0.01, 0.002):
        assignment = otc.log_sinkhorn(scores, epsilon=epsilon, tol=1e-3, max_iter=2000)
        seconds = side_by_side({"exact": lambda: otc.exact_balanced(scores), "rounding": assignment.balanced_labels}, 5)
        yield {
            "case": "exact",
            "what": f"{n} x {k} float64, balanced_labels of a plan at epsilon {epsilon}, loss as the error",
            "peer": "ExactBalanced",
            "peer_seconds": statistics.median(seconds["exact"]),
            "seconds": statistics.median(seconds["rounding"]),
            "ratio": ratio(seconds["exact"], seconds["rounding"]),
            "error": (best - _value(scores, assignment.balanced_labels())) / (best - random),
            "floor_seconds": scores.nbytes / copy_speed(),
        }


def _value(scores: Any, labels: Any) -> float:
    return float(scores[np.arange(len(scores)), labels].sum())


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
