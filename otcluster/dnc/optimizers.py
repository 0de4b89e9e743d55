"""From a recipe to its optimizer."""

from __future__ import annotations

import torch

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.recipe import OptimConfig


def build_optimizer(config: OptimConfig, model: Classifier) -> torch.optim.Optimizer:
    """The optimizer of a recipe, for all parameters of a model."""
    # Scales and offsets are not shrunk: decay is for matrices.
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
