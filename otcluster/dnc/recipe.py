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
    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [0.25])
    crop_share: float | None = None
    augment: str = "crop-flip"
    rand_augment: int = 0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    labels_per_class: int | None = None
    split_seed: int = 0
    fold: int = 0
    broken: str = "refuse"
    batch_size: int = 128
    workers: int = 0
    in_memory: bool = False


@dataclass
class BackboneConfig:
    """Which timm model makes the features."""

    name: str = "resnet18"
    pretrained: bool = False
    frozen: bool = False
    stem: str = "imagenet"
    options: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    init_digest: str | None = None


@dataclass
class HeadConfig:
    """Which head classifies them."""

    kind: str = "dnc"
    n_subcentroids: int = 4
    allocation: str = "equal"
    metric: str | None = None
    momentum: float = 0.999
    averaging: str = "momentum_mean"
    scaling: str = "temperature"
    temperature: float | None = None
    n_neighbours: int = 20


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
class OptimConfig:
    """How the backbone learns."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.1
    power: float = 0.9
    label_smoothing: float = 0.0


@dataclass
class TrainConfig:
    """How long, from which seed, and on what."""

    epochs: int = 10
    seed: int = 0
    precision: str = "32-true"
    accelerator: str = "auto"
    channels_last: bool = False
    ema: float = 0.0
    test_every: int = 1
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
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)

    def to_yaml(self) -> str:
        """The recipe as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))


_CHOICES = {
    "data.kind": ("digits", "folder"),
    "data.augment": ("none", "crop", "crop-flip", "resized-crop-flip", "simclr"),
    "data.broken": ("refuse", "skip"),
    "data.channels": (1, 3),
    "backbone.stem": ("imagenet", "cifar"),
    "head.kind": ("dnc", "linear", "deepncm", "knn", "simclr"),
    "head.allocation": ("equal", "by_size"),
    "head.metric": (None, "cosine", "sqeuclidean"),
    "head.averaging": ("momentum_mean", "sums_and_counts"),
    "head.scaling": ("temperature", "learnt", "layer_norm"),
    "solver.kind": ("log_sinkhorn", "sinkhorn_knopp", "nearest"),
    "optim.name": ("sgd", "adamw"),
    "optim.schedule": ("constant", "step", "cosine", "polynomial", "one-cycle"),
    "train.precision": ("32-true", "64-true", "bf16-mixed", "16-mixed"),
    "train.accelerator": ("auto", "cpu", "cuda", "mps"),
}
_AT_LEAST = {
    "data.image_size": 1,
    "data.batch_size": 2,
    "data.workers": 0,
    "data.split_seed": 0,
    "data.rand_augment": 0,
    "data.mixup": 0,
    "data.cutmix": 0,
    "head.n_subcentroids": 1,
    "head.n_neighbours": 1,
    "solver.max_iter": 1,
    "memory.capacity": 0,
    "optim.lr": 0,
    "optim.weight_decay": 0,
    "optim.warmup_epochs": 0,
    "train.epochs": 1,
    "train.seed": 0,
    "train.test_every": 1,
    "train.checkpoint_steps": 1,
    "explain.images_per_subcentroid": 1,
}
_SEEDS = ("train.seed", "data.split_seed")
_SEED_LIMIT = 2**63  # torch takes no larger ones
_POSITIVE = ("solver.epsilon", "optim.lr", "optim.gamma", "optim.power", "train.timeout")
_SHARES = ("head.momentum", "optim.momentum", "optim.label_smoothing", "data.erasing", "train.ema")
FOLDS = 5
_MAGNITUDES = 31  # of RandAugment


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
            f"there is no recipe {name!r}{nearest_name(name, recipe_names())}: choose one of {', '.join(recipe_names())}"
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


