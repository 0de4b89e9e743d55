"""Whether there are enough images of each class."""

from __future__ import annotations

import torch

from otcluster.dnc.data import ImageData
from otcluster.dnc.errors import DataError
from otcluster.dnc.heads import subcentroids_by_class
from otcluster.dnc.recipe import Recipe


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
    for name, count, needed in zip(data.classes, counts, subcentroids_by_class(recipe.head, data.class_sizes), strict=True):
        if count < needed:
            fewer = f"fewer than its {needed} sub-centroids" if recipe.head.kind == "dnc" else "at least 1 is needed"
            less = f", or pass head.n_subcentroids={count}" if count else ""
            raise DataError(
                f"class {name} has {count} {what}, {fewer}: add images{less} (a run that has begun then needs a new --out)"
            )
