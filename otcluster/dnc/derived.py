"""A run that was made of another without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from otcluster.dnc.checkpoint import save_checkpoint
from otcluster.dnc.classes import need_subcentroids
from otcluster.dnc.classifier import Classifier
from otcluster.dnc.data import Split
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.run import LoadedRun, RunFiles
from otcluster.dnc.typical import TypicalImages, find_typical
from otcluster.runs.errors import RunError
from otcluster.runs.files import write_text

_NOT_TRAINED = "the model was changed by hand"  # in place of the fingerprint of training images: no training goes on from here


def new_run(out: str | Path) -> RunFiles:
    """Where a run will be written.

    Raises:
        RunError: Something is there.
    """
    files = RunFiles(Path(out))
    if files.root.exists():
        raise RunError(f"{files.root} exists: choose another --out")
    return files


def write_run(run: LoadedRun, model: Classifier, files: RunFiles, typical: TypicalImages) -> LoadedRun:
    """Write a model that ``run`` became as a run of its own; the recipe comes last, which makes it one."""
    state = {
        "classes": model.classes,
        "images": _NOT_TRAINED,
        "subcentroids": need_subcentroids(model.head).store.is_open.tolist(),
        "class_sizes": typical.sizes.sum(dim=1).tolist(),
        "names": model.subcentroid_names,
    }
    save_checkpoint(files.checkpoints, 0, model.state_dict(), state)
    typical.save(files)
    write_text(files.recipe, run.recipe.to_yaml())
    return LoadedRun(files, run.recipe, list(model.classes or []), model)


def typical_of(
    model: Classifier,
    features: Tensor,
    labels: Tensor,
    names: list[str],
    n_classes: int,
    each: int,
    anchors: Sequence[Sequence[int]] = (),
) -> TypicalImages:
    """As :func:`find_typical`, of images whose features (n, dim) are at hand and which are not read again."""
    known = Evaluation(features, features[:, :0], labels, labels.new_tensor(range(len(names))))
    return find_typical(model, known, Split(labels, names, [], _unread), n_classes, each, anchors)


def _unread(at: int) -> Image.Image:
    raise AssertionError("pictures whose features are at hand are not read again")
