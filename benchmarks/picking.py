"""What edits by hand do to models of the digits: ``python -m benchmarks.picking`` prints the table.

``python -m benchmarks.picking RUN...`` takes runs of the recipe ``digits`` that are there, and trains none.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from otcluster.dnc import Drop, Merge, Replace, edit, evaluate, load_recipe, load_run, train
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.picking import Edit
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages

SEEDS, SPOILT, OTHER = 4, 8, 3


def cases(run: LoadedRun) -> dict[str, list[Edit]]:
    """Edits of every digit, by what they do."""
    typical, names, subcentroids = TypicalImages.load(run.files), run.names, run.model.head.subcentroids
    cosines = subcentroids @ subcentroids.transpose(1, 2)
    same, k = torch.eye(cosines.shape[1], dtype=torch.bool), cosines.shape[1]
    digits = range(len(names))

    def pairs(values: torch.Tensor) -> list[Edit]:
        found = [divmod(at, k) for at in values.flatten(1).argmax(dim=1).tolist()]
        return [Merge([names[label][one], names[label][other]]) for label, (one, other) in enumerate(found)]

    def images(which: int) -> list[Edit]:
        owned = [(label, at, typical.of(label, at).tolist()) for label in digits for at in range(k)]
        return [Replace(names[label][at], typical.names[rows[which]]) for label, at, rows in owned if rows]

    return {
        "the smallest dropped": [Drop(names[label][int(typical.sizes[label].argmin())]) for label in digits],
        "the largest dropped": [Drop(names[label][int(typical.sizes[label].argmax())]) for label in digits],
        "the two most alike merged": pairs(cosines.masked_fill(same, -2)),
        "the two least alike merged": pairs(-cosines.masked_fill(same, 2)),
        "all four merged": [Merge(row) for row in names],
        "each replaced by its most typical image": images(0),
        "each replaced by the 50th most typical, or its last": images(-1),
    }


def spoilt_and_mended(run: LoadedRun, folder: Path) -> dict[str, LoadedRun]:
    """A model whose sub-centroids of the 8 were replaced by images of the 3, and then by images of the 8."""
    typical, names = TypicalImages.load(run.files), run.names[SPOILT]

    def replaced(by: int) -> list[Edit]:
        rows = torch.nonzero(typical.classes == by).flatten()[: len(names)].tolist()
        return [Replace(name, typical.names[row]) for name, row in zip(names, rows, strict=True)]

    spoilt = edit(run, replaced(OTHER), folder / "spoilt")
    return {
        "the 8 by images of the 3": spoilt,
        "and back by images of the 8": edit(spoilt, replaced(SPOILT), folder / "mended"),
    }


def accuracy(run: LoadedRun, test: Evaluation) -> float:
    """Of a model with the backbone that gave the features."""
    return float((run.model.head(test.features).argmax(dim=1) == test.labels).double().mean())


def main(roots: list[str]) -> None:
    table: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(len(roots) or SEEDS):
            place = Path(folder) / str(seed)
            if not roots:
                train(load_recipe("digits", [f"train.seed={seed}", "explain.anchor_epochs=0"]), place / "run")
            run = load_run(roots[seed] if roots else place / "run")
            test = evaluate(run.model, run.load_test(), run.recipe.data)
            changed = {what: edit(run, edits, place / what) for what, edits in cases(run).items()}
            for what, each in {"as trained": run, **changed, **spoilt_and_mended(run, place)}.items():
                table.setdefault(what, []).append(accuracy(each, test))
    for what, values in table.items():
        print(f"| {what} | {' | '.join(f'{value:.4f}' for value in values)} | {sum(values) / len(values):.4f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
