"""The owners of pixels as a picture: each class's colour in shades and hatchings, and the numbers of the sub-centroids."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from otcluster.dnc.figures import label_font
from otcluster.dnc.pixels.labels import LabelMap
from otcluster.dnc.pixels.layouts import Colour

Pixels = npt.NDArray[np.uint8]

_LIGHTNESS = (0.26, 0.4, 0.55, 0.7, 0.85)  # five can be told apart, then hatchings begin
_GREY, _VIVID = 0.08, 0.35  # saturation below which a class is grey, and what others have at least
_PERIOD = 6  # pixels of a hatching
_ROOM, _NUMBER = 8, 12  # how far from any border a number is written, and its size


def shades_of(colour: Colour, k: int) -> Pixels:
    """The colours of the sub-centroids of a class, (k, 3): its own hue in five shades, over and over.

    Example:
        >>> shades_of((128, 0, 0), 6)[[0, 4, 5]].tolist()
        [[133, 0, 0], [255, 178, 178], [133, 0, 0]]
    """
    hue, _, saturation = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    saturation = 0.0 if saturation < _GREY else max(saturation, _VIVID)
    found = [colorsys.hls_to_rgb(hue, _LIGHTNESS[at % len(_LIGHTNESS)], saturation) for at in range(k)]
    return np.rint(255 * np.array(found).reshape(k, 3)).astype(np.uint8)


def paint_owners(
    labels: LabelMap, subcentroids: npt.NDArray[np.int64], palette: Sequence[Colour], k: int, size: tuple[int, int]
) -> Image.Image:
    """A picture of the owners of pixels.

    Sub-centroid 1 to 5 of a class have its hue from dark to light, 6 to 10 the same under stripes, 11 to 15 under dots, and so
    on. Black lines part the classes, and whatever piece has room for it bears the number of its sub-centroid, from 1.

    Args:
        labels: Class of each pixel, (height, width).
        subcentroids: Which sub-centroid of it, (height, width), from 0.
        palette: A colour for each class.
        k: Sub-centroids of a class.
        size: Width and height of the picture.
    """
    width, height = size
    rows, columns = (np.arange(to) * of // to for to, of in zip((height, width), labels.shape, strict=True))
    of_class, owner = labels[rows[:, None], columns], subcentroids[rows[:, None], columns]
    pixels = _painted(of_class, owner, np.stack([shades_of(colour, k) for colour in palette]))
    pixels[_edges(of_class)] = 0
    picture = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(picture), label_font(_NUMBER)
    code = of_class.astype(np.int64) * k + owner
    inside = np.pad(~(_edges(code) | _edges(code[::-1, ::-1])[::-1, ::-1]), 1)
    away = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
    for one in np.unique(code[away >= _ROOM]).tolist():
        pieces, n = ndimage.label(code == one)
        for row, column in ndimage.maximum_position(away, pieces, range(1, n + 1)):
            if away[row, column] >= _ROOM:
                text, place = str(one % k + 1), (int(column), int(row))
                pen.text(place, text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    return picture


def swatch(colour: Colour, subcentroid: int, size: tuple[int, int] = (24, 14)) -> Image.Image:
    """What the pixels of a sub-centroid look like, in a frame.

    Args:
        colour: Of the class.
        subcentroid: Which of it, from 0.
        size: Width and height.
    """
    owner = np.full(size[::-1], subcentroid)
    pixels = _painted(np.zeros_like(owner), owner, shades_of(colour, subcentroid + 1)[None])
    pixels[[0, -1]] = pixels[:, [0, -1]] = 0
    return Image.fromarray(pixels)


def _painted(of_class: npt.NDArray[np.integer], owner: npt.NDArray[np.int64], shades: Pixels) -> Pixels:
    """Shades (n_classes, k, 3) under the hatchings of their sub-centroids."""
    rows, columns = np.ogrid[: owner.shape[0], : owner.shape[1]]
    up, down = (rows + columns) % _PERIOD < 2, (rows - columns) % _PERIOD < 2
    dots = (rows % _PERIOD < 3) & (columns % _PERIOD < 3)
    hatchings = np.stack([np.zeros_like(up), up, dots, down, up | down])
    hatched = np.take_along_axis(hatchings, (owner // len(_LIGHTNESS) % len(hatchings))[None], axis=0)[0]
    colours = shades[of_class, owner].astype(np.float64)
    # Dark on light, light on dark.
    ink = np.where(colours.mean(axis=2, keepdims=True) > 127, 0.0, 255.0)
    return np.rint(np.where(hatched[:, :, None], 0.4 * colours + 0.6 * ink, colours)).astype(np.uint8)


def _edges(values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Which pixels have another value below or on the right."""
    found = np.zeros(values.shape, bool)
    found[:-1] |= values[:-1] != values[1:]
    found[:, :-1] |= values[:, :-1] != values[:, 1:]
    return found
