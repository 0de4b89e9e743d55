"""Mini-batch k-means: the centroids follow one batch after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from otcluster._ops import select
from otcluster._ops.generic import Array
from otcluster.assignment import Status
from otcluster.checks import check_seed, check_whole
from otcluster.clustering.batches import Batches
from otcluster.clustering.kmeans import KMeansResult, first_centroids
from otcluster.clustering.nearest import nearest_assignment, nearest_centroids, warn_of_empty
from otcluster.clustering.running import RunningCentroids
from otcluster.clustering.samples import Geometry, NotFiniteError, Samples, checked_weights
from otcluster.clustering.starts import KMeansPlusPlus, Start
from otcluster.solvers.base import check_number

_WINDOW = 100  # batches that the smoothed inertia looks back on at most


def minibatch_kmeans(
    x: Any,
    n_clusters: int,
    *,
    batch_size: int = 1024,
    metric: Geometry = "sqeuclidean",
    init: Start | KMeansResult | Array | None = None,
    init_size: int | None = None,
    n_init: int = 1,
    max_epochs: int = 100,
    tol: float = 0.0,
    patience: int | None = 10,
    reassignment_ratio: float = 0.01,
    sample_weight: Array | None = None,
    compute_labels: bool = True,
    seed: int | np.random.Generator = 0,
) -> KMeansResult:
    """Find ``n_clusters`` centroids from batches: each moves toward its samples of a batch by their share of all it has had.

    Prefer :func:`otcluster.kmeans` where its rounds can be waited for: its inertia is some percent lower. Batches go through
    all samples in a random order, and then again in another; from files they are read in short runs of rows.

    Args:
        x: Samples (n, dim), finite; or what reads them from files.
        n_clusters: How many clusters, at most as many as samples.
        batch_size: Samples of a batch; more for many clusters.
        metric: ``"sqeuclidean"``, or ``"cosine"``: distances between directions, and centroids of length one.
        init: A start such as :class:`KMeansPlusPlus` (the default), which draws among ``init_size`` samples; centroids
            (n_clusters, dim), or the result of another call.
        init_size: Default: the larger of 3 ``batch_size`` and 3 ``n_clusters``.
        n_init: How many starts to try, each with a seed of its own; that with the least inertia is kept.
        max_epochs: How often all samples are gone through at most.
        tol: Stop when the squared distances that all centroids moved with a batch sum to at most this share of the mean
            variance of the coordinates. 0 never stops for that.
        patience: Stop after so many batches in which the smoothed inertia of batches became no less. None never stops for that.
            It is smoothed over one epoch, or 100 batches where that is less.
        reassignment_ratio: A centroid with less weight than this share of the largest one's is moved to a sample far from the
            others. 0 leaves all where they are.
        sample_weight: (n,), not negative. A sample of weight w counts as w samples.
        compute_labels: Whether to read all samples once more in the end. Otherwise ``labels`` has shape (0,) and ``inertia`` is
            estimated from the batches.
        seed: Of the start and of the order of the samples, or a NumPy generator to draw it from.

    Returns:
        Centroids, and labels and inertia that belong to them; ``n_iter`` is how many batches were used.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not fit, a value is impossible, ``x`` is not finite, or there are fewer samples than clusters.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0], [0.1], [0.2], [9.0]])
        >>> result = minibatch_kmeans(x, 2)
        >>> result.labels, round(result.inertia, 6)
        (array([0, 0, 0, 1]), 0.02)

    Source: Sculley, "Web-scale k-means clustering" (2010); starved centroids and the end as in scikit-learn.
    """
    return minibatch_run(
        x, n_clusters, batch_size, metric, init, init_size, n_init, max_epochs, tol, patience, reassignment_ratio,
        sample_weight, compute_labels, seed,
    )[0]  # fmt: skip


def minibatch_run(
    x: Any,
    n_clusters: int,
    batch_size: int,
    metric: Geometry,
    init: Any,
    init_size: int | None,
    n_init: int,
    max_epochs: int,
    tol: float,
    patience: int | None,
    reassignment_ratio: float,
    sample_weight: Any,
    compute_labels: bool,
    seed: Any,
) -> tuple[KMeansResult, RunningCentroids]:
    """What :func:`minibatch_kmeans` finds, and centroids that can follow more batches."""
    _check(n_clusters, batch_size, init_size, n_init, max_epochs, patience, tol, reassignment_ratio)
    seed = check_seed(seed)
    sample_weight = _checked(x, n_clusters, sample_weight)
    start = KMeansPlusPlus() if init is None else init
    best: tuple[KMeansResult, RunningCentroids] | None = None
    for turn in range(n_init if isinstance(start, Start) else 1):
        batches = Batches(x, sample_weight, batch_size, seed + turn)
        for_start = Batches(x, sample_weight, init_size or 3 * max(batch_size, n_clusters), seed + turn)
        rows = next(iter(for_start))
        with _named(rows):
            first = Samples(*for_start.take(rows), metric, None)
        if first.n < n_clusters:
            raise ValueError(f"init_size must be at least n_clusters = {n_clusters}, got {first.n}")
        centroids = first.unlaid(first_centroids(start, first, n_clusters, seed + turn))
        running = RunningCentroids(centroids, metric, reassignment_ratio, seed + turn)
        status, inertia = _follow(running, batches, max_epochs, tol * first.variance, patience)
        found = _result(x, first, running, sample_weight, status, inertia, compute_labels)
        if best is None or found.inertia < best[0].inertia:
            best = found, running
    assert best is not None
    return best


def _follow(
    running: RunningCentroids, batches: Batches, max_epochs: int, tol: float, patience: int | None
) -> tuple[Status, float]:
    """Follow batches to the end: how it came, and the smoothed inertia of a sample."""
    per_epoch = batches.n / batches.size
    rate = min(1.0, 2 / (min(per_epoch, _WINDOW) + 1))
    smoothed = least = math.inf
    stalled = 0
    for rows in itertools.islice(batches, math.ceil(max_epochs * per_epoch)):
        with _named(rows):
            done = running.follow(*batches.take(rows))
        if not done.weight > 0:
            continue
        here = done.inertia / done.weight
        if running.n_batches == 1:  # says how good the start is, and not more
            smoothed = here
            continue
        smoothed = here if running.n_batches == 2 else (1 - rate) * smoothed + rate * here
        if tol > 0 and done.shift <= tol:
            return Status.CONVERGED, smoothed
        stalled = 0 if smoothed < least else stalled + 1
        least = min(least, smoothed)
        if patience is not None and stalled >= patience:
            return Status.CONVERGED, smoothed
    return Status.MAX_ITER, smoothed


@contextmanager
def _named(rows: Any) -> Iterator[None]:
    """Name a bad row of a batch by its place among all."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(int(rows[error.row])) from None


