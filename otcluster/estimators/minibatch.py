"""Mini-batch k-means as a scikit-learn estimator."""

from __future__ import annotations

import math
from typing import Any

from otcluster.checks import check_whole
from otcluster.clustering.kmeans import first_centroids
from otcluster.clustering.minibatch import minibatch_run
from otcluster.clustering.running import RunningCentroids
from otcluster.clustering.samples import Geometry, Samples
from otcluster.estimators.base import Weighted, starts, validated, weights_of


class MiniBatchKMeans(Weighted):
    """Mini-batch k-means: :func:`otcluster.minibatch_kmeans` in scikit-learn's words, and one batch at a time.

    Prefer :class:`KMeans` where its rounds can be waited for: its inertia is some percent lower.

    Args:
        n_clusters: How many clusters, at most as many as samples.
        batch_size: Samples of a batch in ``fit``; ``partial_fit`` takes what it is given for one.
        metric: ``"sqeuclidean"``, or ``"cosine"``: centroids have length one.
        init, random_state: As in :class:`KMeans`. Strings and starts draw among ``init_size`` samples.
        init_size: Default: the larger of 3 ``batch_size`` and 3 ``n_clusters``.
        n_init: How many starts to try in ``fit``; that with the least inertia is kept. ``"auto"`` is 1.
        max_iter: How often all samples are gone through at most.
        tol: Stop when the squared distances that all centroids moved with a batch sum to at most this share of the mean
            variance of the features. 0 never stops for that.
        max_no_improvement: Stop after so many batches in which the smoothed inertia of batches became no less. None never
            stops for that.
        reassignment_ratio: A centroid with less weight than this share of the largest one's is moved to a sample far from the
            others.
        compute_labels: Whether ``fit`` reads all samples once more in the end, for ``labels_`` and ``inertia_``. Otherwise
            there is no ``labels_``, and ``inertia_`` is estimated from the batches.

    Attributes:
        cluster_centers_: (n_clusters, n_features), in the library and dtype of ``X``.
        labels_: (n_samples,) int64: the cluster of each sample; after ``partial_fit``, of its batch before the centroids moved.
        inertia_: Weighted sum of squared distances to the nearest centroid, of the samples of ``labels_``.
        n_steps_: Batches used.
        n_iter_: Times that all samples were gone through, begun ones counted; not set by ``partial_fit``.
        n_features_in_, feature_names_in_: Of ``X``; names where a data frame has them.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> model = MiniBatchKMeans(n_clusters=2, random_state=0)
        >>> for _ in range(20):
        ...     model = model.partial_fit(rng.normal(size=(50, 1)) + rng.choice([-9, 9], size=(50, 1)))
        >>> np.sort(model.cluster_centers_[:, 0]).round()
        array([-9.,  9.])

    Source: Sculley, "Web-scale k-means clustering" (2010); starved centroids and the end as in scikit-learn.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        batch_size: int = 1024,
        metric: Geometry = "sqeuclidean",
        init: Any = "k-means++",
        init_size: Any = None,
        n_init: Any = "auto",
        max_iter: int = 100,
        tol: float = 0.0,
        max_no_improvement: Any = 10,
        reassignment_ratio: float = 0.01,
        compute_labels: bool = True,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.batch_size = batch_size
        self.metric = metric
        self.init = init
        self.init_size = init_size
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.reassignment_ratio = reassignment_ratio
        self.compute_labels = compute_labels
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Find the centroids anew, from batches of the samples.

        Args:
            X: (n_samples, n_features), finite: what scikit-learn takes for an array, or a torch tensor.
            y: Not used.
            sample_weight: (n_samples,), not negative: a sample of weight w counts as w samples. Default: ones.

        Raises:
            TypeError, ValueError: As :func:`otcluster.minibatch_kmeans` raises; ``X`` is sparse.
        """
        check_whole("max_iter", self.max_iter, 1)
        if self.max_no_improvement is not None:
            check_whole("max_no_improvement", self.max_no_improvement, 1)
        X = validated(self, X, reset=True)
        weights = weights_of(sample_weight, X)
        found = [
            minibatch_run(
                X, self.n_clusters, self.batch_size, self.metric, init, self.init_size, 1, self.max_iter, self.tol,
                self.max_no_improvement, self.reassignment_ratio, weights, self.compute_labels, seed,
            )
            for init, seed in starts(self.init, self.n_init, self.random_state, X, self.n_clusters, weights)
        ]  # fmt: skip
        result, self._running = min(found, key=lambda each: each[0].inertia)
        self._keep(result)
        if not self.compute_labels:
            del self.labels_
        n = int(X.shape[0])
        self.n_steps_ = result.n_iter
        self.n_iter_ = math.ceil(result.n_iter * min(self.batch_size, n) / n)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Let the centroids follow one batch: what they are now, or a start drawn among its samples if there are none yet.

        Args:
            X: (n_samples, n_features), finite; the first with at least ``n_clusters`` samples.
            y: Not used.
            sample_weight: (n_samples,), not negative. Default: ones.

        Raises:
            TypeError, ValueError: As in :meth:`fit`.
        """
        check_whole("n_clusters", self.n_clusters, 1)
        begun = hasattr(self, "_running")
        X = validated(self, X, reset=not begun)
        weights = weights_of(sample_weight, X)
        samples = Samples(X, weights, self.metric, None)
        if not samples.total > 0:
            raise ValueError("sample_weight must have a positive sum, got only zeros: nothing would be clustered")
        if not begun:
            if samples.n < self.n_clusters:
                raise ValueError(
                    f"the first batch must have at least n_clusters = {self.n_clusters} samples, got {samples.n}: "
                    "its samples are where the centroids start"
                )
            init, seed = next(starts(self.init, 1, self.random_state, X, self.n_clusters, weights))
            centroids = samples.unlaid(first_centroids(init, samples, self.n_clusters, seed))
            self._running = RunningCentroids(centroids, self.metric, self.reassignment_ratio, seed)
        done = self._running.follow(X, weights)
        self.cluster_centers_ = samples.to_face(samples.ops.cast(self._running.centroids, samples.dtype))
        self.labels_, self.inertia_ = done.labels, done.inertia
        self.n_steps_ = self._running.n_batches
        self._n_features_out = int(self.cluster_centers_.shape[0])
        return self
