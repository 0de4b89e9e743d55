"""k-means against scikit-learn and faiss, balanced k-means against k-means-constrained, and the large one."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import otcluster as otc
from benchmarks.peers import Call, Peer
from benchmarks.rows import Row, compared, within
from benchmarks.timing import copy_speed, in_own_process, once, private_memory, product_speed
from tests.strategies import clustered_vectors

ABOUT = (
    "k-means",
    """\
The same start and the same number of rounds for all, without a tolerance, on float32. scikit-learn runs
`algorithm="lloyd"` (`elkan` was slower on all of these); faiss uses every row. *Noise* is Gaussian, where no bound on
distances prunes; *clustered* are the vectors of the tests: Zipf-sized Gaussian clusters of unit vectors, twice as many
as asked for. Error *inertia*: how far above the better of the two; *gap*: the dual gap of the last assignment. Floor:
the products of all rows with all centroids in each round, most of which bounds on distances save. Memory of the file
that is mapped: of the process alone, without the pages of the file that the system keeps.""",
)

_ROUNDS = 20


def rows() -> Iterator[Row]:
    """Noise and clusters in three shapes, then exact sizes."""
    for n, d, k in ((200_000, 64, 256), (100_000, 128, 1000), (1_000_000, 16, 64)):
        for kind in ("noise", "clustered"):
            x = data(kind, n, d, k)
            start = x[np.random.default_rng(1).choice(n, k, replace=False)].copy()
            for peer in (scikit_learn(x, start), faiss(x, start)):
                yield from compared(
                    "kmeans",
                    f"{n} x {d} {kind}, k {k}, {_ROUNDS} rounds",
                    peer,
                    lambda x=x, k=k, start=start: otc.kmeans(x, k, init=start, max_iter=_ROUNDS, tol=0).inertia,
                    error_is="inertia",
                    errors=_above,
                    floor_flops=2.0 * n * d * k * (_ROUNDS + 1),
                    repeats=5,
                    slow=60,
                    target=0.9 if kind == "noise" else 1,
                )
    yield from _balanced()
    yield _large_row()
    yield _streamed_row()


def data(kind: str, n: int, d: int, k: int) -> Any:
    """Rows of float32."""
    if kind == "noise":
        return np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    return clustered_vectors(n, d=d, n_true=2 * k).astype(np.float32)


def _above(theirs: float, ours: float) -> tuple[float, float]:
    best = min(theirs, ours)
    return float(theirs / best - 1), float(ours / best - 1)


def scikit_learn(x: Any, start: Any) -> Peer:
    """scikit-learn's Lloyd."""

    def build() -> Call:
        from sklearn.cluster import KMeans

        def call() -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the rounds were used up
                return KMeans(len(start), init=start, n_init=1, max_iter=_ROUNDS, tol=0, algorithm="lloyd").fit(x).inertia_

        return call

    return Peer("scikit-learn", ("scikit-learn",), build)


def faiss(x: Any, start: Any) -> Peer:
    """Lloyd in faiss on the CPU, with all rows, and one search in the end for the inertia that belongs to its centroids."""

    def build() -> Call:
        import faiss

        def call() -> float:
            model = faiss.Kmeans(
                x.shape[1], len(start), niter=_ROUNDS, max_points_per_centroid=len(x), min_points_per_centroid=1
            )
            model.train(x, init_centroids=start)
            return float(model.index.search(x, 1)[0].sum(dtype=np.float64))

        return call

    return Peer("faiss", ("faiss-cpu",), build)