def _result(
    x: Any, first: Samples, running: RunningCentroids, weights: Any, status: Status, smoothed: float, compute_labels: bool
) -> KMeansResult:
    face = first.face
    centroids = first.to_face(first.ops.cast(running.centroids, first.dtype))
    if compute_labels:
        labels, squares = nearest_centroids(x, centroids, metric=running.metric)
        squares = face.to_numpy(squares).astype(np.float64)
        inertia = float(squares.sum() if weights is None else squares @ face.to_numpy(weights))
        sizes = np.bincount(face.to_numpy(labels), minlength=int(centroids.shape[0]))
        warn_of_empty(sizes, stacklevel=5)
    else:
        labels = face.full((0,), 0, face.integer)
        inertia = smoothed * (int(x.shape[0]) if weights is None else float(face.to_numpy(weights).sum()))
    return KMeansResult(
        centroids, labels, inertia, running.n_batches, status,
        lambda: nearest_assignment(x, centroids, running.metric, weights), None,
    )  # fmt: skip


def _checked(x: Any, n_clusters: int, sample_weight: Any) -> Array | None:
    """The weights in the library of the samples, on their device."""
    face = select(np.zeros(0) if hasattr(x, "read") else x, "x")
    if len(x.shape) != 2:
        raise ValueError(f"x must have shape (n_samples, dim), got {tuple(x.shape)}")
    n = int(x.shape[0])
    if n < n_clusters:
        raise ValueError(f"n_clusters must be at most the number of samples, got {n_clusters} for {n}")
    if sample_weight is None:
        return None
    weights = checked_weights(face, sample_weight, n)
    if not bool(face.xp.any(weights > 0)):
        raise ValueError("sample_weight must have a positive sum, got only zeros: nothing would be clustered")
    return weights


def _check(
    n_clusters: Any,
    batch_size: Any,
    init_size: Any,
    n_init: Any,
    max_epochs: Any,
    patience: Any,
    tol: Any,
    ratio: Any,
) -> None:
    for name, value in (
        ("n_clusters", n_clusters),
        ("batch_size", batch_size),
        ("init_size", 1 if init_size is None else init_size),
        ("n_init", n_init),
        ("max_epochs", max_epochs),
        ("patience", 1 if patience is None else patience),
    ):
        check_whole(name, value, 1)
    check_number("tol", tol)
    if not tol >= 0:
        raise ValueError(f"tol must not be negative, got {tol}")
    check_number("reassignment_ratio", ratio)
    if not 0 <= ratio <= 1:
        raise ValueError(f"reassignment_ratio must be from 0 to 1, got {ratio}")
