"""The commands ``otcluster dnc ...``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from safetensors.torch import save

from otcluster.dnc.ablations.command import ablate_command, ablations_command
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.model_commands import (
    Data,
    Invert,
    RunFolder,
    add_class_command,
    explain_command,
    export_command,
    offer_inversion,
    remove_class_command,
)
from otcluster.dnc.picking.command import edit_command
from otcluster.dnc.pixels.command import evaluate_pixel_run, predict_pixel_run
from otcluster.dnc.prediction import each_prediction
from otcluster.dnc.progress import Terminal
from otcluster.dnc.readouts import READOUT_NAMES, evaluate_readouts, readout_of, usual_readouts
from otcluster.dnc.recipe import at_folder, load_recipe, recipe_names
from otcluster.dnc.run import RunFiles, load_run
from otcluster.dnc.training import train
from otcluster.dnc.unknown.command import calibrate_command
from otcluster.runs.errors import RunError
from otcluster.runs.files import replaced
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import disconnect, need_one_process

app = typer.Typer(no_args_is_help=True, help="Deep Nearest Centroids: train, evaluate, predict and explain.")
app.command("ablate")(ablate_command)
app.command("ablations")(ablations_command)
app.command("edit")(edit_command)
app.command("calibrate")(calibrate_command)
app.command("explain")(explain_command)
app.command("export")(export_command)
app.command("add-class")(add_class_command)
app.command("remove-class")(remove_class_command)


def _say(text: str) -> None:
    typer.echo(text)


@app.command("recipes")
def recipes_command() -> None:
    """List the recipes inside the package."""
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        _say(f"{name:{width}} {load_recipe(name).description}")


@app.command("train")
def train_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a YAML file.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the recipe.")] = None,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Directory of the run. Default: runs/RECIPE.")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", metavar="RUN", help="A run with whose weights the backbone begins.")
    ] = None,
) -> None:
    """Train a recipe, or go on with a run of it."""

    def action() -> None:
        chosen = load_recipe(recipe, changes or [])
        if data is not None:
            chosen = at_folder(chosen, data)
        root = out or Path("runs") / chosen.name
        with Terminal(Console()) as terminal:
            metrics = train(chosen, root, init_from=init_from, progress=terminal)
        disconnect()
        if os.environ.get("RANK", "0") == "0":
            share = metrics.get("dnc_share")
            step = "" if share is None else f", {share:.1%} of a step for the sub-centroids"
            for name, found in metrics.get("readouts", {}).items():
                _say(f"test accuracy {found['accuracy']:.4f} by {name} on its features")
            judged = "mean IoU" if chosen.of_pixels else "accuracy"
            value = metrics["test"]["mean_iou" if chosen.of_pixels else "accuracy"]
            _say(f"test {judged} {value:.4f} after {metrics['seconds']:.0f} s{step}, in {root}")

    guarded(action)


@app.command("eval")
def eval_command(
    run: RunFolder,
    data: Data = None,
    features: Annotated[
        Path | None,
        typer.Option("--features", metavar="FILE", help="Save features, labels, indices and predictions (safetensors)."),
    ] = None,
    split: Annotated[
        Literal["test", "train"], typer.Option("--split", help="Which images; those of training are not augmented.")
    ] = "test",
    readouts: Annotated[
        list[str] | None,
        typer.Option(
            "--readout",
            metavar="NAME",
            help=f"Also classify by the features of the training images: {', '.join(READOUT_NAMES)}. May be repeated.",
        ),
    ] = None,
) -> None:
    """Evaluate a run on its images, by its head and by readouts of its features."""

    def action() -> None:
        need_one_process("eval")
        if RunFiles(run).read_recipe().of_pixels:
            if features is not None or readouts:
                raise RunError("--features and --readout are of images with a class each, and this run is of pixels")
            evaluate_pixel_run(run, data, split)
            return
        loaded = load_run(run, data_dir=data)
        names = readouts or usual_readouts(loaded.recipe)
        for name in names:
            readout_of(name, loaded.recipe)  # before any image is looked at
        images = loaded.load_test() if split == "test" else loaded.load_train()
        result = evaluate(loaded.model, images, loaded.recipe.data)
        if features is not None:
            tensors = {name: getattr(result, name) for name in ("features", "labels", "indices", "predictions")}
            with replaced(features) as temporary:
                temporary.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))
        metrics = result.metrics(loaded.classes)
        for name, value in metrics["per_class"].items():
            _say(f"{name:24} {'no images' if value is None else f'{value:.4f}'}")
        _say(f"{split} accuracy {metrics['accuracy']:.4f} on {metrics['images']} images, of {run}")
        for name, found in evaluate_readouts(loaded, names, result).items():
            _say(f"{split} accuracy {found['accuracy']:.4f} on {found['images']} images, by {name} on its features")

    guarded(action)


@app.command("predict")
def predict_command(
    run: RunFolder,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files.")],
    invert: Invert = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Of a run of pixels: where maps and overlays are written.")
    ] = None,
) -> None:
    """Classify pictures: class, share, the sub-centroid that decided and the most similar of its training images.

    Of a run of pixels: a map of classes and an overlay for each picture, in --out.
    """

    def action() -> None:
        need_one_process("predict")
        if RunFiles(run).read_recipe().of_pixels:
            if out is None or invert:
                raise RunError("this run is of pixels: pass --out DIR, for the maps, and leave out --invert")
            predict_pixel_run(run, images, out, as_json)
            return
        if out is not None:
            raise RunError("--out is for runs of pixels, and this one classifies images as a whole: leave it out")
        loaded = load_run(run)
        if not as_json:
            offer_inversion(loaded, invert)
        failed = 0
        for found in each_prediction(loaded, images, invert=invert):
            if isinstance(found, RunError):
                failed += 1
                typer.echo(f"error: {found}", err=True)
            else:
                _say(json.dumps(found.as_dict(), ensure_ascii=False) if as_json else found.text())
        if failed:
            raise RunError(f"{failed} of {len(images)} images could not be classified")

    guarded(action)
