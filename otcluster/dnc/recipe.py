"""Recipes: everything that decides a run, as typed values read from YAML."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from otcluster.dnc.errors import RecipeError

_PACKAGE = "otcluster.dnc.recipes"


@dataclass
class DataConfig:
    """Images and how they are read."""

    kind: str = "folder"
    dir: str | None = None
    image_size: int = 32
    channels: int = 3
    augment: str = "crop-flip"
    broken: str = "refuse"
    split_seed: int = 0
    batch_size: int = 128
    workers: int = 0


@dataclass
class BackboneConfig:
    """Which timm model makes the features."""

    name: str = "resnet18"
    pretrained: bool = False


@dataclass
class HeadConfig:
    """Which head classifies them."""

    kind: str = "dnc"
    n_subcentroids: int = 4
    momentum: float = 0.999
    temperature: float = 0.1


@dataclass
class SolverConfig:
    """How features are assigned to the sub-centroids of their class."""

    kind: str = "log_sinkhorn"
    epsilon: float = 0.05
    max_iter: int = 10
    tol: float | None = 0.01


@dataclass
class MemoryConfig:
    """How many recent features clustering sees."""

    capacity: int = 4096


@dataclass
class GrowthConfig:
    """Whether classes find their number of sub-centroids by themselves; the keys are those of ``Evidence``."""

    kind: str = "none"
    k_min: int = 1
    k_max: int = 16
    every: int = 20
    warmup: int = 100
    patience: int = 2
    least: int = 8
    margin: float = 0.1


@dataclass
class OptimConfig:
    """How the backbone learns."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_epochs: float = 0.0


@dataclass
class TrainConfig:
    """How long, from which seed, and on what."""

    epochs: int = 10
    seed: int = 0
    precision: str = "32-true"
    accelerator: str = "auto"
    checkpoint_steps: int = 200
    timeout: float = 1800.0
    shares: list[float] | None = None


@dataclass
class ExplainConfig:
    """What is kept of the training images to show with a decision."""

    images_per_subcentroid: int = 50


@dataclass
class Recipe:
    """Everything that decides a run.

    Example:
        >>> load_recipe("digits", ["train.epochs=3"]).train.epochs
        3
    """

    name: str = "recipe"
    description: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)

    def to_yaml(self) -> str:
        """The recipe as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))


_CHOICES = {
    "data.kind": ("digits", "folder"),
    "data.augment": ("none", "crop", "crop-flip"),
    "data.broken": ("refuse", "skip"),
    "data.channels": (1, 3),
    "head.kind": ("dnc", "linear"),
    "solver.kind": ("log_sinkhorn", "sinkhorn_knopp", "nearest"),
    "growth.kind": ("none", "evidence"),
    "optim.name": ("sgd", "adamw"),
    "optim.schedule": ("constant", "cosine"),
    "train.precision": ("32-true", "64-true", "bf16-mixed", "16-mixed"),
    "train.accelerator": ("auto", "cpu", "cuda", "mps"),
}
_AT_LEAST = {
    "data.image_size": 1,
    "data.batch_size": 2,
    "data.workers": 0,
    "data.split_seed": 0,
    "head.n_subcentroids": 1,
    "solver.max_iter": 1,
    "memory.capacity": 0,
    "growth.k_min": 1,
    "growth.k_max": 1,
    "growth.every": 1,
    "growth.warmup": 0,
    "growth.patience": 1,
    "growth.least": 2,
    "growth.margin": 0,
    "optim.lr": 0,
    "optim.weight_decay": 0,
    "optim.warmup_epochs": 0,
    "train.epochs": 1,
    "train.seed": 0,
    "train.checkpoint_steps": 1,
    "explain.images_per_subcentroid": 1,
}
_SEEDS = ("train.seed", "data.split_seed")
_SEED_LIMIT = 2**63  # torch takes no larger ones
_POSITIVE = ("head.temperature", "solver.epsilon", "optim.lr", "train.timeout")
_SHARES = ("head.momentum", "optim.momentum")


def recipe_names() -> list[str]:
    """The recipes inside the package."""
    return sorted(entry.name[: -len(".yaml")] for entry in resources.files(_PACKAGE).iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and change some of its keys.

    Args:
        name: A recipe of the package, or the path of a YAML file.
        changes: ``key=value`` each, such as ``train.epochs=3``.

    Returns:
        The recipe, with the defaults for what the file leaves out.

    Raises:
        RecipeError: There is no such recipe or key, or a value is of the wrong type or out of range.

    Example:
        >>> load_recipe("digits", ["head.kind=linear"]).head.kind
        'linear'
    """
    if name in recipe_names():
        text = resources.files(_PACKAGE).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    elif name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read recipe {name}: {getattr(error, 'strerror', None) or error}") from None
    else:
        raise RecipeError(
            f"there is no recipe {name!r}{_nearest(name, recipe_names())}: choose one of {', '.join(recipe_names())}"
        )
    for change in changes:
        if "=" not in change or change.startswith("="):
            raise RecipeError(f"{change!r} is no change of a recipe: write key=value, train.epochs=3 for example")
    return parse_text(text, name, changes)


