"""Drawings of a report: the map of the sub-centroids, how alike they are, and which classes are taken for which."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from otcluster.dnc.explaining.overview import Overview

_NAMED = 40  # names on the axes, at most
_COUNTED = 25  # classes whose numbers are written into the cells
_COLOURS = 10
_APART = 14  # points between a class and its name


def draw_map(found: Overview) -> bytes:
    """The sub-centroids on a plane, those of a class tied to their middle, and its name beyond them: a PNG file."""
    figure, axes = _figure(6.4, 6.0)
    places = found.map.numpy()
    for label, name in enumerate(found.classes):
        rows = [row for row, each in enumerate(found.subcentroids) if each.place[0] == label]
        if not rows:
            continue
        own, colour = places[rows], f"C{label % _COLOURS}"
        middle = own.mean(axis=0)
        for x, y in own:
            axes.plot([middle[0], x], [middle[1], y], color=colour, alpha=0.4, linewidth=1)
        axes.scatter(own[:, 0], own[:, 1], s=[20 + 80 * found.subcentroids[row].share for row in rows], color=colour)
        length = float(np.hypot(*middle))
        away = middle / length if length > 1e-6 else np.asarray([0.0, 1.0])
        farthest = middle + away * ((own - middle) @ away).max()  # seen from the middle of the map
        axes.annotate(
            name, (farthest[0], farthest[1]), (away[0] * _APART, away[1] * _APART), textcoords="offset points",
            ha="center", va="center", fontsize=9, parse_math=False,
        )  # fmt: skip
    axes.margins(0.12)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("radians")
    axes.set_ylabel("radians")
    axes.grid(alpha=0.3)
    kept = "" if found.map_kept is None else f": distances on it and angles correlate by {found.map_kept:.2f}"
    figure.suptitle(f"Map of the sub-centroids{kept}", fontsize=10)
    return _png(figure)


def draw_similarity(found: Overview) -> bytes:
    """The cosines between all sub-centroids: a PNG file."""
    figure, axes = _figure(6.8, 6.0)
    image = axes.imshow(found.cosines.numpy(), vmin=-1, vmax=1, cmap="PuOr_r", interpolation="nearest")
    if len(found.subcentroids) <= _NAMED:
        _name(axes, [each.name for each in found.subcentroids], 6)
    else:  # or else classes, where there is room for them
        labels = [each.place[0] for each in found.subcentroids]
        starts = [at for at, label in enumerate(labels) if at == 0 or labels[at - 1] != label]
        if len(starts) <= _NAMED:
            _name(axes, [found.classes[labels[at]] for at in starts], 7, starts)
    figure.colorbar(image, ax=axes, shrink=0.8, label="cosine")
    figure.suptitle("How alike the sub-centroids are", fontsize=10)
    return _png(figure)


def draw_confusion(confusion: list[list[int]], classes: list[str], *, of_pixels: bool = False) -> bytes:
    """Of each class, a row, as which classes its test images were predicted: a PNG file.

    Args:
        confusion: How many of each class (rows) were predicted as each (columns).
        classes: Their names.
        of_pixels: Whether these are pixels; of so many, parts are written into the cells, in percent.
    """
    figure, axes = _figure(6.8, 6.0)
    counts: npt.NDArray[Any] = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    if len(classes) <= _NAMED:
        _name(axes, classes, 8)
    if len(classes) <= _COUNTED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            said = f"{shares[row, column]:.0%}".rstrip("%") if of_pixels else f"{counts[row, column]}"
            axes.text(column, row, said, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class")
    figure.suptitle(f"Confusion matrix of the {'pixels of the ' if of_pixels else ''}test images", fontsize=10)
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _name(axes: Axes, names: list[str], size: int, at: list[int] | None = None) -> None:
    short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    places = list(range(len(names))) if at is None else at
    axes.set_xticks(places)
    axes.set_xticklabels(short, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places)
    axes.set_yticklabels(short, fontsize=size, parse_math=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()
