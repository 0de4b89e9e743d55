"""Sheets of a report of pixels as PNG files: the patches of a class, and who owns the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from otcluster.dnc.explaining.report.pictures import png_bytes
from otcluster.dnc.explaining.report.sheets import wrapped
from otcluster.dnc.figures import label_font
from otcluster.dnc.pixels.layouts import Colour
from otcluster.dnc.pixels.patches import Patch
from otcluster.dnc.pixels.shades import swatch

CELL = 96
"""How wide and high a patch is shown."""

_LONGEST = 480  # side of a picture
_MARGIN, _LINE, _TEXT, _RING = 12, 18, 200, 5
_BEYOND = "#9aa0a6"  # where an image ends
_COLUMN = 300  # of a legend


@dataclass(frozen=True)
class Row:
    """A sub-centroid on the sheet of its class.

    Attributes:
        subcentroid: Which, from 0.
        lines: What is said of it.
        cells: Its patches, from :func:`marked`.
    """

    subcentroid: int
    lines: Sequence[str]
    cells: Sequence[Image.Image]


def marked(patch: Patch, picture: Image.Image) -> Image.Image:
    """A patch of an image with a ring around its middle; beyond the image it is grey, so that the middle is in the middle."""
    whole = Image.new("RGB", (patch.side, patch.side), _BEYOND)
    corner = patch.column - patch.side // 2, patch.row - patch.side // 2
    whole.paste(patch.cut(picture.convert("RGB")), (patch.box[0] - corner[0], patch.box[1] - corner[1]))
    kind = Image.Resampling.NEAREST if patch.side < CELL else Image.Resampling.BICUBIC
    cell, middle = whole.resize((CELL, CELL), kind), (patch.side // 2 + 0.5) * CELL / patch.side
    pen = ImageDraw.Draw(cell)
    for radius, colour in ((_RING + 1, "black"), (_RING, "white"), (_RING - 1, "black")):
        pen.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), outline=colour)
    return cell


def shown_size(picture: Image.Image) -> tuple[int, int]:
    """How wide and high a picture is shown."""
    scale = _LONGEST / max(picture.size)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def draw_patches(name: str, colour: Colour, rows: Sequence[Row]) -> bytes:
    """The sub-centroids of a class, a row each, with the places nearest to them: a PNG file.

    Args:
        name: Of the class.
        colour: Of the class.
        rows: Its sub-centroids.
    """
    font, small = label_font(13), label_font(11)
    across = max([1, *(len(row.cells) for row in rows)])
    width = _TEXT + across * (CELL + 4) + 2 * _MARGIN
    head = wrapped(f"{name}: its sub-centroids, and the training pixels of the class nearest to each", width // 8)
    top = _MARGIN + len(head) * _LINE + 4
    sheet = Image.new("RGB", (width, top + max(len(rows), 1) * (CELL + 4) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for at, line in enumerate(head):
        pen.text((_MARGIN, _MARGIN + at * _LINE), line, fill="black", font=font)
    for at, row in enumerate(rows):
        upper = top + at * (CELL + 4)
        sheet.paste(swatch(colour, row.subcentroid), (_MARGIN, upper + 2))
        for line_at, line in enumerate([part for text in row.lines for part in wrapped(text, 27)][:5]):
            left = _MARGIN + (30 if line_at == 0 else 0)
            pen.text((left, upper + line_at * _LINE), line, fill="black", font=small)
        for place, cell in enumerate(row.cells):
            sheet.paste(cell, (_MARGIN + _TEXT + place * (CELL + 4), upper))
    return png_bytes(sheet, quick=True)


def draw_owners(
    title: str, panels: Sequence[tuple[str, Image.Image]], legend: Sequence[tuple[Image.Image, str]], more: str
) -> bytes:
    """An image, what is true of it, what is predicted, and who owns its pixels: a PNG file.

    Args:
        title: What it shows.
        panels: Captions and pictures, of one size.
        legend: What each owner looks like in the last of them, and what is said of it.
        more: A line below the legend; may be empty.
    """
    font, (wide, high) = label_font(13), panels[0][1].size
    width = max(2 * (wide + _MARGIN), _COLUMN) + _MARGIN
    head, below = wrapped(title, width // 8), wrapped(more, width // 8) if more else []
    per_row = max(1, (width - _MARGIN) // _COLUMN)
    lines = -(-len(legend) // per_row)
    top, cell = _MARGIN + len(head) * _LINE, high + _LINE + _MARGIN
    bottom = top + -(-len(panels) // 2) * cell
    sheet = Image.new("RGB", (width, bottom + (lines + len(below)) * _LINE + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for at, line in enumerate(head):
        pen.text((_MARGIN, _MARGIN + at * _LINE), line, fill="black", font=font)
    for at, (caption, picture) in enumerate(panels):
        left, upper = _MARGIN + at % 2 * (wide + _MARGIN), top + at // 2 * cell
        pen.text((left, upper), wrapped(caption, max(wide // 8, 12))[0], fill="black", font=font)
        sheet.paste(picture, (left, upper + _LINE))
    for at, (sample, text) in enumerate(legend):
        left, upper = _MARGIN + at % per_row * _COLUMN, bottom + at // per_row * _LINE
        sheet.paste(sample, (left, upper + 1))
        pen.text((left + sample.width + 6, upper), wrapped(text, 36)[0], fill="black", font=font)
    for at, line in enumerate(below):
        pen.text((_MARGIN, bottom + (lines + at) * _LINE), line, fill="black", font=font)
    return png_bytes(sheet, quick=True)
