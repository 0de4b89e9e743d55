"""Segmenters of recipes, and those of runs that were trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from otcluster.dnc.baselines import LinearHead
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.head import DNCHead
from otcluster.dnc.heads import build_head
from otcluster.dnc.names import subcentroid_names
from otcluster.dnc.pixels.conversion import PixelConversion
from otcluster.dnc.pixels.evaluation import Inference
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import Colour, PixelData, PixelSplit, load_pixels, load_test_pixels
from otcluster.dnc.pixels.networks import build_network
from otcluster.dnc.pixels.segmenter import Segmenter
from otcluster.dnc.recipe import Recipe
from otcluster.dnc.run import RunFiles, open_run, restore


def load_images(recipe: Recipe, classes: Sequence[str] | None = None) -> PixelData:
    """The images of a recipe of pixels.

    Args:
        recipe: Whose.
        classes: Those of a model. Default: as the images have them.

    Raises:
        DataError: They are not there, or of other classes.
    """
    return load_pixels(*_place(recipe), classes=classes, seed=recipe.data.split_seed, fold=recipe.data.fold)


def _place(recipe: Recipe) -> tuple[str, str]:
    """Layout and folder."""
    if recipe.data.dir is None:
        raise DataError("data.dir is not set: pass --data DIR, the folder of the images and their maps of labels")
    return recipe.data.kind.removeprefix("pixel-"), recipe.data.dir


def build_segmenter(recipe: Recipe, classes: Sequence[str]) -> Segmenter:
    """The segmenter of a recipe, with the weights that its seed gives.

    Raises:
        RecipeError: The network cannot be built.
    """
    pixels = recipe.pixels
    with torch.random.fork_rng():
        torch.manual_seed(recipe.train.seed)
        try:
            network = build_network(
                pixels.network, recipe.backbone.name, dim=pixels.dim, output_stride=pixels.output_stride,  # type: ignore[arg-type]
                pretrained=recipe.backbone.pretrained, aux=pixels.aux_weight > 0, options=dict(recipe.backbone.options),
            )  # fmt: skip
        except ValueError as error:
            raise RecipeError(f"backbone.name and pixels.*: {error}") from None
        network.encoder.requires_grad_(not recipe.backbone.frozen)
        aux = None if network.middle_dim is None else LinearHead(network.middle_dim, len(classes))
        head = build_head(recipe, pixels.dim, len(classes))
    return Segmenter(
        network,
        head,  # type: ignore[arg-type]
        ignore_index=IGNORE,
        aux=aux,
        aux_weight=pixels.aux_weight,
        per_class=pixels.per_class,
        seed=recipe.train.seed,
        classes=list(classes),
    )


def conversion_of(recipe: Recipe) -> PixelConversion:
    """What is done to images and maps in training; ``plain()`` of it otherwise."""
    pixels, data = recipe.pixels, recipe.data
    mean, std = (tuple(each * 3 if len(each) == 1 else each) for each in (data.mean, data.std))
    return PixelConversion(
        resize=None if pixels.resize is None else (pixels.resize[0], pixels.resize[1]),
        crop=(pixels.crop[0], pixels.crop[1]),
        scale=(pixels.scale[0], pixels.scale[1]),
        jitter=pixels.jitter,
        flip=pixels.flip,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )


def inference_of(recipe: Recipe) -> Inference:
    """How whole images are classified."""
    pixels = recipe.pixels
    window, stride = (None if each is None else (each[0], each[1]) for each in (pixels.window, pixels.stride))
    return Inference(window, stride, tuple(pixels.test_scales), pixels.test_flip)


@dataclass(frozen=True)
class PixelRun:
    """A trained segmenter with the recipe it was trained by.

    Attributes:
        files: Where its files lie.
        recipe: As run.
        classes: Names of the classes.
        palette: A colour for each.
        model: In evaluation mode.
    """

    files: RunFiles
    recipe: Recipe
    classes: list[str]
    palette: list[Colour]
    model: Segmenter

    @property
    def names(self) -> list[list[str]]:
        """What the sub-centroids of each class are called, by place, "road #1"; empty lists for a head without."""
        k = self.model.head.subcentroids.shape[1] if isinstance(self.model.head, DNCHead) else 0
        return subcentroid_names(self.classes, k)

    def load_data(self) -> PixelData:
        """The images of the run.

        Raises:
            DataError: They are not where they were, or of other classes.
        """
        return load_images(self.recipe, self.classes)

    def load_test(self) -> PixelSplit:
        """The test images alone, which need no training images beside them.

        Raises:
            DataError: As for :meth:`load_data`.
        """
        data = self.recipe.data
        return load_test_pixels(*_place(self.recipe), self.classes, seed=data.split_seed, fold=data.fold)


def load_pixel_run(root: str | Path, *, data_dir: str | None = None) -> PixelRun:
    """Load the segmenter of a run from its newest checkpoint.

    Args:
        root: Directory of the run.
        data_dir: Where its images lie now. Default: where they lay.

    Raises:
        RunError: There is no run of pixels, no checkpoint, or the checkpoint does not fit.

    Example:
        >>> load_pixel_run("no/such/run")
        Traceback (most recent call last):
        ...
        otcluster.runs.errors.RunError: no/such/run is no run: it holds no recipe.yaml
    """
    files, recipe, weights, loop = open_run(root, data_dir, of_pixels=True)
    model = build_segmenter(recipe, loop["classes"])
    restore(model, weights, files.checkpoints)
    if "average" in loop:
        restore(model.network, loop["average"], files.checkpoints)
    palette = [(red, green, blue) for red, green, blue in loop["palette"]]
    return PixelRun(files, recipe, list(loop["classes"]), palette, model.eval())
