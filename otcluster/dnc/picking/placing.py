"""The new sub-centroids, and the head that has them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from otcluster.dnc.classes import close_places
from otcluster.dnc.explaining.rule import Place
from otcluster.dnc.head import DNCHead
from otcluster.stores.centroids import StoreMetric


def merged(subcentroids: Tensor, sizes: Tensor, metric: StoreMetric) -> Tensor:
    """One sub-centroid of several: the mean, weighted by sizes; of unit length for the cosine.

    Args:
        subcentroids: (m, dim).
        sizes: How many training images each has, (m,). Where none has any, all weigh the same.
        metric: What the head compares by.

    Returns:
        (dim,), float64.

    Raises:
        ValueError: They cancel out, so that the mean has no direction.

    Example:
        >>> merged(torch.eye(2), torch.tensor([3, 1]), "sqeuclidean")
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    weights = sizes.double() if int(sizes.sum()) else torch.ones(len(sizes), dtype=torch.float64)
    return placed(weights @ subcentroids.double() / weights.sum(), metric)


def placed(feature: Tensor, metric: StoreMetric) -> Tensor:
    """A feature (dim,) as a sub-centroid, float64: of unit length for the cosine.

    Raises:
        ValueError: It is not finite, or has no direction.
    """
    found = feature.double()
    if not bool(found.isfinite().all()):
        raise ValueError("its feature is not finite")
    if metric != "cosine":
        return found
    length = torch.linalg.vector_norm(found)
    if float(length) < 1e-6:
        raise ValueError(f"its length is {float(length):.1g}, so that it has no direction")
    return found / length


@torch.no_grad()
def with_places(
    head: DNCHead, is_open: Tensor, vectors: Mapping[Place, Tensor], merged_from: Mapping[Place, tuple[Place, ...]]
) -> DNCHead:
    """A copy of a head with other sub-centroids.

    Args:
        head: Left as it is.
        is_open: Those that stay, (n_classes, k).
        vectors: Where some are put, (dim,) each.
        merged_from: Which were made one; their counts are added.
    """
    new = copy.deepcopy(head)
    usage = {place: sum(float(head.store.usage[each]) for each in several) for place, several in merged_from.items()}
    close_places(new, is_open)
    for place, vector in vectors.items():
        new.store.centroids[place] = vector.to(new.store.centroids)
    for place, count in usage.items():
        new.store.usage[place] = count
    return new
