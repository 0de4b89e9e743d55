"""The solvers that the laws are held to. A new solver is a row here, and inherits every law, library and dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import otcluster as otc


@dataclass(frozen=True)
class Row:
    """A solver and what may be expected of it.

    Attributes:
        make: The solver at an entropic strength (ignored by solvers without one).
        entropic: Has a plan exp((scores + f + g) / epsilon).
        balances: Its plan meets the masses of the clusters, to its tolerance.
        tolerance: That tolerance; None if it does a fixed number of rounds.
        accelerated: Goes there by other steps than rounds.
    """

    name: str
    make: Callable[[float], Any]
    entropic: bool = True
    balances: bool = False
    tolerance: float | None = None
    accelerated: bool = False


def _scheduled(epsilon: float) -> otc.LogSinkhorn:
    return otc.LogSinkhorn(epsilon, tol=1e-5, acceleration=otc.Newton(), schedule=otc.ExponentialDecay(4 * epsilon))


ROWS = [
    Row("SinkhornKnopp, 3 rounds", lambda epsilon: otc.SinkhornKnopp(epsilon=epsilon)),
    Row("SinkhornKnopp, to 1e-4", lambda epsilon: otc.SinkhornKnopp(epsilon, 5000, 1e-4), balances=True, tolerance=1e-4),
    Row("LogSinkhorn", lambda epsilon: otc.LogSinkhorn(epsilon, 1000, 1e-5), balances=True, tolerance=1e-5, accelerated=True),
    Row("LogSinkhorn, its default", lambda epsilon: otc.LogSinkhorn(epsilon), balances=True, tolerance=1e-6, accelerated=True),
    Row("LogSinkhorn, scheduled", _scheduled, balances=True, tolerance=1e-5, accelerated=True),
    Row("Nearest", lambda epsilon: otc.Nearest(), entropic=False),
]

every_solver = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
entropic_solvers = pytest.mark.parametrize("row", [row for row in ROWS if row.entropic], ids=lambda row: row.name)
balancing_solvers = pytest.mark.parametrize("row", [row for row in ROWS if row.balances], ids=lambda row: row.name)
