"""Whether there are enough images of each class."""

from __future__ import annotations

import logging

import torch

from otcluster.dnc.data import ImageData
from otcluster.dnc.errors import DataError
from otcluster.dnc.head import DNCHead
from otcluster.dnc.heads import Head, subcentroids_by_class
from otcluster.dnc.recipe import Recipe

logger = logging.getLogger(__name__)


def check_counts(recipe: Recipe, data: ImageData, rows: torch.Tensor, what: str) -> None:
    """See that each class has images for its sub-centroids.

    Args:
        recipe: ``head.*`` counts.
        data: The images.
        rows: Which training images there are, indices or booleans.
        what: What to call them.

    Raises:
        DataError: A class has too few; the message names it.
    """
    counts = torch.bincount(data.train.labels[rows], minlength=len(data.classes)).tolist()
    least = subcentroids_by_class(recipe.head, data.class_sizes)
    if recipe.growth.kind != "none":  # a class with fewer images than it begins with closes some
        least = [recipe.growth.k_min] * len(least)
    for name, count, needed in zip(data.classes, counts, least, strict=True):
        if count < needed:
            fewer = f"fewer than its {needed} sub-centroids" if recipe.head.kind == "dnc" else "at least 1 is needed"
            less = f", or pass head.n_subcentroids={count}" if count else ""
            raise DataError(
                f"class {name} has {count} {what}, {fewer}: add images{less} (a run that has begun then needs a new --out)"
            )


def warn_of_late_classes(head: Head, classes: list[str], what: str) -> None:
    """Say which classes have sub-centroids that were not started from data, for there never were enough features at once.

    Args:
        head: Any head.
        classes: Names of its classes.
        what: What has a feature each, such as images.
    """
    if isinstance(head, DNCHead) and not bool(head.store.started.all()):
        late = [at for at, started in enumerate(head.store.started.tolist()) if not started]
        logger.warning(
            "%d of %d classes have no sub-centroids from data yet (%s): never were %d %s of one at hand at once; add "
            "images of them, raise memory.capacity or data.batch_size, or lower head.n_subcentroids",
            len(late), len(classes), ", ".join(classes[at] for at in late[:5]), int(head.store.is_open[late].sum(dim=1).min()),
            what,
        )  # fmt: skip
