"""Small data sets with labels at every pixel, made on the spot, and recipes that train on them in seconds."""

from __future__ import annotations

import signal

import numpy as np
from PIL import Image

from otcluster.dnc import load_recipe
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.progress import Silent

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
FAST = ["data.batch_size=4", "pixels.dim=16", "memory.capacity=300", "head.n_subcentroids=2", "train.test_every=1"]


def picture(rng, height=48, width=64, n_classes=3):
    """An image of blocks, each in the colour of its class, and its labels."""
    labels = rng.integers(n_classes, size=(height // 16, width // 16)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    pixels = (COLOURS[labels % 3] + rng.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
    return pixels, labels


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folders(root, n=8, n_test=3, seed=0):
    rng = np.random.default_rng(seed)
    for part, many in (("train", n), ("test", n_test)):
        for at in range(many):
            pixels, labels = picture(rng)
            labels[:4] = IGNORE
            save(pixels, root / part / "images" / f"{at}.png")
            save(labels, root / part / "labels" / f"{at}.png")
    (root / "classes.txt").write_text("red\ngreen\nblue\n")


def write_layout(layout, root, rng):
    """A data set as it is published, with labels that use the edges of its table."""
    if layout == "camvid":
        for part in ("train", "val", "test"):
            for at in range(3):
                pixels, labels = picture(rng)
                labels[0, :12] = range(12)  # 11 is unlabelled
                save(pixels, root / part / "images" / f"{at}.jpg")
                save(labels, root / part / "labels" / f"{at}.png")
    elif layout == "ade20k":
        for part in ("training", "validation"):
            for at in range(3):
                pixels, labels = picture(rng)
                labels[0, :3] = [0, 1, 150]
                save(pixels, root / "ADEChallengeData2016" / "images" / part / f"ADE_{at}.jpg")
                save(labels, root / "ADEChallengeData2016" / "annotations" / part / f"ADE_{at}.png")
    else:
        for part in ("train", "val"):
            for at in range(3):
                pixels, labels = picture(rng)
                labels[0, :4] = [0, 7, 33, 255]  # unlabelled, road, bicycle, licence plate
                name = f"ulm_{at}"
                save(pixels, root / "leftImg8bit" / part / "ulm" / f"{name}_leftImg8bit.png")
                save(labels, root / "gtFine" / part / "ulm" / f"{name}_gtFine_labelIds.png")


def harm(folders, what, part="train", at=3):
    """Make one file wrong; which is named."""
    labels, image = (folders / part / kind / f"{at}.png" for kind in ("labels", "images"))
    if what == "value":
        save(np.full((48, 64), 3, np.uint8), labels)
    elif what == "colours":
        save(np.zeros((48, 64, 3), np.uint8), labels)
    elif what == "size":
        save(np.zeros((40, 64), np.uint8), labels)
    elif what == "map":
        labels.write_bytes(b"no picture")
    elif what == "image":
        image.write_bytes(b"no picture")
    elif what == "no map":
        labels.unlink()
    else:
        image.unlink()


def pixel_recipe(folders, *changes, name="camvid-fcn-resnet18"):
    """A recipe of two epochs of two steps each of a small network, on the folders that :func:`write_folders` makes."""
    where = ["data.kind=pixel-folders", f"data.dir={folders}", "pixels.resize=null", "pixels.crop=[32,48]"]
    return load_recipe(name, [*where, *FAST, "backbone.name=test_resnet", "train.epochs=2", *changes])


class Stop(Silent):
    """Sends a signal at a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, *args, **kwargs):
        if step == self.at:
            signal.raise_signal(signal.SIGTERM)
