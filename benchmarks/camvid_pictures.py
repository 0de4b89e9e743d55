"""What runs of ``benchmarks.camvid`` say of some test images, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from benchmarks.camvid import TITLES
from otcluster.dnc import DNCHead
from otcluster.dnc.pixels.labels import LabelMap
from otcluster.dnc.pixels.layouts import Colour
from otcluster.dnc.pixels.painting import index_picture
from otcluster.dnc.pixels.prediction import label_map
from otcluster.dnc.pixels.runs import PixelRun, conversion_of, inference_of, load_pixel_run
from otcluster.runs.errors import RunError
from otcluster.runs.files import replaced

_DARKEST, _LIGHTEST = -0.6, 0.6  # how far shades go from the colour of a class, to black and to white


def draw(out: Path, arms: Sequence[str], path: Path, *, n_images: int = 3, data_dir: str | None = None) -> None:
    """Draw a row for each image: itself, its labels, what each arm says, and whose pixels are which sub-centroid's.

    Args:
        out: Directory with the runs, ``<arm>-<seed>``; of each arm the one of the least seed is shown.
        arms: Which, in this order; those without a run are left out.
        path: The figure.
        n_images: How many test images, at even distances.
        data_dir: Where the images lie now. Default: where they lay.

    Raises:
        RunError: There is no run of any arm.
    """
    runs = {}
    for arm in arms:
        of_seeds = sorted((int(each.name.rpartition("-")[2]), each) for each in out.glob(f"{arm}-[0-9]*"))
        if of_seeds:
            runs[arm] = load_pixel_run(of_seeds[0][1], data_dir=data_dir)
    if not runs:
        raise RunError(f"{out} holds no run of {', '.join(arms)}")
    first = next(iter(runs.values()))
    data = first.load_data()
    places = np.unique(((np.arange(n_images) + 0.5) * len(data.test) / n_images).astype(int)).tolist()
    rows = [_row(runs, *data.test.read(at)) for at in places]
    shape = rows[0][0][1].shape
    n_columns = len(rows[0])
    width = 2.1 * n_columns
    figure = Figure(figsize=(width, 0.8 + (width / n_columns * shape[0] / shape[1] + 0.1) * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for at, (axes, row) in enumerate(zip(figure.subplots(len(rows), n_columns, squeeze=False), rows, strict=True)):
        for each, (title, pixels) in zip(axes, row, strict=True):
            each.imshow(pixels, interpolation="nearest")
            each.set_axis_off()
            if not at:
                each.set_title(title, fontsize=8)
    known = [*zip(first.classes, first.palette, strict=True), ("no label", (0, 0, 0))]
    patches = [Patch(facecolor=np.array(colour) / 255, edgecolor="black", label=name) for name, colour in known]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), fontsize=7, frameon=False)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=110)


def owner_picture(labels: LabelMap, owners: np.ndarray, palette: Sequence[Colour], k: int) -> np.ndarray:
    """Whose pixels are which sub-centroid's: the colour of the class, in a shade for each of its ``k`` sub-centroids.

    Args:
        labels: Classes, (h, w).
        owners: Sub-centroids of these classes, from 0, (h, w).
        palette: A colour for each class.
        k: How many sub-centroids a class has at most.

    Returns:
        uint8 (h, w, 3); the first sub-centroid is the darkest.
    """
    colours = np.array(palette, dtype=np.float64)[labels]
    shade = (_DARKEST + (_LIGHTEST - _DARKEST) * owners / max(1, k - 1) if k > 1 else np.zeros(labels.shape))[..., None]
    return np.rint(colours + (np.where(shade > 0, 255, 0) - colours) * np.abs(shade)).astype(np.uint8)


def _row(runs: dict[str, PixelRun], picture: Image.Image, labels: LabelMap) -> list[tuple[str, np.ndarray]]:
    palette = next(iter(runs.values())).palette
    row = [("image", np.asarray(picture.convert("RGB"))), ("labels", _painted(labels, palette))]
    for arm, run in runs.items():
        convert = conversion_of(run.recipe)
        row.append((TITLES[arm], _painted(label_map(run.model, picture, convert, inference_of(run.recipe)), palette)))
        head = run.model.head
        if arm == "dnc" and isinstance(head, DNCHead):
            parameter = next(run.model.network.parameters())
            found = run.model.predict(convert.image(picture)[None].to(parameter.device, parameter.dtype))
            assert found.subcentroids is not None
            classes, owners = (each[0].to(torch.int64).cpu().numpy() for each in (found.labels, found.subcentroids))
            row.append(("DNC: sub-centroids, as shades", owner_picture(classes, owners, palette, head.subcentroids.shape[1])))
    return row


def _painted(labels: LabelMap, palette: Sequence[Colour]) -> np.ndarray:
    return np.asarray(index_picture(labels, palette).convert("RGB"))
