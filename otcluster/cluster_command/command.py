"""The command ``otcluster cluster``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from otcluster.cluster_command.progress import Terminal, duration
from otcluster.cluster_command.settings import Settings
from otcluster.cluster_command.work import cluster
from otcluster.clustering.samples import Geometry
from otcluster.runs.errors import RunError
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import disconnect

app = typer.Typer(add_completion=False)
_METRICS = ("sqeuclidean", "cosine")


@app.command("cluster")
def cluster_command(
    vectors: Annotated[
        list[Path], typer.Argument(metavar="VECTORS...", help="Files or folders: .npy, .parquet or .safetensors.")
    ],
    n_clusters: Annotated[int, typer.Option("-k", "--n-clusters", metavar="K", help="How many clusters.")],
    balanced: Annotated[bool, typer.Option("--balanced", help="Clusters of equal size, to one vector.")] = False,
    size_min: Annotated[int | None, typer.Option("--size-min", metavar="A", help="Fewest vectors of a cluster.")] = None,
    size_max: Annotated[int | None, typer.Option("--size-max", metavar="B", help="Most vectors of a cluster.")] = None,
    metric: Annotated[str, typer.Option("--metric", help="sqeuclidean, or cosine.")] = "sqeuclidean",
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE.npy", help="A weight for each vector.")] = None,
    init: Annotated[str, typer.Option("--init", help="k-means++, or k-means|| for thousands of clusters.")] = "k-means++",
    n_init: Annotated[int, typer.Option("--n-init", metavar="N", help="Starts, of which the best is kept.")] = 1,
    max_iter: Annotated[int, typer.Option("--max-iter", metavar="N", help="Rounds at most, of each start.")] = 300,
    tol: Annotated[float, typer.Option("--tol", help="How little the centroids move in the last round.")] = 1e-4,
    seed: Annotated[int, typer.Option("--seed", help="Of the starts.")] = 0,
    column: Annotated[str | None, typer.Option("--column", metavar="NAME", help="Of Parquet files.")] = None,
    tensor: Annotated[str | None, typer.Option("--tensor", metavar="NAME", help="Of safetensors files.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the answer goes. Default: runs/NAME of the first file.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that processes wait for each other.")] = 1800.0,
) -> None:
    """Cluster vectors with k-means, or go on with a run of the same settings."""

    def action() -> None:
        if metric not in _METRICS:
            raise RunError(f"--metric must be {' or '.join(_METRICS)}, got {metric}")
        if not 0 < timeout < 1e9:
            raise RunError(f"--timeout must be a positive number of seconds, got {timeout}")
        settings = Settings(
            n_clusters, balanced, size_min, size_max, cast(Geometry, metric), init, n_init, max_iter, tol, seed, column, tensor
        )
        root = out or Path("runs") / (vectors[0].stem or "vectors")
        with Terminal(Console()) as terminal:
            report = cluster(vectors, settings, root, weights=weights, timeout=timeout, progress=terminal)
        disconnect()
        if os.environ.get("RANK", "0") == "0":
            ended = "converged" if report["status"] == "CONVERGED" else "stopped"
            typer.echo(
                f"inertia {report['inertia']:.6g}, {ended} after {report['iterations']} rounds; clusters of "
                f"{min(report['sizes'])} to {max(report['sizes'])} vectors; {duration(report['seconds'])}, in {root}"
            )

    guarded(action)
