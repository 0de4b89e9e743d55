"""What the estimators share: what they take, seeds, starts, and the attributes of fitted centroids."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_api_compat import is_torch_array
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from otcluster._ops import select
from otcluster._ops.generic import Array
from otcluster.checks import is_whole
from otcluster.clustering.kmeans import KMeansResult
from otcluster.clustering.nearest import distances, nearest_centroids
from otcluster.clustering.samples import checked_weights
from otcluster.clustering.starts import KMeansParallel, KMeansPlusPlus, Start

STARTS: dict[str, Start] = {"k-means++": KMeansPlusPlus(), "k-means||": KMeansParallel()}


def validated(estimator: Any, X: Any, *, reset: bool) -> Array:
    """Samples as floating-point numbers: a torch tensor as it is, everything else as scikit-learn checks it."""
    if not is_torch_array(X):
        return validate_data(estimator, X, reset=reset, dtype=[np.float64, np.float32, np.float16])
    ops = select(X, "X")
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got a tensor of shape {tuple(X.shape)} instead: reshape it")
    if 0 in X.shape:
        raise ValueError(f"X must have at least one sample and one feature, got shape {tuple(X.shape)}")
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return X if ops.xp.isdtype(X.dtype, ("real floating", "complex floating")) else ops.cast(X, ops.wide)


def weights_of(sample_weight: Any, X: Array) -> Array | None:
    """Weights in the library of the samples, a number for each; of one number, as many of it."""
    if sample_weight is None:
        return None
    ops = select(X, "X")
    if not is_torch_array(sample_weight):
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
    elif not is_torch_array(X):
        sample_weight = on_host(sample_weight)
    weights = ops.asarray(sample_weight)
    return ops.full((int(X.shape[0]),), float(weights), ops.wide) if weights.ndim == 0 else weights


def on_host(values: Any) -> Any:
    """As NumPy has it."""
    return select(values, "values").to_numpy(values) if is_torch_array(values) else np.asarray(values)


def seed_of(random_state: Any) -> int:
    """A seed: the integer itself, or the next draw of a generator; of None a new one each time.

    scikit-learn draws that from NumPy's global generator, which nothing here touches.

    Raises:
        ValueError: It is nothing of these, or negative.
    """
    if isinstance(random_state, numbers.Integral) and not isinstance(random_state, bool):
        if random_state < 0:
            raise ValueError(f"random_state must not be negative, got {random_state}")
        return int(random_state)
    if random_state is None:
        return int(np.random.default_rng().integers(np.iinfo(np.int32).max))
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def starts(init: Any, n_init: Any, random_state: Any, X: Array, n_clusters: int, weights: Any) -> Iterator[tuple[Any, int]]:
    """What :func:`otcluster.kmeans` takes as ``init`` and ``seed``, for each of the starts that scikit-learn's words ask for.

    Raises:
        TypeError, ValueError: ``init`` or ``n_init`` is nothing that there is.
    """
    if n_init == "auto":
        n_init = 1
    elif not is_whole(n_init) or n_init < 1:
        raise ValueError(f"n_init must be 'auto' or a positive whole number, got {n_init!r}")
    seed = seed_of(random_state)
    if isinstance(init, str):
        if init != "random" and init not in STARTS:
            known = ", ".join(repr(each) for each in (*STARTS, "random"))
            raise ValueError(f"init must be {known}, centroids, a start such as KMeansPlusPlus() or a callable, got {init!r}")
        init = STARTS.get(init, _random_rows)
    if isinstance(init, Start) and not isinstance(init, type):
        yield from ((init, seed + turn) for turn in range(n_init))
    elif callable(init):
        for turn in range(n_init):
            given = (X, n_clusters, np.random.RandomState((seed + turn) % (1 << 32)))
            yield _centroids(init(*given, weights) if init is _random_rows else init(*given), X), seed
    else:
        yield (init if isinstance(init, KMeansResult) else _centroids(init, X)), seed


def _centroids(given: Any, X: Array) -> Array:
    if is_torch_array(given):
        return given if is_torch_array(X) else on_host(given)
    return select(X, "X").asarray(check_array(given, dtype=[np.float64, np.float32], input_name="init"))


def _random_rows(X: Array, n_clusters: int, random_state: np.random.RandomState, weights: Any) -> Array:
    n = int(X.shape[0])
    if n_clusters > n:
        raise ValueError(f"n_clusters must be at most the number of samples, got {n_clusters} for {n}")
    chance = None if weights is None else on_host(weights) / on_host(weights).sum()
    few = chance is not None and bool(np.count_nonzero(chance) < n_clusters)
    rows = random_state.choice(n, n_clusters, replace=few, p=chance)
    ops = select(X, "X")
    return ops.xp.take(X, ops.asarray(rows), axis=0)


class Centroids(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Fitted centroids: prediction, distances and score."""

    cluster_centers_: Array
    labels_: Array
    metric: Any

    def _keep(self, result: KMeansResult) -> None:
        self.cluster_centers_ = result.centroids
        self.labels_ = result.labels
        self.inertia_ = result.inertia
        self.n_iter_ = result.n_iter
        self._n_features_out = int(result.centroids.shape[0])

    def _checked(self, X: Any) -> Array:
        check_is_fitted(self)
        return validated(self, X, reset=False)

    def _own_squares(self, X: Array) -> tuple[Array, Array]:
        """Labels of validated samples, and the squared distances to the centroids of these."""
        return nearest_centroids(X, self.cluster_centers_, metric=self.metric)

    def predict(self, X: Any) -> Array:
        """The cluster of each sample, the one whose centroid is nearest; of the samples of ``fit``, ``labels_``.

        Args:
            X: (n_samples, n_features).

        Returns:
            (n_samples,) int64.
        """
        return self._own_squares(self._checked(X))[0]

    def transform(self, X: Any) -> Array:
        """The distance of each sample to each centroid; with ``metric="cosine"`` between directions, sqrt(2 - 2 cos).

        Args:
            X: (n_samples, n_features).

        Returns:
            (n_samples, n_clusters), in the dtype of ``X`` (float32 for narrower ones).
        """
        return distances(self._checked(X), self.cluster_centers_, metric=self.metric)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of samples: the weighted sum of their squared distances to the centroids of their clusters.

        Args:
            X: (n_samples, n_features).
            y: Not used.
            sample_weight: (n_samples,), not negative. Default: ones.
        """
        X = self._checked(X)
        squares = on_host(self._own_squares(X)[1]).astype(np.float64)
        weights = weights_of(sample_weight, X)
        return -float(
            squares.sum() if weights is None else squares @ on_host(checked_weights(select(X, "X"), weights, len(squares)))
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Weighted(Centroids):
    """Centroids of weighted samples."""

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Array:
        """Fit, and return ``labels_``. Arguments as in :meth:`fit`."""
        self.fit(X, sample_weight=sample_weight)
        return self.labels_ if hasattr(self, "labels_") else self.predict(X)

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Array:
        """Fit, and return the distances to the centroids. Arguments as in :meth:`fit`."""
        return self.fit(X, sample_weight=sample_weight).transform(X)
