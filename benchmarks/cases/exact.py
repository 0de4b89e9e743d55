"""Exact sizes against minimum-cost flows, a million samples by a thousand clusters, and what rounding a plan costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

import otcluster as otc
from benchmarks import peers
from benchmarks.rows import Row, compared, within
from benchmarks.timing import copy_speed, in_own_process, once
from tests.strategies import clustered_scores

ABOUT = (
    "Exact sizes",
    """\
`ExactBalanced` beside minimum-cost flows. Error *sum*: how far the sum of scores lies below the better of the two, as a
share of n times their range; *gap*: the dual gap, in the same measure, which proves ours optimal; *loss*: that of
`balanced_labels`, as a share of what the optimum gains over random labels of the same sizes. Floor: the scores read twice,
once to choose and once to prove (once, to round). k-means-constrained does one assignment to given centers (its `predict`,
which minimises distances, not their squares, in thousandths); ours gets the same distances as scores, and forming them is
part of its time. Its whole k-means is no part of this comparison.""",
)


def rows() -> Iterator[Row]:
    """Equal sizes, bounds, rounding at three strengths, and the large one in a process of its own, for its memory."""
    for n, k, repeats, target in ((20_000, 100, 5, 5), (100_000, 100, 5, 10)):
        scores = clustered_scores(n, k)
        yield from compared(
            "exact",
            f"{n} x {k} float64, exact sizes",
            peers.emd(scores),
            lambda scores=scores: otc.exact_balanced(scores).labels(),
            error_is="sum",
            errors=lambda plan, labels, scores=scores: _below(scores, float((plan * scores).sum()), _value(scores, labels)),
            floor_bytes=2 * scores.nbytes,
            repeats=repeats,
            target=target,
        )
    yield from _bounds()
    yield from _rounding()
    yield _large_row()


def _bounds() -> Iterator[Row]:
    """Points and centers, sizes equal and sizes between bounds."""
    n, k, d = 20_000, 100, 16
    x = np.random.default_rng(0).standard_normal((n, d))
    centers = x[:k].copy()
    scores = -cdist(x, centers)
    for size_min, size_max in ((n // k, n // k), (n // k // 2, 3 * n // k // 2)):

        def ours(size_min: int = size_min, size_max: int = size_max) -> Any:
            return otc.exact_balanced(-cdist(x, centers), size_min=size_min, size_max=size_max).labels()

        yield from compared(
            "exact",
            f"{n} points of {d} dimensions to {k} given centers, sizes {size_min} to {size_max}, one assignment",
            peers.k_means_constrained(x, centers, size_min, size_max),
            ours,
            error_is="sum",
            errors=lambda theirs, labels: _below(scores, _value(scores, theirs), _value(scores, labels)),
            floor_bytes=2 * scores.nbytes,
            repeats=5,
        )


def _rounding() -> Iterator[Row]:
    """Rounding a converged plan beside the exact labels."""
    n, k = 20_000, 100
    scores = clustered_scores(n, k)
    random = float(scores.mean(axis=0).sum()) * n / k

    def losses(exact: Any, rounded: Any) -> tuple[float, float]:
        best = _value(scores, exact)
        return 0.0, (best - _value(scores, rounded)) / (best - random)

    for epsilon in (0.05, 0.01, 0.002):
        assignment = otc.log_sinkhorn(scores, epsilon=epsilon, tol=1e-3, max_iter=2000)
        yield from compared(
            "exact",
            f"{n} x {k} float64, balanced_labels of a plan at epsilon {epsilon}",
            peers.Peer("ExactBalanced", (), lambda: lambda: otc.exact_balanced(scores).labels()),
            assignment.balanced_labels,
            error_is="loss",
            errors=losses,
            floor_bytes=scores.nbytes,
            repeats=5,
        )


def large(n: int, k: int) -> dict[str, float]:
    """Seconds, bytes and dual gap of a large problem, the scores among the bytes."""
    scores = clustered_scores(n, k, dtype=np.float32)
    otc.exact_balanced(scores[: 2 * k])  # compiles
    measured = once(lambda: otc.exact_balanced(scores))
    if not (np.bincount(measured.answer.labels(), minlength=k) == n // k).all():
        raise AssertionError("sizes are not met")
    memory = None if measured.memory is None else measured.memory + scores.nbytes
    return {"seconds": measured.median, "memory": memory, "gap": float(measured.answer.dual_gap), "bytes": scores.nbytes}


def _large_row(n: int = 1_000_000, k: int = 1000) -> Row:
    result = in_own_process(large, n, k)
    what, floor = f"{n} x {k} float32, exact sizes, memory with the scores", 2 * result["bytes"] / copy_speed()
    row = within("exact", what, "the limit: 15 minutes, 16 GB", 900.0, 16 * 10**9, result, floor_seconds=floor)
    return replace(row, target=1)


def _value(scores: Any, labels: Any) -> float:
    return float(scores[np.arange(len(scores)), labels].sum())


def _below(scores: Any, theirs: float, ours: float) -> tuple[float, float]:
    scale = len(scores) * float(np.ptp(scores))
    best = max(theirs, ours)
    return (best - theirs) / scale, (best - ours) / scale
