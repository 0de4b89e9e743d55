"""Pictures of letters that are made as the digits of scikit-learn were: for what a model of digits has never seen."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from otcluster.dnc.data import Split

LETTERS = "ACEFHKMNPRTUVWXacdefhkmnprtuvwx"
LEFT_OUT = "BDGIJLOQSYZbgijloqsyz"
"""Letters that a digit looks like: 8, 0, 6, 1, 1, 1, 0, 0, 5, 4, 2; 6, 9, 1, 1, 1, 0, 9, 5, 4, 2."""
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold")
_SIDE, _BLOCK, _FINE = 32, 4, 4  # the digits are counts of black pixels in blocks of 4 x 4 of 32 x 32


def letters(n: int, seed: int = 0) -> Any:
    """Letters, uint8, (n, 8, 8), white on black in the digits' 17 levels of grey.

    Font, size, rotation (up to 20 degrees) and position are drawn. As the digits of UCI were, each is a bitmap of 32 x 32
    pixels, of which those that are set are counted in blocks of 4 x 4.

    Example:
        >>> pictures = letters(5)
        >>> pictures.shape, len(np.unique(letters(100))) == 17
        ((5, 8, 8), True)
    """
    rng = np.random.default_rng(seed)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    side = _SIDE * _FINE
    found = np.empty((n, 8, 8), np.uint8)
    for at in range(n):
        font = ImageFont.truetype(str(folder / f"{rng.choice(FONTS)}.ttf"), 4 * side // 5)
        canvas = Image.new("L", (2 * side, 2 * side))
        ImageDraw.Draw(canvas).text((side, side), str(rng.choice(list(LETTERS))), fill=255, font=font, anchor="mm")
        turned = canvas.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR)
        inked = turned.crop(turned.getbbox())
        height = rng.uniform(0.85, 1.0) * side  # digits fill the height
        scale = min(height / inked.height, side / inked.width)
        size = (max(1, round(inked.width * scale)), max(1, round(inked.height * scale)))
        page = Image.new("L", (side, side))
        left, top = (side - size[0]) // 2, (side - size[1]) // 2
        shift = rng.uniform(-1, 1, 2) * (min(left, side // 16), min(top, side // 16))
        page.paste(inked.resize(size, Image.Resampling.BILINEAR), (left + round(shift[0]), top + round(shift[1])))
        bitmap = np.asarray(page.resize((_SIDE, _SIDE), Image.Resampling.BOX)) > 127
        counts = bitmap.reshape(8, _BLOCK, 8, _BLOCK).sum(axis=(1, 3))
        found[at] = np.rint(counts * (255 / _BLOCK**2))
    return found


def as_split(pictures: Any) -> Split:
    """Pictures, uint8, (n, height, width) or (n, height, width, 3), as images to evaluate; their label, 0, means nothing."""
    n = len(pictures)
    names = [f"{at:05d}" for at in range(n)]
    return Split(torch.zeros(n, dtype=torch.int64), names, [(pictures[0].size, 0)] * n, partial(_nth, pictures))


def _nth(pictures: Any, at: int) -> Image.Image:
    return Image.fromarray(pictures[at])
