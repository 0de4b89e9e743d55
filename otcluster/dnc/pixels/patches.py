"""What sub-centroids of pixels stand for: the places in training images that are nearest to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from otcluster.checks import check_whole
from otcluster.dnc.classes import need_cosines
from otcluster.dnc.head import DNCHead
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import PixelSplit
from otcluster.dnc.pixels.owners import features_of, readable
from otcluster.dnc.pixels.runs import PixelRun
from otcluster.dnc.pixels.sampling import grid_labels, middles

Box = tuple[int, int, int, int]

_SIDE = 96  # pixels of an image, some features wide
_AT_ONCE = 1 << 24  # numbers of the sub-centroids that features are compared with


@dataclass(frozen=True)
class Patch:
    """A place in a training image, and what lies around it.

    Attributes:
        image: Which training image, counted from 0.
        name: Its name.
        row, column: The pixel in the middle of what the feature stands for, in the image as it is in its file.
        box: Left, upper, right and lower edge of the patch, as PIL has them: ``side`` pixels around the middle, cut where the
            image ends.
        side: How wide and high it is where it is not cut.
        cosine: Of the feature and the sub-centroid.
    """

    image: int
    name: str
    row: int
    column: int
    box: Box
    side: int
    cosine: float

    def cut(self, picture: Image.Image) -> Image.Image:
        """The patch of the image; its middle lies at (column - left, row - upper)."""
        return picture.crop(self.box)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"image": self.name, "row": self.row, "column": self.column, "box": list(self.box), "cosine": self.cosine}


@dataclass(frozen=True)
class TypicalPatches:
    """The places nearest to the sub-centroids of a run.

    Attributes:
        patches: Of each class, of each of its sub-centroids, the nearest places, the nearest first, each in another image;
            fewer than asked for where fewer images show the class.
        sizes: Of how many training pixels of its class each sub-centroid is the nearest, (n_classes, k). These pixels are those
            in the middle of what a feature stands for: one for each feature.
        n_images: How many training images were read.
    """

    patches: tuple[tuple[tuple[Patch, ...], ...], ...]
    sizes: Tensor
    n_images: int

    def of(self, label: int, subcentroid: int) -> tuple[Patch, ...]:
        """Those of one sub-centroid, the nearest first."""
        return self.patches[label][subcentroid]

    def pictures(self, split: PixelSplit) -> Callable[[int, int, int], list[Image.Image]]:
        """What cuts, of the places of a class and a sub-centroid, the nearest ones, at most so many, out of their images."""

        def nearest(label: int, subcentroid: int, most: int) -> list[Image.Image]:
            return [patch.cut(split.read(patch.image)[0]) for patch in self.of(label, subcentroid)[:most]]

        return nearest

    def names(self, label: int, subcentroid: int) -> list[str]:
        """The images that these are in."""
        return [patch.name for patch in self.of(label, subcentroid)]


@torch.no_grad()
def typical_patches(
    run: PixelRun,
    *,
    n: int = 6,
    side: int | None = None,
    n_images: int | None = None,
    after_image: Callable[[], None] | None = None,
) -> TypicalPatches:
    """Find what each sub-centroid stands for: the training pixels of its class whose features are nearest to it.

    The images are looked at one after the other, whole and not varied, and of each the nearest pixel to each sub-centroid is
    compared with the best so far: what is held is a number for each class, sub-centroid and place that is kept.

    Args:
        run: From :func:`otcluster.dnc.pixels.runs.load_pixel_run`; its head is one of sub-centroids, compared by cosine. Its
            images must be where they were, or where ``data_dir`` said.
        n: How many places of each sub-centroid, at most, one an image.
        side: How wide and high patches are, in pixels of the image. Default: 96, or half the longer side of an image where
            that is less.
        n_images: How many of the training images are looked at, at equal distances in their order. Default: all.
        after_image: Called after each image.

    Returns:
        Patches by class and sub-centroid. Of a class that no training pixel is of there are none.

    Raises:
        TypeError: The head has no sub-centroids or weights for each class, or a number is no whole number.
        ValueError: The head compares by distance, a number is not positive, or features are not finite.
        DataError: An image or map cannot be read, or is too small for the network; where the recipe has ``data.broken=skip``,
            what cannot be read is left out.
        RunError: The images are of other classes.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from otcluster.dnc import load_recipe, train
        >>> from otcluster.dnc.pixels.runs import load_pixel_run
        >>> pixels = np.zeros((48, 64), np.uint8)
        >>> pixels[:, 32:] = 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train/images", "train/labels", "test/images", "test/labels"):
        ...         Path(folder, part).mkdir(parents=True)
        ...         for at in range(2):
        ...             Image.fromarray(pixels * (200 if "images" in part else 1)).save(Path(folder, part, f"{at}.png"))
        ...     changes = ["data.kind=pixel-folders", f"data.dir={folder}", "data.batch_size=2", "train.epochs=1"]
        ...     small = ["pixels.resize=null", "pixels.crop=[48,64]", "pixels.dim=16"]
        ...     _ = train(load_recipe("camvid-fcn-resnet18", [*changes, *small]), folder + "/run")
        ...     found = typical_patches(load_pixel_run(folder + "/run"), n=1)
        >>> place = found.of(1, 0)[0]
        >>> place.column > 32, place.box[2] <= 64
        (True, True)
    """
    head = need_cosines(run.model.head, "patches are found")
    n, side = check_whole("n", n, 1), None if side is None else check_whole("side", side, 1)
    split = run.load_data().train
    some = None if n_images is None else split.spaced(check_whole("n_images", n_images, 1))
    device, dtype = head.subcentroids.device, head.subcentroids.dtype
    shape = head.subcentroids.shape[:2]
    best = torch.full((*shape, n), -torch.inf, dtype=dtype, device=device)
    places = torch.zeros((*shape, n, 5), dtype=torch.int64, device=device)
    sizes = torch.zeros(shape[0] * shape[1], dtype=torch.int64, device=device)
    n_read = 0
    for index, picture, true in readable(run, split, some):
        features = features_of(run, picture, split.names[index])
        grid = (features.shape[2], features.shape[3])
        labels = grid_labels(torch.from_numpy(true)[None].to(torch.int64), grid).flatten().to(device)
        known = torch.nonzero(labels != IGNORE)[:, 0]
        cosines = _own(head, features[0].flatten(1).T[known], labels[known])
        sizes += torch.bincount(labels[known] * shape[1] + cosines.argmax(dim=1), minlength=len(sizes))
        value, row = _nearest(cosines, labels[known], shape)
        where = known[row.clamp(max=max(len(known) - 1, 0))] if len(known) else row
        rows, columns = (middles(to, of, device) for to, of in zip(grid, true.shape, strict=True))
        place = torch.stack([rows[where // grid[1]], columns[where % grid[1]]], dim=-1)
        told = torch.tensor([index, *true.shape], device=device).expand(*shape, 3)
        best, places = _merged(best, places, value, torch.cat([told, place], dim=-1))
        n_read += 1
        if after_image is not None:
            after_image()
    found = zip(best.tolist(), places.tolist(), strict=True)
    return TypicalPatches(
        tuple(
            tuple(
                tuple(_patch(value, place, split.names, side) for value, place in zip(*own, strict=True) if value >= -1.5)
                for own in zip(*of_class, strict=True)
            )
            for of_class in found
        ),
        sizes.view(shape).cpu(),
        n_read,
    )


def _own(head: DNCHead, rows: Tensor, labels: Tensor) -> Tensor:
    """Cosines of features to the sub-centroids of their class, (m, k), in parts."""
    most = max(1, _AT_ONCE // head.subcentroids[0].numel())
    parts = zip(torch.split(rows, most), torch.split(labels, most), strict=True)
    return torch.cat([head.own_similarities(some, theirs) for some, theirs in parts])


def _nearest(cosines: Tensor, labels: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Of each class and sub-centroid the greatest cosine, and the first row that has it; -inf and m where there is no row."""
    m, classes = len(labels), labels[:, None].expand_as(cosines)
    best = torch.full(shape, -torch.inf, dtype=cosines.dtype, device=cosines.device).scatter_reduce(0, classes, cosines, "amax")
    rows = torch.arange(m, device=labels.device)[:, None]
    hits = torch.where(cosines == best[labels], rows, m)
    return best, torch.full(shape, m, device=labels.device).scatter_reduce(0, classes, hits, "amin")


def _merged(best: Tensor, places: Tensor, value: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The n greatest of those so far and one more, the greatest first; of equal ones the earlier."""
    values, order = torch.sort(torch.cat([best, value[..., None]], dim=2), dim=2, descending=True, stable=True)
    both = torch.cat([places, place[:, :, None]], dim=2)
    kept = order[..., :-1, None].expand_as(places)
    return values[..., :-1], both.gather(2, kept)


def _patch(value: float, place: list[int], names: list[str], side: int | None) -> Patch:
    image, height, width, row, column = place
    whole = min(_SIDE, max(1, max(height, width) // 2)) if side is None else side
    left, upper = column - whole // 2, row - whole // 2
    box = (max(left, 0), max(upper, 0), min(left + whole, width), min(upper + whole, height))
    return Patch(image, names[image], row, column, box, whole, min(value, 1.0))
