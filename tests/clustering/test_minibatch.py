"""Mini-batch k-means, the order of its batches, and what centroids say of vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster.clustering.batches import Batches
from otcluster.clustering.borders import middle_prices
from otcluster.clustering.nearest import distances, nearest_centroids
from otcluster.clustering.running import RunningCentroids
from otcluster.clustering.sources import NpyFile, open_vectors
from tests.clustering.test_kmeans import assert_belongs_together, blobs, squares

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy}


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_nearly_as_good_as_k_means(library, metric, dtype):
    x, weight = blobs(6000, 6, 12, seed=1, dtype=dtype), np.random.default_rng(0).random(6000)
    lay = LIBRARIES[library]
    found = otc.minibatch_kmeans(lay(x), 12, metric=metric, sample_weight=lay(weight), seed=2, n_init=3)
    assert type(found.centroids) is type(found.labels) is type(lay(x))
    assert found.centroids.dtype == lay(x).dtype
    assert_belongs_together(x, found, metric, weight)
    full = min(otc.kmeans(x, 12, metric=metric, sample_weight=weight, seed=seed).inertia for seed in range(3))
    assert found.inertia < 1.1 * full
    assert found.status is otc.Status.CONVERGED
    np.testing.assert_array_equal(found.assignment.labels(), found.labels)
    again = otc.minibatch_kmeans(lay(x), 12, metric=metric, sample_weight=lay(weight), seed=2, n_init=3)
    np.testing.assert_array_equal(again.centroids, found.centroids)


def test_centroids_are_running_means():
    rng = np.random.default_rng(0)
    running = RunningCentroids(np.array([[0.0, 0.0], [100.0, 0.0]]), "sqeuclidean", 0.0, 0)
    seen, weights = [[], []], [[], []]
    for _ in range(5):
        x, weight = rng.normal(size=(20, 2)) + 100 * rng.integers(2, size=20)[:, None] * [1, 0], rng.random(20)
        done = running.follow(x, weight)
        for row, label, mass in zip(x, done.labels, weight, strict=True):
            seen[label].append(row)
            weights[label].append(mass)
        for at in range(2):
            np.testing.assert_allclose(running.centroids[at], np.average(seen[at], axis=0, weights=weights[at]))
    np.testing.assert_allclose(running.counts, [sum(each) for each in weights])


@pytest.mark.filterwarnings("ignore:.*hold no sample:UserWarning")
def test_starved_centroids_move_to_where_samples_are():
    x = blobs(2000, 3, 8, seed=4, spread=0.1)
    start = np.concatenate([x[:4], np.full((4, 3), 1e3) + np.arange(4)[:, None]])
    kept = otc.minibatch_kmeans(x, 8, init=start, batch_size=100, reassignment_ratio=0, patience=None, max_epochs=3)
    moved = otc.minibatch_kmeans(x, 8, init=start, batch_size=100, max_epochs=30, patience=None)
    assert len(np.unique(kept.labels)) == 4
    assert len(np.unique(moved.labels)) == 8
    assert moved.inertia < 0.7 * kept.inertia


@pytest.mark.filterwarnings("ignore:.*hold no sample:UserWarning")
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("x", [np.ones((60, 3)), np.zeros((60, 3)), np.repeat(np.eye(3), 20, axis=0)])
def test_copies_end_well(x, metric):
    found = otc.minibatch_kmeans(x, 5, metric=metric, batch_size=10, max_epochs=20)
    assert np.isfinite(found.centroids).all()
    assert found.inertia == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "size"), [(1, 4), (10, 3), (1000, 64), (1000, 1000)])
def test_every_row_comes_once_before_one_comes_again(n, size, tmp_path):
    x = np.arange(2.0 * n).reshape(n, 2)
    np.save(tmp_path / "x.npy", x)
    for given in (x, torch.from_numpy(x), NpyFile(tmp_path / "x.npy"), np.load(tmp_path / "x.npy", mmap_mode="r")):
        batches = Batches(given, None, size, 3)
        drawn = iter(batches)
        rows = [next(drawn) for _ in range(-(-3 * n // batches.size))]
        assert {len(each) for each in rows} == {min(size, n)}
        whole = np.concatenate(rows)
        for epoch in range(3):
            np.testing.assert_array_equal(np.sort(whole[epoch * n : (epoch + 1) * n]), np.arange(n))
        block, _ = batches.take(rows[0])
        np.testing.assert_array_equal(np.asarray(block), x[rows[0]])


def test_files_are_read_in_runs_at_many_places(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100_000, 16), np.float32))
    batches = Batches(NpyFile(tmp_path / "x.npy"), None, 1024, 0)
    rows = np.sort(next(iter(batches)))
    assert 16 <= (np.diff(rows) > 1).sum() + 1 <= 40
    assert rows.max() - rows.min() > 50_000


def test_streamed_vectors(tmp_path):
    x = blobs(5000, 6, 5, seed=7, dtype=np.float32)
    x = x[np.argsort(x[:, 0])]  # as sorted as files are
    for at in range(2):
        np.save(tmp_path / f"{at}.npy", x[2500 * at : 2500 * (at + 1)])
    found = otc.minibatch_kmeans(open_vectors(tmp_path), 5, batch_size=256)
    assert_belongs_together(x, found)
    assert found.inertia < 1.1 * otc.kmeans(x, 5, n_init=3).inertia
    with pytest.raises(TypeError, match="read from a file"):
        _ = found.assignment


def test_without_labels_inertia_is_an_estimate():
    x = blobs(4000, 4, 6, seed=8)
    weight = np.random.default_rng(1).random(4000)
    found = otc.minibatch_kmeans(x, 6, batch_size=200, sample_weight=weight)
    short = otc.minibatch_kmeans(x, 6, batch_size=200, sample_weight=weight, compute_labels=False)
    np.testing.assert_array_equal(found.centroids, short.centroids)
    assert short.labels.shape == (0,)
    assert short.inertia == pytest.approx(found.inertia, rel=0.15)


def test_when_it_ends():
    x = blobs(2000, 3, 5)
    until_the_end = otc.minibatch_kmeans(x, 5, batch_size=300, patience=None, max_epochs=4)
    assert until_the_end.n_iter == -(-4 * 2000 // 300)
    assert until_the_end.status is otc.Status.MAX_ITER
    assert otc.minibatch_kmeans(x, 5, batch_size=300, tol=1e-2, patience=None).status is otc.Status.CONVERGED
    best = min(otc.minibatch_kmeans(x, 5, seed=seed).inertia for seed in range(3))
    assert otc.minibatch_kmeans(x, 5, n_init=3).inertia == best
    assert otc.minibatch_kmeans(x, 5, init=until_the_end).inertia <= 1.01 * until_the_end.inertia


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": [[1.0]]}, TypeError, "x must be an array"),
        ({"x": np.zeros(5)}, ValueError, r"x must have shape \(n_samples, dim\)"),
        ({"x": np.zeros((5, 2), int)}, TypeError, "x must be float16"),
        ({"x": np.full((5, 2), np.nan)}, ValueError, "x must be finite"),
        ({"n_clusters": 9}, ValueError, "at most the number of samples, got 9 for 4"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be a whole number, got 2.0"),
        ({"init_size": 1}, ValueError, "init_size must be at least n_clusters = 2, got 1"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1"),
        ({"tol": -1.0}, ValueError, "tol must not be negative"),
        ({"reassignment_ratio": 2.0}, ValueError, "reassignment_ratio must be from 0 to 1"),
        ({"reassignment_ratio": "some"}, TypeError, "reassignment_ratio must be a number"),
        ({"metric": "dot"}, ValueError, "metric must be one of"),
        ({"sample_weight": np.ones(3)}, ValueError, "one number for each of the 4 rows"),
        ({"sample_weight": -np.ones(4)}, ValueError, "not negative"),
        ({"sample_weight": np.zeros(4)}, ValueError, "only zeros"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    arguments = {"x": np.arange(8.0).reshape(4, 2), "n_clusters": 2, **changes}
    with pytest.raises(error, match=match):
        otc.minibatch_kmeans(arguments.pop("x"), arguments.pop("n_clusters"), **arguments)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1000])
def test_distances_to_centroids(library, metric, dtype, offset):
    lay = LIBRARIES[library]
    x = blobs(500, 5, 4, spread=0.01, dtype=dtype) + dtype(offset)
    centroids = np.concatenate([x[:3], x[5:8] + dtype(0.001)])
    exact = np.sqrt(squares(x, centroids, metric))
    found = distances(lay(x), lay(centroids), metric=metric)
    # Relative, also of what is near: a copy is at no distance.
    rounding = {np.float32: 1e-2 if metric == "cosine" and offset else 1e-3, np.float64: 1e-6}[dtype]
    least = 1e-7 if dtype == np.float32 else 1e-15
    np.testing.assert_allclose(found, exact, rtol=rounding, atol=least)
    labels, near = nearest_centroids(lay(x), lay(centroids), metric=metric)
    assert type(labels) is type(near) is type(found) is type(lay(x))
    # Which of some near directions is the nearest is a matter of digits.
    choice = 1e-6 if dtype == np.float32 and metric == "cosine" else least**2
    np.testing.assert_allclose(near, exact.min(1) ** 2, rtol=2 * rounding, atol=choice)
    with pytest.raises(ValueError, match=r"centroids must have shape \(n_clusters, 5\)"):
        distances(lay(x), lay(centroids[:, :2]))


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_prices_in_the_middle_leave_no_sample_on_a_border(metric):
    x = blobs(400, 3, 5, seed=9)
    for bounds in ({}, {"size_min": 20, "size_max": 60}, {"size_min": (0,) * 9 + (1,)}):
        solver = otc.ExactBalanced(**bounds)
        result = otc.kmeans(x, 10, assign=solver, metric=metric, seed=1, max_iter=10)
        answer = result.assignment
        labels, tight = answer.labels(), -answer.cluster_potential[0]
        near = -squares(x, result.centroids, metric) / (2 if metric == "cosine" else 1)
        prices = middle_prices(answer.problem, labels, tight)
        margins = []
        for each in (tight, prices):
            worth = near - each
            own = np.take_along_axis(worth, labels[:, None], 1)[:, 0]
            np.put_along_axis(worth, labels[:, None], -np.inf, 1)
            margins.append((own - worth.max(1)).min())
        assert margins[1] > 1e-7
        assert margins[1] >= margins[0] > -1e-9
