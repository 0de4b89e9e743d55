"""The commands ``otcluster dnc ...`` that make something else of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otcluster.dnc.exporting import export
from otcluster.dnc.run import load_run
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import need_one_process

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
