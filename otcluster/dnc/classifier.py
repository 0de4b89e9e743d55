"""A backbone with a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn

from otcluster.dnc.baselines import LinearHead
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.head import DNCHead
from otcluster.solvers import LogSinkhorn, Nearest, SinkhornKnopp, Solver

if TYPE_CHECKING:
    from otcluster.dnc.recipe import Recipe, SolverConfig


class Classifier(nn.Module):
    """A timm backbone whose pooled features go to a head.

    Args:
        backbone: A module from images (n, channels, height, width) to features (n, dim), such as a timm model with
            ``num_classes=0``.
        head: :class:`DNCHead`, :class:`LinearHead`, or any module from features to logits with a method ``observe``.

    Example:
        >>> model = Classifier(nn.Flatten(), DNCHead(4, n_classes=3))
        >>> model(torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, backbone: nn.Module, head: DNCHead | LinearHead) -> None:
        super().__init__()
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
        RecipeError: timm knows no such backbone.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.train.seed)
        if not timm.is_model(recipe.backbone.name):
            near = timm.list_models(f"*{recipe.backbone.name.split('_')[0][:6]}*")[:5]
            hint = f", did you mean {', '.join(near)}?" if near else ""
            raise RecipeError(f"backbone.name: timm has no model {recipe.backbone.name!r}{hint}")
        backbone = timm.create_model(
            recipe.backbone.name, pretrained=recipe.backbone.pretrained, num_classes=0, in_chans=recipe.data.channels
        )
        sizes: Any = backbone
        dim = int(getattr(sizes, "head_hidden_size", None) or sizes.num_features)
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
        )
        return Classifier(backbone, head)


def build_solver(config: SolverConfig) -> Solver:
    """The solver of a recipe."""
    if config.kind == "nearest":
        return Nearest()
    kind = LogSinkhorn if config.kind == "log_sinkhorn" else SinkhornKnopp
    return kind(epsilon=config.epsilon, max_iter=config.max_iter, tol=config.tol)
