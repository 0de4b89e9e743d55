"""How well a model classifies images it has not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.data import Conversion, Split, load_batches
from otcluster.dnc.recipe import DataConfig


@dataclass(frozen=True)
class Evaluation:
    """The outcome of :func:`evaluate`.

    Attributes:
        features: (n, dim), as the head takes them.
        logits: (n, n_classes).
        labels: True classes, (n,).
        indices: Which image of the split each row is, (n,); broken images that were skipped are missing.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    indices: Tensor

    @property
    def predictions(self) -> Tensor:
        """Predicted classes, (n,)."""
        return self.logits.argmax(dim=1)

    def metrics(self, classes: list[str]) -> dict[str, Any]:
        """Accuracy over all images and of each class, None for a class without images."""
        n = len(classes)
        per_class = MulticlassAccuracy(n, average=None)(self.predictions, self.labels).tolist()
        counts = torch.bincount(self.labels, minlength=n).tolist()
        accuracy = (
            float(MulticlassAccuracy(n, average="micro")(self.predictions, self.labels)) if len(self.labels) else math.nan
        )
        return {
            "accuracy": round(accuracy, 6),
            "per_class": {
                name: round(value, 6) if count else None for name, value, count in zip(classes, per_class, counts, strict=True)
            },
            "images": len(self.labels),
        }


@torch.no_grad()
def evaluate(model: Classifier, split: Split, config: DataConfig) -> Evaluation:
    """Classify the images of ``split``, without augmentation, on the device of the model.

    Args:
        model: Left in the mode it was in.
        split: The images.
        config: ``data.*`` of the recipe.

    Raises:
        DataError: An image cannot be read, and ``data.broken`` is not ``skip``.
    """
    was_training = model.training
    model.eval()
    device = next(model.backbone.parameters()).device
    order = list(range(len(split)))
    batches = [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    try:
        for images, labels, indices in load_batches(split, Conversion(config, augment=False), config, batches):
            if not len(labels):
                continue
            features = model.features(images.to(device, next(model.backbone.parameters()).dtype))
            rows.append((features.cpu(), model.head(features).cpu(), labels, indices))
    finally:
        model.train(was_training)
    if not rows:
        none = torch.empty(0, dtype=torch.int64)
        return Evaluation(torch.empty(0, 0), torch.empty(0, 0), none, none)
    return Evaluation(*(torch.cat(column) for column in zip(*rows, strict=True)))
