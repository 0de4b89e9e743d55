"""Deep Nearest Centroids against the softmax layer on the digits: ``python -m benchmarks.heads`` prints the table."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.paired import difference
from otcluster.dnc import load_recipe, train

SPLITS, SEEDS = (0, 1), range(5)


def main() -> None:
    print("| split | seed | DNC | softmax | difference, points |\n|---|---|---|---|---|")
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for split in SPLITS:
            for seed in SEEDS:
                pair = []
                for kind in ("dnc", "linear"):
                    recipe = load_recipe(
                        "digits",
                        ["explain.anchor_epochs=0", f"head.kind={kind}", f"train.seed={seed}", f"data.split_seed={split}"],
                    )
                    pair.append(train(recipe, Path(folder) / f"{kind}-{split}-{seed}")["test"]["accuracy"])
                pairs.append(pair)
                print(f"| {split} | {seed} | {pair[0]:.4f} | {pair[1]:.4f} | {100 * (pair[0] - pair[1]):+.2f} |", flush=True)
    means = np.mean(pairs, axis=0)
    print(f"| mean | | {means[0]:.4f} | {means[1]:.4f} | {difference(*np.transpose(pairs))} |")


if __name__ == "__main__":
    main()
