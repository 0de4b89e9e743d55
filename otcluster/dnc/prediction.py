"""Classify a user's pictures, and say which training images they resemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import ImageOps
from torch import nn

from otcluster.dnc.data import Conversion, open_image
from otcluster.dnc.head import DNCHead
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
        nearest: The most similar of the training images kept with the run, as (name, cosine).
    """

    path: str
    label: str
    share: float
    subcentroid: int | None
    nearest: list[tuple[str, float]]


@torch.no_grad()
def predict(run: LoadedRun, paths: Sequence[str | Path], *, invert: bool = False) -> list[Prediction]:
    """Classify pictures, converted as the training images of the run were.

    Args:
        run: A trained run, from :func:`otcluster.dnc.load_run`.
        paths: Image files.
        invert: Swap dark and light first. The digits are white on black; ink on paper needs this.

    Returns:
        One prediction for each path, in their order.

    Raises:
        DataError: A file cannot be read as an image; the message names it.
        RunError: The run has not been trained to the end.
    """
    typical = TypicalImages.load(run.files)
    convert = Conversion(run.recipe.data, augment=False)
    parameter = next(run.model.parameters())
    found = []
    for path in paths:
        image = open_image(Path(path))
        if invert:
            image = ImageOps.invert(image.convert("RGB"))
        features = run.model.features(convert(image)[None].to(parameter.device, parameter.dtype))
        logits = run.model.head(features)[0]
        label = int(logits.argmax())
        won = None
        if isinstance(run.model.head, DNCHead):
            won = int(run.model.head.similarities(features)[0, label].argmax()) + 1
        cosines = typical.features @ nn.functional.normalize(features.float(), dim=-1)[0].cpu()
        best = torch.topk(cosines, min(_NEAREST, len(cosines)))
        nearest = [(typical.names[at], value) for value, at in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        share = float(torch.softmax(logits, dim=0)[label])
        found.append(Prediction(str(path), run.classes[label], share, won, nearest))
    return found
