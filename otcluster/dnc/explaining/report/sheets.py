"""Sheets of pictures as PNG files: the gallery of the sub-centroids, and why one image is of its class."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw

from otcluster.dnc.explaining.overview import Overview
from otcluster.dnc.explaining.report.page import shown_of
from otcluster.dnc.explaining.report.pictures import png_bytes
from otcluster.dnc.figures import label_font

_PANEL, _CELL, _THUMB, _IN_CELL = 192, 36, 32, 5
_MARGIN, _LINE = 12, 18
_PANELS, _ACROSS, _DOWN = 5, 4, 100  # panels of a card; sub-centroids side by side, and rows of them

_Read = Callable[[str], Image.Image | None]

Panels = tuple[Image.Image, Image.Image | None, Image.Image | None]
"""An image, its heat and its heat against the runner-up; None for what there is not."""


def draw_card(entry: dict[str, Any], panels: Panels, training: _Read) -> bytes:
    """Why an image is of its class: a PNG file.

    Args:
        entry: What the report says of it.
        panels: Its pictures.
        training: Gives a training image by name.
    """
    second = entry["runner_up"]
    captions = ["the image", f"for {entry['subcentroid']}", f"more than for {second['subcentroid'] if second else ''}"]
    shown: list[tuple[str, Image.Image | None]] = [
        (caption, panel) for caption, panel in zip(captions, panels, strict=True) if panel is not None
    ]
    for each in (entry, second):
        if each is not None and each["image"] is not None:
            what = "is this image" if each["is_image"] else "stands for images like this"
            shown.append((f"{each['subcentroid']} {what}", training(each["image"])))
    font, width = label_font(13), _PANELS * (_PANEL + _MARGIN) + _MARGIN
    truth = "" if entry["true"] is None else f", and is {entry['true']}"
    lines = wrapped(f"{entry['name']}: said to be {entry['class']} ({entry['share']:.1%}){truth}", 130)
    lines += [] if entry["known"] in (None, True) else wrapped(f"I do not know, {entry['verdict']}", 130)
    lines += wrapped(entry["rule"], 130)
    if second is not None:
        lines += wrapped(f"next: {second['subcentroid']}, which lost by {second['lost_by']:.3f}", 130)
    top = _MARGIN + 2 * _LINE
    sheet = Image.new("RGB", (width, top + _PANEL + 2 * _MARGIN + _LINE * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    for at, (caption, image) in enumerate(shown):
        left = _MARGIN + at * (_PANEL + _MARGIN)
        for row, part in enumerate(wrapped(caption, 26)[:2]):
            draw.text((left, _MARGIN + row * _LINE - 4), part, fill="black", font=font)
        _paste(sheet, draw, image, (left, top), _PANEL)
    for row, part in enumerate(lines):
        draw.text((_MARGIN, top + _PANEL + _MARGIN + row * _LINE), part, fill="black", font=font)
    return png_bytes(sheet)


def draw_gallery(found: Overview, training: _Read) -> bytes:
    """The sub-centroids with the training images nearest to them, row by row: a PNG file.

    Args:
        found: The model.
        training: Gives a training image by name.
    """
    font, cell = label_font(11), (_IN_CELL * _CELL + _MARGIN, _CELL + 2 * _LINE)
    shown = found.subcentroids[: _ACROSS * _DOWN]
    places: list[tuple[int, int]] = []  # a class begins a row
    for at, each in enumerate(shown):
        row, column = places[-1] if places else (-1, _ACROSS)
        is_next = column + 1 >= _ACROSS or each.place[0] != shown[at - 1].place[0]
        places.append((row + 1, 0) if is_next else (row, column + 1))
    sheet = Image.new("RGB", (_ACROSS * cell[0] + _MARGIN, (places[-1][0] + 1) * cell[1] + _MARGIN + _LINE), "white")
    draw = ImageDraw.Draw(sheet)
    rest = "" if len(shown) == len(found.subcentroids) else f", the first {len(shown)} of {len(found.subcentroids)}"
    draw.text((_MARGIN, _MARGIN), f"Sub-centroids and the training images nearest to each{rest}", fill="black", font=font)
    for each, (row, column) in zip(shown, places, strict=True):
        left, top = _MARGIN + column * cell[0], _MARGIN + _LINE + row * cell[1]
        label = wrapped(f"{each.name}: {each.size} ({each.share:.0%})", 30)[0]
        draw.text((left, top + 2), label, fill="black", font=font)
        for place, name in enumerate(shown_of(each.anchor, each.typical)[:_IN_CELL]):
            _paste(sheet, draw, training(name), (left + place * _CELL, top + _LINE), _THUMB)
    return png_bytes(sheet)


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image | None, at: tuple[int, int], side: int) -> None:
    """Put a picture there, as large as fits; one of few pixels shows them, and one that cannot be read is crossed out."""
    if image is None:
        corner = at[0] + side - 1, at[1] + side - 1
        draw.rectangle((*at, *corner), outline="grey")
        draw.line((*at, *corner), fill="grey")
        return
    scale = side / max(image.size)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    sheet.paste(image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC), at)


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many letters, at least one line, of whatever can be shown."""
    return textwrap.wrap("".join(each if each.isprintable() else " " for each in text), columns) or [""]
