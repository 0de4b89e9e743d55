"""Sub-centroids that are training images: in the last part of training each is the feature of one image of its class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.data import Split
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.head import DNCHead
from otcluster.dnc.ranks import Ranks
from otcluster.dnc.recipe import DataConfig
from otcluster.problem import Problem
from otcluster.solve import solve
from otcluster.solvers import ExactBalanced

Anchors = list[list[int]]
"""Which image each sub-centroid is, class by class; -1 where it is none."""


@torch.no_grad()
def find_anchors(head: DNCHead, features: Tensor, labels: Tensor) -> Tensor:
    """Give each sub-centroid an image of its class, no two the same one, so that they are as similar in all as can be.

    Args:
        head: Whose sub-centroids.
        features: Of the images, (n, dim).
        labels: Class of each, integers (n,).

    Returns:
        Row of each, int64 (n_classes, k); -1 for those that a class does not have. Where a class has fewer images than
        sub-centroids, those that would be least similar get none, and are -1 as well.

    Example:
        >>> head = DNCHead(2, n_classes=1, n_subcentroids=2, memory=0)
        >>> _ = head.store.centroids.copy_(torch.tensor([[[1.0, 0.0], [0.8, 0.6]]]))
        >>> find_anchors(head, torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 0]))
        tensor([[0, 1]])

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023), section 4.3; there two sub-centroids may
    share an image.
    """
    device = head.subcentroids.device
    is_open = head.store.is_open.cpu()
    found = torch.full(is_open.shape, -1, dtype=torch.int64)
    for label in range(head.n_classes):
        rows, places = torch.nonzero(labels == label).flatten(), torch.nonzero(is_open[label]).flatten()
        if len(rows) and len(places):
            own = head.own_similarities(features[rows].to(device), labels[rows].to(device)).cpu().double()[:, places]
            image = _distinct(own)
            found[label, places] = torch.where(image < 0, -1, rows[image])
    return found


def _distinct(similarities: Tensor) -> Tensor:
    """A row for each column, no row twice, of the greatest sum in all: (k,) of (n, k); -1 for columns that get none."""
    n, k = similarities.shape
    # Others take k - 1 images at most, so that each gets one of its k nearest.
    near = torch.unique(similarities.topk(min(k, n), dim=0).indices)
    scores = similarities[near]
    m = len(near)
    if m > k:  # the images left over
        scores = torch.cat([scores, scores.new_zeros(m, 1)], dim=1)
        sizes = torch.tensor([1.0] * k + [m - k], dtype=scores.dtype)
        labels = solve(Problem(scores, cluster_mass=sizes), ExactBalanced()).labels()
    elif m == k:
        labels = solve(Problem(scores), ExactBalanced()).labels()
    else:  # the other way round: the sub-centroids are shared out
        scores = torch.cat([scores.T, scores.new_zeros(k, 1)], dim=1)
        sizes = torch.tensor([1.0] * m + [k - m], dtype=scores.dtype)
        image = solve(Problem(scores, cluster_mass=sizes), ExactBalanced()).labels()
        return torch.where(image < m, near[image.clamp(max=m - 1)], -1)
    found = torch.full((k + 1,), -1, dtype=torch.int64)
    found[labels] = near
    return found[:k]


def choose_anchors(
    model: Classifier, split: Split, config: DataConfig, ranks: Ranks, after_batch: Callable[[], None] | None = None
) -> Anchors:
    """The training image that each sub-centroid is from now on, the same on all ranks.

    Raises:
        DataError: An image cannot be read, and ``data.broken`` is not ``skip``.
    """
    found = evaluate(model, split, config, after_batch=after_batch, ranks=ranks)
    return ranks.from_first(lambda: _chosen(model.head, found))


def _chosen(head: Any, found: Evaluation) -> Anchors:
    rows = find_anchors(head, found.features, found.labels)
    return torch.where(rows < 0, -1, found.indices[rows]).tolist()


def tie(model: Classifier, anchors: Anchors, split: Split, config: DataConfig, ranks: Ranks) -> None:
    """Make each sub-centroid the feature that its image has by now, not augmented, the same on all ranks.

    Raises:
        DataError: None of the images can be read.
    """
    table = torch.tensor(anchors)
    wanted = table[table >= 0]
    found = evaluate(model, split.subset(wanted.tolist()), config, ranks=ranks)
    features, kept = ranks.from_first(lambda: (found.features, found.indices))
    which = torch.zeros(table.shape, dtype=torch.bool)
    which[tuple(torch.nonzero(table >= 0)[kept].T)] = True  # all but those of images that can no longer be read
    model.head.place(which, features)  # type: ignore[operator]
