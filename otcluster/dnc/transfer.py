"""A backbone that begins with the weights of another run, none left out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from otcluster.dnc.checkpoint import load_checkpoint
from otcluster.dnc.classifier import Classifier
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.recipe import Recipe, init_from_run
from otcluster.dnc.run import RunFiles, restore
from otcluster.runs.errors import RunError

_BACKBONE = "backbone."


def starting_point(recipe: Recipe) -> tuple[Recipe, dict[str, Tensor] | None]:
    """The recipe with the digest of the weights that its backbone begins with, and these weights.

    Of a run with averaged weights it is the average, which is what was evaluated.

    Returns:
        The recipe as it is to be kept, and the weights by name; None where it begins with weights of its own, or where the run
        is not there any more and the recipe already has the digest (a run that has begun can go on without).

    Raises:
        RecipeError: There is no such run, it is of pixels, it has other weights than those of the digest, or its images have
            another number of channels.
    """
    config = recipe.backbone
    if config.init_from is None:
        return recipe, None
    recipe = init_from_run(recipe, config.init_from)
    files = RunFiles(Path(recipe.backbone.init_from or ""))
    try:
        theirs, weights = files.read_recipe(), _weights(files)
    except RunError as error:
        if config.init_digest is not None:
            return recipe, None
        raise RecipeError(f"backbone.init_from: {error}") from error
    if theirs.of_pixels:
        raise RecipeError(f"backbone.init_from: {files.root} classifies pixels: name a run of images with a class each")
    if theirs.data.channels != recipe.data.channels:
        raise RecipeError(
            f"backbone.init_from: {files.root} was trained on images of {theirs.data.channels} channels, and data.channels is "
            f"{recipe.data.channels}: they must be the same"
        )
    found = digest(weights)
    if config.init_digest not in (None, found):
        raise RecipeError(
            f"backbone.init_from: {files.root} holds other weights than those of backbone.init_digest={config.init_digest}"
        )
    return replace(recipe, backbone=replace(recipe.backbone, init_digest=found)), weights


def begin_with(model: Classifier, recipe: Recipe, weights: dict[str, Tensor] | None) -> None:
    """Give the backbone its first weights: every one of them, and no other.

    Raises:
        RecipeError: One does not fit; the message names it. Or the run that they are of is not there any more.
    """
    source, given = need_source(recipe, weights)
    try:
        restore(model.backbone, given, source)
    except RunError as error:
        raise RecipeError(f"backbone.init_from: {error}") from error


def need_source(recipe: Recipe, weights: dict[str, Tensor] | None) -> tuple[Path, dict[str, Tensor]]:
    """The directory of the run that a recipe begins with, and its weights.

    Raises:
        RecipeError: It is not there any more.
    """
    source = recipe.backbone.init_from
    assert source is not None
    if weights is None:
        raise RecipeError(f"backbone.init_from: {source} is not there any more, and this run has not begun yet")
    return Path(source), weights


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _weights(files: RunFiles) -> dict[str, Tensor]:
    state = load_checkpoint(files.checkpoints)
    if state is None:
        raise RunError(f"{files.root} holds no checkpoint yet: train it first")
    model, loop = state
    if "average" in loop:
        average: dict[str, Tensor] = loop["average"]
        return average
    return {name.removeprefix(_BACKBONE): value for name, value in model.items() if name.startswith(_BACKBONE)}
