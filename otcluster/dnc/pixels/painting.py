"""Maps of classes as pictures: with a palette, and over the image that they are of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from otcluster.dnc.pixels.labels import IGNORE, LabelMap
from otcluster.dnc.pixels.layouts import Colour

_ROW = 14  # pixels of a line of the legend


def index_picture(labels: LabelMap, palette: Sequence[Colour]) -> Image.Image:
    """A picture whose values are the labels, and which is shown in the colours of the palette; save it as PNG.

    Args:
        labels: uint8 (height, width).
        palette: A colour for each class; what is ``IGNORE`` is shown black.
    """
    picture = Image.fromarray(np.ascontiguousarray(labels), mode="P")
    picture.putpalette([part for colour in _colours(palette).tolist() for part in colour])
    return picture


def overlay(image: Image.Image, labels: LabelMap, palette: Sequence[Colour], *, strength: float = 0.55) -> Image.Image:
    """An image under the colours of its classes; pixels that are ``IGNORE`` show the image alone.

    Raises:
        ValueError: The map is of another size.
    """
    if labels.shape != image.size[::-1]:
        raise ValueError(
            f"labels must be of the size of the image, {image.height} x {image.width} (height, width), got {labels.shape}"
        )
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    much = np.where(labels == IGNORE, 0.0, strength)[:, :, None]
    return Image.fromarray(np.rint(pixels * (1 - much) + _colours(palette)[labels] * much).astype(np.uint8))


def with_legend(picture: Image.Image, classes: Sequence[str], palette: Sequence[Colour]) -> Image.Image:
    """A picture with the names of classes, each in its colour, below it."""
    per_row = max(1, picture.width // 110)
    rows = -(-len(classes) // per_row)
    whole = Image.new("RGB", (picture.width, picture.height + rows * _ROW + 4), "white")
    whole.paste(picture.convert("RGB"), (0, 0))
    pen = ImageDraw.Draw(whole)
    for at, (name, colour) in enumerate(zip(classes, palette, strict=True)):
        left, top = (at % per_row) * (picture.width // per_row) + 2, picture.height + (at // per_row) * _ROW + 3
        pen.rectangle((left, top, left + 9, top + 9), fill=colour, outline="black")
        pen.text((left + 13, top - 1), name[:16], fill="black")
    return whole


def _colours(palette: Sequence[Colour]) -> np.ndarray:
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours
