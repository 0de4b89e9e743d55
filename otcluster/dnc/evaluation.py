"""How well a model classifies images it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.conversion import Conversion, blank
from otcluster.dnc.data import Split, load_batches
from otcluster.dnc.errors import DataError
from otcluster.dnc.ranks import Ranks
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
        return accuracies(self.predictions, self.labels, classes)


def accuracies(predictions: Tensor, labels: Tensor, classes: list[str]) -> dict[str, Any]:
    """Accuracy of predictions (n,) over all images and of each class, None where there are no images."""
    n = len(classes)
    if not len(labels):
        return {"accuracy": None, "per_class": dict.fromkeys(classes), "images": 0}
    per_class = MulticlassAccuracy(n, average=None)(predictions, labels).tolist()
    counts = torch.bincount(labels, minlength=n).tolist()
    accuracy = float(MulticlassAccuracy(n, average="micro")(predictions, labels))
    return {
        "accuracy": round(accuracy, 6),
        "per_class": {
            name: round(value, 6) if count else None for name, value, count in zip(classes, per_class, counts, strict=True)
        },
        "images": len(labels),
    }


@torch.no_grad()
def evaluate(
    model: Classifier,
    split: Split,
    config: DataConfig,
    *,
    after_batch: Callable[[], None] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Classify the images of ``split``, without augmentation, on the device of the model.

    Args:
        model: Left in the mode it was in.
        split: The images.
        config: ``data.*`` of the recipe.
        after_batch: Called after each batch; what it raises ends the evaluation.
        ranks: Those that evaluate together, each a part of every batch. Default: this process alone.

    Returns:
        Features, logits and labels of the images that could be read; on ranks that are not the first, of none.

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
    own = batches if ranks is None else [ranks.part(batch) for batch in batches]
    read = load_batches(split, Conversion(config, augment=False), config, own or [[]])
    rows: list[list[Tensor]] = []
    n_read = 0
    try:
        for images, labels, indices in read if ranks is None else ranks.each(read):
            some = images if len(labels) else blank(config)  # not every backbone takes no images
            features = model.features(some.to(parameter.device, parameter.dtype))[: len(labels)]
            found = [features.cpu(), model.head(features).cpu(), labels, indices]
            if ranks is not None:
                found = [ranks.gather(column) for column in found]
            n_read += len(found[-1])
            rows.append(found if ranks is None or ranks.is_first else [column[:0] for column in found])
            if after_batch is not None:
                after_batch()
        if len(split) and not n_read:
            raise DataError(f"none of {len(split)} images can be read, from {split.names[0]} on")
    finally:
        model.train(was_training)
    return Evaluation(*(torch.cat(column) for column in zip(*rows, strict=True)))