def parse_text(text: str, source: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML and change some of its keys.

    Raises:
        RecipeError: It is no YAML or empty, a key is unknown, or a value is of the wrong type or out of range.
    """
    try:
        values = OmegaConf.create(text)
        if not values:
            raise RecipeError(f"recipe {source} is empty")
        return parse_recipe(OmegaConf.merge(values, OmegaConf.from_dotlist(list(changes))), source)
    except RecipeError:
        raise
    except Exception as error:  # whatever YAML's reader raises
        raise RecipeError(f"recipe {source} cannot be read: {error}") from error


def at_folder(recipe: Recipe, folder: str) -> Recipe:
    """The recipe on the images of ``folder``, which is made absolute: a run is gone on with from anywhere.

    Raises:
        RecipeError: The recipe takes no folder.
    """
    if recipe.data.kind == "digits":
        raise RecipeError(
            "data.kind=digits takes no folder, its images are embedded: leave out --data and data.dir, or train image-folder"
        )
    return replace(recipe, data=replace(recipe.data, dir=os.path.abspath(os.path.expanduser(folder))))


def parse_recipe(values: Any, source: str) -> Recipe:
    """Check plain values against the types of :class:`Recipe`.

    Raises:
        RecipeError: A key is unknown, or a value is of the wrong type or out of range.
    """
    if isinstance(values, dict):
        values = OmegaConf.create(values)
    if not OmegaConf.is_dict(values):
        raise RecipeError(f"recipe {source} must be a mapping of keys")
    _check_keys(OmegaConf.to_container(values), Recipe(), "")
    try:
        recipe: Recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), values))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise RecipeError(f"{getattr(error, 'full_key', None) or source}: {str(error).splitlines()[0]}") from None
    _check_values(recipe)
    return recipe


def _check_keys(values: Any, known: Any, prefix: str) -> None:
    names = [each.name for each in fields(known)]
    for key, value in values.items():
        if key not in names:
            raise RecipeError(f"unknown key {prefix}{key}{_nearest_key(f'{prefix}{key}', names)}")
        part = getattr(known, key)
        if is_dataclass(part):
            if not isinstance(value, dict):
                raise RecipeError(f"{prefix}{key} is a group of keys, such as {prefix}{key}.{fields(part)[0].name}")
            _check_keys(value, part, f"{prefix}{key}.")


def _all_keys() -> list[str]:
    return [f"{group}.{key}" for group, part in asdict(Recipe()).items() if isinstance(part, dict) for key in part]


def _nearest_key(name: str, beside: list[str]) -> str:
    """The keys that end alike in other groups, or else the one written most alike; ``beside`` are those of the same group."""
    known = _all_keys()
    same = [key for key in known if key.split(".")[1] == name.split(".")[-1]]
    return f", did you mean {' or '.join(same)}?" if same else _nearest(name, beside + known)


def _nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {match[0]}?" if match else ""


def _check_values(recipe: Recipe) -> None:
    def value(key: str) -> Any:
        group, name = key.split(".")
        return getattr(getattr(recipe, group), name)

    for key, choices in _CHOICES.items():
        if value(key) not in choices:
            raise RecipeError(f"{key} must be one of {', '.join(map(str, choices))}, got {value(key)!r}")
    for key, least in _AT_LEAST.items():
        if not least <= value(key) < math.inf:
            raise RecipeError(f"{key} must be at least {least} and finite, got {value(key)}")
    for key in _SEEDS:
        if value(key) >= _SEED_LIMIT:
            raise RecipeError(f"{key} must be less than 2**63, got {value(key)}")
    for key in _POSITIVE:
        if not 0 < value(key) < math.inf:
            raise RecipeError(f"{key} must be positive and finite, got {value(key)}")
    for key in _SHARES:
        if not 0 <= value(key) <= 1:
            raise RecipeError(f"{key} must lie in [0, 1], got {value(key)}")
    if not all(0 < share < math.inf for share in recipe.train.shares or [1]):
        raise RecipeError(f"train.shares must be null or positive numbers, got {recipe.train.shares}")
    if recipe.solver.tol is not None and not recipe.solver.tol >= 0:
        raise RecipeError(f"solver.tol must be null or not negative, got {recipe.solver.tol}")
    growth = recipe.growth
    if growth.kind != "none":
        if recipe.head.kind != "dnc":
            raise RecipeError(f"growth.kind={growth.kind} is for head.kind=dnc, got head.kind={recipe.head.kind}")
        if not growth.k_min <= recipe.head.n_subcentroids <= growth.k_max:
            raise RecipeError(
                f"head.n_subcentroids, the number that classes start with, must lie from growth.k_min={growth.k_min} to "
                f"growth.k_max={growth.k_max}, got {recipe.head.n_subcentroids}"
            )
