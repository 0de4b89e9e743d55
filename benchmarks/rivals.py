"""DNC and its rivals on the digits, all tuned alike: ``python -m benchmarks.rivals [--jobs N]`` prints the tables.

Of each method the learning rate is chosen among the same three, on another split of the digits; then five folds are trained
with it. Once with all labels, once with ten of each class.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import difference
from otcluster.dnc import evaluate_readouts, load_recipe, load_run, train

METHODS = {
    "DNC": [],
    "DNC, K found by itself": ["growth.kind=evidence"],
    "DNC with k-means": ["solver.kind=nearest"],
    "softmax layer": ["head.kind=linear"],
    "DeepNCM": ["head.kind=deepncm"],
    "nearest neighbours (DeepNCA)": ["head.kind=knn"],
    "SimCLR, then sub-centroids": ["head.kind=simclr"],
}
READ = {"class means of softmax features": ("softmax layer", "ncm"), "class means of DNC features": ("DNC", "ncm")}
FROZEN = {"class means of untrained features": "ncm", "sub-centroids of untrained features": "sub-centroids"}
RATES = (0.001, 0.003, 0.01)
LABELS = {
    "all labels": ["train.test_every=25", "explain.anchor_epochs=0"],
    "10 labels a class": [
        "explain.anchor_epochs=0",
        "data.labels_per_class=10",
        "data.batch_size=32",
        "train.epochs=150",
        "train.test_every=150",
    ],
}


def run_one(changes: list[str], out: Path, readouts: list[str]) -> dict[str, float]:
    """Accuracies of one run: of its head, and of readouts of its features."""
    torch.set_num_threads(1)
    metrics = train(load_recipe("digits", changes), out)
    found = {"head": metrics["test"]["accuracy"]}
    found |= {name: each["accuracy"] for name, each in metrics.get("readouts", {}).items()}
    if missing := [name for name in readouts if name not in found]:
        found |= {name: each["accuracy"] for name, each in evaluate_readouts(load_run(out), missing).items()}
    return found


def accuracy(found: dict[str, float], method: str) -> float:
    """What counts: SimCLR has no classifier of its own."""
    return found["sub-centroids" if method.startswith("SimCLR") else "head"]


def table(ask: Callable[..., Any], usual: list[str], name: str, folds: int) -> dict[str, tuple[list[float], str]]:
    """Accuracy on each fold, and the learning rate, by method."""
    tried = {
        (method, rate): ask([*usual, *changes, f"optim.lr={rate}", "data.split_seed=1"], f"{name}-{method}-{rate}")
        for method, changes in METHODS.items()
        for rate in RATES
    }
    best = {method: max(RATES, key=lambda rate, m=method: accuracy(tried[m, rate].result(), m)) for method in METHODS}
    runs = {}
    for method, changes in METHODS.items():
        read = [readout for of, readout in READ.values() if of == method]
        chosen = [*usual, *changes, f"optim.lr={best[method]}"]
        runs[method] = [ask([*chosen, f"data.fold={at}"], f"{name}-{method}-fold{at}", read) for at in range(folds)]
    chosen = [*usual, "backbone.frozen=true", "train.epochs=1"]
    frozen = [ask([*chosen, f"data.fold={at}"], f"{name}-frozen-fold{at}", list(FROZEN.values())) for at in range(folds)]
    rows = {method: ([accuracy(run.result(), method) for run in runs[method]], f"{best[method]}") for method in METHODS}
    rows |= {what: ([run.result()[readout] for run in runs[of]], f"{best[of]}") for what, (of, readout) in READ.items()}
    return rows | {what: ([run.result()[readout] for run in frozen], "") for what, readout in FROZEN.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/rivals"))
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    with ProcessPoolExecutor(chosen.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:

        def ask(changes: list[str], name: str, readouts: tuple[str, ...] | list[str] = ()) -> Any:
            folder = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
            return pool.submit(run_one, [*changes, *chosen.changes], chosen.out / folder, list(readouts))

        for name, usual in LABELS.items():
            print(
                f"\n{name}\n\n| method | learning rate | accuracy, mean of folds | deviation | DNC less this, points |",
                flush=True,
            )
            print("|---|---|---|---|---|")
            rows = table(ask, usual, name, chosen.folds)
            ours = np.array(rows["DNC"][0])
            for method, (values, rate) in rows.items():
                compared = "" if method == "DNC" else difference(ours, values)
                print(f"| {method} | {rate} | {np.mean(values):.4f} | {np.std(values, ddof=1):.4f} | {compared} |", flush=True)


if __name__ == "__main__":
    main()
