"""Recipes: everything that decides a run, as typed values read from YAML."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from otcluster.dnc.errors import RecipeError
from otcluster.dnc.growth import Evidence
from otcluster.dnc.recipe_values import check_values

_PACKAGE = "otcluster.dnc.recipes"
_FORMS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a word",
    "list[int]": "whole numbers in brackets, such as [1,2]",
    "list[float]": "numbers in brackets, such as [1,2]",
    "dict[str, Any]": "keys with their values in braces, such as {depth: 2}",
}


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
    pooling: str = "largest"
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
class GrowthConfig:
    """Whether classes find their number of sub-centroids by themselves; the keys are those of ``Evidence``."""

    kind: str = "none"
    k_min: int = Evidence.k_min
    k_max: int = Evidence.k_max
    every: int = Evidence.every
    warmup: int = Evidence.warmup
    patience: int = Evidence.patience
    least: int = Evidence.least
    margin: float = Evidence.margin


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
    """What explains decisions: in how many of the last epochs sub-centroids are images, and how many images are kept."""

    anchor_epochs: int | None = None
    images_per_subcentroid: int = 50


@dataclass
class PixelConfig:
    """Where every pixel has a class: the network, what it learns from, and how whole images are classified."""

    network: str | None = None
    dim: int = 256
    output_stride: int | None = None
    aux_weight: float = 0.0
    per_class: int = 512
    resize: list[int] | None = None
    crop: list[int] = field(default_factory=lambda: [256, 256])
    scale: list[float] = field(default_factory=lambda: [0.5, 2.0])
    jitter: float = 0.0
    flip: bool = True
    window: list[int] | None = None
    stride: list[int] | None = None
    test_scales: list[float] = field(default_factory=lambda: [1.0])
    test_flip: bool = False


@dataclass
class ContrastConfig:
    """The contrast of pixels, of ``head.kind=contrast``; how many pixels are remembered is ``memory.capacity``."""

    weight: float = 0.1
    temperature: float = 0.1
    warmup: int = 100
    dim: int = 256
    anchors: int = 50
    per_image: int = 10
    regions: int = 512


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
    pixels: PixelConfig = field(default_factory=PixelConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)

    @property
    def of_pixels(self) -> bool:
        """Whether every pixel has a class, or each image as a whole."""
        return self.pixels.network is not None

    @property
    def anchor_epochs(self) -> int:
        """In how many of the last epochs each sub-centroid is the feature of a training image: a tenth, unless it says so."""
        if self.head.kind != "dnc" or self.of_pixels:
            return 0
        return self.train.epochs // 10 if self.explain.anchor_epochs is None else self.explain.anchor_epochs

    def to_yaml(self) -> str:
        """The recipe as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))


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
            f"there is no recipe {name!r}{nearest_name(name, recipe_names())} (choose one of {', '.join(recipe_names())})"
        )
    return parse_text(text, name, changes)


def parse_text(text: str, source: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML and change some of its keys.

    Raises:
        RecipeError: It is no YAML or empty, a key is unknown, or a value is of the wrong type or out of range.
    """
    try:
        values = OmegaConf.create(text)
    except Exception as error:  # whatever YAML's reader raises
        raise RecipeError(f"recipe {source} cannot be read: {str(error) or 'it has no keys'}") from error
    if not values:
        raise RecipeError(f"recipe {source} is empty")
    return parse_recipe(OmegaConf.merge(values, *(_read_change(change) for change in changes)), source)


def _read_change(change: str) -> Any:
    if "=" not in change or change.startswith("="):
        raise RecipeError(f"{change!r} is no change of a recipe: write key=value, train.epochs=3 for example")
    try:
        return OmegaConf.from_dotlist([change])
    except Exception as error:  # whatever YAML's reader raises
        raise RecipeError(f"the value of {change!r} cannot be read as YAML: {error}") from error


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
    """The recipe with a backbone that begins with the weights of a run, whose directory is made absolute.

    Raises:
        RecipeError: It is to begin with other weights already.
    """
    place = os.path.abspath(os.path.expanduser(run))
    changed = replace(recipe, backbone=replace(recipe.backbone, init_from=place))
    check_values(changed)
    return changed


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
    except (OmegaConfBaseException, TypeError) as error:
        told = f"{getattr(error, 'full_key', None) or source}: {str(error).splitlines()[0]}"
        raise RecipeError(_misfit(OmegaConf.to_container(values), Recipe(), "") or told) from None
    check_values(recipe)
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


def _misfit(values: Any, known: Any, prefix: str) -> str | None:
    """What is wrong with the first value that is of another type than its key."""
    for each in fields(known):
        if each.name not in values:
            continue
        value, part = values[each.name], getattr(known, each.name)
        if is_dataclass(part):
            if (found := _misfit(value, part, f"{prefix}{each.name}.")) is not None:
                return found
            continue
        try:
            OmegaConf.merge(OmegaConf.structured(type(known)), {each.name: value})
        except (OmegaConfBaseException, TypeError):
            kind, *rest = str(each.type).split(" | ")
            got = "null" if value is None else repr(value)
            return f"{prefix}{each.name} must be {_FORMS[kind]}{', or null' if rest else ''}, got {got}"
    return None


def _nearest_key(name: str, beside: list[str]) -> str:
    """The keys that end alike in other groups, or the one written most alike, or else ``beside``, those of the same group."""
    known = [f"{group}.{key}" for group, part in asdict(Recipe()).items() if isinstance(part, dict) for key in part]
    same = [key for key in known if key.split(".")[1] == name.split(".")[-1]]
    if same:
        return f", did you mean {' or '.join(same)}?"
    return nearest_name(name, beside + known) or f": there are {', '.join(beside)}"


def nearest_name(name: str, known: list[str]) -> str:
    """Words that suggest the one of ``known`` that is written most alike, if any is."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {match[0]}?" if match else ""
