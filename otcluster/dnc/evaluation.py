"""How well a model classifies images it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.data import Conversion, Split, load_batches
from otcluster.dnc.errors import DataError
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
        """Accuracy over all images and of each class, None where there are no images."""
        n = len(classes)
        if not len(self.labels):
            return {"accuracy": None, "per_class": dict.fromkeys(classes), "images": 0}
        per_class = MulticlassAccuracy(n, average=None)(self.predictions, self.labels).tolist()
        counts = torch.bincount(self.labels, minlength=n).tolist()
        accuracy = float(MulticlassAccuracy(n, average="micro")(self.predictions, self.labels))
        return {
            "accuracy": round(accuracy, 6),
            "per_class": {
                name: round(value, 6) if count else None for name, value, count in zip(classes, per_class, counts, strict=True)
            },
            "images": len(self.labels),
        }


@torch.no_grad()
def evaluate(
    model: Classifier, split: Split, config: DataConfig, *, after_batch: Callable[[], None] | None = None
) -> Evaluation:
    """Classify the images of ``split``, without augmentation, on the device of the model.

    Args:
        model: Left in the mode it was in.
        split: The images.
        config: ``data.*`` of the recipe.
        after_batch: Called after each batch; what it raises ends the evaluation.

    Returns:
        Features, logits and labels of the images that could be read.

    Raises:
        DataError: An image cannot be read, and ``data.broken`` is not ``skip``; or none of them can be read.

    Example:
        >>> from otcluster.dnc import Classifier, LinearHead, load_recipe
        >>> from otcluster.dnc.data import load_data
        >>> config = load_recipe("digits", ["data.image_size=8"]).data
        >>> backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
        >>> result = evaluate(Classifier(backbone, LinearHead(8, 10)), load_data(config).test, config)
        >>> result.features.shape, result.logits.shape
        (torch.Size([359, 8]), torch.Size([359, 10]))
    """
    was_training = model.training
    model.eval()
    parameter = next(model.backbone.parameters())
    order = list(range(len(split)))
    batches = [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    try:
        for images, labels, indices in load_batches(split, Conversion(config, augment=False), config, batches):
            if not len(labels):
                continue
            features = model.features(images.to(parameter.device, parameter.dtype))
            rows.append((features.cpu(), model.head(features).cpu(), labels, indices))
            if after_batch is not None:
                after_batch()
        if len(split) and not rows:
            raise DataError(f"none of {len(split)} images can be read, from {split.names[0]} on")
        if not rows:
            blank = torch.zeros(1, config.channels, config.image_size, config.image_size)
            features = model.features(blank.to(parameter.device, parameter.dtype))[:0]
            none = torch.empty(0, dtype=torch.int64)
            rows.append((features.cpu(), model.head(features).cpu(), none, none))
    finally:
        model.train(was_training)
    return Evaluation(*(torch.cat(column) for column in zip(*rows, strict=True)))
