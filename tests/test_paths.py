"""Shortest paths between clusters, compiled, against SciPy's; and exact sizes with and without what numba compiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

import otcluster as otc
from otcluster._ops import compiled
from tests.strategies import clustered_scores

needs_numba = pytest.mark.skipif(compiled.kernels("float64", "path_loops") is None, reason="numba is not installed or not used")


@needs_numba
@given(size=st.integers(2, 40), seed=st.integers(0, 1 << 20), missing=st.sampled_from([0.0, 0.5, 0.9]), whole=st.booleans())
def test_distances_to_all_that_lack_are_those_of_scipy(size, seed, missing, whole):
    rng = np.random.default_rng(seed)
    losses = rng.integers(0, 4, (size, size)).astype(float) if whole else rng.exponential(size=(size, size))
    losses[rng.random((size, size)) < missing] = np.inf
    np.fill_diagonal(losses, np.inf)
    prices = rng.integers(-3, 4, size).astype(float)
    excess = rng.integers(-1, 2, size)
    excess[0] = 1
    length = losses + prices[:, None] - prices
    loops = compiled.kernels("float64", "path_loops")
    distance, (before, root) = np.empty(size), np.empty((2, size), dtype=np.int64)
    loops.shortest(length.ravel(), prices, excess, distance, before, root)

    tail, tip = np.nonzero(losses < np.inf)
    graph = csr_array((losses[tail, tip], (tail, tip)), shape=(size, size))
    expected = dijkstra(graph, indices=np.flatnonzero(excess > 0), min_only=True)
    np.testing.assert_allclose(distance[excess < 0], expected[excess < 0], rtol=1e-12, atol=1e-12)
    assert np.all(distance >= expected - 1e-12)
    furthest = expected[(excess < 0) & np.isfinite(expected)].max(initial=0.0)
    assert np.all((distance >= furthest - 1e-12) | np.isclose(distance, expected))
    for node in np.flatnonzero((excess < 0) & np.isfinite(expected)).tolist():
        along, end = 0.0, node
        while (start := before[end]) != loops.NOBODY:
            along, end = along + losses[start, end], int(start)
        assert end == root[node]
        assert excess[end] > 0
        assert along == pytest.approx(expected[node], abs=1e-12)


@needs_numba
@pytest.mark.parametrize("sizes", [{}, {"size_min": 20, "size_max": 45}], ids=["equal", "bounded"])
def test_sizes_are_met_as_well_without_compiled_paths(monkeypatch, sizes):
    scores = clustered_scores(1000, 30, seed=1)
    values = []
    for use in ("1", "0"):
        monkeypatch.setenv("OTCLUSTER_COMPILED", use)
        answer = otc.exact_balanced(scores, **sizes)
        labels = answer.labels()
        assert answer.dual_gap < 1e-12
        values.append(scores[np.arange(len(labels)), labels].sum())
    assert values[0] == pytest.approx(values[1], rel=1e-12)
