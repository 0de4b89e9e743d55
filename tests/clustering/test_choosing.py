"""How many clusters: right on sets whose number is known, the formulas against their definitions, and what goes wrong where."""

from __future__ import annotations

import warnings

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import anderson, multivariate_normal

import otcluster as otc
from otcluster.clustering.fits import Fits, merged_down
from otcluster.clustering.sources import NpyFile
from tests.clustering.blobs import gaussian_blobs
from tests.strategies import to_numpy

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy, "array-api-strict": array_api_strict.asarray}
CRITERIA = [otc.BIC(), otc.PredictionStrength(splits=2), otc.SplitAndMerge()]
by_name = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: type(criterion).__name__)


@by_name
def test_the_number_is_right_on_nine_of_ten_sets_of_blobs(criterion):
    right = 0
    for seed in range(10):
        x, k = gaussian_blobs(seed, uneven_sizes=seed % 2 == 1, uneven_spreads=seed % 4 > 1)
        result = otc.choose_n_clusters(x, 14, criterion=criterion)
        right += result.n_clusters == k == len(result.best.centroids)
    assert right >= 9


@by_name
def test_one_gaussian_is_one_cluster(criterion):
    for seed in range(3):
        x, _ = gaussian_blobs(seed, n=400, k=2, dim=4, separation=0)  # two at one place
        assert otc.choose_n_clusters(x, 8, criterion=criterion).n_clusters == 1


@by_name
def test_few_factors_behind_many_features(criterion):
    # Round Gaussians are the wrong model, for which BIC pays with clusters; the others do not count coordinates, or look
    # along a line first.
    found = []
    for seed in range(3):
        x, _ = gaussian_blobs(seed, k=4, dim=3)
        rng = np.random.default_rng(seed)
        x = x @ rng.standard_normal((3, 30)) + 0.1 * rng.standard_normal((600, 30))
        found.append(otc.choose_n_clusters(x, 10, criterion=criterion).n_clusters)
    assert found == ([10] * 3 if isinstance(criterion, otc.BIC) else [4] * 3)


def test_clusters_of_few_samples_in_high_dimension_are_not_seen():
    x, k = gaussian_blobs(3, n=200, dim=200)
    assert k == 10
    assert [otc.choose_n_clusters(x, 14, criterion=criterion).n_clusters for criterion in CRITERIA] == [1, 1, 1]


@by_name
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_and_the_curve(criterion, library):
    x, k = gaussian_blobs(5, k=4, dim=3)
    lay = LIBRARIES[library]
    result = otc.choose_n_clusters(lay(x), range(1, 9), criterion=criterion)
    assert result.n_clusters == k
    assert result.criterion is criterion
    assert type(result.best.centroids) is type(result.best.labels) is type(lay(x))
    assert tuple(result.best.centroids.shape) == (4, 3)
    assert len(result.values) == len(result.candidates)
    assert list(result.candidates) == sorted(result.candidates)
    at = result.candidates.index(4)
    if isinstance(criterion, otc.PredictionStrength):
        assert result.candidates == tuple(range(1, 9))
        assert result.values[at] >= criterion.threshold > result.values[at + 1 :].max()
    else:
        assert result.values.argmax() == at
    if library == "numpy":
        assert otc.kmeans(x, 4, init=result.best).inertia == pytest.approx(result.best.inertia)
        again = otc.choose_n_clusters(x, range(1, 9), criterion=criterion)
        np.testing.assert_array_equal(again.values, result.values)


@by_name
def test_directions(criterion):
    rng = np.random.default_rng(0)
    axes = np.eye(5)[rng.integers(5, size=500)]
    x = (axes + 0.1 * rng.standard_normal((500, 5))) * rng.uniform(0.1, 10, (500, 1))
    assert otc.choose_n_clusters(x, 9, criterion=criterion, metric="cosine").n_clusters == 5


