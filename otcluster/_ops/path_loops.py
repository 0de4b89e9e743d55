"""Shortest paths on a graph with nearly all edges, by numba: :mod:`otcluster._ops.compiled` loads this file."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

NOBODY = -1
"""What stands for the node before a source, and for that of a node which none reaches."""

numbers = types.Array(types.float64, 1, "C", readonly=True)
options: dict[str, Any] = {"nogil": True, "cache": True}


@numba.njit(
    types.void(numbers, numbers, types.Array(types.int64, 1, "C", readonly=True), types.float64[::1], *2 * [types.int64[::1]]),
    **options,
)
def shortest(length: Any, prices: Any, excess: Any, distance: Any, before: Any, root: Any) -> None:
    """Shortest paths from the nodes with excess, by Dijkstra's algorithm with a list in place of a heap.

    ``length`` has the edges from each node to each, infinite where there is none; what counts is their length less the price
    at its beginning and more that at its end, but at least zero. Ends where all nodes that lack something are reached:
    distances of those beyond are not below that of the last. Writes the distance of each node, the node before it and the
    source.
    """
    size = len(prices)
    left, lacking = np.arange(size), 0
    for node in range(size):
        distance[node] = 0.0 if excess[node] > 0 else np.inf
        before[node] = NOBODY
        root[node] = node if excess[node] > 0 else NOBODY
        lacking += excess[node] < 0
    nearest = 0
    for at in range(1, size):
        if distance[left[at]] < distance[left[nearest]]:
            nearest = at
    for n_left in range(size, 0, -1):
        node = left[nearest]
        here = distance[node]
        if here == np.inf:
            return
        lacking -= excess[node] < 0
        if lacking == 0:
            return
        left[nearest] = left[n_left - 1]
        nearest, least = 0, np.inf
        price = prices[node]
        for at in range(n_left - 1):
            other = left[at]
            there = here + max(length[node * size + other] - price + prices[other], 0.0)
            if there < distance[other]:
                distance[other], before[other], root[other] = there, node, root[node]
            if distance[other] < least:
                nearest, least = at, distance[other]
