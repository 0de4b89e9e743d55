"""What a segmenter says of a user's pictures, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from otcluster.dnc.errors import DataError
from otcluster.dnc.pictures import open_image
from otcluster.dnc.pixels.conversion import PixelConversion
from otcluster.dnc.pixels.evaluation import Inference
from otcluster.dnc.pixels.labels import IGNORE, LabelMap
from otcluster.dnc.pixels.layouts import Colour, PixelData
from otcluster.dnc.pixels.painting import index_picture, overlay, with_legend
from otcluster.dnc.pixels.segmenter import Segmenter
from otcluster.dnc.serving import evaluating
from otcluster.runs.errors import RunError
from otcluster.runs.files import replaced

_EXAMPLES, _WIDE = 4, 320


@torch.no_grad()
def label_map(model: Segmenter, picture: Image.Image, convert: PixelConversion, inference: Inference) -> LabelMap:
    """The predicted class of each pixel of a picture, uint8 (height, width), at its own size."""
    parameter = next(model.network.parameters())
    with evaluating(model):
        image = convert.image(picture).to(parameter.device, parameter.dtype)
        shares = inference.shares(model, image, (picture.height, picture.width))
    return shares.argmax(dim=0).to(torch.uint8).cpu().numpy()


def predict_pictures(
    model: Segmenter,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    convert: PixelConversion,
    inference: Inference,
    classes: Sequence[str],
    palette: Sequence[Colour],
) -> list[DataError | dict[str, float]]:
    """Write, for each picture, ``NAME.png``, whose values are the classes, and ``NAME-overlay.png``, the picture under them.

    Args:
        model: From :func:`otcluster.dnc.pixels.runs.load_pixel_run`.
        paths: Pictures.
        out: A directory, made where it is not there.
        convert, inference: As the model was trained, and how whole images are classified.
        classes, palette: Names and colours.

    Returns:
        For each the parts of its pixels by class, those that have any; or what is wrong with it.

    Raises:
        RunError: Two pictures would be written to one file, or the directory is a file.
    """
    root, names = Path(out), [Path(path).stem for path in paths]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise RunError(f"two pictures are called {twice}: predict them into different --out folders")
    if root.exists() and not root.is_dir():
        raise RunError(f"{root} is a file: choose another --out")
    root.mkdir(parents=True, exist_ok=True)
    found: list[DataError | dict[str, float]] = []
    for path, name in zip(paths, names, strict=True):
        try:
            picture = open_image(Path(path)).convert("RGB")
            labels = label_map(model, picture, convert, inference)
        except DataError as error:
            found.append(error)
            continue
        except ValueError as error:  # too small for the network, say
            found.append(DataError(f"{path} cannot be classified: {error}"))
            continue
        _save(index_picture(labels, palette), root / f"{name}.png")
        counts = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
        there = np.flatnonzero(counts).tolist()
        legend = [classes[label] for label in there], [palette[label] for label in there]
        _save(with_legend(overlay(picture, labels, palette), *legend), root / f"{name}-overlay.png")
        found.append({classes[label]: float(counts[label]) for label in there})
    return found


def draw_examples(model: Segmenter, data: PixelData, convert: PixelConversion, inference: Inference, path: Path) -> None:
    """Some test images: as they are, under their labels, and under what the model says."""
    rows = []
    for at in data.test.spaced(_EXAMPLES):
        try:
            picture, labels = data.test.read(at)
        except DataError:  # the evaluation has named it
            continue
        said = label_map(model, picture, convert, inference)
        said[labels == IGNORE] = IGNORE
        size = _WIDE, max(1, round(picture.height * _WIDE / picture.width))
        shown = [picture, overlay(picture, labels, data.palette), overlay(picture, said, data.palette)]
        rows.append([each.resize(size, Image.Resampling.BILINEAR) for each in shown])
    if not rows:
        return
    sheet = Image.new("RGB", (3 * _WIDE + 8, sum(row[0].height + 4 for row in rows)), "white")
    top = 0
    for row in rows:
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * (_WIDE + 4), top))
        top += row[0].height + 4
    _save(with_legend(sheet, data.classes, data.palette), path)


def _save(picture: Image.Image, path: Path) -> None:
    with replaced(path) as temporary:
        picture.save(temporary, "PNG")
