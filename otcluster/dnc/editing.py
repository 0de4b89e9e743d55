"""A run with one class more, or one less, written as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from otcluster.dnc.checkpoint import save_checkpoint
from otcluster.dnc.classes import counts_of, need_subcentroids
from otcluster.dnc.data import Split
from otcluster.dnc.errors import DataError
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.prediction import read_picture
from otcluster.dnc.run import LoadedRun, RunFiles
from otcluster.dnc.typical import TypicalImages, find_typical
from otcluster.runs.errors import RunError
from otcluster.runs.files import write_text

_BATCH = 256
_NOT_TRAINED = "classes were added or removed"  # in place of the fingerprint of training images: no training goes on from here


def add_class(
    run: LoadedRun,
    name: str,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    n_subcentroids: int | None = None,
    invert: bool = False,
) -> LoadedRun:
    """Give a trained run one more class, without training, and write the result to a directory of its own.

    Args:
        run: From :func:`otcluster.dnc.load_run`; its model is changed.
        name: Of the class.
        paths: Image files, or folders of them.
        out: Directory of the new run, which must not exist. It is evaluated, predicts and is exported as any other; it is not
            trained on.
        n_subcentroids: As for :meth:`otcluster.dnc.Classifier.add_class`.
        invert: Swap dark and light first, as for prediction.

    Returns:
        The new run.

    Raises:
        DataError: A file cannot be read as an image, or there is none.
        RunError: The directory exists, the run has not been trained to the end, its head has no sub-centroids, or it has a
            class of this name.
    """
    files, typical = _new(out), TypicalImages.load(run.files)
    found = _image_files(paths)
    features = [
        run.model.predict([read_picture(run, path, invert=invert) for path in found[at : at + _BATCH]]).features
        for at in range(0, len(found), _BATCH)
    ]
    whole = torch.cat(features)
    try:
        label = run.model.add_class(whole, name, n_subcentroids=n_subcentroids)
    except (TypeError, ValueError) as error:
        raise RunError(f"{run.files.root}: {error}") from error
    return _write(run, files, _with_class(run, typical, whole.cpu(), [str(path) for path in found], label))


def remove_class(run: LoadedRun, name: str, out: str | Path) -> LoadedRun:
    """Take a class from a trained run, without training, and write the result to a directory of its own.

    Args:
        run: From :func:`otcluster.dnc.load_run`; its model is changed.
        name: Of the class.
        out: Directory of the new run, which must not exist.

    Returns:
        The new run.

    Raises:
        RunError: The directory exists, the run has not been trained to the end, its head has no sub-centroids, or it has no
            such class or no other.
    """
    files, typical = _new(out), TypicalImages.load(run.files)
    try:
        label = run.model.remove_class(name)
    except (TypeError, ValueError) as error:
        raise RunError(f"{run.files.root}: {error}") from error
    left = typical.classes != label
    kept = torch.nonzero(left).flatten()
    classes = typical.classes[kept]
    shown = TypicalImages(
        typical.features[kept],
        classes - (classes > label).to(classes.dtype),
        typical.subcentroids[kept],
        typical.indices[kept],
        [typical.names[at] for at in kept.tolist()],
        torch.cat([typical.sizes[:label], typical.sizes[label + 1 :]]),
        typical.anchors[kept],
    )
    return _write(run, files, shown)


def _new(out: str | Path) -> RunFiles:
    files = RunFiles(Path(out))
    if files.root.exists():
        raise RunError(f"{files.root} exists: choose another --out")
    return files


def _image_files(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMG_EXTENSIONS) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path} holds no images (their names end in {', '.join(IMG_EXTENSIONS)})")
        found += inside
    if not found:
        raise DataError("no images were given: at least one is needed to describe a class")
    return found


def _with_class(run: LoadedRun, typical: TypicalImages, features: Tensor, names: list[str], label: int) -> TypicalImages:
    """The images that stand for the classes, and those of the new one."""
    labels = torch.full((len(names),), label)
    given = Evaluation(features, features[:, :0], labels, torch.arange(len(names)))
    n_classes, each = label + 1, run.recipe.explain.images_per_subcentroid
    new = find_typical(run.model, given, Split(labels, names, [], _unread), n_classes, each)
    more = new.sizes.shape[1] - typical.sizes.shape[1]
    return TypicalImages(
        torch.cat([typical.features, new.features.to(typical.features.dtype)]),
        torch.cat([typical.classes, new.classes]),
        torch.cat([typical.subcentroids, new.subcentroids]),
        torch.cat([typical.indices, torch.full_like(new.indices, -1)]),
        [*typical.names, *new.names],
        torch.cat([nn.functional.pad(typical.sizes, (0, more)), new.sizes[-1:]]),
        torch.cat([typical.anchors, new.anchors]),
    )


def _write(run: LoadedRun, files: RunFiles, typical: TypicalImages) -> LoadedRun:
    """Write the changed model as a run; the recipe comes last, which makes it one."""
    model = run.model
    state = {
        "classes": model.classes,
        "images": _NOT_TRAINED,
        "subcentroids": counts_of(need_subcentroids(model.head)),
        "class_sizes": typical.sizes.sum(dim=1).tolist(),
    }
    save_checkpoint(files.checkpoints, 0, model.state_dict(), state)
    typical.save(files)
    write_text(files.recipe, run.recipe.to_yaml())
    return LoadedRun(files, run.recipe, list(model.classes or []), model)


def _unread(at: int) -> Image.Image:
    raise AssertionError("pictures of a new class are not read again")
