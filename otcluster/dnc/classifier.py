"""A backbone with a head."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import timm
import torch
from torch import Tensor, nn

from otcluster.dnc.baselines import LinearHead
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.growth import Evidence
from otcluster.dnc.head import DNCHead
from otcluster.solvers import LogSinkhorn, Nearest, SinkhornKnopp, Solver

if TYPE_CHECKING:
    from otcluster.dnc.recipe import DataConfig, GrowthConfig, Recipe, SolverConfig


class Classifier(nn.Module):
    """A timm backbone whose pooled features go to a head.

    Args:
        backbone: A module from images (n, channels, height, width) to features (n, dim), such as a timm model with
            ``num_classes=0``.
        head: :class:`DNCHead`, :class:`LinearHead`, or any module from features to logits with a method ``observe``.

    Raises:
        TypeError: The head has no method ``observe``.

    Example:
        >>> model = Classifier(nn.Flatten(), DNCHead(4, n_classes=3))
        >>> model(torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, backbone: nn.Module, head: DNCHead | LinearHead) -> None:
        super().__init__()
        if not callable(getattr(head, "observe", None)):
            raise TypeError(f"head must have a method observe(features, labels), as DNCHead and LinearHead have, got {head!r}")
        self.backbone = backbone
        self.head = head

    def features(self, images: Tensor) -> Tensor:
        """Pooled features, (n, dim), of images."""
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (n, n_classes), of images."""
        return self.head(self.features(images))


def build_classifier(recipe: Recipe, n_classes: int) -> Classifier:
    """The model of a recipe, with the weights that its seed gives.

    Raises:
        RecipeError: timm knows no such backbone, or it does not take images of this size.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.train.seed)
        if not timm.is_model(recipe.backbone.name):
            near = timm.list_models(f"*{recipe.backbone.name.split('_')[0][:6]}*")[:5]
            hint = f", did you mean {', '.join(near)}?" if near else ""
            raise RecipeError(f"backbone.name: timm has no model {recipe.backbone.name!r}{hint}")
        try:
            backbone = timm.create_model(
                recipe.backbone.name, pretrained=recipe.backbone.pretrained, num_classes=0, in_chans=recipe.data.channels
            )
            dim = _feature_length(backbone, recipe.data)
        except Exception as error:  # whatever timm and its models raise
            raise RecipeError(
                f"backbone.name={recipe.backbone.name} cannot be used with backbone.pretrained={recipe.backbone.pretrained}, "
                f"data.channels={recipe.data.channels} and data.image_size={recipe.data.image_size}: {error}"
            ) from error
        if recipe.head.kind == "linear":
            return Classifier(backbone, LinearHead(dim, n_classes))
        head = DNCHead(
            dim,
            n_classes,
            n_subcentroids=recipe.head.n_subcentroids,
            momentum=recipe.head.momentum,
            temperature=recipe.head.temperature,
            memory=recipe.memory.capacity,
            solver=build_solver(recipe.solver),
            seed=recipe.train.seed,
            growth=build_growth(recipe.growth),
        )
        return Classifier(backbone, head)


@torch.no_grad()
def _feature_length(backbone: nn.Module, config: DataConfig) -> int:
    """How long a feature is: of a black image, so that a backbone that does not take such images says so before training."""
    features = backbone.eval()(torch.zeros(1, config.channels, config.image_size, config.image_size))
    backbone.train()
    if features.ndim != 2:
        raise ValueError(f"its features have shape {tuple(features.shape)}, (1, length) is needed")
    return int(features.shape[1])


def build_solver(config: SolverConfig) -> Solver:
    """The solver of a recipe."""
    if config.kind == "nearest":
        return Nearest()
    kind = LogSinkhorn if config.kind == "log_sinkhorn" else SinkhornKnopp
    return kind(epsilon=config.epsilon, max_iter=config.max_iter, tol=config.tol)


def build_growth(config: GrowthConfig) -> Evidence | None:
    """How the classes of a recipe find their number of sub-centroids; None where it is given."""
    return None if config.kind == "none" else Evidence(**{each.name: getattr(config, each.name) for each in fields(Evidence)})
