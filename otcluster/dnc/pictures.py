"""Picture files, of whatever mode, as eight bits of grey or colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from otcluster.dnc.errors import DataError

_RANGES = (1, 255, 65535)


def open_image(path: Path, *, background: str = "white") -> Image.Image:
    """Read a picture, upright, as eight bits of grey (``"L"``) or colour (``"RGB"``).

    Grey of 16 bits is scaled down from its whole range, 0 to 65,535. Integers of 32 bits and floats do not say what their
    white is: it is taken to be the smallest of 1 (for floats), 255 and 65,535 that no value exceeds.

    Args:
        path: The file.
        background: What transparent pixels show.

    Raises:
        DataError: It cannot be read as a picture, or its values are in none of these ranges; the message names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _eight_bits(ImageOps.exif_transpose(image), background)
    except IsADirectoryError:
        raise DataError(f"{path} is a folder: pass the images in it, {path}/* say") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or error  # the name is said already
        raise DataError(f"{path} cannot be read as an image: {why}") from None


def _eight_bits(image: Image.Image, background: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values * (255 / _white(values, image.mode))).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _white(values: np.ndarray, mode: str) -> int:
    """The value that stands for white."""
    ranges = {"I": _RANGES[1:], "F": _RANGES}.get(mode, _RANGES[2:])
    least, most = values.min(), values.max()
    for white in ranges:
        if least >= 0 and most <= white:
            return white
    raise ValueError(f"its values run from {least:g} to {most:g}, 0 to {ranges[-1]:,} is understood: save it as 8 or 16 bits")
