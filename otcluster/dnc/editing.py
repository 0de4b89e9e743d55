"""A run with one class more, or one less, written as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from otcluster.dnc.classes import need_subcentroids
from otcluster.dnc.derived import new_run, typical_of, write_run
from otcluster.dnc.errors import DataError
from otcluster.dnc.prediction import read_picture
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError

_BATCH = 256


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
    files, typical = new_run(out), TypicalImages.load(run.files)
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
    return write_run(run, run.model, files, _with_class(run, typical, whole.cpu(), [str(path) for path in found], label))


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
    files, typical = new_run(out), TypicalImages.load(run.files)
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
        torch.cat([typical.sizes[:label], typical.sizes[label + 1 :]])[
            :, : need_subcentroids(run.model.head).store.n_centroids
        ],
        typical.anchors[kept],
    )
    return write_run(run, run.model, files, shown)


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
    labels, each = torch.full((len(names),), label), run.recipe.explain.images_per_subcentroid
    new = typical_of(run.model, features, labels, names, label + 1, each)
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