@by_name
def test_copies_are_one_cluster_each_and_nobody_is_warned(criterion):
    x = np.repeat(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 7.0]]), 20, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = otc.choose_n_clusters(x, 6, criterion=criterion)
    assert result.n_clusters == 3
    assert np.isfinite(result.values).all()
    assert otc.choose_n_clusters(x[:20], 6, criterion=criterion).n_clusters == 1


def test_bic_is_the_likelihood_of_the_gaussians_less_the_price_of_their_numbers():
    x, _ = gaussian_blobs(2, n=150, k=3, dim=4, uneven_spreads=True)
    for k, value in zip(range(1, 7), otc.choose_n_clusters(x, 6).values, strict=True):
        found = Fits(x, "sqeuclidean", 1, 0).path(x, range(1, 7), 0)[k - 1]
        labels, centroids = found.labels, found.centroids
        pooled = found.inertia / (4 * 150)
        fit = 0.0
        for cluster in range(k):
            own = x[labels == cluster]
            within = ((own - centroids[cluster]) ** 2).sum()
            variance = (within + 4 * pooled) / (4 * (len(own) + 1))
            fit += multivariate_normal(centroids[cluster], variance * np.eye(4)).logpdf(own).sum()
            fit += len(own) * np.log(len(own) / 150)
        assert value == pytest.approx(fit - ((k - 1) + 4 * k + k) / 2 * np.log(150), rel=1e-9)


def test_prediction_strength_counts_pairs():
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((2, 40, 2))
    fits = Fits(train, "sqeuclidean", 1, 0)
    for k in (1, 2, 5):
        centroids, own = fits.fit(train, k, 0).centroids, fits.fit(test, k, 0)
        given = ((test[:, None] - centroids) ** 2).sum(-1).argmin(1)
        shares = []
        for cluster in range(k):
            members = np.flatnonzero(own.labels == cluster)
            pairs = [given[a] == given[b] for a in members for b in members if a != b]
            shares.append(np.mean(pairs) if pairs else 0.0)
        assert otc.PredictionStrength()._strength(fits, centroids, own, test) == pytest.approx(min(shares))


