"""What tests ask of a run whose sub-centroids were changed by hand."""

from __future__ import annotations

import numpy as np

from otcluster.dnc import evaluate
from otcluster.dnc.typical import TypicalImages, find_typical


def pictures(run):
    test = run.load_test()
    return [test.read(at) for at in range(len(test))]


def units(features):
    found = features.double().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def expected(run, subcentroids):
    """Cosines and predictions of the test images, in float64; sub-centroids (n_classes, k, dim) that are zero are not there."""
    cosines = np.einsum("nd,ckd->nck", units(run.model.predict(pictures(run)).features), subcentroids)
    cosines = np.where(np.abs(subcentroids).sum(axis=2) > 0, cosines, -np.inf)
    return cosines, cosines.max(axis=2).argmax(axis=1), cosines.reshape(len(cosines), -1).argmax(axis=1) % cosines.shape[2]


def check(run, subcentroids):
    """See that a run answers as these sub-centroids say, and that its sizes are those of its training images."""
    cosines, labels, won = expected(run, subcentroids)
    said = run.model.predict(pictures(run))
    found = run.model.head.similarities(said.features)
    np.testing.assert_allclose(found, cosines, atol=1e-5)
    assert said.labels.tolist() == labels.tolist()
    assert said.subcentroids.tolist() == won.tolist()
    typical, images = TypicalImages.load(run.files), run.load_train()
    trained = evaluate(run.model, images, run.recipe.data)
    own = np.einsum("nd,nkd->nk", units(trained.features), subcentroids[trained.labels])
    own = np.where(np.abs(subcentroids[trained.labels]).sum(axis=2) > 0, own, -np.inf)
    sizes = np.zeros(subcentroids.shape[:2], dtype=int)
    np.add.at(sizes, (trained.labels.numpy(), own.argmax(axis=1)), 1)
    assert typical.sizes.tolist() == sizes.tolist()
    whole = find_typical(run.model, trained, images, len(run.classes), run.recipe.explain.images_per_subcentroid)
    assert (typical.names, typical.indices.tolist()) == (whole.names, whole.indices.tolist())
    assert typical.subcentroids.tolist() == whole.subcentroids.tolist()


def before(run):
    return run.model.head.subcentroids.double().numpy().copy()


def accuracy(run):
    found = evaluate(run.model, run.load_test(), run.recipe.data)
    return float((found.predictions == found.labels).float().mean())
