"""k-means as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

from otcluster.clustering.kmeans import kmeans
from otcluster.clustering.samples import Geometry
from otcluster.estimators.base import Weighted, starts, validated, weights_of


class KMeans(Weighted):
    """k-means: :func:`otcluster.kmeans` in scikit-learn's words.

    With an integer as ``random_state`` it finds what ``otcluster.kmeans(X, n_clusters, seed=random_state)`` does. Clusters that
    lose all samples are moved to the farthest one. Prefer :class:`BalancedKMeans` where sizes matter.

    Args:
        n_clusters: How many clusters, at most as many as samples.
        metric: ``"sqeuclidean"``, or ``"cosine"``: spherical k-means, with centroids of length one.
        init: ``"k-means++"``, ``"k-means||"`` (quicker with thousands of clusters), ``"random"``; centroids (n_clusters,
            n_features); a start such as :class:`otcluster.KMeansPlusPlus`; a result of :func:`otcluster.kmeans`; or a callable
            ``init(X, n_clusters, random_state)`` that returns centroids.
        n_init: How many starts to try; that with the least inertia is kept. ``"auto"`` is 1. Given centroids are one start.
        max_iter: Rounds at most, of each start.
        tol: Stop when the squared distances that all centroids moved sum to at most this share of the mean variance of the
            features.
        random_state: A seed, a ``numpy.random.RandomState``, or None for a new seed each time.

    Attributes:
        cluster_centers_: (n_clusters, n_features), in the library and dtype of ``X``.
        labels_: (n_samples,) int64: the cluster of each sample.
        inertia_: Weighted sum of squared distances to the nearest centroid.
        n_iter_: Rounds done.
        n_features_in_, feature_names_in_: Of ``X``; names where a data frame has them.

    Example:
        >>> import numpy as np
        >>> model = KMeans(n_clusters=2, random_state=0).fit(np.array([[0.0], [0.2], [9.0]]))
        >>> model.predict(np.array([[8.0], [1.0]])) == model.labels_[[2, 0]]
        array([ True,  True])

    Source: Lloyd, "Least squares quantization in PCM" (1982).
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Geometry = "sqeuclidean",
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Find the centroids.

        Args:
            X: (n_samples, n_features), finite: what scikit-learn takes for an array, or a torch tensor.
            y: Not used.
            sample_weight: (n_samples,), not negative: a sample of weight w counts as w samples. Default: ones.

        Raises:
            TypeError, ValueError: As :func:`otcluster.kmeans` raises; ``X`` is sparse.
        """
        X = validated(self, X, reset=True)
        weights = weights_of(sample_weight, X)
        found = [
            kmeans(
                X, self.n_clusters, metric=self.metric, init=init, max_iter=self.max_iter, tol=self.tol, sample_weight=weights,
                seed=seed,
            )
            for init, seed in starts(self.init, self.n_init, self.random_state, X, self.n_clusters, weights)
        ]  # fmt: skip
        self._keep(min(found, key=lambda result: result.inertia))
        return self
