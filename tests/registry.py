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
        tolerance: That tolerance; None if it does a fixed number of rounds, or meets them exactly.
        accelerated: Goes there by other steps than rounds.
        integral: Its plan is one of labels, and not the only one of its worth: answers are compared by what they are worth.
        any_mass: Takes samples of any mass and clusters of any share; else samples count one and clusters share equally.
        sharded: Solves problems whose samples are shared by several ranks.
    """

    name: str
    make: Callable[[float], Any]
    entropic: bool = True
    balances: bool = False
    tolerance: float | None = None
    accelerated: bool = False
    integral: bool = False
    any_mass: bool = True
    sharded: bool = True


def _scheduled(epsilon: float) -> otc.LogSinkhorn:
    return otc.LogSinkhorn(epsilon, tol=1e-5, acceleration=otc.Newton(), schedule=otc.ExponentialDecay(4 * epsilon))


def _mixed(epsilon: float) -> otc.LogSinkhorn:
    return otc.LogSinkhorn(epsilon, 2000, 1e-5, acceleration=otc.Anderson())


ROWS = [
    Row("SinkhornKnopp, 3 rounds", lambda epsilon: otc.SinkhornKnopp(epsilon=epsilon)),
    Row("SinkhornKnopp, to 1e-4", lambda epsilon: otc.SinkhornKnopp(epsilon, 5000, 1e-4), balances=True, tolerance=1e-4),
    Row("LogSinkhorn", lambda epsilon: otc.LogSinkhorn(epsilon, 1000, 1e-5), balances=True, tolerance=1e-5, accelerated=True),
    Row("LogSinkhorn, its default", lambda epsilon: otc.LogSinkhorn(epsilon), balances=True, tolerance=1e-6, accelerated=True),
    Row("LogSinkhorn, scheduled", _scheduled, balances=True, tolerance=1e-5, accelerated=True),
    Row("LogSinkhorn, mixed", _mixed, balances=True, tolerance=1e-5, accelerated=True),
    Row("Nearest", lambda epsilon: otc.Nearest(), entropic=False),
    Row(
        "ExactBalanced",
        lambda epsilon: otc.ExactBalanced(),
        entropic=False,
        balances=True,
        integral=True,
        any_mass=False,
        sharded=False,
    ),
]

every_solver = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
entropic_solvers = pytest.mark.parametrize("row", [row for row in ROWS if row.entropic], ids=lambda row: row.name)
balancing_solvers = pytest.mark.parametrize("row", [row for row in ROWS if row.balances], ids=lambda row: row.name)
sharded_solvers = pytest.mark.parametrize("row", [row for row in ROWS if row.sharded], ids=lambda row: row.name)
mass_solvers = pytest.mark.parametrize("row", [row for row in ROWS if row.any_mass], ids=lambda row: row.name)
