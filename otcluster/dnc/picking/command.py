"""The command ``otcluster dnc edit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from otcluster.dnc.errors import DataError
from otcluster.dnc.evaluation import Evaluation, accuracies, evaluate
from otcluster.dnc.model_commands import Data, Invert, Out, RunFolder
from otcluster.dnc.picking.reading import load_edits
from otcluster.dnc.picking.work import edit
from otcluster.dnc.run import LoadedRun, load_run
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import need_one_process


def edit_command(
    run: RunFolder,
    changes: Annotated[Path, typer.Argument(metavar="CHANGES", help="A JSON file: a list of edits.")],
    out: Out,
    data: Data = None,
    invert: Invert = False,
) -> None:
    """Rename, drop, merge and replace sub-centroids without training, write the result as a run, and evaluate again."""

    def action() -> None:
        need_one_process("edit")
        edits = load_edits(changes)
        before = load_run(run, data_dir=data)
        after = edit(before, edits, out, invert=invert)
        try:
            tested = evaluate(before.model, before.load_test(), before.recipe.data)
        except DataError as error:
            typer.echo(f"{out} is not evaluated, for its test images cannot be read: {error}", err=True)
        else:
            _compare(tested, after)
        typer.echo(f"{len(edits)} {'edit' if len(edits) == 1 else 'edits'} of {run}, in {out}")

    guarded(action)


@torch.no_grad()
def _compare(tested: Evaluation, after: LoadedRun) -> None:
    """Say how often models with the same backbone are right, before and after, and of which classes that differs."""
    predictions = after.model.head(tested.features).argmax(dim=1)
    old, new = (accuracies(each, tested.labels, after.classes) for each in (tested.predictions, predictions))
    for name, value in new["per_class"].items():
        if value != old["per_class"][name]:
            typer.echo(f"{name:24} {old['per_class'][name]:.4f} before, {value:.4f} after")
    if not new["images"]:
        typer.echo("there are no test images")
        return
    typer.echo(f"test accuracy {old['accuracy']:.4f} before, {new['accuracy']:.4f} after, on {new['images']} images")
