"""From pictures to the tensors that a backbone takes, and what varies them in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from otcluster.dnc.recipe import DataConfig

DIGIT_SIDE = 8
DIGIT_LEVELS = 16


class Conversion:
    """From a picture to the tensor that the backbone takes, the same for training images and for a user's.

    A picture is resized whole to the square that the recipe asks for; with ``data.crop_share`` its shorter side is, to that
    square over the share, and the middle is kept. The digits are 8x8, white on black, in 17 levels of grey: a user's picture of
    a digit is reduced to that first.

    Args:
        config: ``data.*`` of the recipe.
        augment: Whether to vary the picture as in training.
    """

    def __init__(self, config: DataConfig, *, augment: bool) -> None:
        size = config.image_size
        kind = config.augment if augment else "none"
        # Functions where nothing is drawn: torchvision's classes take three times as long for a small picture.
        steps: list[Callable[..., Any]] = [v2.functional.pil_to_tensor]
        if kind in ("resized-crop-flip", "simclr"):
            steps.append(v2.RandomResizedCrop(size, antialias=True))
        elif config.crop_share is None:
            steps.append(partial(v2.functional.resize, size=[size, size], antialias=True))
        else:
            steps.append(partial(v2.functional.resize, size=[round(size / config.crop_share)], antialias=True))
            steps.append(partial(v2.functional.center_crop, output_size=[size, size]))
        if kind in ("crop", "crop-flip"):
            steps.append(v2.RandomCrop(size, padding=max(1, size // 8)))
        if kind in ("crop-flip", "resized-crop-flip", "simclr"):
            steps.append(v2.RandomHorizontalFlip())
        if kind == "simclr":  # as its authors do on CIFAR, where nothing is blurred
            steps.append(v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8))
            steps.append(v2.RandomGrayscale(0.2))
        if augment and config.rand_augment:
            steps.append(v2.RandAugment(magnitude=config.rand_augment))
        steps.append(partial(v2.functional.to_dtype, dtype=torch.float32, scale=True))
        mean, std = (each * config.channels if len(each) == 1 else each for each in (config.mean, config.std))
        steps.append(partial(v2.functional.normalize, mean=mean, std=std))
        if augment and config.erasing:
            steps.append(v2.RandomErasing(config.erasing))
        self._steps = steps
        self._mode = "L" if config.channels == 1 else "RGB"
        self._is_digit = config.kind == "digits"

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor (channels, size, size) of a picture."""
        image = image.convert(self._mode)
        if self._is_digit and image.size != (DIGIT_SIDE, DIGIT_SIDE):
            image = image.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BOX)
            levels = np.rint(np.asarray(image) * (DIGIT_LEVELS / 255))
            image = Image.fromarray(np.rint(levels * (255 / DIGIT_LEVELS)).astype(np.uint8))
        pixels: Any = image
        for step in self._steps:
            pixels = step(pixels)
        return pixels


def mixing(config: DataConfig, n_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """What mixes the images of a batch, and their labels into shares (n, n_classes); None where the recipe mixes nothing.

    With both mixup and cutmix, each batch is mixed by one of them, drawn evenly.

    Source: Zhang et al., "mixup: beyond empirical risk minimization" (ICLR 2018); Yun et al., "CutMix" (ICCV 2019).
    """
    ways: list[Callable[..., Any]] = []
    if config.mixup:
        ways.append(v2.MixUp(alpha=config.mixup, num_classes=n_classes))
    if config.cutmix:
        ways.append(v2.CutMix(alpha=config.cutmix, num_classes=n_classes))
    if not ways:
        return None
    return ways[0] if len(ways) == 1 else v2.RandomChoice(ways)


def blank(config: DataConfig) -> Tensor:
    """A black image as the backbone takes it, (1, channels, size, size)."""
    return torch.zeros(1, config.channels, config.image_size, config.image_size)
