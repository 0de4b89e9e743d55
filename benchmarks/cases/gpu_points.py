"""On a GPU, vectors: rounds on scores that are formed as they are needed, and k-means."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

import otcluster as otc
from benchmarks.cuda import Place
from benchmarks.peers import flash_kmeans, flash_sinkhorn, lloyd, recipe
from benchmarks.recipe import three_rounds
from benchmarks.rows import Row
from tests.strategies import clustered_vectors

ABOUT = (
    "Vectors on a GPU",
    """\
`SinkhornKnopp` on `PointScores` (cosine, epsilon 0.05), which keeps no array of samples x clusters, beside the recipe on one
that was formed in one product. `kmeans` beside Lloyd's rounds in plain torch, some rows at a time: distances by a matrix
product in the dtype of the rows, `argmin` and `index_add_`; ours computes in float32. The same start and number of rounds,
without a tolerance. flash-sinkhorn and flash-kmeans are kernels in Triton, too: the first multiplies in TF32 whatever it is
given, ours as exactly as the vectors are; the second rounds its centroids to the dtype of the rows, and ends without the labels
of the last ones, which ours gives. Error *plan*: the largest difference to the recipe in float64, of 4,096 samples; *mass*: by
how much the plan of 256 samples, recomputed in float64 from both potentials, misses their mass; *inertia*: how far above the
better of the two. Floor: the products of all rows with all centroids, of points with labels once, of those without twice a
round, of k-means once a round and once for the answer, at the speed of a large product in the dtype of the rows.""",
)


def rows(place: Place) -> Iterator[Row]:
    """Points, then k-means of float32 and float16."""
    yield from _points(place)
    for dtype in (torch.float16, torch.float32):
        yield from _many_points(place, dtype)
    for dtype in (torch.float32, torch.float16):
        yield from _kmeans(place, dtype)


def _points(place: Place) -> Iterator[Row]:
    n, k, d = place.size(65_536, 300), place.size(16_384, 20), place.size(256, 8)
    drawn = torch.Generator(place.device).manual_seed(0)
    x, centroids = (
        torch.nn.functional.normalize(torch.randn(size, d, device=place.device, generator=drawn), dim=1) for size in (n, k)
    )

    def theirs(rows: Tensor = x) -> Tensor:
        return three_rounds(rows @ centroids.T)

    def ours(rows: Tensor = x) -> otc.EntropicAssignment:
        points = otc.PointScores(rows, centroids, metric="cosine")
        return otc.sinkhorn_knopp(points)

    few = x[: min(n, 4096)]
    exact = three_rounds(few.double() @ centroids.double().T)
    errors = float((theirs(few) - exact).abs().max()), float((ours(few).plan() - exact).abs().max())
    del exact
    yield from place.compared(
        "gpu_points",
        f"points {n} x {k} x {d} float32, 3 rounds, labels",
        recipe(lambda: theirs().argmax(dim=1)),
        lambda: ours().labels(),
        error_is="plan",
        errors=lambda _, __: errors,
        floor_flops=2.0 * n * k * d,
        repeats=5,
    )


def _many_points(place: Place, dtype: torch.dtype) -> Iterator[Row]:
    """As many as no device has room for scores of."""
    n, k, d, rounds, epsilon = place.size(65_536, 300), place.size(131_072, 40), place.size(256, 16), 3, 0.05
    drawn = torch.Generator(place.device).manual_seed(0)
    x, centroids = (
        torch.nn.functional.normalize(torch.randn(size, d, device=place.device, generator=drawn), dim=1).to(dtype)
        for size in (n, k)
    )

    def ours() -> tuple[Tensor, Tensor]:
        points = otc.PointScores(x, centroids, metric="cosine")
        answer: tuple[Tensor, Tensor] = otc.sinkhorn_knopp(points, epsilon=epsilon, max_iter=rounds).potentials
        return answer

    # Rounded, the vectors have length one but for that.
    few, all_of = x[:256].double(), centroids.double()
    cosines = torch.nn.functional.normalize(few) @ torch.nn.functional.normalize(all_of).T
    of_squares = 1 - torch.cdist(few, all_of).square() / 2

    def off(scores: Tensor, potentials: tuple[Tensor, Tensor]) -> float:
        f, g = (each.double() for each in potentials)
        return float((torch.logsumexp((scores + g) / epsilon, dim=1) + f[: len(few)] / epsilon).expm1().abs().max())

    kind = str(dtype).removeprefix("torch.")
    yield from place.compared(
        "gpu_points",
        f"points {n} x {k} x {d} {kind}, {rounds} rounds",
        flash_sinkhorn(x, centroids, epsilon, rounds),
        ours,
        error_is="mass",
        errors=lambda theirs, mine: (off(of_squares, theirs), off(cosines, mine)),
        # Each round reads the scores twice: for the samples and for the clusters.
        floor_flops=2.0 * n * k * d * 2 * rounds,
        floor_dtype=dtype,
        repeats=3,
        target=1,
    )


def _kmeans(place: Place, dtype: torch.dtype) -> Iterator[Row]:
    n, d, k, rounds = place.size(1_000_000, 600), place.size(128, 8), place.size(1000, 10), place.size(10, 3)
    kind = str(dtype).removeprefix("torch.")
    for what in ("noise", "clustered"):
        if what == "noise":
            x = torch.randn(n, d, device=place.device, generator=torch.Generator(place.device).manual_seed(0)).to(dtype)
        else:
            x = _clustered(n, d, 2 * k).to(place.device, dtype)
        start = x[torch.randperm(n, generator=torch.Generator().manual_seed(1))[:k].to(place.device)].float()
        yield from place.compared(
            "gpu_points",
            f"k-means {n} x {d} {what} {kind}, k {k}, {rounds} rounds",
            recipe(lambda x=x, start=start: lloyd(x, start, rounds), "Lloyd in plain torch"),
            lambda x=x, start=start: otc.kmeans(x, k, init=start, max_iter=rounds, tol=0).inertia,
            error_is="inertia",
            errors=_above,
            floor_bytes=float((rounds + 1) * x.nbytes),
            floor_flops=2.0 * n * d * k * (rounds + 1),
            floor_dtype=dtype,
            repeats=5,
            target=1,
        )
        yield from place.compared(
            "gpu_points",
            f"k-means {n} x {d} {what} {kind}, k {k}, {rounds} rounds",
            flash_kmeans(x, start, rounds),
            lambda x=x, start=start: otc.kmeans(x, k, init=start, max_iter=rounds, tol=0),
            error_is="inertia",
            errors=lambda theirs, mine, x=x: _above(_inertia(x, theirs[0], theirs[1]), mine.inertia),
            floor_bytes=float((rounds + 1) * x.nbytes),
            floor_flops=2.0 * n * d * k * (rounds + 1),
            floor_dtype=dtype,
            repeats=5,
            target=1,
        )


def _inertia(x: Tensor, labels: Tensor, centroids: Tensor) -> float:
    own = centroids.float()
    pairs = zip(x.split(65_536), labels.long().split(65_536), strict=True)
    return sum(float((block.float() - own[label]).square().sum(dtype=torch.float64)) for block, label in pairs)


@functools.cache
def _clustered(n: int, d: int, n_true: int) -> Tensor:
    return torch.from_numpy(clustered_vectors(n, d=d, n_true=n_true)).float()


def _above(theirs: float, ours: float) -> tuple[float, float]:
    best = min(theirs, ours)
    return theirs / best - 1, ours / best - 1
