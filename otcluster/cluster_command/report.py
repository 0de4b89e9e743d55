"""What a run leaves to be read: ``report.json`` and ``report.png``."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from scipy.linalg import eigh

import otcluster
from otcluster.cluster_command.data import Data
from otcluster.cluster_command.settings import Settings
from otcluster.metrics import cluster_sizes, imbalance_factor, normalized_entropy, perplexity, size_imbalance
from otcluster.runs.files import replaced

_SHOWN = 3000
_MARKED = 200
_BINS = 40
Floats = npt.NDArray[np.float64]


def measures(labels: npt.NDArray[Any], data: Data, n_clusters: int) -> dict[str, Any]:
    """Sizes, and how even they are; by weight too, where there are weights."""
    sizes = cluster_sizes(labels, n_clusters)
    found: dict[str, Any] = {"sizes": sizes.tolist()}
    masses = sizes
    if data.weights is not None:
        masses = np.bincount(labels, weights=data.weights, minlength=n_clusters)
        found["weights"] = masses.tolist()
    found["empty_clusters"] = int((sizes == 0).sum())
    found["balance"] = {
        "imbalance_factor": imbalance_factor(masses),
        "size_imbalance": size_imbalance(masses),
        "perplexity": perplexity(masses),
        "normalized_entropy": normalized_entropy(masses),
    }
    return found


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    python = platform.python_version()
    return {"otcluster": otcluster.__version__, "python": python, "numpy": np.__version__, "scipy": scipy.__version__}


def draw(path: Path, data: Data, settings: Settings, labels: npt.NDArray[Any], centroids: npt.NDArray[Any]) -> None:
    """The sizes of the clusters, and some vectors in the plane in which they vary most, coloured by cluster."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    k = settings.n_clusters
    sizes = cluster_sizes(labels, k)
    left.hist(sizes, bins=min(_BINS, max(5, k // 3)), color="tab:blue")
    left.axvline(sizes.mean(), color="black", linestyle="--", linewidth=1, label=f"mean {sizes.mean():.1f}")
    left.set_xlabel("vectors of a cluster")
    left.set_ylabel("clusters")
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend()
    n = data.shape[0]
    shown = np.sort(np.random.default_rng(settings.seed).choice(n, min(n, _SHOWN), replace=False))
    rows, means = data.source.rows(shown).astype(np.float64), centroids.astype(np.float64)
    if settings.metric == "cosine":
        rows, means = _directions(rows), _directions(means)
    points, marks, share = projected(rows, means)
    right.scatter(*points.T, c=labels[shown] % 20, cmap="tab20", vmin=0, vmax=19, s=6, linewidths=0)
    if k <= _MARKED:
        right.scatter(*marks.T, marker="x", color="black", s=22, linewidths=1)
    some = "all vectors" if len(shown) == n else f"{len(shown)} of {n} vectors"
    right.set_xlabel(f"first principal components of {some}, {share:.0%} of the variance")
    right.set_xticks([])
    right.set_yticks([])
    figure.suptitle(f"{k} clusters of {n} vectors", parse_math=False)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=130)


def projected(rows: Floats, others: Floats) -> tuple[Floats, Floats, float]:
    """Rows and others in the plane of the two first principal components of the rows, and its share of their variance.

    Args:
        rows: (n, dim), at least one.
        others: (m, dim).
    """
    centre = rows.mean(axis=0)
    inside = rows - centre
    n, width = inside.shape
    tall = n > width
    table = inside.T @ inside if tall else inside @ inside.T
    side = len(table)
    values, vectors = eigh(table, subset_by_index=[max(0, side - 2), side - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    axes = vectors if tall else inside.T @ vectors
    length = np.linalg.norm(axes, axis=0)
    axes = axes / np.where(length > 0, length, 1)
    total = float(np.trace(table))
    plane = np.zeros((width, 2))
    plane[:, : axes.shape[1]] = axes
    share = float(values.sum()) / total if total > 0 else 1.0
    return inside @ plane, (others - centre) @ plane, min(1.0, share)


def _directions(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
