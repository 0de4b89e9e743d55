"""From images with maps of labels to the crops that a network learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from otcluster.dnc.data import drawing, read_batches
from otcluster.dnc.errors import DataError
from otcluster.dnc.pixels.labels import IGNORE, LabelMap
from otcluster.dnc.pixels.layouts import PixelSplit

_TRIES, _MOST = 10, 0.75  # a crop is drawn again while one class has more than so much of it


@dataclass(frozen=True)
class PixelConversion:
    """What is done to an image and its map of labels, together.

    Images are resized (``resize``), varied and cut (``crop``) where they are to be learnt from, and normalised. Of a map the
    nearest labels are taken, and what a crop has beyond the image is ``IGNORE`` there, and of the mean colour.

    Args:
        resize: (height, width) that all images are brought to first, such as half of what they have; None for as they are.
        crop: (height, width) of what is learnt from; None for whole images, which must then be of one size.
        scale: Least and greatest factor, of which one is drawn for each image.
        jitter: How far brightness, contrast and saturation are varied, and a quarter of it the hue; 0 for not at all.
        flip: Whether images are mirrored half of the time.
        mean, std: Of the three channels, in [0, 1].

    Source: scale, crop, flip and colours as in Chen et al., "Rethinking atrous convolution for semantic image segmentation"
    (2017), and Liu et al., "SSD" (ECCV 2016).
    """

    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0
    flip: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def plain(self) -> PixelConversion:
        """The same without anything that varies: what images to be classified are converted by."""
        return PixelConversion(resize=self.resize, mean=self.mean, std=self.std)

    def image(self, picture: Image.Image) -> Tensor:
        """The tensor (3, height, width) of a picture alone, not varied."""
        return self.plain()(picture, np.zeros(picture.size[::-1], dtype=np.uint8))[0]

    def __call__(self, picture: Image.Image, labels: LabelMap) -> tuple[Tensor, Tensor]:
        """Image (3, height, width) and labels (height, width), int64; drawn from torch's random state."""
        pixels: Any = tv_tensors.Image(v2.functional.pil_to_tensor(picture.convert("RGB")))
        mask: Any = tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(labels)))
        if self.resize is not None:
            pixels, mask = _resized(pixels, mask, list(self.resize))
        if self.scale != (1.0, 1.0):
            factor = float(torch.empty(()).uniform_(*self.scale))
            size = [max(1, round(side * factor)) for side in pixels.shape[-2:]]
            pixels, mask = _resized(pixels, mask, size)
        if self.jitter:
            pixels = v2.ColorJitter(self.jitter, self.jitter, self.jitter, min(0.5, self.jitter / 4))(pixels)
        if self.flip:
            pixels, mask = v2.RandomHorizontalFlip()(pixels, mask)
        pixels = v2.functional.to_dtype(pixels, torch.float32, scale=True)
        pixels = v2.functional.normalize(pixels, list(self.mean), list(self.std))
        if self.crop is not None:
            pixels, mask = self._cut(pixels, mask, self.crop)
        return pixels.as_subclass(Tensor), mask.as_subclass(Tensor).to(torch.int64)

    def _cut(self, pixels: Any, mask: Any, crop: tuple[int, int]) -> tuple[Any, Any]:
        height, width = crop
        below, right = (max(0, side - have) for side, have in zip(crop, mask.shape, strict=True))
        if below or right:  # after normalisation 0 is the mean colour
            pixels = v2.functional.pad(pixels, [0, 0, right, below])
            mask = v2.functional.pad(mask, [0, 0, right, below], fill=IGNORE)
        for _ in range(_TRIES):
            top, left = (int(torch.randint(have - side + 1, ())) for side, have in zip(crop, mask.shape, strict=True))
            cut = mask[top : top + height, left : left + width]
            counts = torch.bincount(cut.reshape(-1).to(torch.int64), minlength=IGNORE + 1)[:IGNORE]
            if int(counts.sum()) > 0 and int(counts.max()) <= _MOST * int(counts.sum()):
                break
        return pixels[:, top : top + height, left : left + width], cut


def _resized(pixels: Any, mask: Any, size: list[int]) -> tuple[Any, Any]:
    """Image and labels at another size. Labels go by the middles of pixels, as images do; torchvision's masks by corners."""
    labels = torch.nn.functional.interpolate(mask.as_subclass(Tensor)[None, None].float(), size=size, mode="nearest-exact")
    return v2.functional.resize(pixels, size, antialias=True), tv_tensors.Mask(labels[0, 0].to(torch.uint8))


class _Pixels(Dataset[Any]):
    """What the loader asks for by (epoch, index): image, labels and index, or what is wrong with the image."""

    def __init__(self, split: PixelSplit, convert: PixelConversion, seed: int) -> None:
        self.split, self.convert, self.seed = split, convert, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int] | DataError:
        epoch, index = key
        try:
            picture, labels = self.split.read(index)
        except DataError as error:
            return error
        with drawing(self.seed, epoch, index):
            return *self.convert(picture, labels), index


def pixel_batches(
    split: PixelSplit,
    convert: PixelConversion,
    batches: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    broken: str = "refuse",
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Read batches: images (b, 3, height, width), labels (b, height, width) and indices (b,). They may come out empty.

    What is drawn for an image follows from ``seed``, ``epoch`` and its index alone.

    Args:
        split: The images.
        convert: What is done to them; the images of a batch must come out at one size.
        batches: Indices.
        seed, epoch: Of what is drawn.
        workers: How many processes read; 0 for this one.
        broken: ``"refuse"``, or ``"skip"`` to leave out what cannot be read.

    Raises:
        DataError: An image or map cannot be read, and is not skipped.
    """
    return read_batches(_Pixels(split, convert, seed), [list(batch) for batch in batches], epoch, workers, broken)
