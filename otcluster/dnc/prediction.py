"""Classify a user's pictures, and say which training images they resemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn

from otcluster.dnc.errors import DataError
from otcluster.dnc.pictures import open_image
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.serving import evaluating
from otcluster.dnc.typical import TypicalImages
from otcluster.dnc.unknown.calibration import Calibration, Verdict

_NEAREST = 3


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    Attributes:
        path: The picture.
        label: Name of the predicted class, even where the picture is not known.
        share: Its softmax share among all classes, at the temperature of the run's calibration, if it has one.
        subcentroid: Which sub-centroid of the class won, counted from 1; None for a head without.
        nearest: The most similar of the training images kept with the run for the sub-centroid that won (for the class, where
            the head has no sub-centroids), as (name, cosine); none where no training image is nearest to it.
        name: What this sub-centroid is called; None for a head without.
        verdict: Whether the picture is known at all, and by what; None for a run that was not calibrated.
    """

    path: str
    label: str
    share: float
    subcentroid: int | None
    nearest: list[tuple[str, float]]
    name: str | None = None
    verdict: Verdict | None = None

    @property
    def known(self) -> bool | None:
        """Whether the model knows the picture, by its calibration; None for a run that was not calibrated."""
        return None if self.verdict is None else self.verdict.known

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "known": self.known, "verdict": None if self.verdict is None else self.verdict.as_dict()}

    def text(self) -> str:
        """In one line."""
        won = "" if self.name is None else f", sub-centroid {self.name}"
        said = f"{self.label} ({self.share:.1%}{won})"
        if self.verdict is not None and not self.verdict.known:
            said = f"I do not know, {self.verdict.text()}; the {'likeliest' if won == '' else 'nearest'} class is {said}"
        nearest = ", ".join(f"{name} ({cosine:.2f})" for name, cosine in self.nearest) or "no training image"
        return f"{self.path}: {said}, nearest: {nearest}"


def predict(run: LoadedRun, paths: Sequence[str | Path], *, invert: bool = False) -> list[Prediction]:
    """Classify pictures, converted as the training images of the run were.

    What is transparent is taken for white paper, and for black with digits that are not inverted. Where the run has been
    calibrated (:func:`otcluster.dnc.calibrate`), shares are those at its temperature, and what is not known is said to be so.

    Args:
        run: A trained run, from :func:`otcluster.dnc.load_run`.
        paths: Image files.
        invert: Swap dark and light first. The digits are white on black; ink on paper needs this.

    Returns:
        One prediction for each path, in their order.

    Raises:
        DataError: A file cannot be read as an image; the message names it.
        RunError: The run has not been trained to the end, or its calibration cannot be read.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     run = load_run(folder + "/run")
        ...     run.load_test().read(0).save(folder + "/mine.png")
        ...     (found,) = predict(run, [folder + "/mine.png"])
        >>> found.label in run.classes, len(found.nearest), found.known
        (True, 3, None)
    """
    predictions = []
    for found in each_prediction(run, paths, invert=invert):
        if isinstance(found, DataError):
            raise found
        predictions.append(found)
    return predictions


def each_prediction(run: LoadedRun, paths: Sequence[str | Path], *, invert: bool) -> Iterator[Prediction | DataError]:
    """As :func:`predict`, one after the other; in place of a picture that cannot be read, what is wrong with it."""
    typical, calibration = TypicalImages.load(run.files), Calibration.load(run)
    for path in paths:
        try:
            picture = read_picture(run, path, invert=invert)
        except DataError as error:
            yield error
        else:
            yield _prediction(run, typical, calibration, str(path), picture)


@torch.no_grad()
def _prediction(
    run: LoadedRun, typical: TypicalImages, calibration: Calibration | None, path: str, picture: Image.Image
) -> Prediction:
    said = run.model.predict(picture)
    label = int(said.labels[0])
    won = None if said.subcentroids is None else int(said.subcentroids[0])
    own = typical.of(label, won or 0)
    cosines = typical.features[own] @ nn.functional.normalize(said.features.float(), dim=-1)[0].cpu()
    best = torch.topk(cosines, min(_NEAREST, len(own)))
    names = [typical.names[at] for at in own[best.indices].tolist()]
    nearest = list(zip(names, best.values.tolist(), strict=True))
    shares, verdict = said.shares, None
    if calibration is not None:
        with evaluating(run.model):
            logits = run.model.head(said.features)
        shares, (verdict,) = calibration.shares(logits), calibration.verdicts(run.model.head, said.features, logits)
    share = float(shares[0, label])
    number, name = (None, None) if won is None else (won + 1, run.names[label][won])
    return Prediction(path, run.classes[label], share, number, nearest, name, verdict)


def read_picture(run: LoadedRun, path: str | Path, *, invert: bool) -> Image.Image:
    """A user's picture. What is transparent is white paper, and black with digits that are not inverted.

    Raises:
        DataError: It cannot be read as an image.
    """
    background = "black" if run.recipe.data.kind == "digits" and not invert else "white"
    image = open_image(Path(path), background=background)
    return ImageOps.invert(image) if invert else image