def test_anderson_darling_is_wrong_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for significance in (0.05, 0.01):
        test = otc.AndersonDarling(significance)
        wrong = sum(test.are_two(x, np.arange(60) % 2 == 0) for x in rng.standard_normal((4000, 60, 1)))
        expected = 4000 * significance
        assert abs(wrong - expected) < 4 * expected**0.5 + 0.1 * expected  # chance, and what the fitted formula is off by
    x = rng.standard_normal((50, 1))
    x[25:] += 8
    ascending = np.sort(x[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        statistic = anderson(ascending, "norm").statistic * (1 + 0.75 / 50 + 2.25 / 50**2)
    expected = np.exp(1.2937 - 5.709 * statistic + 0.0186 * statistic**2)
    assert otc.AndersonDarling._probability((ascending - x.mean()) / x.std(ddof=1)) == pytest.approx(expected)


@given(st.integers(0, 10**6), st.integers(2, 15), st.data())
def test_merging_is_that_of_ward(seed, n, data):
    points = np.random.default_rng(seed).standard_normal((n, 3))
    k = data.draw(st.integers(1, n))
    labels = fcluster(linkage(points, "ward"), k, "maxclust")
    expected = [points[labels == cluster].mean(0) for cluster in np.unique(labels)]
    found = merged_down(points, np.ones(n, int), k)
    np.testing.assert_allclose(sorted(found.tolist()), sorted(np.array(expected).tolist()), atol=1e-9)


def test_clusterings_on_the_way_are_no_worse_than_from_random_starts():
    better = 0
    for seed in range(4):
        x, _ = gaussian_blobs(seed, k=12, dim=15)
        fits = Fits(x, "sqeuclidean", 1, 0)
        for found in fits.path(x, range(2, 15), 0):
            alone = otc.kmeans(x, len(found.centroids))
            assert found.inertia <= alone.inertia
            better += found.inertia < 0.99 * alone.inertia
    assert better >= 4


@pytest.mark.parametrize("merge", [None, otc.AndersonDarling()])
def test_splitting_and_merging_stay_within_the_candidates(merge):
    x, _ = gaussian_blobs(1, k=8, dim=6)
    for least, most in ((1, 5), (8, 8), (10, 12), (3, 20)):
        result = otc.choose_n_clusters(x, (least, most), criterion=otc.SplitAndMerge(merge=merge))
        assert all(least <= k <= most for k in result.candidates)
        assert result.n_clusters == min(max(8, least), most)


def test_many_clusters_are_split_and_merged():
    # 2-means of a hundred blobs in a square look no better than one to BIC, but not normal to AndersonDarling.
    rng = np.random.default_rng(0)
    grid = 10.0 * np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2)
    x = np.repeat(grid, 20, axis=0) + rng.standard_normal((2000, 2))
    assert abs(otc.choose_n_clusters(x, 300, criterion=otc.SplitAndMerge()).n_clusters - 100) <= 3
    assert otc.choose_n_clusters(x, 300, criterion=otc.SplitAndMerge(split=otc.BIC())).n_clusters < 50


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"candidates": 0}, ValueError, "candidates must be at least 1, got 0"),
        ({"candidates": [0, 3]}, ValueError, "candidates must be at least 1, got 0"),
        ({"candidates": []}, ValueError, "candidates must hold at least one number"),
        ({"candidates": [2.5]}, TypeError, "candidates must be a whole number, got 2.5"),
        ({"candidates": "many"}, TypeError, "candidates must be the largest number"),
        ({"candidates": 41}, ValueError, "candidates must be at most the number of samples, 40, got 41"),
        ({"candidates": 21, "criterion": otc.PredictionStrength()}, ValueError, "halves of 40 samples cannot have 21 clusters"),
        ({"criterion": "bic"}, TypeError, "criterion must be BIC"),
        ({"criterion": otc.BIC}, TypeError, "criterion must be BIC"),
        ({"metric": "dot"}, ValueError, "metric must be one of"),
        ({"n_init": 0}, ValueError, "n_init must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"x": np.zeros(5)}, ValueError, "x must have shape"),
        ({"x": np.full((40, 2), np.nan)}, ValueError, "x must be finite"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    arguments = {"x": np.arange(80.0).reshape(40, 2), "candidates": 5, **changes}
    with pytest.raises(error, match=match):
        otc.choose_n_clusters(arguments.pop("x"), arguments.pop("candidates"), **arguments)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: otc.PredictionStrength(threshold=0), ValueError, "threshold must be above 0 and at most 1, got 0"),
        (lambda: otc.PredictionStrength(threshold="high"), TypeError, "threshold must be a number"),
        (lambda: otc.PredictionStrength(splits=0), ValueError, "splits must be at least 1"),
        (lambda: otc.PredictionStrength(splits=1.5), TypeError, "splits must be a whole number"),
        (lambda: otc.AndersonDarling(0.9), ValueError, "significance must be from 1e-12 to 0.5, got 0.9"),
        (lambda: otc.AndersonDarling("low"), TypeError, "significance must be a number"),
        (lambda: otc.SplitAndMerge(split="bic"), TypeError, "split must be AndersonDarling"),
        (lambda: otc.SplitAndMerge(merge=otc.BIC), TypeError, "merge must be AndersonDarling"),
    ],
)
def test_bad_choices_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_files_are_chosen_by_some_of_their_rows(tmp_path):
    x, k = gaussian_blobs(0, k=3, dim=2)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(TypeError, match="x must be in memory"):
        otc.choose_n_clusters(NpyFile(tmp_path / "x.npy"), 5)
    assert otc.choose_n_clusters(NpyFile(tmp_path / "x.npy").rows(np.arange(0, 600, 2)), 5).n_clusters == k


def test_inputs_and_the_global_random_state_are_left_alone():
    x, _ = gaussian_blobs(0, n=60, k=3, dim=2)
    x.setflags(write=False)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for criterion in CRITERIA:
        assert to_numpy(otc.choose_n_clusters(x, 5, criterion=criterion).best.labels).shape == (60,)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
