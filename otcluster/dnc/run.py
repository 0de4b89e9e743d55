"""The directory of a run: what lies in it, and whose it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from otcluster.dnc.checkpoint import checkpoints, load_checkpoint
from otcluster.dnc.classes import give_places
from otcluster.dnc.classifier import Classifier, build_classifier
from otcluster.dnc.conversion import Conversion
from otcluster.dnc.data import ImageData, Split, load_data, load_test
from otcluster.dnc.head import DNCHead
from otcluster.dnc.heads import metric_of, temperature_of
from otcluster.dnc.names import subcentroid_names
from otcluster.dnc.recipe import DataConfig, ExplainConfig, Recipe, TrainConfig, at_folder, parse_text
from otcluster.runs.errors import CheckpointError, RunError
from otcluster.runs.files import partial_files, write_text

_RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class RunFiles:
    """Where the files of a run lie."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / _RECIPE

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    @property
    def history(self) -> Path:
        return self.root / "history.csv"

    @property
    def curves(self) -> Path:
        return self.root / "curves.png"

    @property
    def subcentroids(self) -> Path:
        return self.root / "subcentroids.png"

    @property
    def index(self) -> Path:
        """Features of the training images kept to be shown."""
        return self.root / "index.safetensors"

    @property
    def index_names(self) -> Path:
        return self.root / "index.json"

    @property
    def calibration(self) -> Path:
        """What the model knows of its own errors, where it was calibrated."""
        return self.root / "calibration.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def read_recipe(self) -> Recipe:
        """The recipe as run.

        Raises:
            RunError: There is no run here, or its recipe cannot be read.
        """
        try:
            return parse_text(self.recipe.read_text(encoding="utf-8"), str(self.recipe))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.root} is no run: it holds no {_RECIPE}") from None
        except UnicodeDecodeError as error:
            raise RunError(f"recipe {self.recipe} cannot be read: {error}") from None

    def read_metrics(self) -> dict[str, Any]:
        """The result, as it was written.

        Raises:
            RunError: It cannot be read.
        """
        try:
            metrics: dict[str, Any] = json.loads(self.metrics.read_text(encoding="utf-8"))
            _ = metrics["test"]["images"], metrics["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.metrics} cannot be read ({error!r}): remove it, and the same training command writes it again"
            ) from None
        return metrics

    def check(self, recipe: Recipe) -> None:
        """See that this is, or may become, the directory of ``recipe``. A run without a checkpoint may become another's.

        Raises:
            RunError: It holds something else.
        """
        if self.recipe.is_file():
            theirs, ours = _essence(self.read_recipe()), _essence(recipe)
            if theirs != ours and (self.metrics.exists() or checkpoints(self.checkpoints)):
                raise RunError(
                    f"{self.root} holds a run of another recipe ({_difference(theirs, ours)}): choose another --out, "
                    "or remove the folder"
                )
        elif self.root.exists() and (not self.root.is_dir() or set(self.root.iterdir()) - {*partial_files(self.root)}):
            raise RunError(f"{self.root} exists and is no run: choose another --out")

    def claim(self, recipe: Recipe) -> None:
        """Make this the directory of ``recipe``, after :meth:`check`."""
        for folder in (self.root, self.checkpoints):
            for leftover in partial_files(folder):
                leftover.unlink(missing_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.recipe.is_file() or self.read_recipe() != recipe:
            write_text(self.recipe, recipe.to_yaml())


def _essence(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the trained model.

    Not what it is called, how often it is saved, which process does how much, and what is kept to be shown; nor where the
    images lie and how they are read: the images themselves are compared (:attr:`ImageData.fingerprint`).
    """
    usual = DataConfig()
    head = replace(recipe.head, metric=metric_of(recipe.head), temperature=temperature_of(recipe.head))
    data = replace(recipe.data, dir=usual.dir, workers=usual.workers, broken=usual.broken, in_memory=usual.in_memory)
    loop = replace(recipe.train, checkpoint_steps=TrainConfig().checkpoint_steps, timeout=TrainConfig().timeout, shares=None)
    backbone = replace(recipe.backbone, init_from=None)  # the digest of its weights is compared
    explain = ExplainConfig(anchor_epochs=recipe.anchor_epochs)
    return asdict(
        replace(recipe, name="", description="", data=data, head=head, backbone=backbone, train=loop, explain=explain)
    )


def _difference(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> str:
    for key, value in theirs.items():
        if value != ours[key]:
            if isinstance(value, dict):
                return _difference(value, ours[key], f"{key}.")
            return f"{prefix}{key} is {value} there and {ours[key]} here"
    return "no key"


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with the recipe and the images it was trained on."""

    files: RunFiles
    recipe: Recipe
    classes: list[str]
    model: Classifier

    @property
    def names(self) -> list[list[str]]:
        """What the sub-centroids of each class are called, by place: "cat #1", until somebody renames it.

        Places that a class has not filled are counted with the others. The lists are empty where the head has no sub-centroids.
        """
        if self.model.subcentroid_names is not None:
            return [list(row) for row in self.model.subcentroid_names]
        k = self.model.head.subcentroids.shape[1] if isinstance(self.model.head, DNCHead) else 0
        return subcentroid_names(self.classes, k)

    def load_data(self) -> ImageData:
        """The images of the run.

        Raises:
            DataError: They are not where they were.
        """
        return load_data(self.recipe.data)

    def load_train(self) -> Split:
        """The training images of the run.

        Raises:
            DataError: They are not there.
            RunError: They are of other classes than those that the model was trained on.
        """
        data = self.load_data()
        if data.classes != self.classes:
            raise RunError(
                f"the training images are of {len(data.classes)} classes ({', '.join(data.classes[:5])}), and the run "
                f"was trained on {len(self.classes)} ({', '.join(self.classes[:5])}): pass --data, their folder"
            )
        return data.train

    def load_test(self) -> Split:
        """The test images alone, labelled by the classes of the model, whatever others lie beside them.

        Raises:
            DataError: They are not there, or one is of a class that the model has not.
        """
        return load_test(self.recipe.data, self.classes)


def load_run(root: str | Path, *, data_dir: str | None = None) -> LoadedRun:
    """Load the model of a run from its newest checkpoint.

    Args:
        root: Directory of the run.
        data_dir: Where its images lie now. Default: where they lay.

    Returns:
        The model, in evaluation mode on the CPU, and what belongs to it.

    Raises:
        RunError: There is no run, no checkpoint, or the checkpoint does not fit.

    Example:
        >>> load_run("no/such/run")
        Traceback (most recent call last):
        ...
        otcluster.runs.errors.RunError: no/such/run is no run: it holds no recipe.yaml
    """
    files, recipe, weights, loop = open_run(root, data_dir, of_pixels=False)
    model = build_classifier(recipe, len(loop["classes"]), loop.get("class_sizes"))
    if "subcentroids" in loop and isinstance(model.head, DNCHead):
        give_places(model.head, loop["subcentroids"])
    restore(model, weights, files.checkpoints)
    if "average" in loop:
        restore(model.backbone, loop["average"], files.checkpoints)
    model.classes, model.convert = list(loop["classes"]), Conversion(recipe.data, augment=False)
    model.subcentroid_names = loop.get("names")
    return LoadedRun(files, recipe, list(loop["classes"]), model.eval())


def open_run(
    root: str | Path, data_dir: str | None, *, of_pixels: bool
) -> tuple[RunFiles, Recipe, dict[str, Any], dict[str, Any]]:
    """What lies in the directory of a run: its recipe, and weights and state of its newest checkpoint.

    Raises:
        RunError: There is no run, it is of the other kind, or there is no checkpoint.
    """
    files = RunFiles(Path(root))
    recipe = files.read_recipe()
    if recipe.of_pixels and not of_pixels:
        raise RunError(f"{files.root} classifies pixels: this is for images with a class each (load_pixel_run loads it)")
    if of_pixels and not recipe.of_pixels:
        raise RunError(f"{files.root} classifies images as a whole: load it with load_run")
    if data_dir is not None:
        recipe = at_folder(recipe, data_dir)
    state = load_checkpoint(files.checkpoints)
    if state is None:
        raise RunError(f"{files.root} holds no checkpoint yet: train it first")
    return files, recipe, *state


def restore(model: nn.Module, weights: dict[str, Any], source: Path) -> None:
    """Put ``weights`` into ``model``, all of them.

    Raises:
        CheckpointError: They are of another model; the message names the first that does not fit.
    """
    expected = model.state_dict()
    for name in sorted({*expected, *weights}):
        if name not in weights or name not in expected:
            place = "the checkpoint" if name not in weights else "the model"
            raise CheckpointError(f"{source} is of another model: {place} has no {name}")
        if weights[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{source} is of another model: {name} has shape {tuple(weights[name].shape)} there, "
                f"{tuple(expected[name].shape)} here"
            )
    model.load_state_dict(weights)
