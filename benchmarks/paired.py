"""How two methods differ over runs that are paired: same seed, same images."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats


def difference(ours: Any, theirs: Any) -> str:
    """The mean difference of accuracies, in points, with its 95 % interval by Student's t from two pairs on."""
    points = 100 * (np.asarray(ours) - np.asarray(theirs))
    middle = f"{points.mean():+.2f}"
    if len(points) < 2:
        return middle
    half = stats.t.ppf(0.975, len(points) - 1) * stats.sem(points)
    return f"{middle}, 95 % [{points.mean() - half:+.2f}, {points.mean() + half:+.2f}]"
