"""How long curation takes, by the number of samples: ``python -m benchmarks.curation`` prints the table of docs/curation.md."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import otcluster as otc
from otcluster.clustering.sources import open_vectors
from tests.strategies import clustered_vectors

DIM, LEVELS = 128, (2000, 50)
SIZES = (50_000, 100_000, 200_000)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def main() -> None:
    whole = clustered_vectors(max(SIZES), d=DIM, n_true=4 * LEVELS[0]).astype(np.float32)
    print("| samples | first k-means, 10 rounds | tree, 2 rounds of resampling | one assignment | samples / s | GFLOP / s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            path = Path(folder) / f"{n}.npy"
            np.save(path, whole[:n])
            x = open_vectors(path)
            start = otc.KMeansParallel()
            plain, first = seconds(lambda x=x, start=start: otc.kmeans(x, LEVELS[0], init=start, max_iter=10, tol=0))
            tree, _ = seconds(
                lambda x=x, start=start: otc.hierarchical_kmeans(
                    x, LEVELS, resample=otc.Resample(rounds=2, per_cluster=20), init=start, max_iter=10
                )
            )
            again, _ = seconds(lambda x=x, first=first: otc.kmeans(x, LEVELS[0], init=first.centroids, max_iter=1, tol=0))
            one = again / 2  # a round, and the labels of what it found
            rate = 2e-9 * n * LEVELS[0] * DIM / one
            print(f"| {n:,} | {plain:.1f} s | {tree:.1f} s | {one:.2f} s | {n / one:,.0f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
