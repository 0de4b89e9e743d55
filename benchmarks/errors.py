"""How wrong an answer is, recomputed in float64 and alike for everyone."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.oracles import error_of
from tests.strategies import to_numpy


def l1_error(plan: Any) -> float:
    """The share of the mass in the wrong place, both sides together; the masses are equal ones. ``nan`` after an overflow."""
    plan = to_numpy(plan).astype(np.float64)
    n, k = plan.shape
    total = plan.sum()
    if not np.isfinite(total):
        return float("nan")
    total = n if total > np.sqrt(n) else 1  # some give a sample the mass 1, some all together
    return float(error_of(plan, np.full(n, total / n), np.full(k, total / k)))


def largest_difference(plan: Any, exact: Any) -> float:
    """The largest difference of any entry."""
    return float(np.abs(to_numpy(plan).astype(np.float64) - to_numpy(exact)).max(initial=0.0))
