"""One run of an ablation: trained to the end, or why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from otcluster.dnc.ablations.comparison import Outcome
from otcluster.dnc.ablations.plan import Run
from otcluster.dnc.progress import Silent
from otcluster.dnc.run import RunFiles
from otcluster.dnc.training import train
from otcluster.runs.errors import LostRankError, RunError


def finished(run: Run, out: Path) -> Outcome:
    """What is known of a run without training it.

    Raises:
        RunError: Its result cannot be read.
    """
    files = RunFiles(out / run.folder)
    return _measured(run, files.read_metrics()) if files.metrics.is_file() else _outcome(run)


def trained(run: Run, out: Path, moved: Callable[[float], None]) -> Outcome:
    """Train a run to the end, or go on with it; ``moved`` is told the share that is done.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
        LostRankError: A process of the launch does not answer.
    """
    try:
        return _measured(run, train(run.recipe, out / run.folder, progress=_Share(moved)))
    except LostRankError:
        raise
    except (RunError, torch.OutOfMemoryError) as error:
        return _outcome(run, failed=str(error))


def lost(run: Run, code: int | None) -> Outcome:
    """What to note of a run whose process was killed."""
    return _outcome(run, failed=f"its process ended with code {code}; the same command goes on with it")


def _measured(run: Run, metrics: dict[str, Any]) -> Outcome:
    measure = "mean_iou" if run.recipe.of_pixels else "accuracy"
    return _outcome(run, value=metrics["test"][measure], seconds=metrics["seconds"])


def _outcome(run: Run, **what: Any) -> Outcome:
    return Outcome(run.variant.name, run.seed, run.split, run.folder, **what)


class _Share(Silent):
    """Passes on how far training has come."""

    def __init__(self, moved: Callable[[float], None]) -> None:
        self._moved = moved

    def step(self, step: int, steps: int, epoch: int, epochs: int, *, loss: float, accuracy: float) -> None:
        self._moved(step / steps)
