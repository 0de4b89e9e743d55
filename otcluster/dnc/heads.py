"""From a recipe to its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from torch import nn

from otcluster.dnc.baselines import DeepNCMHead, KNNHead, LinearHead, SimCLRHead
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.growth import Evidence
from otcluster.dnc.head import USUAL_TEMPERATURE, DNCHead
from otcluster.dnc.pixels.contrast import ContrastHead
from otcluster.dnc.pooling import Largest, Mixture
from otcluster.dnc.scaling import FixedTemperature, LearntTemperature, ScoreNorm
from otcluster.solvers import LogSinkhorn, Nearest, SinkhornKnopp, Solver
from otcluster.stores.averaging import Averaging, MomentumMean, SumsAndCounts
from otcluster.stores.centroids import StoreMetric
from otcluster.stores.class_queue import ClassQueue

if TYPE_CHECKING:
    from otcluster.dnc.recipe import GrowthConfig, HeadConfig, Recipe, SolverConfig

Head = DNCHead | KNNHead | LinearHead


def build_head(recipe: Recipe, dim: int, n_classes: int, class_sizes: Sequence[int] | None = None) -> Head:
    """The head of a recipe, for features of length ``dim``.

    Args:
        recipe: ``head.*``, ``solver.*``, ``memory.*`` and ``train.seed`` count.
        dim: Length of a feature vector.
        n_classes: Number of classes.
        class_sizes: How many training images each class has; for ``head.allocation=by_size``.

    Raises:
        RecipeError: ``head.allocation=by_size``, and the sizes are not known; or ``head.kind=contrast`` has no memory for a
            pixel of each class.
    """
    config, seed = recipe.head, recipe.train.seed
    metric, temperature = metric_of(config), temperature_of(config)
    if config.kind == "linear":
        return LinearHead(dim, n_classes)
    if config.kind == "contrast":
        return _contrast(recipe, dim, n_classes)
    if config.kind == "knn":
        return KNNHead(dim, n_classes, n_neighbours=config.n_neighbours, temperature=temperature, memory=recipe.memory.capacity)
    averaging: Averaging = SumsAndCounts() if config.averaging == "sums_and_counts" else MomentumMean()
    if config.kind == "deepncm":
        return DeepNCMHead(
            dim, n_classes, momentum=config.momentum, metric=metric, averaging=averaging, temperature=temperature, seed=seed
        )
    if config.allocation == "by_size" and class_sizes is None:
        raise RecipeError("head.allocation=by_size needs the sizes of the classes, and they are not known here")
    kind = SimCLRHead if config.kind == "simclr" else DNCHead
    return kind(
        dim,
        n_classes,
        n_subcentroids=config.n_subcentroids if class_sizes is None else subcentroids_by_class(config, class_sizes),
        momentum=config.momentum,
        memory=_memory(recipe, dim, n_classes),
        solver=build_solver(recipe.solver),
        seed=seed,
        pooling=Mixture(temperature) if config.pooling == "mixture" else Largest(),
        growth=build_growth(recipe.growth),
        metric=metric,
        averaging=averaging,
        scaling=_scaling(config.scaling, temperature, n_classes),
    )


def _contrast(recipe: Recipe, dim: int, n_classes: int) -> ContrastHead:
    """The softmax layer with a contrast of pixels; the memory is divided among the classes."""
    config = recipe.contrast
    if recipe.memory.capacity < n_classes:
        raise RecipeError(
            f"memory.capacity must be at least {n_classes} for head.kind=contrast, a pixel of each class, got "
            f"{recipe.memory.capacity}"
        )
    return ContrastHead(
        dim, n_classes, projection_dim=config.dim, temperature=config.temperature, weight=config.weight, warmup=config.warmup,
        anchors=config.anchors, per_image=config.per_image, pixels=recipe.memory.capacity // n_classes, regions=config.regions,
        seed=recipe.train.seed,
    )  # fmt: skip


def _scaling(kind: str, temperature: float, n_classes: int) -> nn.Module:
    if kind == "layer_norm":
        return ScoreNorm(n_classes)
    return LearntTemperature(temperature) if kind == "learnt" else FixedTemperature(temperature)


def metric_of(config: HeadConfig) -> StoreMetric:
    """What the head compares by: as the recipe says, or else as the authors of its method do."""
    if config.metric is None:
        return "sqeuclidean" if config.kind == "deepncm" else "cosine"
    return "sqeuclidean" if config.metric == "sqeuclidean" else "cosine"


def temperature_of(config: HeadConfig) -> float:
    """The temperature as the recipe says, or else the one that is usual for the metric."""
    return USUAL_TEMPERATURE[metric_of(config)] if config.temperature is None else config.temperature


def subcentroids_by_class(config: HeadConfig, class_sizes: Sequence[int]) -> list[int]:
    """How many sub-centroids each class has, which is how many training images it needs at least; 1 for other heads.

    With ``head.allocation=by_size`` the largest class has ``head.n_subcentroids``, and the others in proportion to their
    images, rounded, but at least one.

    Example:
        >>> from otcluster.dnc.recipe import HeadConfig
        >>> subcentroids_by_class(HeadConfig(n_subcentroids=4, allocation="by_size"), [1000, 700, 400, 30])
        [4, 3, 2, 1]
    """
    if config.kind not in ("dnc", "simclr"):
        return [1] * len(class_sizes)
    if config.allocation == "equal":
        return [config.n_subcentroids] * len(class_sizes)
    most = max(class_sizes)
    return [max(1, (2 * config.n_subcentroids * size + most) // (2 * most)) if most else 1 for size in class_sizes]


def build_growth(config: GrowthConfig) -> Evidence | None:
    """How the classes of a recipe find their number of sub-centroids; None where it is given."""
    return None if config.kind == "none" else Evidence(**{each.name: getattr(config, each.name) for each in fields(Evidence)})


def _memory(recipe: Recipe, dim: int, n_classes: int) -> int | ClassQueue:
    """How many features to remember; of pixels as many of each class, for some classes have few."""
    capacity = recipe.memory.capacity
    return ClassQueue(capacity, dim, n_classes=n_classes) if recipe.of_pixels and capacity >= n_classes else capacity


def build_solver(config: SolverConfig) -> Solver:
    """The solver of a recipe."""
    if config.kind == "nearest":
        return Nearest()
    kind = LogSinkhorn if config.kind == "log_sinkhorn" else SinkhornKnopp
    return kind(epsilon=config.epsilon, max_iter=config.max_iter, tol=config.tol)
