"""Balanced k-means as a scikit-learn estimator."""

from __future__ import annotations

import math
from typing import Any

from otcluster import labelling
from otcluster._ops import select
from otcluster._ops.generic import Array
from otcluster.balancing.sizes import Size
from otcluster.clustering.borders import middle_prices
from otcluster.clustering.kmeans import kmeans
from otcluster.clustering.nearest import like
from otcluster.clustering.passes import own_distances
from otcluster.clustering.samples import Geometry, Samples
from otcluster.estimators.base import Centroids, starts, validated
from otcluster.problem import Problem
from otcluster.scores import PointScores
from otcluster.solve import solve
from otcluster.solvers import ExactBalanced


class BalancedKMeans(Centroids):
    """k-means with clusters of exact sizes: in each round the best assignment of all that have these sizes.

    Without bounds every cluster has n_samples / n_clusters samples, rounded down or up, whichever is better.

    **New samples.** The sizes are met by one price a cluster, and :meth:`predict` goes by these prices: a sample joins the
    cluster with the least squared distance plus price (of the cosine, price less similarity), whatever other samples come with
    it. Of the samples of ``fit`` that gives ``labels_`` (copies of one sample in two clusters are told apart by nothing, and go
    to one). On samples like those of ``fit`` sizes are about those asked for, but they are not met. :meth:`predict_balanced`
    meets sizes on the samples it is given, exactly.

    Args:
        n_clusters: How many clusters, at most as many as samples.
        size_min: Fewest samples of a cluster: a number for all, or one for each. Alone, sizes are open above.
        size_max: Most samples of a cluster. Alone, sizes are open below.
        metric: ``"sqeuclidean"`` or ``"cosine"``, as in :class:`KMeans`.
        init, n_init, max_iter, tol, random_state: As in :class:`KMeans`.

    Attributes:
        cluster_centers_: (n_clusters, n_features), in the library and dtype of ``X``.
        cluster_prices_: (n_clusters,) float64: what it costs to join, in units of squared distance (of the cosine).
        labels_: (n_samples,) int64, of which each cluster has as many as it should.
        inertia_: Sum of squared distances to the centroids of ``labels_``.
        n_iter_: Rounds done.
        n_features_in_, feature_names_in_: Of ``X``; names where a data frame has them.

    Example:
        >>> import numpy as np
        >>> X = np.array([[0.0], [0.1], [0.2], [9.0]])
        >>> model = BalancedKMeans(n_clusters=2, random_state=0).fit(X)
        >>> np.bincount(model.labels_)
        array([2, 2])
        >>> np.sort(np.bincount(BalancedKMeans(n_clusters=2, size_min=1, random_state=0).fit(X).labels_))
        array([1, 3])

    Source: Bradley, Bennett & Demiriz, "Constrained k-means clustering" (2000).
    """

    def __init__(
        self,
        n_clusters: int = 8,
        size_min: Any = None,
        size_max: Any = None,
        *,
        metric: Geometry = "sqeuclidean",
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.size_min = size_min
        self.size_max = size_max
        self.metric = metric
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> BalancedKMeans:
        """Find the centroids. There are no sample weights: sizes count samples.

        Args:
            X: (n_samples, n_features), finite: what scikit-learn takes for an array, or a torch tensor.
            y: Not used.

        Raises:
            TypeError, ValueError: As :func:`otcluster.kmeans` and :class:`otcluster.ExactBalanced` raise; ``X`` is sparse.
            InfeasibleError: No assignment has the sizes.
        """
        X = validated(self, X, reset=True)
        solver = ExactBalanced(size_min=_size(self.size_min), size_max=_size(self.size_max))
        found = [
            kmeans(
                X,
                self.n_clusters,
                assign=solver,
                metric=self.metric,
                init=init,
                max_iter=self.max_iter,
                tol=self.tol,
                seed=seed,
            )
            for init, seed in starts(self.init, self.n_init, self.random_state, X, self.n_clusters, None)
        ]
        best = min(found, key=lambda result: result.inertia)
        self._keep(best)
        answer = best.assignment
        self.cluster_prices_ = middle_prices(answer.problem, best.labels, -answer.cluster_potential[0, :])
        self._n_samples_fit = int(X.shape[0])
        return self

    def predict(self, X: Any) -> Array:
        """The cluster of each sample, by distances and the prices of ``fit``; see the class. Sizes are not met.

        Args:
            X: (n_samples, n_features).

        Returns:
            (n_samples,) int64.
        """
        X = self._checked(X)
        return self._priced(X)

    def predict_balanced(self, X: Any, *, size_min: Any = None, size_max: Any = None) -> Array:
        """The clusters of samples such that sizes are met exactly, with the least sum of squared distances to the centroids.

        Solved anew for these samples, all at once: where one goes depends on the others.

        Args:
            X: (n_samples, n_features).
            size_min, size_max: Bounds as in the class, for these samples. Default: those of the class, scaled by how many
                samples there are here and were in ``fit`` (lower ones rounded down, upper ones up); where the class has
                none, n_samples / n_clusters, rounded down or up.

        Returns:
            (n_samples,) int64.

        Raises:
            InfeasibleError: No assignment has the sizes.

        Example:
            >>> import numpy as np
            >>> model = BalancedKMeans(n_clusters=2, random_state=0).fit(np.array([[0.0], [1.0]]))
            >>> labels = model.predict_balanced(np.array([[0.0], [0.1], [0.2], [0.3]]))
            >>> np.bincount(labels)
            array([2, 2])
        """
        X = self._checked(X)
        if size_min is None and size_max is None:
            factor = int(X.shape[0]), self._n_samples_fit
            size_min, size_max = _scaled(self.size_min, *factor, math.floor), _scaled(self.size_max, *factor, math.ceil)
        solver = ExactBalanced(size_min=_size(size_min), size_max=_size(size_max))
        return solve(self._problem(X), solver).labels()

    def _problem(self, X: Array) -> Problem:
        ops = select(X, "X")
        centroids = ops.cast(like(ops, self.cluster_centers_), ops.float_dtype(X, "X"))
        return Problem(PointScores(X, centroids, metric=self.metric))

    def _priced(self, X: Array) -> Array:
        problem = self._problem(X)
        prices = problem.ops.cast(like(problem.ops, self.cluster_prices_), problem.ops.wide)
        with problem.ops.quiet():
            return labelling.nearest(problem, -prices[None, :])[0][0, :]

    def _own_squares(self, X: Array) -> tuple[Array, Array]:
        labels = self._priced(X)
        samples = Samples(X, None, self.metric, None)
        with samples.ops.quiet():
            laid = samples.laid(samples.from_face(like(samples.face, self.cluster_centers_)))
            return labels, samples.to_face(own_distances(samples, samples.from_face(labels), laid))


def _size(size: Any) -> Size:
    """Bounds as the solver takes them: what is a row of numbers in any form is a tuple there."""
    is_row = hasattr(size, "__len__") and not isinstance(size, str) and getattr(size, "ndim", 1) > 0
    return tuple(size) if is_row else size


def _scaled(size: Any, n_here: int, n_fit: int, rounded: Any) -> Size:
    size = _size(size)
    if size is None:
        return None
    each = [rounded(int(one) * n_here / n_fit) for one in (size if isinstance(size, tuple) else (size,))]
    return tuple(each) if isinstance(size, tuple) else each[0]
