"""k-means of k-means, with resampling that spreads the centroids over where the data are instead of over how many there are."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from otcluster._ops.generic import Array
from otcluster.checks import check_seed, check_whole
from otcluster.clustering.annealing import Annealing
from otcluster.clustering.kmeans import kmeans
from otcluster.clustering.picking import Numbers, Pick, PickNearest, check_rule, picked
from otcluster.clustering.samples import Geometry, Samples
from otcluster.clustering.solved import pass_for
from otcluster.clustering.starts import Start
from otcluster.clustering.tree import ClusterTree
from otcluster.solvers import Nearest, Solver


@dataclass(frozen=True)
class Resample:
    """How the clusters of a level are made anew from some samples of each, so that crowded regions count no more than others.

    Args:
        rounds: How often; 0 leaves plain k-means.
        per_cluster: How many samples of each cluster are kept: one number, or one for each level. Default: half the mean size
            of a cluster of the level, rounded up. They are held in memory, also where the samples are in files.
        rule: Which are kept: :class:`PickNearest` (the default), :class:`PickRandom` or :class:`PickFarthest`.

    Raises:
        TypeError: A number is no whole number, or ``rule`` is none.
        ValueError: A number is out of range.

    Example:
        >>> import otcluster as otc
        >>> x = np.concatenate([np.linspace(0, 1, 900), np.linspace(1, 10, 100)])[:, None]
        >>> def beyond(resample):
        ...     tree = otc.hierarchical_kmeans(x, (20,), resample=resample)
        ...     return int((tree.centroids[0] > 1).sum())
        >>> beyond(otc.Resample(rounds=0)) < beyond(otc.Resample(rounds=10))
        True
    """

    rounds: int = 10
    per_cluster: int | tuple[int, ...] | None = None
    rule: Pick | None = None

    def __post_init__(self) -> None:
        check_whole("rounds", self.rounds, 0)
        for number in self.per_cluster if isinstance(self.per_cluster, tuple) else (self.per_cluster,):
            if number is not None:
                check_whole("per_cluster", number, 1)
        check_rule(self.rule)

    def kept(self, level: int, n: int, k: int) -> int:
        """How many of each of the ``k`` clusters of ``n`` samples, at a level from 1."""
        given = self.per_cluster[level - 1] if isinstance(self.per_cluster, tuple) else self.per_cluster
        return math.ceil(n / (2 * k)) if given is None else given


def hierarchical_kmeans(
    x: Any,
    n_clusters: Sequence[int] = (20000, 2000, 200),
    *,
    resample: Resample | None = None,
    metric: Geometry = "sqeuclidean",
    assign: Solver | Annealing | None = None,
    init: Start | None = None,
    max_iter: int = 100,
    sample_weight: Array | None = None,
    seed: int | np.random.Generator = 0,
) -> ClusterTree:
    """Cluster the samples, then the centroids, and so on; each level is made anew a few times from some samples per cluster.

    k-means puts centroids where samples are many. Here each round keeps the same number of samples from every cluster, runs
    k-means on those, and assigns all samples to the centroids found. Round by round the centroids spread evenly over the
    region that the samples cover; those of the levels above do the same with the centroids below. A sample drawn from the
    tree (:meth:`ClusterTree.sample`) then has rare things as well as frequent ones. Where a single level that follows the
    density is wanted, use :func:`kmeans`.

    Args:
        x: Samples (n, dim), finite; or, with ``Nearest``, what reads them from files.
        n_clusters: How many clusters each level has, from the level of the samples upwards: each fewer than the one before.
        resample: How levels are made anew. Default: ``Resample()``; ``Resample(rounds=0)`` leaves plain k-means of k-means.
        metric: ``"sqeuclidean"`` or ``"cosine"``, as in :func:`kmeans`.
        assign: The solver of every level and round, as in :func:`kmeans`; :class:`Nearest` by default. Bounds of sizes must
            hold for the samples that a round keeps, too.
        init: Where each run of k-means starts, as in :func:`kmeans`. With thousands of clusters the start is most of the work,
            and :class:`KMeansParallel` or ``KMeansPlusPlus(n_candidates=1)`` take less.
        max_iter: Rounds at most of each run of k-means.
        sample_weight: (n,), not negative: of the samples in level 1. Those of weight zero take no part in making centroids.
            Centroids count alike in the levels above, and samples when they are drawn.
        seed: Of starts and random picks, or a NumPy generator to draw it from.

    Returns:
        The tree; levels are counted from 1.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not fit, a value is impossible, the levels do not decrease, or a level is to have more clusters
            than there are samples, or clusters with samples in the level below.
        InfeasibleError: No assignment has the sizes that the solver is to meet.

    Example:
        >>> import otcluster as otc
        >>> rng = np.random.default_rng(0)
        >>> x = np.concatenate([rng.normal(0, 1, (900, 2)), rng.normal(20, 1, (100, 2))])
        >>> tree = hierarchical_kmeans(x, (30, 2))
        >>> sorted(tree.sizes(2).tolist())
        [100, 900]
        >>> chosen = tree.sample(100)
        >>> int((chosen >= 900).sum())
        50

    Source: Vo et al., "Automatic data curation for self-supervised learning: a clustering-based approach" (2024).
    """
    levels = _checked_levels(n_clusters)
    resample = Resample() if resample is None else resample
    if not isinstance(resample, Resample):
        raise TypeError(f"resample must be Resample(...), got {resample!r}")
    if isinstance(resample.per_cluster, tuple) and len(resample.per_cluster) != len(levels):
        raise ValueError(f"per_cluster must have one number for each of the {len(levels)} levels, got {resample.per_cluster}")
    if init is not None and (isinstance(init, type) or not isinstance(init, Start)):
        raise TypeError(f"init must be KMeansPlusPlus(), KMeansParallel() or have their method draw, got {init!r}")
    seed = check_seed(seed)
    rows, weights = x, sample_weight
    centroids, places = [], []
    distances: Array = None
    for level, k in enumerate(levels, 1):
        run = _Level(rows, weights, metric, Nearest() if assign is None else assign, init, max_iter)
        if run.n_usable < k:
            what = "samples" if level == 1 else f"clusters of level {level - 1} that hold samples"
            raise ValueError(f"level {level} must have at most as many clusters as there are {what}, {run.n_usable}; got {k}")
        found, labels, own = run.fit(level, k, resample, seed)
        centroids.append(found)
        places.append(labels)
        distances = own if level == 1 else distances
        used = np.bincount(run.on_host(labels)[run.usable], minlength=k) > 0
        rows = found
        weights = None if used.all() else run.samples.face.asarray(used, dtype=run.samples.face.wide)
    return ClusterTree(tuple(centroids), places[0], tuple(places[1:]), distances)


class _Level:
    """The rows that one level clusters: samples, or the centroids of the level below."""

    def __init__(self, x: Any, weights: Any, metric: Geometry, assign: Any, init: Start | None, max_iter: int) -> None:
        self.x, self.weights, self.metric, self.assign, self.init, self.max_iter = x, weights, metric, assign, init, max_iter
        self.samples = Samples(x, weights, metric, None)
        ops = self.samples.ops
        self.usable: Numbers = np.ones(self.samples.n, bool)
        if self.samples.weights is not None:
            self.usable = ops.to_numpy(self.samples.weights) > 0
        self.n_usable = int(self.usable.sum())

    def fit(self, level: int, k: int, resample: Resample, seed: int) -> tuple[Array, Array, Array]:
        """Centroids, labels and squared distances to the own centroid."""
        centroids = self._kmeans(self.x, self.weights, k, _seed(seed, level, 0))
        labels, distances = self._assigned(centroids)
        kept = np.full(k, resample.kept(level, self.n_usable, k))
        rule = PickNearest() if resample.rule is None else resample.rule
        for turn in range(1, resample.rounds + 1):
            at = _seed(seed, level, turn)
            places = np.where(self.usable, self.on_host(labels), -1)
            chosen = picked(places, self.on_host(distances).astype(np.float64), kept, rule, np.random.default_rng(at))
            if len(chosen) < k:
                break  # clusters without samples: there are too few distinct ones to make k of
            centroids = self._kmeans(*self._rows(chosen), k, at)
            labels, distances = self._assigned(centroids)
        return centroids, labels, distances

    def _kmeans(self, x: Any, weights: Any, k: int, seed: int) -> Array:
        given = {"assign": self.assign, "metric": self.metric, "init": self.init, "max_iter": self.max_iter}
        return kmeans(x, k, sample_weight=weights, seed=seed, **given).centroids

    def _assigned(self, centroids: Array) -> tuple[Array, Array]:
        """Labels of all rows, and how far they are from their centroids."""
        samples, ops = self.samples, self.samples.ops
        with ops.quiet():
            laid = samples.laid(samples.from_face(centroids))
            solver = self.assign.solver if isinstance(self.assign, Annealing) else self.assign
            current = pass_for(samples, int(centroids.shape[0]), solver)
            current.run(laid)
            labels, distances = ops.cast(current.labels, ops.integer), current.distances(laid)
        return samples.to_face(labels), samples.to_face(distances)

    def _rows(self, indices: Numbers) -> tuple[Array, Array | None]:
        """Some rows, in memory, and their weights."""
        face = self.samples.face
        at = face.asarray(indices, dtype=face.integer)
        weights = None if self.weights is None else face.xp.take(face.asarray(self.weights), at, axis=0)
        if self.samples.is_streamed:
            return self.x.rows(indices), weights
        return face.xp.take(self.x, at, axis=0), weights

    def on_host(self, array: Array) -> Numbers:
        return np.asarray(self.samples.face.to_numpy(array))


def _seed(seed: int, level: int, turn: int) -> int:
    return int(np.random.SeedSequence([seed, level, turn]).generate_state(1)[0])


def _checked_levels(n_clusters: Any) -> tuple[int, ...]:
    if not isinstance(n_clusters, Sequence) or isinstance(n_clusters, str) or not n_clusters:
        raise TypeError(f"n_clusters must hold a number for each level, such as (1000, 100), got {n_clusters!r}")
    for number in n_clusters:
        check_whole("n_clusters", number, 1)
    levels = tuple(operator.index(number) for number in n_clusters)
    if any(above >= below for below, above in itertools.pairwise(levels)):
        raise ValueError(f"n_clusters must decrease from level to level, the level of the samples first; got {levels}")
    return levels
