"""Other libraries at the same job. Each is imported only when it is asked, with the settings at which it does best.

The entropic ones answer with a plan whose L1 error, recomputed, is the asked tolerance at most: what they must be asked
for to get there is found beforehand, and JAX has compiled by then.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.errors import l1_error
from benchmarks.recipe import three_rounds
from tests.strategies import to_numpy

Call = Callable[[], Any]
_TRIES = 10


@dataclass(frozen=True)
class Peer:
    """A name, the packages whose versions matter, and what makes its call ready: imports, settings, a first call."""

    name: str
    packages: tuple[str, ...]
    build: Callable[[], Call]

    def ready(self, what: str) -> Call | None:
        """The call; where the peer is missing or cannot do this, ``None``, and a line that says why."""
        try:
            return self.build()
        except Exception as problem:  # whatever a peer raises is a reason to go on without it
            print(f"{what}: {self.name} skipped, {type(problem).__name__}: {str(problem).splitlines()[0][:160]}", flush=True)
            return None


def recipe(call: Call, name: str = "SwAV/DINO recipe") -> Peer:
    """The rounds that SwAV and DINOv2 paste; nothing to install."""
    return Peer(name, (), lambda: call)


def three_rounds_of(scores: Any, epsilon: float) -> Peer:
    """The recipe on one problem."""
    return recipe(lambda: three_rounds(scores, epsilon), "SwAV/DINO recipe, 3 rounds")


def plain_log_rounds(scores: Any, epsilon: float, tol: float, *, max_iter: int = 20_000, look_every: int = 10) -> Any:
    """Plan (n, k) by rounds in the log domain as they are written down in torch, until the L1 error is at most ``tol``.

    Raises:
        RuntimeError: It is not after ``max_iter`` rounds.
    """
    n, k = scores.shape
    scaled, f = scores / epsilon, scores.new_zeros(n)
    for turn in range(1, max_iter + 1):
        g = math.log(n / k) - (scaled + f[:, None]).logsumexp(dim=0)
        f = -(scaled + g).logsumexp(dim=1)
        if turn % look_every == 0:
            plan = (scaled + f[:, None] + g).exp_()
            if float((plan.sum(dim=0) - n / k).abs().sum() / n) <= tol:
                return plan
    raise RuntimeError(f"not converged after {max_iter} rounds")


def lloyd(x: Any, start: Any, rounds: int, *, at_once: int = 65_536) -> float:
    """The inertia of Lloyd's rounds in torch, some rows at a time; products are in the dtype of the rows, sums in float32."""
    centroids = start.float()
    for turn in range(rounds + 1):
        near, squares = centroids.to(x.dtype), (centroids**2).sum(dim=1)
        sums, counts = centroids.new_zeros(centroids.shape), centroids.new_zeros(len(centroids))
        inertia = centroids.new_zeros((), dtype=centroids.dtype)
        for block in x.split(at_once):
            distance = squares - 2 * (block @ near.T).float()
            labels = distance.argmin(dim=1)
            if turn == rounds:
                inertia += ((block.float() - centroids[labels]) ** 2).sum()
                continue
            sums.index_add_(0, labels, block.float())
            counts += labels.bincount(minlength=len(centroids))
        if turn < rounds:
            centroids = (sums / counts.clamp(min=1)[:, None]).where(counts[:, None] > 0, centroids)
    return float(inertia)


def step_of_classes(centroids: Any, features: Any, labels: Any, momentum: float, assigned: Any = None) -> Any:
    """The clustering step of Deep Nearest Centroids as training codes write it, a class at a time; changes ``centroids``.

    Samples of a class are assigned to its centroids by three rounds, or are already (``assigned``).
    """
    from torch.nn.functional import normalize, one_hot

    k = centroids.shape[1]
    for label in labels.unique().tolist():
        own = labels == label
        mine = features[own]
        which = three_rounds(mine @ centroids[label].T).argmax(dim=1) if assigned is None else assigned[own]
        mask = one_hot(which, k).to(mine.dtype)
        counts = mask.sum(dim=0)
        means = (mask.T @ mine) / counts.clamp(min=1)[:, None]
        moved = normalize(momentum * centroids[label] + (1 - momentum) * means, dim=1)
        centroids[label] = moved.where(counts[:, None] > 0, centroids[label])
    return centroids


def pot(scores: Any, epsilon: float, tol: float, *, method: str = "sinkhorn_log", max_iter: int = 100_000) -> Peer:
    """POT's Sinkhorn in the library of the scores. It stops by a Euclidean norm, and ours by the L1 error."""

    def build() -> Call:
        import ot

        cost = -scores
        n, k = cost.shape
        like = to_numpy(cost)
        w, c = np.full(n, 1 / n, like.dtype), np.full(k, 1 / k, like.dtype)
        if not isinstance(scores, np.ndarray):
            import torch

            w, c = torch.from_numpy(w), torch.from_numpy(c)

        def plan(threshold: float) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # POT warns where it has not converged
                return ot.sinkhorn(w, c, cost, epsilon, method=method, stopThr=threshold, numItermax=max_iter)

        threshold = _asked_for(plan, tol)
        return lambda: plan(threshold)

    return Peer(f"POT {method}", ("POT",), build)


