"""Clustered scores until the masses are right, against the Sinkhorn of other libraries and against plain rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import otcluster as otc
from benchmarks import peers
from benchmarks.errors import l1_error
from benchmarks.rows import Row, compared
from tests.strategies import clustered_scores

ABOUT = (
    "Until the masses are right",
    """\
`LogSinkhorn` to a tolerance beside others that stop at the same L1 error (or below), recomputed from the plan. Error: that
L1 error, both sides together, as a share of the mass. Floor: the bytes of one reading times the rounds that `LogSinkhorn`
counted (`n_iter`), and one reading for the plan; scores that fit a cache can be read quicker than that. GeomLoss lets
epsilon fall over a given number of rounds and has no tolerance: it is compared at an error that it reaches within seconds.""",
)
_EPSILON = 0.01


def rows() -> Iterator[Row]:
    """Float64 to 1e-6 against POT and OTT-JAX, to 1e-2 against GeomLoss; then our own rounds without acceleration."""
    scores = clustered_scores(1024, 128)
    tensor = torch.from_numpy(scores)
    for given, tol, peer, target in (
        (scores, 1e-6, peers.pot(scores, _EPSILON, 1e-6), 10),
        (tensor, 1e-6, peers.pot(tensor, _EPSILON, 1e-6), 10),
        (scores, 1e-6, peers.pot(scores, _EPSILON, 1e-6, method="sinkhorn"), None),
        (scores, 1e-6, peers.ott(scores, _EPSILON, 1e-6), None),
        (tensor, 1e-2, peers.geomloss(tensor, _EPSILON, 1e-2), None),
    ):
        yield from _row(given, _EPSILON, tol, peer, target)
    given = torch.from_numpy(clustered_scores(20_000, 100)).float()
    for epsilon in (0.05, 0.01):
        plain = _solving(given, otc.LogSinkhorn(epsilon, 20_000, 1e-4, otc.PlainRounds()))
        yield from _row(given, epsilon, 1e-4, peers.Peer("plain rounds", (), lambda plain=plain: plain))


def _row(given: Any, epsilon: float, tol: float, peer: peers.Peer, target: float | None = None) -> Iterator[Row]:
    solver = otc.LogSinkhorn(epsilon, tol=tol)
    n_iter = int(otc.solve(otc.Problem(given), solver).n_iter)
    n, k = given.shape
    library, dtype = ("NumPy", given.dtype) if isinstance(given, np.ndarray) else ("torch", str(given.dtype)[6:])
    return compared(
        "converged",
        f"{n} x {k} {library} {dtype}, epsilon {epsilon}, to {tol:g}, plan, {n_iter} rounds of ours",
        peer,
        _solving(given, solver),
        error_is="L1",
        errors=lambda theirs, ours: (l1_error(theirs), l1_error(ours)),
        floor_bytes=(n_iter + 1) * given.nbytes,
        target=target,
    )


def _solving(given: Any, solver: otc.LogSinkhorn) -> Callable[[], Any]:
    return lambda: otc.solve(otc.Problem(given), solver).plan()
