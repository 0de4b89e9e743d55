"""The commands ``otcluster dnc ...`` that make something else of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otcluster.dnc.editing import add_class, remove_class
from otcluster.dnc.exporting import export
from otcluster.dnc.run import load_run
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import need_one_process

_Out = Annotated[Path, typer.Option("--out", metavar="RUN2", help="Directory of the new run, which must not exist.")]
_Run = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")]


def export_command(
    run: _Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="*.onnx, or *.pt2 for torch.export.")],
) -> None:
    """Write the model of a run, sub-centroids inside, to a file that runs without this package."""

    def action() -> None:
        need_one_process("export")
        metadata = export(load_run(run), file)
        typer.echo(
            f"input images (n, {metadata['channels']}, {metadata['image_size']}, {metadata['image_size']}): a picture is"
        )
        typer.echo(f"brought {metadata['preprocessing']}; mean {metadata['mean']}, std {metadata['std']}")
        typer.echo(f"answers as {run} does on a random batch: {file}")

    guarded(action)


def add_class_command(
    run: _Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the class.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")],
    out: _Out,
    n_subcentroids: Annotated[
        int | None, typer.Option("--subcentroids", min=1, help="How many. Default: eight times as many as other classes have.")
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Swap dark and light first.")] = False,
) -> None:
    """Let a run know one more class without training, and write the result as a run of its own."""

    def action() -> None:
        need_one_process("add-class")
        added = add_class(load_run(run), name, images, out, n_subcentroids=n_subcentroids, invert=invert)
        typer.echo(f"{out} knows {len(added.classes)} classes, {name} with them")

    guarded(action)


def remove_class_command(
    run: _Run, name: Annotated[str, typer.Argument(metavar="NAME", help="Of the class.")], out: _Out
) -> None:
    """Let a run forget a class, and write the result as a run of its own."""

    def action() -> None:
        need_one_process("remove-class")
        left = remove_class(load_run(run), name, out)
        typer.echo(f"{out} knows {len(left.classes)} classes, {name} no more")

    guarded(action)
