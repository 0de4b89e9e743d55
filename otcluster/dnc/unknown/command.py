"""The command ``otcluster dnc calibrate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from otcluster.dnc.run import load_run
from otcluster.dnc.unknown.calibration import Calibration, calibrate
from otcluster.runs.errors import RunError
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import need_one_process

_REASONS = {
    "fitted": "",
    "all right": "; it is as it was: no held-out image is wrong, so that they do not tell how often images are",
    "chance": "; the held-out images are right no more often than by chance",
    "flat": "; all classes have the same share whatever it is",
}


def calibrate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")],
    keep: Annotated[float, typer.Option("--keep", help="The part of images of known classes to keep.")] = 0.95,
    score: Annotated[
        Literal["cosine", "share", "logit", "energy"] | None,
        typer.Option("--score", help="What tells how well an image is known. Default: cosine, or share without sub-centroids."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which half of the test images is held out.")] = 0,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Folder of the images, where they have moved.")
    ] = None,
) -> None:
    """Let a model know how sure it may be, and when to say that it does not know; by half of the test images."""

    def action() -> None:
        need_one_process("calibrate")
        if not 0 < keep <= 1:
            raise RunError(f"--keep must lie in (0, 1], got {keep}")
        loaded = load_run(run, data_dir=data)
        found = calibrate(loaded, keep=keep, seed=seed, score=score)
        found.save(loaded.files)
        for line in lines(found):
            typer.echo(line)
        typer.echo(f"in {loaded.files.calibration}: predict and explain go by it")

    guarded(action)


def lines(found: Calibration) -> list[str]:
    """What was found, in words."""
    if math.isinf(found.threshold):
        line = f"every image is known: of {found.n_held_out} held-out images none can be left out to keep {found.keep:.1%}"
    else:
        line = f"known from a {found.score} of {found.threshold:.4f} on, to keep {found.keep:.1%}"
    kept = "none" if found.accuracy_kept is None else f"{found.accuracy_kept:.4f}"
    return [
        f"temperature {found.temperature:.4f}, of {found.n_held_out} held-out images{_REASONS[found.status]}",
        line,
        f"on {found.n_reported} other test images:",
        f"  expected calibration error {found.ece_before:.4f}, at the temperature {found.ece_after:.4f}",
        f"  negative log-likelihood {found.nll_before:.4f}, at the temperature {found.nll_after:.4f}",
        f"  {found.kept:.1%} known, accuracy {found.accuracy:.4f}, of those known {kept}",
    ]
