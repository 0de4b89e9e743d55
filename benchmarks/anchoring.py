"""What it costs that sub-centroids are images, on the digits: ``python -m benchmarks.anchoring`` prints the table.

The same splits and seeds with anchoring, in the last two of 25 epochs, and without.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import difference
from otcluster.dnc import load_recipe, load_run, measure, train

USUAL = {"without": "explain.anchor_epochs=0", "anchored": "explain.anchor_epochs=2"}


def run_one(changes: list[str], out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a run, or read what it left; its metrics, and what is measured of its explanations."""
    torch.set_num_threads(1)
    metrics = train(load_recipe("digits", changes), out)
    return metrics, measure(load_run(out), n_images=0).as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/anchoring", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    with ProcessPoolExecutor(chosen.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            (name, fold): pool.submit(run_one, [*chosen.changes, change, f"data.fold={fold}"], chosen.out / f"{name}-{fold}")
            for fold in range(chosen.folds)
            for name, change in USUAL.items()
        }
        found = {key: job.result() for key, job in jobs.items()}
    print("| fold | without | its anchors alone | anchored | before, then | distinctiveness without, anchored |")
    print("|---|---|---|---|---|---|")
    rows = []
    for fold in range(chosen.folds):
        (plain, free), (metrics, tied) = found["without", fold], found["anchored", fold]
        row = plain["test"]["accuracy"], free["anchors_accuracy"], metrics["test"]["accuracy"]
        steps = f"{metrics['anchoring']['before']:.4f}, {metrics['anchoring']['tied']:.4f}"
        apart = f"{free['distinctiveness']:.3f}, {tied['distinctiveness']:.3f}"
        print(f"| {fold} | {row[0]:.4f} | {row[1]:.4f} | {row[2]:.4f} | {steps} | {apart} |")
        rows.append(row)
    means = np.mean(rows, axis=0)
    less = difference([row[2] for row in rows], [row[0] for row in rows])
    print(f"| mean | {means[0]:.4f} | {means[1]:.4f} | {means[2]:.4f} | | |\n\nanchored less without, points: {less}")


if __name__ == "__main__":
    main()
