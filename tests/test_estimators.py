"""The scikit-learn face: scikit-learn's own conformance suite, and what it does not ask."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import sklearn.cluster
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import otcluster as otc
from otcluster.estimators import BalancedKMeans, KMeans, MiniBatchKMeans, NearestSubCentroid

CLUSTERERS = [KMeans, BalancedKMeans, MiniBatchKMeans]
METRICS = ["sqeuclidean", "cosine"]


def blobs(n=300, dim=4, k=6, seed=0, dtype=np.float64):
    return make_blobs(n, dim, centers=k, random_state=seed)[0].astype(dtype)


def digits():
    x, y = load_digits(return_X_y=True)
    return train_test_split(x, y, random_state=0, stratify=y)


# Skipped are checks of array-API inputs, which want an environment variable: the test below runs them in their own process.
@parametrize_with_checks(
    [
        KMeans(),
        KMeans(metric="cosine"),
        BalancedKMeans(),
        MiniBatchKMeans(),
        NearestSubCentroid(),
        NearestSubCentroid(metric="sqeuclidean"),
    ]
)
@pytest.mark.filterwarnings("ignore:.*hold no sample:UserWarning")
def test_scikit_learns_conformance_suite(estimator, check):
    check(estimator)


def test_the_checks_of_array_api_inputs():
    code = (
        "from sklearn.utils.estimator_checks import estimator_checks_generator as checks\n"
        "from otcluster.estimators import *\n"
        "ran = 0\n"
        "for each in (KMeans(), BalancedKMeans(), MiniBatchKMeans(), NearestSubCentroid()):\n"
        "    for estimator, check in checks(each):\n"
        "        if 'array_api' in str(check):\n"
        "            check(estimator)\n"
        "            ran += 1\n"
        "assert ran >= 4\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "SCIPY_ARRAY_API": "1"})


def test_without_scikit_learn_the_extra_is_named():
    code = (
        "import sys\n"
        "sys.modules['sklearn'] = None\n"
        "try:\n"
        "    import otcluster.estimators\n"
        "except ImportError as error:\n"
        "    assert \"pip install 'otcluster[estimators]'\" in str(error)\n"
        "else:\n"
        "    raise SystemExit('imported')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numpy_is_fitted_without_torch():
    code = (
        "import sys, numpy as np\n"
        "from otcluster.estimators import *\n"
        "x = np.random.default_rng(0).normal(size=(40, 2))\n"
        "for each in (KMeans(3), BalancedKMeans(3), MiniBatchKMeans(3)):\n"
        "    each.fit(x).predict(x)\n"
        "NearestSubCentroid(2).fit(x, x[:, 0] > 0).predict(x)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", CLUSTERERS)
def test_what_is_fitted_and_predicted_agree(kind, whole, dtype, metric):
    x = blobs(400, dtype=dtype)
    x = np.round(x) + 1 if whole else x  # many are as far from one centroid as from another
    model = kind(7, metric=metric, random_state=3).fit(x)
    assert model.cluster_centers_.dtype == dtype
    assert model.transform(x).dtype == dtype
    assert model.labels_.dtype == np.int64
    if not (whole and kind is BalancedKMeans):  # where copies are in two clusters
        np.testing.assert_array_equal(model.predict(x), model.labels_)
        assert -model.score(x) == pytest.approx(model.inertia_, rel=1e-5)
    distance = np.sqrt(((rows(x, metric)[:, None] - rows(model.cluster_centers_, metric)) ** 2).sum(-1))
    np.testing.assert_allclose(model.transform(x), distance, atol=1e-12 if dtype == np.float64 else 1e-4)
    own = np.take_along_axis(distance, model.labels_[:, None], 1)[:, 0]
    assert model.inertia_ == pytest.approx((own**2).sum(), rel=1e-5)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(clone(model).fit(x).labels_, model.labels_)
    assert list(model.get_feature_names_out()) == [f"{kind.__name__.lower()}{at}" for at in range(7)]


def rows(x, metric):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", CLUSTERERS)
def test_torch_in_gives_torch_out(kind, metric):
    x = blobs(200)
    ours, theirs = (
        kind(5, metric=metric, random_state=0).fit(x),
        kind(5, metric=metric, random_state=0).fit(torch.from_numpy(x)),
    )
    for found in (
        theirs.cluster_centers_,
        theirs.labels_,
        theirs.predict(torch.from_numpy(x)),
        theirs.transform(torch.from_numpy(x)),
    ):
        assert isinstance(found, torch.Tensor)
    assert theirs.labels_.dtype == torch.int64
    np.testing.assert_array_equal(theirs.labels_, ours.labels_)
    np.testing.assert_allclose(theirs.transform(torch.from_numpy(x)), ours.transform(x), atol=1e-12)
    assert theirs.score(torch.from_numpy(x)) == pytest.approx(ours.score(x))
    assert isinstance(theirs.predict(x), np.ndarray)  # what comes out is of the library that goes in
    assert isinstance(ours.predict(torch.from_numpy(x)), torch.Tensor)
    narrow = torch.from_numpy(x).to(torch.bfloat16)
    assert kind(5, random_state=0).fit(narrow).transform(narrow).dtype == torch.float32
    whole = torch.from_numpy(x).round().long()
    assert kind(5, random_state=0).fit(whole).predict(whole).shape == (200,)


@pytest.mark.parametrize("kind", [*CLUSTERERS, NearestSubCentroid])
def test_torch_tensors_are_checked_too(kind):
    x, y = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    model = kind(2, random_state=0)
    with pytest.raises(NotFittedError):
        model.predict(x)
    for wrong, error, match in (
        (x[0], ValueError, "Expected 2D array"),
        (x[:0], ValueError, "at least one sample"),
        (x.to_sparse(), TypeError, "dense"),
        (torch.full_like(x, torch.nan), ValueError, "NaN"),
        (x.to(torch.complex64), TypeError, "complex64"),
    ):
        with pytest.raises(error, match=match):
            model.fit(wrong, y[: len(wrong)])
    model.fit(x, y)
    with pytest.raises(ValueError, match="X has 2 features, but"):
        model.predict(x[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        model.predict(torch.full_like(x, torch.nan))


@pytest.mark.parametrize("kind", [*CLUSTERERS, NearestSubCentroid])
def test_sparse_input_is_a_clear_error(kind):
    x = scipy.sparse.csr_array(blobs(20))
    with pytest.raises(TypeError, match="Sparse data was passed"):
        kind(2).fit(x, np.arange(20) % 2)


@pytest.mark.parametrize("kind", CLUSTERERS)
def test_data_frames(kind):
    pandas = pytest.importorskip("pandas", reason="set_output(transform='pandas') needs pandas, which is not installed")
    x = pandas.DataFrame(blobs(50, 2), columns=["a", "b"])
    model = kind(3, random_state=0).set_output(transform="pandas").fit(x)
    assert list(model.feature_names_in_) == ["a", "b"]
    frame = model.transform(x)
    assert list(frame.columns) == list(model.get_feature_names_out())
    model.fit(torch.from_numpy(x.to_numpy()))
    assert not hasattr(model, "feature_names_in_")


def test_pipelines_and_grid_search():
    x, _, y, _ = digits()
    searched = GridSearchCV(make_pipeline(StandardScaler(), KMeans(random_state=0)), {"kmeans__n_clusters": [2, 10, 30]}, cv=3)
    assert searched.fit(x).best_params_ == {"kmeans__n_clusters": 30}
    # As features: distances to centroids.
    for kind in (BalancedKMeans(30, random_state=0, max_iter=10), MiniBatchKMeans(30, random_state=0)):
        pipeline = make_pipeline(kind, NearestSubCentroid(4, random_state=0))
        assert pipeline.fit(x, y).score(x, y) > 0.9
    grid = {"n_subcentroids": [1, 8], "assign": [None, otc.ExactBalanced()]}
    assert GridSearchCV(NearestSubCentroid(random_state=0), grid, cv=3).fit(x, y).best_params_["n_subcentroids"] == 8


@pytest.mark.parametrize("metric", METRICS)
def test_kmeans_is_the_function_and_scikit_learns(metric):
    x = blobs(500, k=12, seed=1)
    ours = KMeans(10, metric=metric, random_state=4, n_init=3).fit(x)
    function = otc.kmeans(x, 10, metric=metric, seed=4, n_init=3)
    np.testing.assert_array_equal(ours.labels_, function.labels)
    assert ours.inertia_ == function.inertia
    if metric == "sqeuclidean":
        start = x[:10]
        ours = KMeans(10, init=start, tol=0).fit(x)
        theirs = sklearn.cluster.KMeans(10, init=start, n_init=1, tol=0).fit(x)
        assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-9)
        np.testing.assert_allclose(ours.transform(x), theirs.transform(x), atol=1e-9)


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_starts_in_scikit_learns_words(library):
    x = library(blobs(100, 3, 4))
    seen = []

    def first_rows(X, n_clusters, random_state):
        seen.append(random_state.randint(1000))
        return X[:n_clusters]

    found = {}
    for init in (
        "k-means++",
        "k-means||",
        "random",
        otc.KMeansPlusPlus(2),
        first_rows,
        x[:4],
        np.asarray(x)[:4].tolist(),
        otc.kmeans(x, 4),
    ):
        model = KMeans(4, init=init, n_init=2, random_state=7).fit(x)
        assert len(np.unique(model.labels_)) == 4
        found[str(init)[:9]] = model.inertia_
    assert len(set(seen)) == 2
    assert found["k-means++"] == otc.kmeans(x, 4, n_init=2, seed=7).inertia
    assert (
        KMeans(4, init="random", random_state=np.random.RandomState(0)).fit(x, sample_weight=np.eye(100)[:2].sum(0)).inertia_
        == 0
    )


def test_random_state():
    x = blobs(200, 2, 9, seed=2)
    fits = [KMeans(9, random_state=state, max_iter=1).fit(x) for state in (0, 0, 1, np.int64(0))]
    np.testing.assert_array_equal(fits[0].labels_, fits[1].labels_)
    np.testing.assert_array_equal(fits[0].labels_, fits[3].labels_)
    assert (fits[0].labels_ != fits[2].labels_).any()
    state = np.random.RandomState(0)
    first, second = KMeans(9, random_state=state, max_iter=1).fit(x), KMeans(9, random_state=state, max_iter=1).fit(x)
    assert (first.labels_ != second.labels_).any()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1, got 0"),
        ({"n_clusters": 99}, ValueError, "at most the number of samples, got 99 for 20"),
        ({"n_clusters": 2.5}, TypeError, "n_clusters must be a whole number, got 2.5"),
        ({"metric": "manhattan"}, ValueError, "metric must be one of cosine, sqeuclidean"),
        ({"init": "kmeans++"}, ValueError, "init must be 'k-means\\+\\+', 'k-means\\|\\|', 'random'"),
        ({"init": np.zeros((2, 3))}, ValueError, r"init must have shape \(3, 2\)"),
        ({"n_init": 0}, ValueError, "n_init must be 'auto' or a positive whole number, got 0"),
        ({"n_init": "many"}, ValueError, "n_init must be 'auto'"),
        ({"tol": -1.0}, ValueError, "tol must"),
        ({"random_state": -1}, ValueError, "random_state must not be negative"),
        ({"random_state": "zero"}, ValueError, "zero"),
    ],
)
@pytest.mark.parametrize("kind", CLUSTERERS)
def test_bad_parameters_are_named(kind, changes, error, match):
    with pytest.raises(error, match=match):
        kind(**{"n_clusters": 3, **changes}).fit(blobs(20, 2))


def test_a_batch_keeps_the_centroids_that_there_are():
    x = blobs(40, 2)
    model = MiniBatchKMeans(3, random_state=0).partial_fit(x).set_params(n_clusters=5).partial_fit(x)
    assert model.cluster_centers_.shape == (3, 2)
    assert len(model.get_feature_names_out()) == model.transform(x).shape[1] == 3


@pytest.mark.parametrize("name", ["max_iter", "max_no_improvement"])
def test_mini_batches_name_parameters_as_scikit_learn_does(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        MiniBatchKMeans(3, **{name: 0}).fit(blobs(20, 2))


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("kind", CLUSTERERS)
def test_weights_of_a_score_are_checked(kind, library):
    x = library(blobs(20, 2))
    model = kind(n_clusters=3, random_state=0).fit(x)
    assert model.score(x, sample_weight=np.arange(20)) == pytest.approx(model.score(x, sample_weight=list(range(20))))
    for wrong, match in ((np.ones(19), "one number for each of the 20 rows"), (-np.ones(20), "not negative")):
        with pytest.raises(ValueError, match=f"sample_weight must .*{match}"):
            model.score(x, sample_weight=wrong)


@pytest.mark.parametrize("n", [12, 100, 103])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_balanced_clusters_have_exact_sizes(library, metric, n):
    x = library(blobs(n, k=3))
    model = BalancedKMeans(8, metric=metric, random_state=0).fit(x)
    assert set(np.bincount(model.labels_)) == {n // 8, -(-n // 8)}
    bounds = BalancedKMeans(4, size_min=n // 8, size_max=[n, n, n // 4, n], metric=metric, random_state=0).fit(x)
    sizes = np.bincount(bounds.labels_, minlength=4)
    assert sizes.min() >= n // 8
    assert sizes[2] <= n // 4
    np.testing.assert_array_equal(bounds.predict(x), bounds.labels_)
    new = library(blobs(50, k=3, seed=0)[::-1].copy())
    assert set(np.bincount(model.predict_balanced(new), minlength=8)) == {6, 7}
    scaled = np.bincount(bounds.predict_balanced(new), minlength=4)
    assert scaled.min() >= (n // 8) * 50 // n
    assert scaled[2] <= -(-(n // 4) * 50 // n)
    given = np.bincount(model.predict_balanced(new, size_min=(0,) * 7 + (22,), size_max=22), minlength=8)
    assert given[7] == 22
    with pytest.raises(otc.InfeasibleError):
        model.predict_balanced(new, size_max=2)
    assert type(model.predict_balanced(new)) is type(x)


def test_prices_balance_new_samples_like_the_old_ones():
    x = blobs(4000, 3, 5, seed=3)
    model = BalancedKMeans(10, random_state=0).fit(x[:2000])
    plain = KMeans(10, init=model.cluster_centers_, max_iter=1, tol=1e9).fit(x[:2000])
    plain.cluster_centers_ = model.cluster_centers_
    sizes, nearest = (np.bincount(each.predict(x[2000:]), minlength=10) for each in (model, plain))
    assert abs(sizes - 200).max() < 50 < abs(nearest - 200).max()
    # A sample goes by itself, whatever comes with it.
    np.testing.assert_array_equal(
        np.concatenate([model.predict(x[at : at + 7]) for at in range(0, 700, 7)]), model.predict(x[:700])
    )


@pytest.mark.parametrize("form", [tuple, list, np.array, torch.tensor])
def test_sizes_of_each_cluster_come_in_any_form(form):
    x = blobs(60, 2)
    model = BalancedKMeans(4, size_min=form([3, 4, 5, 40]), size_max=form([9, 9, 9, 60]), random_state=0).fit(x)
    sizes = np.bincount(model.labels_, minlength=4)
    assert (sizes >= [3, 4, 5, 40]).all()
    assert (sizes <= [9, 9, 9, 60]).all()
    np.testing.assert_array_equal(np.bincount(model.predict_balanced(x, size_min=form([1, 2, 3, 54]))), [1, 2, 3, 54])


def test_balanced_means_no_weights():
    with pytest.raises(TypeError):
        BalancedKMeans(2).fit(blobs(20), sample_weight=np.ones(20))


def test_mini_batches_one_at_a_time():
    x = blobs(3000, 3, 5, seed=5)
    model = MiniBatchKMeans(5, random_state=0)
    for at in range(0, 3000, 300):
        assert model.partial_fit(x[at : at + 300]) is model
        assert model.labels_.shape == (300,)
    full = KMeans(5, random_state=0).fit(x)
    assert model.n_steps_ == 10
    assert -model.score(x) < 1.05 * full.inertia_
    saved = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(saved.partial_fit(x[:100]).cluster_centers_, model.partial_fit(x[:100]).cluster_centers_)
    with pytest.raises(ValueError, match="the first batch must have at least n_clusters = 5 samples, got 3"):
        MiniBatchKMeans(5).partial_fit(x[:3])
    with pytest.raises(ValueError, match="X has 2 features"):
        model.partial_fit(x[:100, :2])
    # After fit it goes on from there.
    fitted = MiniBatchKMeans(5, random_state=0).fit(x)
    before = fitted.cluster_centers_.copy()
    fitted.partial_fit(x[:50])
    assert 0 < np.abs(fitted.cluster_centers_ - before).max() < 0.1


def test_mini_batches_without_labels():
    x = blobs(2000, 3, 5, seed=5)
    model = MiniBatchKMeans(5, batch_size=100, compute_labels=False, random_state=0).fit(x)
    assert not hasattr(model, "labels_")
    whole = MiniBatchKMeans(5, batch_size=100, random_state=0).fit(x)
    np.testing.assert_array_equal(model.fit_predict(x), whole.labels_)
    assert model.inertia_ == pytest.approx(whole.inertia_, rel=0.2)
    assert whole.n_iter_ == -(-whole.n_steps_ // 20)


def test_the_global_random_state_is_left_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for model in (KMeans(2), BalancedKMeans(2), MiniBatchKMeans(2)):
        model.fit(np.arange(12.0).reshape(6, 2))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
