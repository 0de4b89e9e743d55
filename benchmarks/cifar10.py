"""Heads on CIFAR-10, same backbone and budget: ``python -m benchmarks.cifar10 --data DIR`` prints the table.

On a GPU: ResNet-18 with the whole training set for 60 epochs. ``--recipe cifar10-thin`` is for a CPU. Runs that are finished
are not repeated, and the others go on where they were stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import difference
from otcluster.dnc import load_recipe, train
from otcluster.runs.files import write_text

GPU = [
    "data.batch_size=512", "optim.lr=0.4", "optim.nesterov=true", "optim.weight_decay=0.0005", "optim.schedule=cosine",
    "optim.warmup_epochs=5", "optim.milestones=[]", "train.precision=bf16-mixed", "train.channels_last=true",
    "train.test_every=5", "train.epochs=60", "train.checkpoint_steps=1000", "head.momentum=0.99", "head.pooling=mixture",
]  # fmt: skip
"""What the recipe of the paper is changed to: 200 epochs with batches of 128 are for longer afternoons."""


KINDS = {
    "deepncm": ["head.kind=deepncm", "head.temperature=null"],
    "dnc-4": ["head.kind=dnc", "head.n_subcentroids=4", "head.pooling=mixture"],
    "dnc-growth": ["head.kind=dnc", "head.n_subcentroids=1", "growth.kind=evidence"],
    "dnc-kmeans": ["head.kind=dnc", "solver.kind=nearest"],
    "knn": ["head.kind=knn", "head.temperature=null", "memory.capacity=4096"],
}
"""Heads that are more than a ``head.kind``."""


def run_one(recipe: str, changes: list[str], out: Path) -> dict[str, Any]:
    """Train a run, or read what it left."""
    return train(load_recipe(recipe, changes), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--out", default="runs/cifar10", type=Path)
    parser.add_argument("--recipe", default="cifar10-resnet18")
    parser.add_argument("--heads", default="dnc,linear")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    heads = chosen.heads.split(",")
    usual = GPU if chosen.recipe == "cifar10-resnet18" else []
    workers = max(0, (os.cpu_count() or 1) // chosen.jobs - 1)
    common = [*usual, "explain.anchor_epochs=0", f"data.dir={chosen.data}", f"data.workers={workers}", *chosen.changes]
    runs = [(head, seed) for seed in range(chosen.seeds) for head in heads]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    started = time.perf_counter()
    with ProcessPoolExecutor(chosen.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(
                run_one,
                chosen.recipe,
                [*common, *KINDS.get(head, [f"head.kind={head}"]), f"train.seed={seed}"],
                chosen.out / f"{head}-{seed}",
            ): (head, seed)
            for head, seed in runs
        }
        for job in as_completed(jobs):
            head, seed = jobs[job]
            found[head, seed] = job.result()
            accuracy, seconds = found[head, seed]["test"]["accuracy"], found[head, seed]["seconds"]
            print(f"{head} {seed}: {accuracy:.4f} after {seconds:.0f} s ({time.perf_counter() - started:.0f} s)", flush=True)
    print(f"\n| seed | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    table = np.array([[found[head, seed]["test"]["accuracy"] for head in heads] for seed in range(chosen.seeds)])
    for seed, row in enumerate(table):
        print(f"| {seed} | {' | '.join(f'{value:.4f}' for value in row)} |")
    print(f"| mean | {' | '.join(f'{value:.4f}' for value in table.mean(axis=0))} |")
    for at, head in enumerate(heads[1:], 1):
        print(f"{heads[0]} - {head}, points: {difference(table[:, 0], table[:, at])}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    rows = [{"head": head, "seed": seed, **found[head, seed]} for head, seed in runs]
    results = {"device": device, "recipe": chosen.recipe, "changes": chosen.changes, "runs": rows}
    write_text(chosen.out / "results.json", json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
