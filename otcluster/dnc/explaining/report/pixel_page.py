"""The page of a report of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from otcluster.dnc.explaining.report.page import WHOLE, WORST, by_class, places_of, plane, rendered

OWNERS_SHOWN = 32
"""Of how many sub-centroids it is said what they own of an image."""


class Map(NamedTuple):
    """A picture of an explained image: its caption, a data URI, and what is said of it to those who do not see it."""

    caption: str
    uri: str
    alt: str


@dataclass(frozen=True)
class PixelPictures:
    """Pictures of a page, as data URIs.

    Attributes:
        patches: Of each sub-centroid, by its place on the page.
        samples: What the pixels of each sub-centroid look like in a map of owners, by its name.
        colours: Of the classes, by name, as HTML has them.
        explained: Of each explained image, in their order.
        similarity: How alike the sub-centroids are.
    """

    patches: Mapping[str, Sequence[str]]
    samples: Mapping[str, str]
    colours: Mapping[str, str]
    explained: Sequence[Sequence[Map]]
    similarity: str


def render_pixels(said: Mapping[str, Any], pictures: PixelPictures) -> str:
    """The page of what a report of pixels says; names of classes and files are text, whatever is in them.

    Args:
        said: As it is written to ``report.json``.
        pictures: What it shows.
    """
    images = list(enumerate(said["explained"]))
    return rendered(
        "pixels.html",
        said,
        patches=pictures.patches,
        samples=pictures.samples,
        colours=pictures.colours,
        shown=pictures.explained,
        similarity=pictures.similarity,
        thing="training pixel",
        gallery=by_class(said["model"]),
        places=places_of(said["model"]),
        plane=plane(said["model"], "training pixels"),
        confusion=_confusion(said),
        given=[(at, each) for at, each in images if each["group"] == "given"],
        tested=[(at, each) for at, each in images if each["group"] == "test"],
        owners_shown=OWNERS_SHOWN,
    )


def _confusion(said: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix as rows of a table, in parts of the true class."""
    classes, test, rows = said["model"]["classes"], said["test"], []
    for label, (name, row) in enumerate(zip(classes, test["confusion"], strict=True)):
        total = sum(row)
        cells = [
            {
                "name": other,
                "share": count / total if total else 0.0,
                "right": at == label,
                "strength": 0 if not count else min(4, 1 + int(4 * count / total)),
            }
            for at, (other, count) in enumerate(zip(classes, row, strict=True))
        ]
        wrong = sorted((each for each in cells if each["share"] and not each["right"]), key=lambda each: -each["share"])
        rows.append(
            {
                "name": name,
                "total": total,
                "iou": test["per_class"][name],
                "accuracy": row[label] / total if total else None,
                "cells": cells if len(classes) <= WHOLE else [],
                "worst": wrong[:WORST],
            }
        )
    return {"whole": len(classes) <= WHOLE, "rows": rows}