def init_from_run(recipe: Recipe, run: str) -> Recipe:
    """The recipe with a backbone that begins with the weights of a run, whose directory is made absolute."""
    place = os.path.abspath(os.path.expanduser(run))
    return replace(recipe, backbone=replace(recipe.backbone, init_from=place))


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
    return f", did you mean {' or '.join(same)}?" if same else nearest_name(name, beside + known)


def nearest_name(name: str, known: list[str]) -> str:
    """Words that suggest the one of ``known`` that is written most alike, if any is."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {match[0]}?" if match else ""


def _check_values(recipe: Recipe) -> None:
    def value(key: str) -> Any:
        group, name = key.split(".")
        return getattr(getattr(recipe, group), name)

    for key, choices in _CHOICES.items():
        if value(key) not in choices:
            allowed = ", ".join("null" if choice is None else str(choice) for choice in choices)
            raise RecipeError(f"{key} must be one of {allowed}, got {value(key)!r}")
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
    _check_images(recipe.data)
    if recipe.head.kind == "simclr" and (recipe.data.mixup or recipe.data.cutmix):
        raise RecipeError("head.kind=simclr compares two views of each image: data.mixup and data.cutmix must be 0")
    if recipe.backbone.init_from is not None and recipe.backbone.pretrained:
        raise RecipeError("backbone.init_from and backbone.pretrained=true both say with which weights to begin: leave one out")
    if recipe.train.ema == 1:
        raise RecipeError("train.ema must be less than 1, or the average would stay at the first weights")
    if sorted(recipe.optim.milestones) != recipe.optim.milestones:
        raise RecipeError(f"optim.milestones must be epochs in rising order, got {recipe.optim.milestones}")
    if recipe.optim.schedule == "step" and not recipe.optim.milestones:
        raise RecipeError("optim.schedule=step needs optim.milestones, epochs in rising order such as [100,150]")
    if recipe.optim.nesterov and (recipe.optim.name != "sgd" or not recipe.optim.momentum):
        raise RecipeError("optim.nesterov needs optim.name=sgd with an optim.momentum above 0")
    if not all(0 < share < math.inf for share in recipe.train.shares or [1]):
        raise RecipeError(f"train.shares must be null or positive numbers, got {recipe.train.shares}")
    if recipe.head.temperature is not None and not 0 < recipe.head.temperature < math.inf:
        raise RecipeError(f"head.temperature must be null or positive and finite, got {recipe.head.temperature}")
    if recipe.head.kind == "knn" and (recipe.memory.capacity < 1 or recipe.head.metric == "sqeuclidean"):
        raise RecipeError("head.kind=knn needs a memory (memory.capacity of at least 1) and head.metric=cosine (or null)")
    if recipe.solver.tol is not None and not recipe.solver.tol >= 0:
        raise RecipeError(f"solver.tol must be null or not negative, got {recipe.solver.tol}")


def _check_images(data: DataConfig) -> None:
    for name in ("mean", "std"):
        numbers = getattr(data, name)
        if len(numbers) not in (1, data.channels) or not all(math.isfinite(number) for number in numbers):
            raise RecipeError(f"data.{name} must be one finite number or data.channels={data.channels} of them, got {numbers}")
    if not all(number > 0 for number in data.std):
        raise RecipeError(f"data.std must be positive, got {data.std}")
    if data.crop_share is not None and not 0 < data.crop_share <= 1:
        raise RecipeError(f"data.crop_share must be null or lie in (0, 1], got {data.crop_share}")
    if data.labels_per_class is not None and data.labels_per_class < 1:
        raise RecipeError(f"data.labels_per_class must be null or at least 1, got {data.labels_per_class}")
    if not 0 <= data.fold < FOLDS:
        raise RecipeError(f"data.fold must be one of the {FOLDS} folds 0 to {FOLDS - 1}, got {data.fold}")
    if data.rand_augment >= _MAGNITUDES:
        raise RecipeError(f"data.rand_augment must be a magnitude below {_MAGNITUDES}, got {data.rand_augment}")
