"""The head of Deep Nearest Centroids: an image is of the class of its nearest sub-centroid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from otcluster.distributed import TorchReducer
from otcluster.dnc.growth import Evidence, Growing
from otcluster.problem import Problem
from otcluster.scores import PointScores
from otcluster.solve import solve
from otcluster.solvers import LogSinkhorn, Solver
from otcluster.stores.centroids import CentroidStore
from otcluster.stores.queue import MemoryQueue

DEFAULT_SOLVER = LogSinkhorn(epsilon=0.05, max_iter=10, tol=0.01)
"""More than three rounds: with ten modes a class, three leave some modes without a sub-centroid, ten find all of them."""


class DNCHead(nn.Module):
    """A classifier without weights: every class has sub-centroids, and the nearest one decides.

    :meth:`forward` gives logits, the largest cosine of each class over the temperature, and changes nothing. :meth:`observe`
    is the other half of a training step: it assigns recent features to the sub-centroids of their class in equal shares, and
    moves each towards the mean of its own. The head has no parameters; a gradient reaches the backbone through the cosines.

    Args:
        dim: Length of a feature vector.
        n_classes: Number of classes.
        n_subcentroids: Sub-centroids of each class: one number, or one for each class.
        momentum: How much of a sub-centroid stays at a step, in [0, 1].
        temperature: What cosines are divided with to make logits. One scale for all classes, so that the predicted class is
            always that of the nearest sub-centroid.
        memory: How many recent features (those of the batch counted) clustering sees; 0 for the batch alone.
        solver: How features are assigned. Default: :data:`DEFAULT_SOLVER`, up to ten rounds.
        seed: Seed of the start.
        growth: How classes change their number of sub-centroids while the head observes, from ``n_subcentroids`` on:
            :class:`otcluster.dnc.Evidence`. Default: they keep it.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> head = DNCHead(2, n_classes=2, n_subcentroids=1, memory=8)
        >>> features, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
        >>> head.observe(features, labels)
        >>> head(features).argmax(1)
        tensor([0, 1])

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023).
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        *,
        n_subcentroids: int | Sequence[int] = 4,
        momentum: float = 0.999,
        temperature: float = 0.1,
        memory: int = 4096,
        solver: Solver | None = None,
        seed: int = 0,
        growth: Evidence | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0 or temperature == float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if solver is not None and (isinstance(solver, type) or not isinstance(solver, Solver)):
            raise TypeError(f"solver must be a solver such as LogSinkhorn(epsilon=0.05), got {solver!r}")
        if growth is not None and not isinstance(growth, Evidence):
            raise TypeError(f"growth must be None or an object such as Evidence(k_max=16), got {growth!r}")
        if growth is not None:
            growth.check_start(n_subcentroids)
        self.n_classes, self.temperature, self.seed = int(n_classes), float(temperature), seed
        self.solver = DEFAULT_SOLVER if solver is None else solver
        self.store = CentroidStore(
            n_classes=n_classes,
            n_centroids=n_subcentroids,
            dim=dim,
            momentum=momentum,
            metric="cosine",
            seed=seed,
            room=None if growth is None else growth.k_max,
        )
        self.growing = None if growth is None else Growing(growth, self.store)
        self.memory = MemoryQueue(memory, dim)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, solver={self.solver}"

    @property
    def subcentroids(self) -> Tensor:
        """Unit vectors, (n_classes, n_subcentroids, dim); zero where a class has fewer than the most."""
        return self.store.centroids

    @property
    def n_open(self) -> Tensor:
        """How many sub-centroids each class has, (n_classes,)."""
        return self.store.is_open.sum(dim=1)

    def similarities(self, features: Tensor) -> Tensor:
        """Cosine of each feature (n, dim) to each sub-centroid: (n, n_classes, n_subcentroids), never in half precision.

        -inf to those that a class does not have.

        Raises:
            ValueError: The features have another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.store.dim:
            raise ValueError(f"features must have shape (n, {self.store.dim}), got {tuple(features.shape)}")
        with torch.autocast(features.device.type, enabled=False):
            unit = nn.functional.normalize(features.to(self.subcentroids.dtype), dim=-1)
            cosines = unit @ self.subcentroids.flatten(0, 1).T
            cosines = cosines.view(len(unit), *self.subcentroids.shape[:2])
            return cosines if self.store.all_open else cosines.masked_fill(~self.store.is_open, -torch.inf)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, (n, n_classes), of features (n, dim).

        Raises:
            ValueError: The features have another shape.
        """
        return self.similarities(features).amax(dim=-1) / self.temperature

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, *, reducer: TorchReducer | None = None) -> None:
        """Cluster the features with those remembered, inside each class, and move the sub-centroids.

        A class starts, by k-means++, when as many of its samples as it has sub-centroids are at hand.

        Args:
            features: (n, dim), of any length; directions are what counts.
            labels: Class of each, integers of shape (n,).
            reducer: The ranks that share the batch, each with features of its own (there may be none). All then remember those
                of all, in the order of the ranks, and each clusters a part of them: every head is that of one process with the
                whole batch.

        Raises:
            TypeError, ValueError: The arguments do not fit the head, or a label is out of range, on any rank; the head is then
                unchanged.
        """
        self.store.check(features, labels, reducer=reducer, owner="head")
        with torch.autocast(features.device.type, enabled=False):
            unit = nn.functional.normalize(features.detach().to(self.subcentroids.dtype), dim=-1)
            if reducer is not None:
                unit, labels = reducer.gather(unit), reducer.gather(labels.to(torch.int64))
            self.memory.push(unit, labels)
            if len(unit) < self.memory.capacity:
                unit, labels = self.memory.features, self.memory.labels
            if not len(unit):
                return
            if reducer is not None:
                unit, labels = (whole.tensor_split(reducer.n_ranks)[reducer.rank] for whole in (unit, labels))
            self.store.start(unit, labels, seed=self.seed, reducer=reducer)
            points = PointScores(unit, self.subcentroids, metric="cosine")
            share = None if self.store.all_open else self.store.is_open.to(unit.dtype)
            share = share if self.growing is None else self.growing.cluster_share(self.store)
            problem = Problem(
                points,
                cluster_share=share,
                groups=labels,
                n_groups=self.n_classes,
                check_values=False,
                sharded=reducer is not None,
            )
            self.store.update(unit, labels, solve(problem, self.solver, reducer=reducer), reducer=reducer)
            if self.growing is not None:
                self.growing.step(self.store, unit, labels, reducer)
