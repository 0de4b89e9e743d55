"""Classify a user's pictures, and say which training images they resemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import nn

from otcluster.dnc.pictures import open_image
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages

_NEAREST = 3


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    Attributes:
        path: The picture.
        label: Name of the predicted class.
        share: Its softmax share among all classes.
        subcentroid: Which sub-centroid of the class won, counted from 1; None for a head without.
        nearest: The most similar of the training images kept with the run for the sub-centroid that won (for the class, where
            the head has no sub-centroids), as (name, cosine); none where no training image is nearest to it.
        name: What this sub-centroid is called; None for a head without.
    """

    path: str
    label: str
    share: float
    subcentroid: int | None
    nearest: list[tuple[str, float]]
    name: str | None = None


@torch.no_grad()
def predict(run: LoadedRun, paths: Sequence[str | Path], *, invert: bool = False) -> list[Prediction]:
    """Classify pictures, converted as the training images of the run were.

    What is transparent is taken for white paper, and for black with digits that are not inverted.

    Args:
        run: A trained run, from :func:`otcluster.dnc.load_run`.
        paths: Image files.
        invert: Swap dark and light first. The digits are white on black; ink on paper needs this.

    Returns:
        One prediction for each path, in their order.

    Raises:
        DataError: A file cannot be read as an image; the message names it.
        RunError: The run has not been trained to the end.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     run = load_run(folder + "/run")
        ...     run.load_test().read(0).save(folder + "/mine.png")
        ...     (found,) = predict(run, [folder + "/mine.png"])
        >>> found.label in run.classes, len(found.nearest)
        (True, 3)
    """
    typical = TypicalImages.load(run.files)
    found = []
    for path in paths:
        said = run.model.predict(read_picture(run, path, invert=invert))
        label = int(said.labels[0])
        won = None if said.subcentroids is None else int(said.subcentroids[0])
        own = typical.of(label, won or 0)
        cosines = typical.features[own] @ nn.functional.normalize(said.features.float(), dim=-1)[0].cpu()
        best = torch.topk(cosines, min(_NEAREST, len(own)))
        names = [typical.names[at] for at in own[best.indices].tolist()]
        share = float(said.shares[0, label])
        nearest = list(zip(names, best.values.tolist(), strict=True))
        number, name = (None, None) if won is None else (won + 1, run.names[label][won])
        found.append(Prediction(str(path), run.classes[label], share, number, nearest, name))
    return found


def read_picture(run: LoadedRun, path: str | Path, *, invert: bool) -> Image.Image:
    """A user's picture. What is transparent is white paper, and black with digits that are not inverted.

    Raises:
        DataError: It cannot be read as an image.
    """
    background = "black" if run.recipe.data.kind == "digits" and not invert else "white"
    image = open_image(Path(path), background=background)
    return ImageOps.invert(image) if invert else image
