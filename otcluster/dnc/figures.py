"""Pictures of a run: its curves, and the training images nearest to each sub-centroid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageFont
from torch import Tensor

from otcluster.runs.files import replaced

Pictures = Callable[[int, int, int], list[Image.Image]]
"""Some pictures of a class and a sub-centroid of it, at most so many."""

_SHOWN = 6
_SIDE = 32
_GAP = 12  # between rows, and between sub-centroids
_CLASSES_SHOWN = 20


def draw_curves(history: list[dict[str, Any]], path: Path, title: str, measure: str = "accuracy") -> None:
    """Loss and accuracy against the epoch; ``measure`` is that of the test."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["train_loss"] for row in history], marker="o", markersize=3)
    loss.set_ylabel("training loss (nats)")
    accuracy.plot(epochs, [row["train_accuracy"] for row in history], marker="o", markersize=3, label="training, augmented")
    tested = [row for row in history if row[f"test_{measure}"] is not None]
    where, values = [row["epoch"] for row in tested], [row[f"test_{measure}"] for row in tested]
    accuracy.plot(where, values, marker="o", markersize=3, label="test" if measure == "accuracy" else f"test, {measure}")
    accuracy.set_ylabel("accuracy" if measure == "accuracy" else f"accuracy, {measure}")
    accuracy.legend()
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.suptitle(title, parse_math=False)
    _save(figure, path)


def draw_subcentroids(pictures: Pictures, sizes: Tensor, classes: list[str], path: Path, what: str = "Training images") -> None:
    """A row for each class, a column for each sub-centroid that owns something, and in each cell what is nearest to it.

    Args:
        pictures: Those of a class and a sub-centroid, the nearest first, and as many as are asked for at most.
        sizes: What each sub-centroid owns, (n_classes, n_subcentroids).
        classes: Names of the classes.
        path: Where the picture goes.
        what: For the title.
    """
    shown = min(len(classes), _CLASSES_SHOWN)
    slots = np.flatnonzero(sizes.sum(dim=0).numpy()).tolist()
    height, width = _SIDE + _GAP, _SHOWN * (_SIDE + 1) + _GAP
    sheet = np.full((shown * height, max(len(slots), 1) * width, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(1.2 + 2.6 * len(slots), 0.6 + 0.46 * shown), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()  # one for all: a grid of them takes ten times as long to lay out
    for label in range(shown):
        for column, subcentroid in enumerate(slots):
            top, left = label * height, column * width
            strip = _strip(pictures(label, subcentroid, _SHOWN))
            sheet[top : top + strip.shape[0], left : left + strip.shape[1]] = strip
            axes.text(
                left + width - _GAP - 3, top + _SIDE - 3, f"{int(sizes[label, subcentroid])}", ha="right", va="bottom",
                fontsize=7, color="white", bbox={"facecolor": "black", "alpha": 0.6, "pad": 1, "linewidth": 0},
            )  # fmt: skip
    axes.imshow(sheet)
    middle = _SIDE / 2
    axes.set_yticks([label * height + middle for label in range(shown)])
    axes.set_yticklabels(classes[:shown], fontsize=9, parse_math=False)
    axes.set_xticks([(column + 0.5) * width - _GAP / 2 for column in range(len(slots))])
    axes.set_xticklabels([f"sub-centroid {subcentroid + 1}" for subcentroid in slots], fontsize=9)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    rest = f" (the first {shown} of {len(classes)} classes)" if shown < len(classes) else ""
    figure.suptitle(f"{what} nearest to each sub-centroid, and how many it owns{rest}", fontsize=10)
    _save(figure, path)


def label_font(size: int) -> ImageFont.FreeTypeFont:
    """The one that comes with matplotlib, which has the letters of many languages."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _strip(images: list[Image.Image]) -> npt.NDArray[np.uint8]:
    """Thumbnails side by side; empty places stay white."""
    strip = np.full((_SIDE, _SHOWN * (_SIDE + 1), 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        left = place * (_SIDE + 1)
        small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        strip[:, left : left + _SIDE] = np.asarray(small)
    return strip


def _save(figure: Figure, path: Path) -> None:
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=130)
