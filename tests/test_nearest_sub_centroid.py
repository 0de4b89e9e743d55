"""``NearestSubCentroid``: a few centroids of each class."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

import otcluster as otc
from otcluster.estimators import NearestSubCentroid
from tests.test_estimators import METRICS, blobs, digits


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_:UserWarning")
@pytest.mark.parametrize("metric", METRICS)
def test_sub_centroids_are_better_than_one_centroid_a_class(metric):
    x, x_test, y, y_test = digits()
    one = NearestCentroid().fit(x, y).score(x_test, y_test)
    for assign in (None, otc.ExactBalanced(), otc.LogSinkhorn(epsilon=0.02 if metric == "cosine" else 50.0)):
        model = NearestSubCentroid(4, assign=assign, metric=metric, random_state=0).fit(x, y)
        assert model.score(x_test, y_test) > one + 0.02
    single = NearestSubCentroid(1, metric="sqeuclidean").fit(x, y)
    np.testing.assert_array_equal(single.predict(x_test), NearestCentroid().fit(x, y).predict(x_test))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_decisions_probabilities_and_reasons_agree(library, metric):
    x, x_test, y, _ = digits()
    x, x_test, y = library(x), library(x_test), library(y)
    for some in (slice(None), y < 2):
        model = NearestSubCentroid(3, metric=metric, temperature=0.1 if metric == "cosine" else 100.0, random_state=0)
        model.fit(x[some], y[some])
        labels, chance = model.predict(x_test), model.predict_proba(x_test)
        assert type(labels) is type(chance) is type(model.classes_) is type(model.subcentroids_) is type(x)
        assert labels.dtype == y.dtype
        np.testing.assert_array_equal(model.subcentroid_classes_[model.apply(x_test)], labels)
        np.testing.assert_array_equal(model.classes_[chance.argmax(1)], labels)
        np.testing.assert_allclose(np.asarray(chance).sum(1), 1)
        decision = np.asarray(model.decision_function(x_test))
        decision = decision if decision.ndim == 2 else np.stack([-decision / 2, decision / 2], 1)
        kernel = np.exp((decision - decision.max(1, keepdims=True)) / model.temperature)
        np.testing.assert_allclose(chance, kernel / kernel.sum(1, keepdims=True), atol=1e-9)
        assert model.subcentroid_weights_.sum() == len(y[some])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x_test), model.predict(x_test))


@pytest.mark.parametrize("assign", [None, otc.ExactBalanced(), otc.LogSinkhorn(epsilon=0.1)])
def test_classes_with_few_samples(assign):
    x = np.array([[0.0, 1.0], [5.0, 5.0], [5.0, 6.0], [6.0, 5.0], [9.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
    y = np.array(["one", "three", "three", "three", "copies", "copies", "copies"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = NearestSubCentroid(4, assign=assign, metric="sqeuclidean", random_state=0).fit(x, y)
    counts = {each: int((model.subcentroid_classes_ == each).sum()) for each in model.classes_}
    assert counts["one"] == 1
    assert counts["three"] == 3
    assert counts["copies"] == 1 or assign is not None
    np.testing.assert_array_equal(model.predict(x), y)
    assert isinstance(NearestSubCentroid(2).fit(torch.from_numpy(x), y).predict(torch.from_numpy(x)), np.ndarray)


def test_classes_that_are_whole_floats_come_back_in_the_library_of_the_samples():
    x, y = blobs(40, 2, 4), (np.arange(40) % 3).astype(float)
    model = NearestSubCentroid(2, random_state=0).fit(x, y)
    found = model.predict(torch.from_numpy(x))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found, model.predict(x))


def test_samples_without_weight_are_not_there():
    x, y = blobs(40, 2, 4), np.arange(40) % 3
    weight = (y < 2).astype(float)
    model = NearestSubCentroid(2, random_state=0).fit(x, y, sample_weight=weight)
    assert model.classes_.tolist() == [0, 1]
    np.testing.assert_allclose(model.subcentroids_, NearestSubCentroid(2, random_state=0).fit(x[y < 2], y[y < 2]).subcentroids_)
    for wrong, match in (
        (np.zeros(40), "only zeros"),
        (np.ones(3), "one number for each of the 40 rows"),
        (-weight, "not negative"),
    ):
        with pytest.raises(ValueError, match=match):
            model.fit(x, y, sample_weight=wrong)
    with pytest.raises(ValueError, match="temperature must be positive"):
        NearestSubCentroid(temperature=0).fit(x, y)
    with pytest.raises(TypeError, match="temperature must be a number, got 'warm'"):
        NearestSubCentroid(temperature="warm").fit(x, y)
    with pytest.raises(ValueError, match="n_subcentroids must be at least 1"):
        NearestSubCentroid(0).fit(x, y)
    with pytest.raises(TypeError, match=r"n_subcentroids must be a whole number, got 2\.5"):
        NearestSubCentroid(2.5).fit(x, y)
