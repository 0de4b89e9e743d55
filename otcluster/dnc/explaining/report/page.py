"""The page of a report: one HTML file that asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from otcluster.dnc.explaining.report.pictures import Picture

_HERE = Path(__file__).parent
_WIDTH, _HEIGHT, _EDGE = 720, 480, 48  # of the map
_COLOURS = 10
_APART, _LETTER, _LETTERS = 20, 11, 24  # pixels between points and names, of a letter, and letters of a name
WHOLE = 60  # classes, up to which the confusion matrix has a column for each
WORST = 3  # or else so many of the classes that a class is taken for
_LABELLED = 80  # classes whose names are on the map
_GROUPS = {
    "given": ("The pictures", "What the model says of the pictures that were given, and why."),
    "failure": ("Failures", "Test images that the model takes for another class, kind by kind, the most frequent kind first."),
    "close": ("Closest calls", "Test images that it gets right, where the next class lost by least."),
    "sure": ("Surest", "Test images that it gets right, where no other class came near."),
}


@dataclass(frozen=True)
class Shown:
    """Pictures of an explained image.

    Attributes:
        picture: The image.
        heat: What each place gives to the cosine of the winner, over it; None where there is none.
        heat_against: The same, less what it gives to that of the runner-up.
    """

    picture: Picture
    heat: Picture | None
    heat_against: Picture | None


@dataclass(frozen=True)
class PagePictures:
    """Pictures of a page.

    Attributes:
        training: Training images by name, small; None for those that cannot be read.
        large: Those of them that stand for a sub-centroid which won or came second, as large as explained images are.
        explained: Of each explained image, in their order.
        similarity: How alike the sub-centroids are, as a data URI.
    """

    training: Mapping[str, Picture | None]
    large: Mapping[str, Picture | None]
    explained: Sequence[Shown]
    similarity: str


def render(said: Mapping[str, Any], pictures: PagePictures) -> str:
    """The page of what a report says.

    Names of classes and files are text, whatever is in them: everything is escaped, and the page forbids itself to run any
    other script than its own and to load anything.

    Args:
        said: From :func:`otcluster.dnc.explaining.report.content.content`.
        pictures: What it shows.
    """
    return rendered(
        "images.html",
        said,
        training=pictures.training,
        large=pictures.large,
        shown=pictures.explained,
        similarity=pictures.similarity,
        thing="training image",
        gallery=_gallery(said["model"]),
        places=places_of(said["model"]),
        plane=plane(said["model"], "training images"),
        confusion=_confusion(said),
        groups=_groups(said["explained"]),
        heat_words=heat_words,
    )


def rendered(template: str, said: Mapping[str, Any], **more: Any) -> str:
    """A page of a template beside this file, which extends ``base.html``.

    Args:
        template: Its name.
        said: What the report says.
        more: What else the template uses.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    environment.filters["cosine"] = lambda value: f"{value:.3f}"
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return environment.get_template(template).render(
        said,
        policy=f"{policy}; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # ours, and not a word in it is of others
        script=Markup(script),
        **more,
    )


def places_of(model: Mapping[str, Any]) -> dict[str, str]:
    """Where on the page each sub-centroid is shown, by name."""
    return {each["name"]: f"subcentroid-{at}" for at, each in enumerate(model["subcentroids"])}


def _hash(text: str) -> str:
    """By which a page names what of itself may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def heat_words(heat: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A heat map in numbers: its size, its sum, and the strongest and the weakest place, counted from 1.

    Example:
        >>> heat_words([[0.1, 0.5], [-0.2, 0.0]])["most"]
        {'value': 0.5, 'row': 1, 'column': 2}
    """
    places = [
        {"value": value, "row": row, "column": column}
        for row, line in enumerate(heat, 1)
        for column, value in enumerate(line, 1)
    ]
    return {
        "size": f"{len(heat)} × {len(heat[0])}",
        "sum": sum(each["value"] for each in places),
        "most": max(places, key=lambda each: each["value"]),
        "least": min(places, key=lambda each: each["value"]),
    }


def shown_of(anchor: str | None, typical: Sequence[str]) -> list[str]:
    """The images by which a sub-centroid is shown: the one that it is, and those nearest to it."""
    return list(dict.fromkeys([*([] if anchor is None else [anchor]), *typical]))