def _balanced() -> Iterator[Row]:
    n, d, k, rounds = 20_000, 16, 100, 10
    x = data("noise", n, d, k)
    start = x[np.random.default_rng(1).choice(n, k, replace=False)].copy()

    def constrained() -> Call:
        from k_means_constrained import KMeansConstrained

        size = n // k
        given = {"size_min": size, "size_max": size, "init": start, "n_init": 1, "max_iter": rounds, "tol": 0}
        return lambda: KMeansConstrained(k, **given, random_state=0).fit(x).inertia_

    def flows() -> Call:
        import ot
        from scipy.spatial.distance import cdist

        mass, room = np.full(n, 1 / n), np.full(k, 1 / k)

        def call() -> float:
            centroids = start.astype(np.float64)
            for _ in range(rounds + 1):
                cost = cdist(x, centroids, "sqeuclidean")
                labels = ot.emd(mass, room, cost, numItermax=10**7).argmax(1)
                inertia = float(cost[np.arange(n), labels].sum())
                centroids = np.stack([x[labels == j].mean(0, dtype=np.float64) for j in range(k)])
            return inertia

        return call

    for peer in (
        Peer("k-means-constrained", ("k-means-constrained", "ortools"), constrained),
        Peer("loop over ot.emd", ("POT",), flows),
    ):
        yield from compared(
            "kmeans",
            f"{n} x {d} noise, {k} clusters of {n // k}, {rounds} rounds",
            peer,
            lambda: otc.kmeans(x, k, init=start, assign=otc.ExactBalanced(), max_iter=rounds, tol=0).inertia,
            error_is="inertia",
            errors=_above,
            floor_flops=2.0 * n * d * k * (rounds + 1),
            repeats=3,
            slow=60,
            target=5 if peer.name == "k-means-constrained" else None,
        )


def large(n: int, d: int, k: int, rounds: int) -> dict[str, float]:
    """Seconds and bytes of balanced k-means of many samples, the samples among the bytes."""
    x = data("clustered", n, d, k)
    otc.kmeans(x[: 20 * k], k, assign=otc.ExactBalanced(), max_iter=1)  # compiles
    start = x[np.random.default_rng(1).choice(n, k, replace=False)].copy()
    measured = once(lambda: otc.kmeans(x, k, init=start, assign=otc.ExactBalanced(), max_iter=rounds))
    if not (np.bincount(measured.answer.labels, minlength=k) == n // k).all():
        raise AssertionError("sizes are not met")
    memory = None if measured.memory is None else measured.memory + x.nbytes
    rounds_done = float(measured.answer.n_iter)
    return {
        "seconds": measured.median,
        "memory": memory,
        "rounds": rounds_done,
        "gap": float(measured.answer.assignment.dual_gap),
    }


def _large_row(n: int = 1_000_000, d: int = 16, k: int = 1000, rounds: int = 5) -> Row:
    result = in_own_process(large, n, d, k, rounds)
    what = f"{n} x {d} clustered, {k} clusters of {n // k}, {result['rounds']:.0f} rounds, memory with the samples"
    floor = 2.0 * n * d * k * (result["rounds"] + 1) / product_speed()
    return within("kmeans", what, "an hour", 3600.0, None, result, floor_seconds=floor)


def streamed(n: int, d: int, k: int, rounds: int) -> dict[str, float]:
    """Seconds and bytes of k-means on a mapped file, which is made here and removed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        rng = np.random.default_rng(0)
        centres = 3 * rng.standard_normal((k, d), dtype=np.float32)
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, d))
        for start in range(0, n, 1 << 18):
            rows = file[start : start + (1 << 18)]
            rows[:] = centres[rng.integers(k, size=len(rows))] + rng.standard_normal(rows.shape, dtype=np.float32)
        file.flush()
        del file, rows
        otc.kmeans(centres, min(k, 8), max_iter=2)  # compiles
        x = np.load(path, mmap_mode="r")
        with private_memory() as memory:
            measured = once(lambda: otc.kmeans(x, k, init=otc.KMeansParallel(), max_iter=rounds, tol=0))
        return {"seconds": measured.median, "memory": memory.most, "rounds": float(measured.answer.n_iter), "bytes": x.nbytes}


def _streamed_row(n: int = 31_250_000, d: int = 64, k: int = 64, rounds: int = 3) -> Row:
    result = in_own_process(streamed, n, d, k, rounds)
    size, done = f"{result['bytes'] / 1e9:.0f} GB", f"{result['rounds']:.0f} rounds"
    what = f"{size} file, mapped, {n} x {d}, k {k}, {done} from k-means||"
    floor = result["bytes"] * (result["rounds"] + 9) / copy_speed()
    return within("kmeans", what, "the limit: 2 GB", 3600.0, 2 * 10**9, result, floor_seconds=floor)
