"""On a GPU, vectors: rounds on scores that are formed as they are needed, and k-means."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

import otcluster as otc
from benchmarks.cuda import Place
from benchmarks.peers import lloyd, recipe
from benchmarks.recipe import three_rounds
from benchmarks.rows import Row
from tests.strategies import clustered_vectors

ABOUT = (
    "Vectors on a GPU",
    """\
`SinkhornKnopp` on `PointScores` (cosine, epsilon 0.05), which keeps no array of samples x clusters, beside the recipe on one
that was formed in one product. `kmeans` beside Lloyd's rounds in plain torch, some rows at a time: distances by a matrix
product in the dtype of the rows, `argmin` and `index_add_`; ours computes in float32. The same start and number of rounds,
without a tolerance. Error *plan*: the largest difference to the recipe in float64, of 4,096 samples; *inertia*: how far above
the better of the two. Floor: the products of all rows with all centroids, of points once and of k-means once a round and once
for the answer, at the speed of a large product in the dtype of the rows.""",
)


def rows(place: Place) -> Iterator[Row]:
    """Points, then k-means of float32 and float16."""
    yield from _points(place)
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


@functools.cache
def _clustered(n: int, d: int, n_true: int) -> Tensor:
    return torch.from_numpy(clustered_vectors(n, d=d, n_true=n_true)).float()


def _above(theirs: float, ours: float) -> tuple[float, float]:
    best = min(theirs, ours)
    return theirs / best - 1, ours / best - 1
