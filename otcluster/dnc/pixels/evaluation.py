"""How well a segmenter tells the classes of pixels, at the resolution of the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from otcluster.dnc.errors import DataError
from otcluster.dnc.pixels.conversion import PixelConversion
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import PixelSplit
from otcluster.runs.errors import RunError

_AT_ONCE = 1 << 26  # shares of classes at pixels

Logits = Callable[[Tensor], Tensor]
"""From images (n, 3, h, w) to logits (n, n_classes, h, w)."""


@dataclass(frozen=True)
class Inference:
    """How shares of the classes are found for an image.

    Args:
        window: (height, width) of windows that slide over the image; None for the whole image at once.
        stride: (height, width) from one window to the next; default: two thirds of a window.
        scales: Factors by which the image is resized; what is found is averaged.
        flip: Whether the mirrored image counts too.

    Raises:
        ValueError: A number is not positive, or a stride is larger than its window.
    """

    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.window is not None and min(self.window) < 1:
            raise ValueError(f"window must be positive, got {self.window}")
        if self.stride is not None and (
            self.window is None or not all(1 <= s <= w for s, w in zip(self.stride, self.window, strict=True))
        ):
            raise ValueError(f"stride must be positive and at most a window, got {self.stride} for window={self.window}")
        if not self.scales or not all(scale > 0 for scale in self.scales):
            raise ValueError(f"scales must be positive numbers, at least one, got {self.scales}")

    @torch.no_grad()
    def shares(self, logits: Logits, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Softmax shares (n_classes, height, width) at ``size``, of an image (3, h, w), or for each of images (n, 3, h, w).

        Example:
            >>> image = torch.rand(3, 4, 6)
            >>> Inference(flip=True).shares(lambda x: x[:, :2], image, (8, 12)).shape
            torch.Size([2, 8, 12])
        """
        total: Any = 0
        for scale in self.scales:
            scaled = image if image.ndim == 4 else image[None]
            if scale != 1:
                target = [max(1, round(side * scale)) for side in image.shape[-2:]]
                scaled = nn.functional.interpolate(scaled, size=target, mode="bilinear", align_corners=False, antialias=True)
            for mirrored in (False, True) if self.flip else (False,):
                given = scaled.flip(-1) if mirrored else scaled
                found = self._windows(logits, given) if self.window is not None else logits(given)
                found = nn.functional.interpolate(found.float(), size=size, mode="bilinear", align_corners=False)
                shares = torch.softmax(found, dim=1)
                total = total + (shares.flip(-1) if mirrored else shares)
        total = total / (len(self.scales) * (1 + self.flip))
        return total if image.ndim == 4 else total[0]

    def _windows(self, logits: Logits, image: Tensor) -> Tensor:
        """Logits of whole images, each pixel the mean of those of its windows; the last windows end where the image does."""
        assert self.window is not None
        stride = self.stride or tuple(max(1, 2 * side // 3) for side in self.window)
        height, width = image.shape[-2:]
        below, right = (max(0, side - have) for side, have in zip(self.window, (height, width), strict=True))
        padded = nn.functional.pad(image, (0, right, 0, below)) if below or right else image
        ends = [
            [*range(side, have, step), have] for side, have, step in zip(self.window, padded.shape[-2:], stride, strict=True)
        ]
        total: Any = None
        counts = padded.new_zeros(1, 1, *padded.shape[-2:])
        for bottom in ends[0]:
            for end in ends[1]:
                rows, columns = slice(bottom - self.window[0], bottom), slice(end - self.window[1], end)
                found = logits(padded[..., rows, columns]).float()
                if total is None:
                    total = found.new_zeros(*found.shape[:2], *padded.shape[-2:])
                total[..., rows, columns] += found
                counts[..., rows, columns] += 1
        return (total / counts)[..., :height, :width]


@dataclass(frozen=True)
class PixelEvaluation:
    """The outcome of :func:`evaluate_pixels`.

    Attributes:
        confusion: How many pixels of each class (rows) were predicted as each (columns), int64, (n_classes, n_classes).
        n_images: How many images were read.
    """

    confusion: Tensor
    n_images: int

    def need_labels(self, what: str) -> PixelEvaluation:
        """The same, where a pixel of the images has a label.

        Raises:
            DataError: None has.
        """
        if not self.confusion.any():
            raise DataError(f"no pixel of the {self.n_images} {what} has a label: all are {IGNORE}, or stand for no class")
        return self

    def metrics(self, classes: Sequence[str]) -> dict[str, Any]:
        """Mean intersection over union, that of each class, accuracy of pixels, and the mean of the classes' accuracies.

        A class that no pixel is of, neither by its label nor by prediction, has none, and is left out of the mean.

        Example:
            >>> found = PixelEvaluation(torch.tensor([[3, 1, 0], [1, 3, 0], [0, 0, 0]]), 1).metrics(["sky", "road", "car"])
            >>> found["mean_iou"], found["per_class"]["car"], found["pixel_accuracy"]
            (0.6, None, 0.75)
        """
        confusion = self.confusion.double()
        right, true, said = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
        union = true + said - right
        iou = [float(a / b) if b else None for a, b in zip(right, union, strict=True)]
        recall = [float(a / b) for a, b in zip(right, true, strict=True) if b]
        known = [value for value in iou if value is not None]
        return {
            "mean_iou": round(sum(known) / len(known), 6) if known else None,
            "per_class": {name: None if value is None else round(value, 6) for name, value in zip(classes, iou, strict=True)},
            "pixel_accuracy": round(float(right.sum() / true.sum()), 6) if true.sum() else None,
            "mean_accuracy": round(sum(recall) / len(recall), 6) if recall else None,
            "images": self.n_images,
        }


def evaluate_pixels(
    logits: Logits,
    split: PixelSplit,
    n_classes: int,
    convert: PixelConversion,
    *,
    inference: Inference | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    broken: str = "refuse",
    indices: Sequence[int] | None = None,
    after_batch: Callable[[], None] | None = None,
    batch_size: int = 4,
) -> PixelEvaluation:
    """Classify the pixels of images, and compare with their labels as they are in the files.

    Args:
        logits: The model, in evaluation mode.
        split: The images.
        n_classes: Number of classes.
        convert: How images are brought to the model; nothing is varied.
        inference: How shares are found. Default: of the whole image at once.
        device, dtype: Of the model.
        broken: ``"refuse"``, or ``"skip"`` to leave out what cannot be read.
        indices: Which images. Default: all.
        after_batch: Called after each batch.
        batch_size: At most how many images at once. They follow each other and are of one size, and their shares take at most
            256 MiB, unless those of one image take more.

    Raises:
        DataError: An image or map cannot be read, and is not skipped; or none of several can.
        RunError: The model gives NaN.
    """
    # Who has other images adds what is found, or has none and does not wait: torchmetrics would ask all ranks.
    how, matrix = inference or Inference(), MulticlassConfusionMatrix(n_classes, ignore_index=IGNORE, sync_on_compute=False)
    plain, n_images = convert.plain(), 0
    chosen = range(len(split)) if indices is None else indices
    for names, images, labels in _alike(split, plain, chosen, broken, n_classes, batch_size):
        try:
            shares = how.shares(logits, images.to(device, dtype), (labels.shape[1], labels.shape[2]))
        except ValueError as error:  # too small for the network, say
            raise DataError(f"{names[0]} cannot be classified: {error}") from None
        if bool(shares.isnan().any()):
            raise RunError(f"the logits of {names[0]} are NaN: train with a lower optim.lr, into a new --out")
        matrix.update(shares.argmax(dim=1).cpu().flatten(1), labels.flatten(1))
        n_images += len(names)
        if after_batch is not None:
            after_batch()
    if len(chosen) and not n_images:
        raise DataError(f"none of {len(chosen)} images can be read, from {split.names[chosen[0]]} on")
    confusion = matrix.compute() if n_images else torch.zeros(n_classes, n_classes, dtype=torch.int64)
    return PixelEvaluation(confusion.to(torch.int64), n_images)


def _alike(
    split: PixelSplit, convert: PixelConversion, indices: Sequence[int], broken: str, n_classes: int, most: int
) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Names, images (n, 3, h, w) and labels (n, height, width) of images that follow each other and are of one size."""
    names: list[str] = []
    images: list[Tensor] = []
    maps: list[Tensor] = []
    for index in indices:
        try:
            picture, labels = split.read(index)
        except DataError:
            if broken != "skip":
                raise
            continue
        image, map_ = convert.image(picture), torch.from_numpy(labels).to(torch.int64)
        full = len(names) >= min(most, max(1, _AT_ONCE // (n_classes * map_.numel())))
        if names and (full or image.shape != images[0].shape or map_.shape != maps[0].shape):
            yield names, torch.stack(images), torch.stack(maps)
            names, images, maps = [], [], []
        names.append(split.names[index])
        images.append(image)
        maps.append(map_)
    if names:
        yield names, torch.stack(images), torch.stack(maps)
