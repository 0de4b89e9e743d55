"""Estimators take CUDA tensors and answer with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.strategies import clustered_vectors, to_numpy

estimators = pytest.importorskip("otcluster.estimators")
pytestmark = pytest.mark.gpu


def data(n=600):
    x = torch.from_numpy(clustered_vectors(n, d=8, n_true=6, spread=0.2)).float()
    return x, (x[:, 0] > 0).long()


MODELS = {
    "KMeans": lambda: estimators.KMeans(6, random_state=0),
    "KMeans, cosine": lambda: estimators.KMeans(6, metric="cosine", random_state=0),
    "BalancedKMeans": lambda: estimators.BalancedKMeans(6, random_state=0, max_iter=10),
    "MiniBatchKMeans": lambda: estimators.MiniBatchKMeans(6, random_state=0, batch_size=200),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_clusterings_of_device_tensors(make, there, stays):
    x, _ = data()
    mine, theirs = make().fit(there(x)), make().fit(x)
    stays(mine.cluster_centers_, mine.labels_, mine.predict(there(x)), mine.transform(there(x)))
    assert np.mean(to_numpy(mine.labels_) != to_numpy(theirs.labels_)) < 0.02
    assert mine.inertia_ == pytest.approx(theirs.inertia_, rel=1e-2)
    assert mine.score(there(x)) == pytest.approx(-mine.inertia_, rel=1e-3)
    # What was learnt from tensors of one device serves those of another, and NumPy.
    assert isinstance(theirs.predict(x.numpy()), np.ndarray)
    stays(theirs.predict(there(x)))


def test_weights_and_random_starts(there, stays):
    x, _ = data()
    weights = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 2, len(x)))
    model = estimators.KMeans(6, init="random", n_init=2, random_state=0).fit(there(x), sample_weight=there(weights))
    stays(model.labels_)
    assert model.score(there(x), sample_weight=there(weights)) == pytest.approx(-model.inertia_, rel=1e-3)


def test_batches_one_by_one(there, stays):
    x, _ = data()
    model = estimators.MiniBatchKMeans(6, random_state=0)
    for part in there(x).split(150):
        model.partial_fit(part)
    stays(model.cluster_centers_, model.predict(there(x)))


def test_sub_centroids(there, stays):
    x, y = data()
    mine, theirs = (
        estimators.NearestSubCentroid(3, random_state=0).fit(place(x), place(y)) for place in (there, lambda value: value)
    )
    stays(mine.subcentroids_, mine.predict(there(x)), mine.predict_proba(there(x)), mine.apply(there(x)))
    assert mine.score(there(x), there(y)) == pytest.approx(theirs.score(x, y), abs=0.01)


def test_exact_sizes_of_new_samples(there, stays):
    x, _ = data()
    model = estimators.BalancedKMeans(6, random_state=0, max_iter=5).fit(there(x))
    labels = model.predict_balanced(there(x[:120]))
    stays(labels)
    np.testing.assert_array_equal(np.bincount(to_numpy(labels), minlength=6), 20)
