"""Which values the keys of a recipe may have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from otcluster.dnc.errors import RecipeError

if TYPE_CHECKING:
    from otcluster.dnc.recipe import DataConfig, Recipe

PIXEL_KINDS = ("pixel-folders", "camvid", "ade20k", "cityscapes")
_CHOICES = {
    "data.kind": ("digits", "folder", *PIXEL_KINDS),
    "data.augment": ("none", "crop", "crop-flip", "resized-crop-flip", "simclr"),
    "data.broken": ("refuse", "skip"),
    "data.channels": (1, 3),
    "backbone.stem": ("imagenet", "cifar"),
    "head.kind": ("dnc", "linear", "deepncm", "knn", "simclr", "contrast"),
    "head.allocation": ("equal", "by_size"),
    "head.metric": (None, "cosine", "sqeuclidean"),
    "head.averaging": ("momentum_mean", "sums_and_counts"),
    "head.pooling": ("largest", "mixture"),
    "head.scaling": ("temperature", "learnt", "layer_norm"),
    "solver.kind": ("log_sinkhorn", "sinkhorn_knopp", "nearest"),
    "growth.kind": ("none", "evidence"),
    "optim.name": ("sgd", "adamw"),
    "optim.schedule": ("constant", "step", "cosine", "polynomial", "one-cycle"),
    "pixels.network": (None, "fcn", "deeplabv3", "upernet"),
    "pixels.output_stride": (None, 8, 16, 32),
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
    "train.test_every": 1,
    "train.checkpoint_steps": 1,
    "explain.images_per_subcentroid": 1,
    "pixels.dim": 1,
    "pixels.aux_weight": 0,
    "pixels.per_class": 1,
    "pixels.jitter": 0,
    "contrast.weight": 0,
    "contrast.warmup": 0,
    "contrast.dim": 1,
    "contrast.anchors": 2,
    "contrast.per_image": 1,
    "contrast.regions": 1,
}
_SEEDS = ("train.seed", "data.split_seed")
_SEED_LIMIT = 2**63  # torch takes no larger ones
_POSITIVE = ("solver.epsilon", "optim.lr", "optim.gamma", "optim.power", "train.timeout", "contrast.temperature")
_SHARES = ("head.momentum", "optim.momentum", "optim.label_smoothing", "data.erasing", "train.ema")
FOLDS = 5
LEAST_SIDE = 32  # of images that networks of pixels take
_MAGNITUDES = 31  # of RandAugment


def check_values(recipe: Recipe) -> None:
    """See that each value is in its range, and that they go together.

    Raises:
        RecipeError: One is not; the message names its key.
    """

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
    _check_anchors(recipe)
    _check_pixels(recipe)
    growth = recipe.growth
    if growth.kind != "none":
        if recipe.head.kind != "dnc":
            raise RecipeError(f"growth.kind={growth.kind} is for head.kind=dnc, got head.kind={recipe.head.kind}")
        if not growth.k_min <= recipe.head.n_subcentroids <= growth.k_max:
            raise RecipeError(
                f"head.n_subcentroids, the number that classes start with, must lie from growth.k_min={growth.k_min} to "
                f"growth.k_max={growth.k_max}, got {recipe.head.n_subcentroids}"
            )


def _check_anchors(recipe: Recipe) -> None:
    anchored = recipe.explain.anchor_epochs
    if anchored is not None and not 0 <= anchored < recipe.train.epochs:
        raise RecipeError(
            "explain.anchor_epochs must be null (a tenth of the epochs) or lie from 0 to less than "
            f"train.epochs={recipe.train.epochs}, got {anchored}: sub-centroids are found before they become images"
        )
    if anchored and recipe.head.kind != "dnc":
        raise RecipeError(f"explain.anchor_epochs is for head.kind=dnc, got head.kind={recipe.head.kind}: leave it out")


def _check_pixels(recipe: Recipe) -> None:
    data, pixels = recipe.data, recipe.pixels
    if (data.kind in PIXEL_KINDS) != recipe.of_pixels:
        raise RecipeError(
            f"data.kind={data.kind} and pixels.network={pixels.network} do not go together: maps of labels "
            f"({', '.join(PIXEL_KINDS)}) need a network of pixels, and images with a class each need none"
        )
    if not recipe.of_pixels:
        if recipe.head.kind == "contrast":
            raise RecipeError(
                "head.kind=contrast is for pixels, which it compares with remembered ones, and data.kind="
                f"{recipe.data.kind} has images with a class each: take linear or simclr"
            )
        return
    if recipe.head.kind not in ("dnc", "linear", "deepncm", "contrast"):
        raise RecipeError(f"head.kind must be dnc, linear, deepncm or contrast for pixels, got {recipe.head.kind}")
    needed = {"data.augment": "none", "data.channels": 3, "data.mixup": 0, "data.cutmix": 0, "data.erasing": 0}
    needed |= {"data.rand_augment": 0, "data.labels_per_class": None, "data.in_memory": False, "backbone.stem": "imagenet"}
    needed |= {"head.allocation": "equal", "optim.label_smoothing": 0}
    for key, value in needed.items():
        group, name = key.split(".")
        if (got := getattr(getattr(recipe, group), name)) != value:
            said = "null" if value is None else str(value).lower()
            raise RecipeError(f"{key} must be {said} for pixels, whose crops vary as pixels.* says, got {got}")
    if recipe.explain.anchor_epochs:
        raise RecipeError(
            f"explain.anchor_epochs is for images with a class each, got {recipe.explain.anchor_epochs} for pixels"
        )
    for name, least in {"crop": LEAST_SIDE, "resize": LEAST_SIDE, "window": LEAST_SIDE, "stride": 1}.items():
        sides = getattr(pixels, name)
        if sides is not None and (len(sides) != 2 or min(sides) < least):
            raise RecipeError(f"pixels.{name} must be a height and a width, both at least {least}, got {sides}")
    window = pixels.window or [0, 0]
    if pixels.stride is not None and any(step > side for step, side in zip(pixels.stride, window, strict=True)):
        raise RecipeError(f"pixels.stride must be at most pixels.window, got {pixels.stride} and {pixels.window}")
    if len(pixels.scale) != 2 or not 0 < pixels.scale[0] <= pixels.scale[1] < math.inf:
        raise RecipeError(f"pixels.scale must be a least and a greatest factor, both positive, got {pixels.scale}")
    if not pixels.test_scales or not all(0 < scale < math.inf for scale in pixels.test_scales):
        raise RecipeError(f"pixels.test_scales must be positive factors, at least one, got {pixels.test_scales}")


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
