"""Measures of balance and agreement: known values, laws, and the best of all permutations."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import otcluster as otc
from otcluster.metrics import (
    cluster_sizes,
    clustering_accuracy,
    imbalance_factor,
    normalized_entropy,
    perplexity,
    size_imbalance,
)

OF_SIZES = [imbalance_factor, size_imbalance, perplexity, normalized_entropy]
EPS = np.finfo(np.float64).eps

# Measures of sizes: the shares are eighths, so that the first three are exact.
KNOWN = [
    # sizes, imbalance factor, size imbalance, entropy in bits
    ([2, 2, 2, 2], 1.0, 1.0, 2.0),
    ([0, 8, 0, 0], 4.0, 4.0, 0.0),
    ([4, 4, 0, 0], 2.0, 2.0, 1.0),
    ([4, 2, 1, 1], 1.375, 2.0, 1.75),
    ([4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 2.75, 4.0, 1.75),
    ([7], 1.0, 1.0, 0.0),
]


@pytest.mark.parametrize(("sizes", "factor", "imbalance", "bits"), KNOWN)
def test_values_that_are_known(sizes, factor, imbalance, bits):
    for lay in (list, tuple, np.array, np.float32, torch.tensor, array_api_strict.asarray):
        found = [measure(lay(sizes)) for measure in OF_SIZES]
        assert all(type(value) is float for value in found)
        assert found[:2] == [factor, imbalance]
        assert found[2] == pytest.approx(2**bits, rel=8 * EPS)
        assert found[3] == pytest.approx(bits / math.log2(len(sizes)) if len(sizes) > 1 else 1.0, rel=8 * EPS)


SIZES = st.lists(st.integers(0, 10**12), min_size=1, max_size=30).filter(any)


@given(sizes=SIZES, scale=st.floats(1e-3, 1e3), data=st.data())
def test_measures_of_sizes_keep_their_bounds_and_know_no_order_and_no_scale(sizes, scale, data):
    k = len(sizes)
    shuffled = np.array(data.draw(st.permutations(sizes))) * scale
    rounding = 4 * (k + 40) * EPS  # of the sums, and of logarithms of shares that are summed to at most log(k)
    for measure, low, high in zip(OF_SIZES, (1, 1, 1, 0), (k, k, k, 1), strict=True):
        value = measure(sizes)
        assert low * (1 - rounding) <= value <= high * (1 + rounding)
        assert measure(shuffled) == pytest.approx(value, rel=rounding, abs=rounding)
        assert measure([sizes[0] + 1] * k) == pytest.approx(high if measure in OF_SIZES[2:] else low, rel=rounding)
    # Powers of the means of shares: Rényi's entropies fall with their order, here 1, 2 and infinity.
    assert perplexity(sizes) * (1 + rounding) >= k / imbalance_factor(sizes) >= k / size_imbalance(sizes) * (1 - rounding)


@given(sizes=SIZES)
def test_an_entropy_is_that_of_its_definition_in_exact_shares(sizes):
    total = sum(sizes)
    expected = math.fsum(-(size / total) * math.log(size / total) for size in sizes if size)
    assert math.log(perplexity(sizes)) == pytest.approx(expected, abs=100 * EPS)


def test_statistics_of_a_store_are_those_of_its_counts():
    store = otc.CentroidStore(n_centroids=4, dim=2, momentum=0.5, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 3])
    store.update(torch.ones(6, 2, dtype=torch.float64), None, labels)
    found, sizes = store.usage_statistics(), cluster_sizes(labels, 4)
    assert float(found.perplexity) == pytest.approx(perplexity(sizes), rel=8 * EPS)
    assert 1 / float(found.balance) == pytest.approx(size_imbalance(sizes), rel=8 * EPS)


@pytest.mark.parametrize("measure", OF_SIZES)
def test_what_are_no_sizes_is_told(measure):
    for wrong, error, message in [
        ([], ValueError, "must hold some samples, got 0 clusters"),
        ([0, 0], ValueError, "must hold some samples, got 2 clusters of size zero"),
        ([2, -1], ValueError, "must be finite and not negative, got -1: cluster_sizes makes them of labels"),
        ([2.0, math.nan], ValueError, "got nan"),
        ([2.0, math.inf], ValueError, "got inf"),
        ([[2, 1]], ValueError, r"one-dimensional, one number for each cluster, got shape \(1, 2\)"),
        (["a"], TypeError, "sizes must be numbers, got <U1"),
        ([True], TypeError, "sizes must be numbers, got bool"),
        (3, TypeError, "sizes must be an array"),
    ]:
        with pytest.raises(error, match=message):
            measure(wrong)


@given(labels=st.lists(st.integers(-1, 6), max_size=40))
def test_sizes_are_the_counts_of_labels_from_zero_on(labels):
    expected = [labels.count(cluster) for cluster in range(8)]
    for dtype in ("int8", "int64"):
        found = cluster_sizes(np.array(labels, dtype), 8)
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.int64
        assert found.tolist() == expected
    assert cluster_sizes(labels, 8).tolist() == expected
    found = cluster_sizes(torch.tensor(labels, dtype=torch.int32), 8)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.int64
    assert found.tolist() == expected
    found = cluster_sizes(array_api_strict.asarray(np.array(labels, dtype="int64")), 8)
    assert array_api_strict.all(found == array_api_strict.asarray(expected))


def test_what_are_no_labels_of_clusters_is_told():
    with pytest.raises(ValueError, match="labels must be from -1 to 2, got 0 to 3"):
        cluster_sizes(np.array([0, 3]), 3)
    with pytest.raises(ValueError, match="labels must be from -1 to 2, got -2 to 0"):
        cluster_sizes(np.array([0, -2]), 3)
    with pytest.raises(ValueError, match="n_clusters must be at least 1, got 0"):
        cluster_sizes(np.array([0]), 0)
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        cluster_sizes(np.array([0.0]), 3)
    with pytest.raises(ValueError, match=r"labels must be one-dimensional, got shape \(1, 1\)"):
        cluster_sizes(np.array([[0]]), 3)


def best_of_all(true, pred):
    """The largest number of samples that any pairing of classes and clusters gets right, all of them tried."""
    classes, clusters = sorted(set(true)), sorted(set(pred) - {-1})
    names = [*classes, *[f"no class {i}" for i in range(len(clusters))]]
    pairs = list(zip(true, pred, strict=True))
    return max(
        sum(dict(zip(clusters, chosen, strict=True)).get(cluster) == name for name, cluster in pairs)
        for chosen in itertools.permutations(names, len(clusters))
    )


PAIRS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2)), min_size=1, max_size=16)


@given(pairs=PAIRS)
def test_accuracy_is_the_best_of_all_pairings_of_classes_and_clusters(pairs):
    true, pred = map(list, zip(*pairs, strict=True))
    expected = best_of_all(true, pred) / len(pairs)
    assert clustering_accuracy(true, pred) == expected
    if -1 not in true and -1 not in pred:
        assert clustering_accuracy(pred, true) == expected  # more clusters than classes, where there were fewer


@given(seed=st.integers(0, 10**6), n=st.integers(1, 400), sides=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_accuracy_is_that_of_the_hungarian_method_on_the_whole_table(seed, n, sides):
    rng = np.random.default_rng(seed)
    true, pred = rng.integers(0, sides[0], n), rng.integers(0, sides[1], n)
    table = np.zeros(sides, int)
    np.add.at(table, (true, pred), 1)
    assert clustering_accuracy(true, pred) == table[linear_sum_assignment(table, maximize=True)].sum() / n


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=30), data=st.data())
def test_accuracy_knows_no_names(labels, data):
    names = data.draw(st.permutations(["a", "bb", "ccc", "", "é", "f"]))
    renamed = [names[label] for label in labels]
    for lay in (list, np.array, lambda strings: np.array(strings, dtype=object)):
        for found in (clustering_accuracy(lay(renamed), labels), clustering_accuracy(np.array(labels), lay(renamed))):
            assert type(found) is float
            assert found == 1.0
    assert clustering_accuracy(torch.tensor(labels), torch.tensor(labels, dtype=torch.uint8) * 7) == 1.0


def test_samples_without_a_cluster_are_wrong():
    assert clustering_accuracy([0, 0, 1, 1], [3, -1, 5, -1]) == 0.5
    assert clustering_accuracy([0, 1], [-1, -1]) == 0.0
    assert clustering_accuracy([-1, 1], [0, 1]) == 1.0  # of classes, -1 is one like any other


def test_many_labels_take_no_table_of_all_pairs():
    n, many = 60_000, 20_000
    rng = np.random.default_rng(0)
    true = rng.permutation(np.arange(n) % many)
    pred = np.where(rng.random(n) < 0.1, rng.integers(0, many, n), (true + 1) % many)
    tracemalloc.start()
    try:
        found = clustering_accuracy(true, pred)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found >= np.mean(pred == (true + 1) % many)  # the pairing that the labels were made with, or a better one
    assert found < 0.92
    assert peak < many**2 / 8  # a bit for each pair would be more


def test_what_are_no_two_labellings_is_told():
    for true, pred, error, message in [
        ([], [], ValueError, "hold no labels"),
        ([0, 1], [0], ValueError, "must have one label for each sample, got 2 and 1"),
        ([[0]], [0], ValueError, r"labels_true must be one-dimensional, got shape \(1, 1\)"),
        ([0], np.zeros((1, 1), int), ValueError, r"labels_pred must be one-dimensional, got shape \(1, 1\)"),
        ([0.5], [0], TypeError, "labels_true must be integers or strings, got float64"),
        ([0], torch.tensor([1.0]), TypeError, "labels_pred must be integers or strings, got float32"),
        ([0, 1], np.array(["a", 1], dtype=object), TypeError, "labels_pred must be integers or strings, got object"),
        (3, [0], TypeError, "labels_true must be an array"),
    ]:
        with pytest.raises(error, match=message):
            clustering_accuracy(true, pred)


def test_measures_of_numpy_need_no_torch():
    code = (
        "import sys, numpy as np; from otcluster import metrics\n"
        "metrics.perplexity(metrics.cluster_sizes(np.array([0, 1]), 2)), metrics.clustering_accuracy([0, 1], ['a', 'b'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_half_precision_sizes_are_numbers_too():
    assert imbalance_factor(torch.tensor([1.0, 3.0]).bfloat16()) == imbalance_factor([1, 3])