def _gallery(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sub-centroids, class by class, each with its images and with what is odd about it."""
    found = by_class(model)
    for one in found:
        for each in one["subcentroids"]:
            each["shown"] = shown_of(each["anchor"], each["typical"])
    return found


def by_class(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sub-centroids, class by class, each with what is odd about it."""
    twins: dict[str, list[str]] = {}
    for pair in model["duplicates"]:
        twins.setdefault(pair["first"], []).append(pair["second"])
        twins.setdefault(pair["second"], []).append(pair["first"])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in model["classes"]}
    for at, each in enumerate(model["subcentroids"]):
        own = {**each, "id": f"subcentroid-{at}", "dead": each["name"] in model["dead"], "twins": twins.get(each["name"], [])}
        found[each["class"]].append(own)
    return [{"name": name, "subcentroids": own} for name, own in found.items()]


def plane(model: Mapping[str, Any], things: str) -> dict[str, Any]:
    """The map in pixels: points, and the middle of each class.

    Args:
        model: What the report says of it.
        things: What the sizes of sub-centroids count.
    """
    xs, ys = ([place[axis] for place in model["map"]] for axis in (0, 1))
    wide, high = max(xs) - min(xs), max(ys) - min(ys)
    scale = min((_WIDTH - 2 * _EDGE) / max(wide, 1e-9), (_HEIGHT - 2 * _EDGE) / max(high, 1e-9)) if wide or high else 0.0
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    labels = {name: label for label, name in enumerate(model["classes"])}
    classes: list[dict[str, Any]] = [{"name": name, "points": []} for name in model["classes"]]
    for each, x, y in zip(model["subcentroids"], xs, ys, strict=True):
        point = {
            "x": round(_WIDTH / 2 + (x - middle[0]) * scale, 1),
            "y": round(_HEIGHT / 2 - (y - middle[1]) * scale, 1),
            "r": round(3 + 5 * each["share"] ** 0.5, 1),
            "title": f"{each['name']}, class {each['class']}, {each['size']} {things}",
        }
        classes[labels[each["class"]]]["points"].append(point)
    for label, one in enumerate(classes):
        points = one["points"]
        one["colour"] = label % _COLOURS
        one["x"], one["y"] = (round(sum(each[axis] for each in points) / max(len(points), 1), 1) for axis in ("x", "y"))
        one["label"] = _label(one)
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "classes": [one for one in classes if one["points"]],
        "named": len(classes) <= _LABELLED,
        "kept": model["map_kept"],
    }


def _label(one: Mapping[str, Any]) -> dict[str, float]:
    """Where the name of a class is written: beyond its points, seen from the middle of the map, and inside of it."""
    across, down = one["x"] - _WIDTH / 2, one["y"] - _HEIGHT / 2
    length = (across**2 + down**2) ** 0.5
    across, down = (across / length, down / length) if length > 1 else (0.0, -1.0)
    beyond = [(each["x"] - one["x"]) * across + (each["y"] - one["y"]) * down for each in one["points"]]
    away = max(beyond, default=0.0) + _APART
    half = _LETTER * min(len(one["name"]), _LETTERS) / 2
    x = min(max(one["x"] + away * across, half), _WIDTH - half)
    return {"x": round(x, 1), "y": round(min(max(one["y"] + away * down, _APART), _HEIGHT - _APART), 1)}


def _confusion(said: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix as rows of a table; a cell leads to the first of its failures that is explained."""
    classes, counts = said["model"]["classes"], said["test"]["confusion"]
    first: dict[tuple[str, str], int] = {}
    for at, each in enumerate(said["explained"]):
        if each["right"] is False:
            first.setdefault((each["true"], each["class"]), at)
    rows = []
    for name, row, label in zip(classes, counts, range(len(classes)), strict=True):
        total = sum(row)
        cells = [
            {
                "name": other,
                "count": count,
                "right": name == other,
                "strength": 0 if not count else min(4, 1 + int(4 * count / total)),
                "link": first.get((name, other)),
            }
            for other, count in zip(classes, row, strict=True)
        ]
        worst = sorted((each for each in cells if each["count"] and not each["right"]), key=lambda each: -each["count"])
        rows.append(
            {
                "name": name,
                "total": total,
                "accuracy": row[label] / total if total else None,
                "cells": cells if len(classes) <= WHOLE else [],
                "worst": worst[:WORST],
            }
        )
    return {"whole": len(classes) <= WHOLE, "rows": rows}


def _groups(explained: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The explained images, by why they are shown; each with its place among all of them."""
    found = []
    for key, (title, text) in _GROUPS.items():
        images = [(at, each) for at, each in enumerate(explained) if each["group"] == key]
        if images:
            found.append({"key": key, "title": title, "text": text, "images": images})
    return found
