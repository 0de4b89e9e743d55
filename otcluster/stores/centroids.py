"""Centroids that move with momentum."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from otcluster.assignment import Assignment
from otcluster.clustering.initialisation import kmeans_plusplus
from otcluster.stores.checks import check_features, check_ids, check_number

StoreMetric = Literal["cosine", "sqeuclidean"]


class CentroidStore(nn.Module):
    """Centroids, of one set or of every class, that follow the means of what is assigned to them.

    ``p <- momentum * p + (1 - momentum) * mean(features assigned to p)``, and to unit length with ``metric="cosine"``. A
    centroid that nothing was assigned to stays. State is buffers only, no parameters: an optimizer never sees it, and
    ``state_dict`` holds all of it. Nothing changes but by :meth:`update` and :meth:`start`.

    Args:
        n_classes: Number of classes, each with its own centroids; None for one set without classes.
        n_centroids: Centroids of each class.
        dim: Length of a feature vector.
        momentum: How much of a centroid stays at an update, in [0, 1].
        metric: ``"cosine"`` keeps centroids at unit length; ``"sqeuclidean"`` leaves their length.
        seed: Seed of the directions that centroids have before they are started from data.

    Attributes:
        centroids: (n_classes, n_centroids, dim), or (n_centroids, dim) without classes.
        started: Which classes were started from data, (n_classes,), or () without classes.

    Raises:
        TypeError: A number is no number.
        ValueError: A number is out of range, or the metric is unknown.

    Example:
        >>> import torch
        >>> store = CentroidStore(n_classes=2, n_centroids=1, dim=2, momentum=0.5)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> _ = store.start(x, y)
        >>> store.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), torch.tensor([0]))
        >>> store.centroids
        tensor([[[0.7071, 0.7071]],
                [[0.0000, 1.0000]]])

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023).
    """

    centroids: Tensor
    started: Tensor

    def __init__(
        self,
        *,
        n_centroids: int,
        dim: int,
        n_classes: int | None = None,
        momentum: float = 0.999,
        metric: StoreMetric = "cosine",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_classes = None if n_classes is None else check_number("n_classes", n_classes, 1)
        self.n_centroids, self.dim = check_number("n_centroids", n_centroids, 1), check_number("dim", dim, 1)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        if metric not in get_args(StoreMetric):
            raise ValueError(f"metric must be one of {', '.join(get_args(StoreMetric))}, got {metric!r}")
        self.momentum = float(momentum)
        self.metric: StoreMetric = metric
        classes = () if self.n_classes is None else (self.n_classes,)
        noise = torch.randn((*classes, self.n_centroids, self.dim), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("centroids", nn.functional.normalize(noise, dim=-1))
        self.register_buffer("started", torch.zeros(classes, dtype=torch.bool))

    def extra_repr(self) -> str:
        return (
            f"n_classes={self.n_classes}, n_centroids={self.n_centroids}, dim={self.dim}, "
            f"momentum={self.momentum}, metric={self.metric!r}"
        )

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor | None, assignment: Assignment | Tensor) -> None:
        """Take one momentum step, for all classes at once.

        Args:
            features: (n, dim).
            labels: Class of each feature, integers of shape (n,); None without classes.
            assignment: Which centroid of its class each feature goes to: an assignment, of which the labels are taken, or
                integers of shape (n,). Features at -1 are left out.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices do not fit, or a label or centroid is out of range. The store is then unchanged.
        """
        labels = self.check(features, labels)
        chosen = assignment.labels() if isinstance(assignment, Assignment) else assignment
        check_ids("assignment", chosen, features, -1, self.n_centroids)
        k, wide = self.n_centroids, self.centroids.dtype
        taken = chosen >= 0
        place = torch.where(taken, labels * k + chosen, 0)
        rows = self.centroids.view(-1, self.dim)
        weights = taken.to(wide)
        counts = torch.zeros(len(rows), dtype=wide, device=rows.device).index_add_(0, place, weights)
        sums = torch.zeros_like(rows).index_add_(0, place, features.to(wide) * weights[:, None])
        moved = self.momentum * rows + (1 - self.momentum) * (sums / counts.clamp(min=1)[:, None])
        rows.copy_(torch.where((counts > 0)[:, None], self._shaped(moved, rows), rows))

    @torch.no_grad()
    def start(self, features: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """Start the centroids from data by k-means++, for every class at once that has enough samples and has not started.

        Args:
            features: (n, dim).
            labels: Class of each feature, integers of shape (n,); None without classes.
            seed: Seed of the draws.

        Returns:
            Which classes have been started by this call, (n_classes,), or () without classes.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices do not fit, or a label is out of range.
        """
        labels = self.check(features, labels)
        if bool(self.started.all()):
            return torch.zeros_like(self.started)
        n_classes = self.n_classes or 1
        enough = torch.bincount(labels, minlength=n_classes) >= self.n_centroids
        begins = enough & ~self.started.view(-1)
        drawn = kmeans_plusplus(
            features, self.n_centroids, groups=labels, n_groups=n_classes, metric=self.metric, seed=seed
        ).view(-1)
        if len(features):
            found = features[drawn.clamp(min=0)].to(self.centroids.dtype)
            rows = self.centroids.view(-1, self.dim)
            rows.copy_(torch.where(begins.repeat_interleave(self.n_centroids)[:, None], self._shaped(found, rows), rows))
        self.started |= begins.view(self.started.shape)
        return begins.view(self.started.shape)

    def _shaped(self, vectors: Tensor, otherwise: Tensor) -> Tensor:
        if self.metric != "cosine":
            return vectors
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        return torch.where(length > 0, vectors / length.clamp(min=torch.finfo(vectors.dtype).tiny), otherwise)

    def check(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Raise unless the arguments fit; the labels, zeros without classes."""
        check_features(features, self.dim, self.centroids.device, "store")
        if self.n_classes is None:
            if labels is not None:
                raise ValueError("labels are given, but the store has no classes: pass None, or set n_classes")
            return torch.zeros(len(features), dtype=torch.int64, device=features.device)
        if labels is None:
            raise ValueError(f"labels are needed: the store has {self.n_classes} classes")
        check_ids("labels", labels, features, 0, self.n_classes)
        return labels.to(torch.int64)
