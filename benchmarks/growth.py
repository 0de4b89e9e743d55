"""Sub-centroids that choose their number: ``python -m benchmarks.growth`` prints the table of the documentation.

``python -m benchmarks.growth digits`` compares the number that each digit chose with four, at the same seeds and splits.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.paired import difference
from otcluster.dnc import Evidence, load_recipe, train
from tests.dnc.modes import Case, found

DRAWS, NUMBERS = 10, range(1, 11)
CASES = ((0.5, 1, 1), (1.5, 1, 1), (0.5, 4, 1), (1.5, 4, 1), (0.5, 1, 3), (1.5, 1, 3), (0.5, 1, 9), (1.5, 1, 9))
SPLITS, SEEDS = (0, 1), range(5)


def modes() -> None:
    print(f"Draws of {DRAWS} with the true number, and with each sub-centroid on a mode of its own")
    print("| s | from | sizes |" + "".join(f" {k} |" for k in NUMBERS))
    print("|---|---|---|" + "---|" * len(NUMBERS))
    for s, start, largest in CASES:
        print(f"| {s} | {start} | 1 to {largest} |", end="", flush=True)
        for placed, right in found([Case(s, k, start, largest) for k in NUMBERS], draws=DRAWS, growth=Evidence()):
            print(f" {right}, {placed} |", end="")
        print(flush=True)


def digits() -> None:
    print(
        "| split | seed | found by itself | K = 4 | difference, points | sub-centroids of 0 to 9 |\n|---|---|---|---|---|---|"
    )
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for split in SPLITS:
            for seed in SEEDS:
                pair = []
                for kind in ("none", "evidence"):
                    recipe = load_recipe(
                        "digits",
                        ["explain.anchor_epochs=0", f"growth.kind={kind}", f"train.seed={seed}", f"data.split_seed={split}"],
                    )
                    metrics = train(recipe, Path(folder) / f"{kind}-{split}-{seed}")
                    pair.insert(0, metrics["test"]["accuracy"])
                pairs.append(pair)
                numbers = " ".join(map(str, metrics["n_subcentroids"].values()))
                points = f"{100 * (pair[0] - pair[1]):+.2f}"
                print(f"| {split} | {seed} | {pair[0]:.4f} | {pair[1]:.4f} | {points} | {numbers} |", flush=True)
    means = np.mean(pairs, axis=0)
    print(f"| mean | | {means[0]:.4f} | {means[1]:.4f} | {difference(*np.transpose(pairs))} | |")


if __name__ == "__main__":
    digits() if sys.argv[1:] == ["digits"] else modes()