def ott(scores: Any, epsilon: float, tol: float, *, max_iter: int = 10_000) -> Peer:
    """OTT-JAX, compiled, in the dtype of the scores: whichever of three settings arrives first.

    Rounds are over-relaxed by 1.5, or epsilon falls to its value by 3 % a round, or both. Of what else was tried on clustered
    scores, greater factors diverged at small epsilon, and its adaptive momentum, Anderson's acceleration and its kernel
    form were no quicker.
    """

    def build() -> Call:
        import jax

        jax.config.update("jax_enable_x64", True)
        cost = jax.numpy.asarray(-to_numpy(scores))

        def call(setting: tuple[float, float]) -> Call:
            solved = _ott_rounds(*setting, max_iter)

            def plan(threshold: float) -> Any:
                answer, converged = solved(cost, epsilon, threshold)
                if not converged:
                    raise RuntimeError(f"not converged after {max_iter} rounds")
                return answer.block_until_ready()

            threshold = _asked_for(plan, tol)
            return lambda: plan(threshold)

        return _quickest(call, ((1.5, 1.0), (1.0, 50.0), (1.5, 50.0)))

    return Peer("OTT-JAX", ("ott-jax", "jax", "jaxlib"), build)


@functools.cache
def _ott_rounds(momentum: float, times: float, max_iter: int) -> Callable[[Any, float, float], Any]:
    """Rounds from ``times`` epsilon on, compiled once for each shape."""
    import jax
    from ott.geometry.epsilon_scheduler import Epsilon
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.acceleration import Momentum
    from ott.solvers.linear.sinkhorn import Sinkhorn

    def solved(cost: Any, epsilon: float, threshold: float) -> Any:
        problem = LinearProblem(Geometry(cost_matrix=cost, epsilon=Epsilon(epsilon, init=times, decay=0.97)))
        answer = Sinkhorn(threshold=threshold, max_iterations=max_iter, momentum=Momentum(value=momentum))(problem)
        return answer.matrix, answer.converged

    return jax.jit(solved)


def geomloss(scores: Any, epsilon: float, tol: float) -> Peer:
    """GeomLoss on a cost matrix (torch). It has no tolerance: epsilon falls to its value over a number of rounds."""

    def build() -> Call:
        from geomloss import ot

        cost = -scores

        def plan(threshold: float) -> Any:  # its error falls as the number of rounds grows
            return ot.solve(cost, reg=epsilon, max_iter=math.ceil(100 * tol / threshold)).plan

        threshold = _asked_for(plan, tol)
        return lambda: plan(threshold)

    return Peer("GeomLoss", ("geomloss",), build)


def emd(scores: Any) -> Peer:
    """POT's network simplex, sizes n / k."""

    def build() -> Call:
        import ot

        cost = -scores
        masses = np.ones(len(cost)), np.full(cost.shape[1], len(cost) / cost.shape[1])
        return lambda: ot.emd(*masses, cost, numItermax=10**8)

    return Peer("ot.emd", ("POT",), build)


def k_means_constrained(x: Any, centers: Any, size_min: int, size_max: int) -> Peer:
    """One assignment of k-means-constrained to given centers: least sum of distances, in thousandths, as a flow."""

    def build() -> Call:
        from k_means_constrained import KMeansConstrained

        model = KMeansConstrained(len(centers), size_min=size_min, size_max=size_max)
        model.cluster_centers_ = centers
        return lambda: model.predict(x)

    return Peer("k-means-constrained", ("k-means-constrained", "ortools"), build)


def flash_kmeans(x: Any, start: Any, rounds: int) -> Peer:
    """Rounds of flash-kmeans, kernels in Triton: labels of the last one, and the centroids after it in the dtype of ``x``."""

    def build() -> Call:
        from flash_kmeans import batch_kmeans_Euclid

        begin = start.to(x.dtype)[None]

        def run() -> Any:
            labels, centroids, _ = batch_kmeans_Euclid(x[None], len(start), max_iters=rounds, tol=-1.0, init_centroids=begin)
            return labels[0], centroids[0]

        run()
        return run

    return Peer("flash-kmeans", ("flash-kmeans",), build)


def flash_sinkhorn(x: Any, centroids: Any, epsilon: float, rounds: int) -> Peer:
    """Rounds of flash-sinkhorn, its kernels in Triton: the potentials (n,) and (k,) for cosines of vectors of length one.

    It knows squared distances, which are 2 - 2 cosines; its products are in TF32, whatever dtype the vectors come in.
    """

    def build() -> Call:
        import torch
        from flash_sinkhorn.kernels import sinkhorn_flashstyle_alternating

        n, k = len(x), len(centroids)
        a, b = (torch.full((size,), 1 / size, device=x.device) for size in (n, k))

        def run() -> Any:
            f, g = sinkhorn_flashstyle_alternating(
                x, centroids, a, b, eps=2 * epsilon, n_iters=rounds, allow_tf32=True, ott_convention=True
            )
            # Of plans whose rows sum to one, and of cosines without the constant.
            return f / 2 + epsilon * math.log(n) - 1, g / 2

        run()
        return run

    return Peer("flash-sinkhorn", ("flash-sinkhorn",), build)


def _asked_for(plan: Callable[[float], Any], tol: float) -> float:
    """The threshold at which the recomputed L1 error of the plan is ``tol`` at most."""
    threshold = tol
    for _ in range(_TRIES):
        error = l1_error(plan(threshold))
        if error <= tol:
            return threshold
        threshold *= 0.95 * tol / error
    raise RuntimeError(f"its error stays at {error:.0e}, above {tol:g}")


def _quickest(call: Callable[[Any], Call], settings: tuple[Any, ...]) -> Call:
    """The call whose setting is the quickest of those that arrive."""
    seconds, failed = {}, None
    for setting in settings:
        try:
            ready = call(setting)
        except RuntimeError as problem:
            failed = problem
            continue
        start = time.perf_counter()
        ready()
        seconds[time.perf_counter() - start] = ready
    if not seconds:
        raise failed or RuntimeError("no setting to try")
    return seconds[min(seconds)]
