"""Each kernel alone on a CUDA device, beside its floor: ``python -m benchmarks.kernels [--quick] [--out FILE]``.

The floor is the bytes that must be moved at the speed of a large copy, or the products at that of a large product, whichever
takes longer. ``--quick`` tries the script on the host, under ``TRITON_INTERPRET=1``, with tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import otcluster as otc
from benchmarks.cuda import Place
from otcluster.runs.files import write_text

_EPSILON = 0.05


class Job(NamedTuple):
    """One kernel on one input."""

    what: str
    call: Callable[[], Any]
    moved: float
    """Bytes that must be read and written."""
    flops: float = 0.0
    dtype: torch.dtype = torch.float32


def jobs(place: Place) -> Iterator[Job]:
    """The kernels, each with inputs of the sizes that the project aims at."""
    yield from _dense(place)
    yield from _groups(place)
    yield from _points(place)
    yield from _members(place)


def _dense(place: Place) -> Iterator[Job]:
    from otcluster._kernels.dense import dense_labels, dense_plan, dense_rounds
    from otcluster._kernels.survey import survey

    n = place.size(4096, 16)
    for k, dtype in ((3000, torch.float32), (3000, torch.bfloat16), (65_536, torch.bfloat16), (65_536, torch.float32)):
        k = place.size(k, 24)
        scores = (torch.rand(1, n, k, device=place.device) * 2 - 1).to(dtype)
        problem = otc.Problem(scores[0], check_values=False)
        masses, totals = problem.clusters, problem.totals
        g = dense_rounds(scores, None, masses, None, _EPSILON, 0)
        of = f"{n} x {k} {str(dtype).removeprefix('torch.')}"
        once = float(scores.nbytes)
        yield Job(f"first half-round, {of}", lambda s=scores, m=masses: dense_rounds(s, None, m, None, _EPSILON, 0), once)
        yield Job(f"round, {of}", lambda s=scores, m=masses, g=g: dense_rounds(s, None, m, g, _EPSILON, 1), once)
        yield Job(f"labels, {of}", lambda s=scores, g=g: dense_labels(s, g, _EPSILON), once)
        yield Job(f"plan, {of}", lambda s=scores, g=g: dense_plan(s, None, g, _EPSILON), once + 4.0 * n * k)
        yield Job(f"survey, {of}", lambda s=scores, m=masses, t=totals: survey(s, None, m, t, None, 1e30, True), once)


def _groups(place: Place) -> Iterator[Job]:
    from otcluster._kernels.grouped import METRICS, grouped_rounds, own_scores
    from otcluster._kernels.updates import class_sums

    n_groups, k, d, n = place.size(1000, 5), 4, place.size(2048, 16), place.size(16_384, 40)
    groups = torch.randint(0, n_groups, (n,), device=place.device)
    x, centroids = torch.randn(n, d, device=place.device), torch.randn(n_groups, k, d, device=place.device)
    scores = torch.rand(n, k, device=place.device)
    problem = otc.Problem(scores, groups=groups, n_groups=n_groups, check_values=False)
    masses, (order, starts) = problem.clusters, problem.sorted_rows
    chosen = torch.randint(0, k, (n,), device=place.device)
    is_open = torch.ones(n_groups, k, dtype=torch.bool, device=place.device)
    of = f"{n_groups} groups, k {k}, {n} rows"
    yield Job(f"sort, {of}", lambda: torch.argsort(groups, stable=True), 16.0 * n)
    yield Job(
        f"three rounds and labels, {of}",
        lambda: grouped_rounds(scores, order, starts, None, masses, None, _EPSILON, 2, None, False),
        float(scores.nbytes) + 16.0 * n,
    )
    own = float(x.nbytes + centroids.nbytes)
    yield Job(f"own scores, {of}, d {d}", lambda: own_scores(x, centroids, order, starts, METRICS["cosine"]), own)
    yield Job(f"sums of features, {of}, d {d}", lambda: class_sums(x, order, starts, chosen, None, is_open), own)


def _points(place: Place) -> Iterator[Job]:
    from otcluster._kernels import points, sides

    n, k, d = place.size(65_536, 32), place.size(131_072, 48), place.size(256, 16)
    x, centroids = (torch.randn(size, d, device=place.device, dtype=torch.float16) for size in (n, k))
    samples, clusters = sides.sides(x, centroids, "cosine")
    offset = torch.zeros(k, dtype=torch.float64, device=place.device)
    near = torch.zeros(k, dtype=torch.float64, device=place.device)
    of, flops, moved = f"{n} x {k} x {d} float16", 2.0 * n * k * d, float(x.nbytes + centroids.nbytes)
    for what, call in (
        ("sums of rows, scaled", lambda: points.scaled_sums(samples, clusters, offset, _EPSILON)),
        ("soft rows", lambda: points.soft_rows(samples, clusters, near, None, _EPSILON)),
        ("nearest", lambda: points.nearest(samples, clusters, near, None, _EPSILON)),
    ):
        yield Job(f"{what}, {of}", call, moved, flops, torch.float16)


def _members(place: Place) -> Iterator[Job]:
    from otcluster._kernels import members, sides

    n, k, d = place.size(1_000_000, 64), place.size(1000, 8), place.size(128, 16)
    x, centroids = (torch.randn(size, d, device=place.device, dtype=torch.float16) for size in (n, k))
    samples, clusters = sides.sides(x, centroids, "sqeuclidean")
    labels = torch.randint(0, k, (n,), device=place.device)
    of = f"{n} x {k} x {d} float16"
    yield Job(f"E-step, {of}", lambda: members.assign(samples, clusters), float(x.nbytes), 2.0 * n * k * d, torch.float16)
    yield Job(f"sums of members, {of}", lambda: members.segment_sums(x, labels, k), float(x.nbytes))


def main(arguments: list[str] | None = None) -> None:
    """Print a table, and write it as JSON where told to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes on the host, to try the script")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    given = parser.parse_args(arguments)
    if given.quick and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("--quick runs kernels on the host: set TRITON_INTERPRET=1")
    if not given.quick and not torch.cuda.is_available():
        parser.error("no CUDA device is present: try the script with --quick")
    place = Place(torch.device("cpu" if given.quick else "cuda"), given.quick)
    print(f"{place.name}: {', '.join(f'{name} {value}' for name, value in place.versions.items())}\n")
    print("| kernel | ms | floor, ms | share of the floor |\n|---|---|---|---|")
    rows = []
    for job in jobs(place):
        job.call()  # compiles
        calls = 1 if place.quick else 20
        seconds = statistics.median(place.seconds(job.call, calls) for _ in range(1 if place.quick else 7))
        products = job.flops / place.rate(job.dtype) if job.flops else 0.0
        floor = max(job.moved / place.bandwidth, products)
        rows.append({"kernel": job.what, "seconds": seconds, "floor_seconds": floor})
        print(f"| {job.what} | {seconds * 1e3:.3f} | {floor * 1e3:.3f} | {floor / seconds:.0%} |", flush=True)
    if given.out is not None:
        told = {"device": place.name, "versions": place.versions, "rows": rows}
        write_text(given.out, json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
