"""A classifier by the nearest of a few centroids of each class."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from array_api_compat import is_torch_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from otcluster._ops import select
from otcluster._ops.generic import Array
from otcluster.checks import check_whole
from otcluster.clustering.kmeans import KMeansResult, kmeans
from otcluster.clustering.nearest import distances, like, nearest_centroids
from otcluster.clustering.samples import Geometry, checked_weights
from otcluster.estimators.base import on_host, seed_of, starts, validated, weights_of
from otcluster.solvers.base import check_number


class NearestSubCentroid(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify by the nearest of a few centroids of each class: Deep Nearest Centroids on features that exist already.

    The samples of each class are clustered by k-means, and a new sample has the class of the centroid nearest to it. With one
    sub-centroid and ``metric="sqeuclidean"`` it is scikit-learn's ``NearestCentroid``; with several a class may have several
    forms. Every decision can be looked at: :meth:`apply` says which sub-centroid it was. Prefer :class:`otcluster.dnc.DNCHead`
    where the features are trained too.

    Args:
        n_subcentroids: How many for each class; a class with fewer distinct samples gets as many as it has.
        assign: The solver that clusters a class: :class:`otcluster.Nearest` (the default), :class:`otcluster.ExactBalanced` for
            sub-centroids of equally many samples, :class:`otcluster.LogSinkhorn`, or another one.
        metric: ``"cosine"`` or ``"sqeuclidean"``.
        temperature: Of the probabilities, in units of the similarity: the cosine, or minus the squared distance.
        init, n_init, max_iter, tol, random_state: As in :class:`KMeans`, for each class. Given centroids serve all classes.

    Attributes:
        classes_: (n_classes,), sorted.
        subcentroids_: (n_all, n_features), those of the first class first, in the library and dtype of ``X``.
        subcentroid_classes_: (n_all,): the class of each.
        subcentroid_weights_: (n_all,) float64: how many samples each had in ``fit``, by weight.
        n_iter_: Most rounds of k-means that a class took.
        n_features_in_, feature_names_in_: Of ``X``; names where a data frame has them.

    Example:
        >>> import numpy as np
        >>> X = np.array([[0.0], [10.0], [4.0], [6.0]])
        >>> y = np.array(["out", "out", "in", "in"])
        >>> model = NearestSubCentroid(n_subcentroids=2, metric="sqeuclidean", random_state=0).fit(X, y)
        >>> model.predict(np.array([[1.0], [5.5], [11.0]]))
        array(['out', 'in', 'out'], dtype='<U3')
        >>> model.subcentroids_[model.apply(np.array([[11.0]]))]
        array([[10.]])

    Source: Wang et al., "Visual recognition with deep nearest centroids" (2023).
    """

    def __init__(
        self,
        n_subcentroids: int = 4,
        *,
        assign: Any = None,
        metric: Geometry = "cosine",
        temperature: float = 0.1,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.n_subcentroids = n_subcentroids
        self.assign = assign
        self.metric = metric
        self.temperature = temperature
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NearestSubCentroid:
        """Cluster each class.

        Args:
            X: (n_samples, n_features), finite: what scikit-learn takes for an array, or a torch tensor.
            y: (n_samples,) classes: whole numbers, strings, or a torch tensor of whole numbers.
            sample_weight: (n_samples,), not negative. A sample of no weight is as if it were not there. Default: ones; only
                those with ``ExactBalanced``.

        Raises:
            TypeError, ValueError: As :func:`otcluster.kmeans` and the solver raise; ``X`` is sparse; ``y`` are no classes.
        """
        check_number("temperature", self.temperature)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        X = validated(self, X, reset=True)
        labels = column_or_1d(on_host(y) if is_torch_array(y) else y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_consistent_length(range(int(X.shape[0])), labels)
        check_classification_targets(labels)
        weights = weights_of(sample_weight, X)
        if weights is not None:
            X, labels, weights = _with_weight(X, labels, weights)
        classes, inverse = np.unique(labels, return_inverse=True)
        ops, seed = select(X, "X"), seed_of(self.random_state)
        found = []
        for each in range(len(classes)):
            rows = ops.asarray(np.flatnonzero(inverse == each))
            own = None if weights is None else ops.xp.take(weights, rows)
            found.append(self._of_class(ops.xp.take(X, rows, axis=0), own, seed))
        owner = np.repeat(np.arange(len(classes)), [len(weight) for _, weight, _ in found])
        self.classes_ = ops.asarray(classes) if classes.dtype.kind in "biuf" else classes
        self.subcentroids_ = ops.xp.concat([centroids for centroids, _, _ in found])
        self.subcentroid_classes_ = ops.asarray(classes[owner]) if classes.dtype.kind in "biuf" else classes[owner]
        self.subcentroid_weights_ = np.concatenate([weight for _, weight, _ in found])
        self.n_iter_ = max(n_iter for _, _, n_iter in found)
        self._owner = owner
        return self

    def _of_class(self, X: Array, weights: Array | None, seed: int) -> tuple[Array, Any, int]:
        """The centroids of a class that hold samples, the weight of each, and the rounds."""
        n_clusters = min(check_whole("n_subcentroids", self.n_subcentroids, 1), int(X.shape[0]))
        rounds = {"assign": self.assign, "metric": self.metric, "max_iter": self.max_iter, "tol": self.tol}
        found: list[KMeansResult] = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*hold no sample", category=UserWarning)
            for init, own_seed in starts(self.init, self.n_init, seed, X, n_clusters, weights):
                found.append(kmeans(X, n_clusters, init=init, sample_weight=weights, seed=own_seed, **rounds))
        best = min(found, key=lambda result: result.inertia)
        ops = select(X, "X")
        mass = np.ones(int(X.shape[0])) if weights is None else on_host(weights)
        held = np.bincount(on_host(best.labels), weights=mass, minlength=n_clusters)
        used = np.flatnonzero(held > 0)
        return ops.xp.take(best.centroids, ops.asarray(used), axis=0), held[used], best.n_iter

    def _checked(self, X: Any) -> Array:
        check_is_fitted(self)
        return validated(self, X, reset=False)

    def apply(self, X: Any) -> Array:
        """The nearest sub-centroid of each sample, as an index into ``subcentroids_``.

        ``subcentroid_classes_[apply(X)]`` is ``predict(X)``: the sub-centroid is why.

        Args:
            X: (n_samples, n_features).

        Returns:
            (n_samples,) int64.
        """
        return nearest_centroids(self._checked(X), self.subcentroids_, metric=self.metric)[0]

    def predict(self, X: Any) -> Array:
        """The class of the nearest sub-centroid.

        Args:
            X: (n_samples, n_features).

        Returns:
            (n_samples,), in the library of ``X``; NumPy where classes are strings.
        """
        places = self.apply(X)
        if not is_torch_array(self.subcentroid_classes_) and self.subcentroid_classes_.dtype.kind not in "biuf":
            return self.subcentroid_classes_[on_host(places)]
        ops = select(places, "X")
        return ops.xp.take(like(ops, self.subcentroid_classes_), places)

    def _similarities(self, X: Any) -> Array:
        """How similar the nearest sub-centroid of each class is: (n_samples, n_classes)."""
        X = self._checked(X)
        found = distances(X, self.subcentroids_, metric=self.metric)
        ops = select(found, "X")
        nearest = [
            ops.xp.min(ops.xp.take(found, ops.asarray(np.flatnonzero(self._owner == each)), axis=1), axis=1)
            for each in range(self._owner[-1] + 1)
        ]
        squares = ops.xp.stack(nearest, axis=1) ** 2
        return 1 - squares / 2 if self.metric == "cosine" else -squares

    def decision_function(self, X: Any) -> Array:
        """How similar a sample is to the nearest sub-centroid of each class: the cosine, or minus the squared distance.

        Args:
            X: (n_samples, n_features).

        Returns:
            (n_samples, n_classes); of two classes (n_samples,), that of the second less that of the first.
        """
        found = self._similarities(X)
        return found[:, 1] - found[:, 0] if found.shape[1] == 2 else found

    def predict_proba(self, X: Any) -> Array:
        """The softmax of the similarities over ``temperature``. They are not calibrated.

        Args:
            X: (n_samples, n_features).

        Returns:
            (n_samples, n_classes).
        """
        found = self._similarities(X) / self.temperature
        xp = select(found, "X").xp
        kernel = xp.exp(found - xp.max(found, axis=1, keepdims=True))
        return kernel / xp.sum(kernel, axis=1, keepdims=True)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of samples whose class is right, by weight.

        Args:
            X: (n_samples, n_features).
            y: (n_samples,) classes.
            sample_weight: (n_samples,). Default: ones.
        """
        weights = None if sample_weight is None else on_host(sample_weight)
        return float(accuracy_score(on_host(y), on_host(self.predict(X)), sample_weight=weights))


def _with_weight(X: Array, labels: Any, weights: Array) -> tuple[Array, Any, Array]:
    """The samples that have some, by what can be told of the weights before k-means checks them."""
    ops = select(X, "X")
    weights = checked_weights(ops, weights, len(labels))
    host = on_host(weights)
    if not host.any():
        raise ValueError("sample_weight must have a positive sum, got only zeros: nothing would be learnt")
    kept = np.flatnonzero(host)
    rows = ops.asarray(kept)
    return ops.xp.take(X, rows, axis=0), labels[kept], ops.xp.take(weights, rows)
