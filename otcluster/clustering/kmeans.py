"""k-means: assignment and means in turn, where the solver says what assignment means."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment, EntropicAssignment, Status
from otcluster.checks import check_seed, check_whole
from otcluster.clustering.annealing import Annealing
from otcluster.clustering.bounded import nearest_pass
from otcluster.clustering.empty import EmptyClusters, RelocateFarthest
from otcluster.clustering.nearest import like, nearest_assignment, warn_of_empty
from otcluster.clustering.passes import Step
from otcluster.clustering.progress import KMeansProgress, Watcher
from otcluster.clustering.samples import Geometry, Samples
from otcluster.clustering.solved import SolvedPass, pass_for
from otcluster.clustering.starts import KMeansParallel, KMeansPlusPlus, Start
from otcluster.distributed import Reducer, check_reducer
from otcluster.solvers import Nearest, Solver
from otcluster.solvers.base import check_number


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """What :func:`kmeans` found."""

    centroids: Array
    """(n_clusters, dim), in the library and dtype of the samples (float32 for narrower ones)."""
    labels: Array
    """(n,) int64: the cluster of each sample of this rank, under these centroids."""
    inertia: float
    """Weighted sum of squared distances to the centroids under ``centroids``, over all ranks; of soft assignments, by the plan.
    For ``metric="cosine"`` of the squared distances between directions, 2 - 2 cos."""
    n_iter: int
    """Rounds of assignment and means."""
    status: Status
    """CONVERGED, or MAX_ITER."""
    _problem: Any
    _answer: Assignment | None

    @cached_property
    def assignment(self) -> Assignment:
        """The answer of the solver under ``centroids``: labels, plan, sizes.

        Raises:
            TypeError: The samples were read from a file; ``labels`` is there.
        """
        return self._answer if self._answer is not None else self._problem()

    def __repr__(self) -> str:
        return (
            f"KMeansResult(centroids={tuple(self.centroids.shape)}, inertia={self.inertia:.6g}, n_iter={self.n_iter}, "
            f"status={self.status.name})"
        )


def kmeans(
    x: Any,
    n_clusters: int,
    *,
    assign: Solver | Annealing | None = None,
    metric: Geometry = "sqeuclidean",
    init: Start | KMeansResult | KMeansProgress | Array | None = None,
    n_init: int = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
    empty: EmptyClusters | None = None,
    sample_weight: Array | None = None,
    cluster_share: Array | None = None,
    seed: int | np.random.Generator = 0,
    reducer: Reducer | None = None,
    progress: Watcher | None = None,
) -> KMeansResult:
    """Find ``n_clusters`` centroids: assign the samples, move each centroid to the mean of its samples, and again.

    The solver decides what assignment means. :class:`Nearest` (the default) gives Lloyd's k-means, or spherical k-means
    with the cosine; :class:`ExactBalanced` clusters of exact sizes; :class:`SinkhornKnopp` and :class:`LogSinkhorn` soft
    clusters that share the samples. Every row is used, and no array of n x n_clusters is held.

    Args:
        x: Samples (n, dim), finite; or, with ``Nearest``, what reads them from files. With a ``reducer``, the rows of this
            rank, of which there may be none.
        n_clusters: How many clusters, at most as many as samples.
        assign: The solver, or :class:`Annealing` around one.
        metric: ``"sqeuclidean"``, or ``"cosine"``: distances between directions, and centroids of length one. A vector of zeros
            has no direction: its squared distance to each centroid is 1, and it takes no part in their means.
        init: A start such as :class:`KMeansPlusPlus` (the default) or :class:`KMeansParallel` (that for samples from files),
            centroids (n_clusters, dim), or the result of another call; or what another call told its ``progress``, to go on
            from there with the rounds of one start. That ends as the other call would have: with centroids equal to
            rounding, and labels equal where rounding does not decide. (With ``tol=0`` it may count one round more, since
            which rows change is not known at first.)
        n_init: How many starts to try, each with a seed of its own; that with the least inertia is kept.
        max_iter: Rounds at most, of each start.
        tol: Stop when the squared distances that all centroids moved sum to at most this share of the mean variance of the
            coordinates. (They always stop where no sample changes its cluster.)
        empty: What becomes of clusters that no sample is nearest to: :class:`RelocateFarthest` (the default) or
            :class:`KeepEmpty`.
        sample_weight: (n,), not negative. A sample of weight w counts as w samples.
        cluster_share: Relative sizes (n_clusters,) for the solvers that balance. Default: equal.
        seed: Of the start, or a NumPy generator to draw it from (of one state on all ranks). Draws follow from it and from the
            rows, not from their order or who holds them.
        reducer: Sums over the ranks that share the samples, as in :func:`solve`. Centroids, inertia and status are then
            those of all samples, the same on every rank.
        progress: Called, on every rank, with a :class:`KMeansProgress` when a start has been drawn and after each round. What
            it raises ends the call.

    Returns:
        Centroids, and labels and inertia that belong to them.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not fit, a value is impossible, ``x`` is not finite, or there are fewer samples than clusters.
        InfeasibleError: No assignment has the sizes that the solver is to meet.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0], [0.1], [0.2], [9.0]])
        >>> result = kmeans(x, 2)
        >>> result.labels, round(result.inertia, 6)
        (array([0, 0, 0, 1]), 0.02)
        >>> import otcluster as otc
        >>> kmeans(x, 2, assign=otc.ExactBalanced()).assignment.cluster_sizes()
        array([2., 2.])

    Source: Lloyd, "Least squares quantization in PCM" (1982); bounds on distances: Ding et al., "Yinyang k-means" (2015).
    """
    assign = Nearest() if assign is None else assign
    empty = RelocateFarthest() if empty is None else empty
    _check(n_clusters, assign, n_init, max_iter, tol, empty, reducer, progress)
    seed = check_seed(seed)
    samples = Samples(x, sample_weight, metric, reducer)
    if samples.n_everywhere < n_clusters:
        raise ValueError(f"n_clusters must be at most the number of samples, got {n_clusters} for {samples.n_everywhere}")
    if cluster_share is not None and isinstance(assign, Nearest):
        raise ValueError("cluster_share says how clusters share the samples, and Nearest lets each take what it is nearest to")
    if not samples.total > 0:
        raise ValueError("sample_weight must have a positive sum, got only zeros: nothing would be clustered")
    start = (KMeansParallel() if samples.is_streamed else KMeansPlusPlus()) if init is None else init
    best: KMeansResult | None = None
    for turn in range(n_init if isinstance(start, Start) else 1):
        run = _Run(samples, n_clusters, assign, empty, cluster_share)
        centroids = first_centroids(start, samples, n_clusters, seed + turn)
        before = start if isinstance(start, KMeansProgress) else KMeansProgress(centroids, 0, turn=turn)
        found = run.to_the_end(centroids, max_iter, tol, before, progress)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best


class _Run:
    """One start, and the rounds from there."""

    def __init__(
        self, samples: Samples, n_clusters: int, assign: Solver | Annealing, empty: EmptyClusters, cluster_share: Any
    ) -> None:
        self.samples, self.k, self.assign, self.empty = samples, n_clusters, assign, empty
        solver = assign.at(0) if isinstance(assign, Annealing) else assign
        self.current = pass_for(samples, n_clusters, solver, cluster_share)

    def to_the_end(
        self, centroids: Array, max_iter: int, tol: float, before: KMeansProgress, progress: Watcher | None
    ) -> KMeansResult:
        """The rounds that are left after those of ``before``."""
        samples = self.samples
        began, n_iter, least = time.perf_counter(), before.n_iter, tol * samples.variance
        status = Status.CONVERGED if before.converged else Status.MAX_ITER
        with samples.ops.quiet():
            if progress is not None and n_iter == 0:
                progress(KMeansProgress(samples.told(centroids), 0, turn=before.turn))
            if n_iter:
                self._cool(n_iter - 1)
            while status is not Status.CONVERGED and n_iter < max_iter:
                cooled = self._cool(n_iter)
                (centroids, changed, shift), n_iter = self._round(centroids), n_iter + 1
                if cooled and (changed == 0 or shift <= least):
                    status = Status.CONVERGED
                if progress is not None:
                    share = min(1.0, changed / samples.n_everywhere)
                    relative = shift / samples.variance if samples.variance > 0 else 0.0
                    seconds = time.perf_counter() - began
                    told = samples.told(centroids), n_iter, status is Status.CONVERGED, before.turn, share, relative, seconds
                    progress(KMeansProgress(*told))
            return self._result(centroids, n_iter, status)

    def _cool(self, n_iter: int) -> bool:
        """Whether the solver is the one that was asked for, and not one that softens the first rounds."""
        if not isinstance(self.assign, Annealing):
            return True
        assert isinstance(self.current, SolvedPass)
        self.current.solver = self.assign.at(n_iter)
        return self.current.solver == self.assign.solver

    def _round(self, centroids: Array) -> tuple[Array, float, float]:
        """The next centroids, how many rows changed, and the squared distances that centroids moved; a device is asked once."""
        ops, xp = self.samples.ops, self.samples.ops.xp
        step = self._step(centroids)
        moved = self._means(step, centroids)
        wanted = [self._scalar(step.changed), xp.sum((moved - centroids) ** 2), xp.min(step.counts)]
        changed, shift, least = ops.facts(wanted)
        if least <= 0 and not isinstance(self.current, SolvedPass):
            step = self.empty.fill(self.samples, self.current, step, centroids)
            moved = self._means(step, centroids)
            changed, shift = ops.facts([self._scalar(step.changed), xp.sum((moved - centroids) ** 2)])
        return moved, changed, shift

    def _step(self, centroids: Array) -> Step:
        """The sums of all ranks."""
        samples, xp = self.samples, self.samples.ops.xp
        step = self.current.run(centroids)
        if samples.reducer is None:
            return step
        changed = xp.reshape(self._scalar(step.changed), (1,))
        flat = samples.summed(xp.concat([xp.reshape(step.sums, (-1,)), step.counts, changed]))
        size = self.k * samples.dim
        return Step(xp.reshape(flat[:size], (self.k, samples.dim)), flat[size:-1], flat[-1])

    def _scalar(self, value: Any) -> Array:
        ops = self.samples.ops
        return ops.full((), value, ops.wide) if isinstance(value, float) else value

    def _means(self, step: Step, centroids: Array) -> Array:
        """The mean of each cluster, of length one for the cosine; where there is none, the centroid as it was."""
        samples, xp = self.samples, self.samples.ops.xp
        some = (step.counts > 0)[:, None]
        means = step.sums / xp.where(some, step.counts[:, None], xp.ones_like(step.counts[:, None]))
        if samples.metric == "cosine":
            length = xp.sqrt(xp.sum(means * means, axis=-1))[:, None]
            some = some & (length > 8 * float(xp.finfo(samples.dtype).eps))
            means = means / xp.where(some, length, xp.ones_like(length))
        return xp.where(some, means, centroids)

    def _result(self, centroids: Array, n_iter: int, status: Status) -> KMeansResult:
        """Assign once more, to the centroids as the caller gets them."""
        samples, ops, xp = self.samples, self.samples.ops, self.samples.ops.xp
        given, begun_at = samples.given_back(centroids), samples.centre
        answer = None
        if not isinstance(self.current, SolvedPass):
            samples.begin_at(given)  # so that whoever has the centroids finds the same labels
            self.current = nearest_pass(samples, self.k, alone=True)
        laid = samples.laid(given)
        counts = self.current.run(laid).counts
        labels = self.current.labels
        if isinstance(self.current, SolvedPass):
            answer = self.current.answer
        if isinstance(answer, EntropicAssignment):
            value = float(ops.facts([samples.from_face(answer.transport_value())])[0])
            inertia = self._lengths(laid, counts) - 2 * value if samples.metric == "cosine" else -value
        else:
            distances = ops.cast(self.current.distances(laid), ops.wide)
            distances = distances if samples.weights is None else distances * ops.cast(samples.weights, ops.wide)
            inertia = float(samples.summed(xp.sum(distances)[None])[0])
        samples.centre = begun_at  # where the next start goes on
        if isinstance(self.current, SolvedPass) or ops.facts([xp.min(samples.summed(counts))])[0] <= 0:
            self._warn_of_empty(labels)
        centroids = samples.to_face(given)
        return KMeansResult(
            centroids, samples.to_face(labels), inertia, n_iter, status, lambda: self._assignment(centroids), answer
        )

    def _lengths(self, centroids: Array, counts: Array) -> float:
        """The squared lengths of directions and of their centroids under a plan: two for each sample that is not zero."""
        samples, ops, xp = self.samples, self.samples.ops, self.samples.ops.xp
        assert samples.scale is not None
        directed = ops.cast(samples.scale > 0, ops.wide)
        directed = directed if samples.weights is None else directed * ops.cast(samples.weights, ops.wide)
        here = xp.sum(directed) + xp.sum(counts * xp.sum(centroids * centroids, axis=-1))
        return float(samples.summed(here[None])[0])

    def _assignment(self, centroids: Array) -> Assignment:
        samples = self.samples
        weights = None if samples.weights is None else samples.to_face(samples.weights)
        return nearest_assignment(samples.given, centroids, samples.metric, weights, samples.reducer)

    def _warn_of_empty(self, labels: Array) -> None:
        samples, ops = self.samples, self.samples.ops
        host = ops.to_numpy(labels)
        used = np.bincount(host[host >= 0], minlength=self.k).astype(float)
        warn_of_empty(ops.to_numpy(samples.summed(ops.asarray(used, dtype=ops.wide))), stacklevel=6)


def first_centroids(start: Any, samples: Samples, n_clusters: int, seed: int) -> Array:
    """What a start, a result or centroids of the caller are in the coordinates of the samples, in the wide dtype."""
    given = start.centroids if isinstance(start, KMeansResult | KMeansProgress) else start
    is_start = isinstance(start, Start) and not isinstance(start, type)
    if not is_start and not (hasattr(given, "shape") or isinstance(given, (list, tuple))):
        raise TypeError(f"init must be a start such as KMeansPlusPlus(), centroids, or a result of kmeans, got {start!r}")
    with samples.ops.quiet():
        if is_start:
            return start.draw(samples, n_clusters, seed)
        values = samples.from_face(like(samples.face, np.asarray(given) if isinstance(given, (list, tuple)) else given))
        if tuple(values.shape) != (n_clusters, samples.dim):
            raise ValueError(f"init must have shape ({n_clusters}, {samples.dim}), got {tuple(values.shape)}")
        samples.ops.float_dtype(values, "init")
        if not bool(samples.ops.xp.all(samples.ops.xp.isfinite(values))):
            raise ValueError("init must be finite, got NaN or infinity")
        return samples.laid(values)


def _check(n_clusters: Any, assign: Any, n_init: Any, max_iter: Any, tol: Any, empty: Any, reducer: Any, progress: Any) -> None:
    for name, value in (("n_clusters", n_clusters), ("n_init", n_init), ("max_iter", max_iter)):
        check_whole(name, value, 1)
    if isinstance(assign, type) or not isinstance(assign, (Solver, Annealing)):
        raise TypeError(
            f"assign must be a solver such as Nearest() or ExactBalanced(), or Annealing around one; got {assign!r}"
        )
    if isinstance(empty, type) or not isinstance(empty, EmptyClusters):
        raise TypeError(f"empty must be RelocateFarthest(), KeepEmpty() or have their method fill, got {empty!r}")
    check_number("tol", tol)
    if not tol >= 0:
        raise ValueError(f"tol must not be negative, got {tol}")
    check_reducer(reducer)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of a KMeansProgress, got {progress!r}")
