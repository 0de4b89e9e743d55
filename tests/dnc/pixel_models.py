"""Runs of pixels that nobody trained: a network whose features are the means of blocks, and images made on the spot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from otcluster.dnc import DNCHead, Segmenter, load_recipe
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import palette
from otcluster.dnc.pixels.runs import PixelRun
from otcluster.dnc.run import RunFiles

STRIDE = 8
COLOURS = torch.tensor([[60.0, 60, 60], [90, 140, 230], [220, 60, 40]])
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
CLASSES = ["road", "sky", "car", "never"]


class Blocks(nn.Module):
    """The mean of each block of pixels, mixed into features; images of fewer than 16 pixels a side are refused."""

    def __init__(self, dim=5):
        super().__init__()
        self.mix = nn.Conv2d(3, dim, 1)

    def forward(self, images):
        if min(images.shape[2:]) < 16:
            raise ValueError(f"images must have at least 16 pixels a side, got {tuple(images.shape)}")
        return self.mix(nn.functional.avg_pool2d(images, STRIDE))


def untrained(folder, head=None, classes=CLASSES, *changes):
    """A run of pixels on the images in ``folder``."""
    torch.manual_seed(0)
    where = ["data.kind=pixel-folders", f"data.dir={folder}", "pixels.resize=null"]
    recipe = load_recipe("camvid-fcn-resnet18", [*where, *changes])
    head = DNCHead(5, n_classes=len(classes), n_subcentroids=3) if head is None else head
    model = Segmenter(Blocks(), head, classes=classes).eval()
    if isinstance(head, DNCHead):  # sub-centroids of blocks as write_pixels has them
        labels = torch.arange(40) % 3
        images = (COLOURS[labels] + 50 * torch.randn(40, 3)) / 255
        with torch.no_grad():
            features = model.features(((images - MEAN) / STD)[:, :, None, None].expand(-1, -1, 16, 16))
        head.observe(features[:, :, 0, 0], labels)
    return PixelRun(RunFiles(folder.parent / "run"), recipe, list(classes), palette(len(classes)), model)


def with_head(run, head):
    """The same run with another head."""
    return replace(run, model=Segmenter(run.model.network, head, classes=run.classes).eval())


def write_pixels(root, classes=CLASSES, n=5, n_test=3, size=(70, 53), seed=0):
    """``train`` and ``test`` images (width, height) of noisy blocks of the first three classes, with some unlabelled rows."""
    rng = np.random.default_rng(seed)
    for part, many in (("train", n), ("test", n_test)):
        for kind in ("images", "labels"):
            (root / part / kind).mkdir(parents=True, exist_ok=True)
        for at in range(many):
            labels = rng.integers(3, size=(5, 6)).repeat(16, 0).repeat(16, 1)[: size[1], : size[0]]
            pixels = (COLOURS.numpy()[labels] + rng.normal(0, 50, (size[1], size[0], 3))).clip(0, 255).astype(np.uint8)
            labels = labels.astype(np.uint8)
            labels[:3] = IGNORE
            Image.fromarray(pixels).save(root / part / "images" / f"{at}.png")
            Image.fromarray(labels).save(root / part / "labels" / f"{at}.png")
    (root / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return root
