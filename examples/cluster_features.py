"""Plain and balanced k-means of real vectors side by side: a table and two pictures.

Without a file: the pixels of scikit-learn's digits. With the features that a trained run saved:

    otcluster dnc eval RUN --features features.safetensors
    python examples/cluster_features.py --features features.safetensors --images DIR

The labels are not shown to k-means. They tell afterwards how well clusters agree with the classes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import otcluster as otc
from otcluster.dnc.data import load_data
from otcluster.dnc.recipe import DataConfig
from otcluster.metrics import cluster_sizes, clustering_accuracy, imbalance_factor

WAYS = {"plain": otc.Nearest(), "balanced": otc.ExactBalanced()}
SHOWN, SIDE = 10, 32


def vectors(features: Path | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Vectors of length one, (n, d), their classes, and which image each is of."""
    if features is None:
        digits = load_digits()
        x, labels, indices = digits.data.astype(np.float32), digits.target, np.arange(len(digits.target))
    else:
        found = load_file(features)
        x, labels, indices = found["features"].astype(np.float32), found["labels"], found["indices"]
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels, indices


def purity(labels: npt.NDArray[np.int64], clusters: npt.NDArray[np.int64], k: int) -> float:
    """The share of samples whose class is the most frequent one of their cluster."""
    table = np.zeros((k, labels.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters, labels), 1)
    return float(table.max(axis=1).sum() / len(labels))


def draw_sizes(results: dict[tuple[int, str], otc.KMeansResult], ks: list[int], out: Path) -> None:
    """The sizes of all clusters, the largest first."""
    figure = Figure(figsize=(4.2 * len(ks), 3.2), layout="constrained")
    for axes, k in zip(figure.subplots(1, len(ks), squeeze=False)[0], ks, strict=True):
        for way in WAYS:
            sizes = np.sort(cluster_sizes(results[k, way].labels, k))[::-1]
            axes.plot(np.arange(1, k + 1), sizes, label=way, drawstyle="steps-mid")
        axes.set(title=f"{k} clusters", xlabel="cluster, the largest first", ylabel="samples", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(out / "sizes.png", dpi=110)


def draw_clusters(
    x: npt.NDArray[np.float32], results: dict[str, otc.KMeansResult], k: int, read: Callable[[int], Image.Image], out: Path
) -> None:
    """Of the largest and the smallest clusters of each way, the samples nearest to the centroid and those farthest from it."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for column, (way, result) in enumerate(results.items()):
        sizes = cluster_sizes(result.labels, k)
        for row, (name, which) in enumerate((("largest", np.argmax(sizes)), ("smallest", k - 1 - np.argmin(sizes[::-1])))):
            members = np.flatnonzero(result.labels == which)
            order = members[np.argsort(-(x[members] @ result.centroids[which]))]
            strips = [order[:SHOWN], order[-SHOWN:]]
            axes = figure.add_subplot(2, 2, 1 + 2 * row + column)
            sheet = np.full((2 * SIDE, SHOWN * SIDE, 3), 255, np.uint8)
            for line, strip in enumerate(strips):
                for place, at in enumerate(strip):
                    picture = np.asarray(read(int(at)).convert("RGB").resize((SIDE, SIDE)))
                    sheet[line * SIDE :, place * SIDE :][:SIDE, :SIDE] = picture
            axes.imshow(sheet)
            axes.set(title=f"{way}, {name} cluster: {sizes[which]} samples", xticks=[], yticks=[])
            axes.set_ylabel("far    near")
    figure.savefig(out / "clusters.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, help="safetensors with features, labels and indices")
    parser.add_argument("--images", help="the folder of images that the features are of")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="which of them the features are of")
    parser.add_argument("-k", type=int, nargs="+", default=[10, 100], help="numbers of clusters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/cluster-features"))
    chosen = parser.parse_args()
    x, labels, indices = vectors(chosen.features)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[int, str], otc.KMeansResult] = {}
    print(f"{len(x):,} vectors of {x.shape[1]} numbers, {labels.max() + 1} classes")
    print("| k | way | smallest | largest | imbalance | inertia | accuracy | purity | NMI | ARI | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for k in chosen.k:
        for way, solver in WAYS.items():
            started = time.perf_counter()
            result = results[k, way] = otc.kmeans(x, k, assign=solver, metric="cosine", seed=chosen.seed)
            seconds = time.perf_counter() - started
            found, sizes = result.labels, cluster_sizes(result.labels, k)
            accuracy = f"{clustering_accuracy(labels, found):.3f}" if k == labels.max() + 1 else ""
            print(
                f"| {k} | {way} | {sizes.min()} | {sizes.max()} | {imbalance_factor(sizes):.2f} | {result.inertia:.1f} | "
                f"{accuracy} | {purity(labels, found, k):.3f} | {normalized_mutual_info_score(labels, found):.3f} | "
                f"{adjusted_rand_score(labels, found):.3f} | {seconds:.1f} |",
                flush=True,
            )
    draw_sizes(results, chosen.k, chosen.out)
    if chosen.features is None or chosen.images is not None:
        config = DataConfig(dir=chosen.images) if chosen.images else DataConfig(kind="digits", channels=1)
        if chosen.images:
            read = getattr(load_data(config), chosen.split).read
        else:
            images = load_digits().images
            read = lambda at: Image.fromarray((images[at] * 15.9).astype(np.uint8))  # noqa: E731
        k = chosen.k[-1]
        draw_clusters(x, {way: results[k, way] for way in WAYS}, k, lambda at: read(int(indices[at])), chosen.out)
    print(f"pictures in {chosen.out}")


if __name__ == "__main__":
    main()
