"""The head of Deep Nearest Centroids: an image is of the class of its nearest sub-centroid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.distributed import TorchReducer
from otcluster.dnc.growth import Evidence, Growing
from otcluster.dnc.pooling import Largest
from otcluster.dnc.scaling import FixedTemperature
from otcluster.problem import Problem
from otcluster.scores import PointScores
from otcluster.solve import solve
from otcluster.solvers import LogSinkhorn, Solver
from otcluster.stores.averaging import Averaging
from otcluster.stores.centroids import CentroidStore, StoreMetric
from otcluster.stores.class_queue import ClassQueue
from otcluster.stores.queue import MemoryQueue, Queue

DEFAULT_SOLVER = LogSinkhorn(epsilon=0.05, max_iter=10, tol=0.01)
"""More than three rounds: with ten modes a class, three leave some modes without a sub-centroid, ten find all of them."""

USUAL_TEMPERATURE: dict[StoreMetric, float] = {"cosine": 0.1, "sqeuclidean": 1.0}


class DNCHead(nn.Module):
    """A classifier without weights: every class has sub-centroids, and the nearest one decides.

    :meth:`forward` gives logits, the largest cosine of each class over the temperature, and changes nothing. :meth:`observe`
    is the other half of a training step: it assigns recent features to the sub-centroids of their class in equal shares, and
    moves each towards the mean of its own. The head has no parameters, unless ``scaling`` has; a gradient reaches the backbone
    through the cosines.

    Args:
        dim: Length of a feature vector.
        n_classes: Number of classes.
        n_subcentroids: Sub-centroids of each class: one number, or one for each class.
        momentum: How much of a sub-centroid stays at a step, in [0, 1].
        temperature: What cosines are divided with to make logits. One scale for all classes, so that the predicted class is
            always that of the nearest sub-centroid. Default: 0.1 for cosines, 1 for distances.
        memory: How many recent features (those of the batch counted) clustering sees; 0 for the batch alone. Or a queue, such
            as ``ClassQueue(capacity, dim, n_classes=n_classes)``, which remembers as many of a rare class as of others; it
            becomes part of the head. Of a class that fills its share of it, clustering sees the most recent ones only.
        solver: How features are assigned. Default: :data:`DEFAULT_SOLVER`, up to ten rounds.
        seed: Seed of the start.
        metric: ``"cosine"``, or ``"sqeuclidean"`` for minus half the squared distance of features as they are. The solver sees
            minus the whole squared distance, so that its epsilon is in units of that.
        averaging: How sub-centroids follow. Default: :class:`otcluster.MomentumMean`.
        scaling: From the similarities of the classes, (n, n_classes), to logits: a module such as
            :class:`otcluster.dnc.LearntTemperature`, in place of ``temperature``.
        pooling: From similarities, (n, n_classes, n_subcentroids), to those of the classes. Default:
            :class:`otcluster.dnc.Largest`; :class:`otcluster.dnc.Mixture` is a smooth maximum while training.
        growth: How classes change their number of sub-centroids while the head observes, from ``n_subcentroids`` on:
            :class:`otcluster.dnc.Evidence`. Default: they keep it.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range, the metric is unknown, both ``temperature`` and ``scaling`` are given, or the
            queue is for other features or classes.

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
        temperature: float | None = None,
        memory: int | Queue = 4096,
        solver: Solver | None = None,
        seed: int = 0,
        metric: StoreMetric = "cosine",
        averaging: Averaging | None = None,
        scaling: nn.Module | None = None,
        pooling: nn.Module | None = None,
        growth: Evidence | None = None,
    ) -> None:
        super().__init__()
        if scaling is not None and temperature is not None:
            raise ValueError(f"scaling must be None where temperature is given, got {scaling!r} and {temperature}: pass one")
        if solver is not None and (isinstance(solver, type) or not isinstance(solver, Solver)):
            raise TypeError(f"solver must be a solver such as LogSinkhorn(epsilon=0.05), got {solver!r}")
        if growth is not None and not isinstance(growth, Evidence):
            raise TypeError(f"growth must be None or an object such as Evidence(k_max=16), got {growth!r}")
        if growth is not None and metric != "cosine":
            raise ValueError(f"growth needs metric='cosine', got {metric!r}: its evidence is about directions")
        if growth is not None:
            growth.check_start(n_subcentroids)
        self.n_classes, self.seed = int(n_classes), seed
        self.solver = DEFAULT_SOLVER if solver is None else solver
        try:
            self.store = CentroidStore(
                n_classes=n_classes, n_centroids=n_subcentroids, dim=dim, momentum=momentum, metric=metric,
                averaging=averaging, seed=check_whole("seed", seed, -(2**63)), room=None if growth is None else growth.k_max,
            )  # fmt: skip
        except (TypeError, ValueError) as error:  # by the names that the arguments have here
            raise type(error)(str(error).replace("n_centroids", "n_subcentroids")) from None
        usual = USUAL_TEMPERATURE[metric] if temperature is None else temperature
        self.scaling: nn.Module = FixedTemperature(usual) if scaling is None else scaling
        self.pooling: nn.Module = Largest() if pooling is None else pooling
        self.growing = None if growth is None else Growing(growth, self.store)
        self.memory: Queue = (
            self._checked(memory) if isinstance(memory, Queue) else MemoryQueue(check_whole("memory", memory, 0), dim)
        )

    def extra_repr(self) -> str:
        return f"solver={self.solver}"

    @property
    def subcentroids(self) -> Tensor:
        """(n_classes, n_subcentroids, dim), unit vectors for the cosine; zero where a class has fewer than the most."""
        return self.store.centroids

    @property
    def n_open(self) -> Tensor:
        """How many sub-centroids each class has, (n_classes,)."""
        return self.store.is_open.sum(dim=1)

    def similarities(self, features: Tensor) -> Tensor:
        """Similarity of each feature (n, dim) to each sub-centroid: (n, n_classes, n_subcentroids), never in half precision.

        The cosine, or minus half the squared distance; -inf to those that a class does not have.

        Raises:
            ValueError: The features have another shape.
        """
        self._check_shape(features)
        with torch.autocast(features.device.type, enabled=False):
            points, centroids = self._points(features), self.subcentroids.flatten(0, 1)
            found = points @ centroids.T
            if self.store.metric == "sqeuclidean":
                found = found - (points.square().sum(dim=1, keepdim=True) + centroids.square().sum(dim=1)) / 2
            found = torch.unflatten(found, 1, self.subcentroids.shape[:2])
            return found if self.store.all_open else found.masked_fill(~self.store.is_open, -torch.inf)

    def own_similarities(self, features: Tensor, labels: Tensor) -> Tensor:
        """As :meth:`similarities`, to the sub-centroids of the class of each feature alone: (n, n_subcentroids).

        Args:
            features: (n, dim).
            labels: Class of each, integers of shape (n,).

        Raises:
            ValueError: The features have another shape.
        """
        self._check_shape(features)
        with torch.autocast(features.device.type, enabled=False):
            points, centroids = self._points(features), self.subcentroids[labels]
            if self.store.metric == "sqeuclidean":
                found = -(points[:, None, :] - centroids).square().sum(dim=-1) / 2
            else:
                found = torch.einsum("nd,nkd->nk", points, centroids)
            return found if self.store.all_open else found.masked_fill(~self.store.is_open[labels], -torch.inf)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, (n, n_classes), of features (n, dim).

        Raises:
            ValueError: The features have another shape.
        """
        return self.scaling(self.pooling(self.similarities(features)))

    def _check_shape(self, features: Tensor) -> None:
        if not isinstance(features, Tensor):
            raise TypeError(f"features must be a tensor of shape (n, {self.store.dim}), got {type(features).__name__}")
        if features.ndim != 2 or features.shape[1] != self.store.dim:
            raise ValueError(f"features must have shape (n, {self.store.dim}), got {tuple(features.shape)}")

    def _checked(self, memory: Queue) -> Queue:
        if memory.dim != self.store.dim or getattr(memory, "n_classes", self.n_classes) != self.n_classes:
            raise ValueError(
                f"memory must be a queue with dim={self.store.dim} (and n_classes={self.n_classes} if it is one of classes), "
                f"got {memory!r}"
            )
        if memory.payload_names:
            raise ValueError(
                f"memory must be a queue without payloads, which the head does not have, got {memory.payload_names}"
            )
        return memory

    def _points(self, features: Tensor) -> Tensor:
        """Features as the sub-centroids are: in their dtype, and of unit length where the metric is of directions."""
        points = features.to(self.subcentroids.dtype)
        return nn.functional.normalize(points, dim=-1) if self.store.metric == "cosine" else points

    @torch.no_grad()
    def place(self, which: Tensor, features: Tensor) -> None:
        """Put sub-centroids where features lie. Their classes count as started.

        Args:
            which: Which of them, booleans (n_classes, n_subcentroids); those that a class does not have cannot be chosen.
            features: A feature for each, class by class, (m, dim).

        Raises:
            ValueError: The shapes do not fit, or a chosen one is not there.

        Example:
            >>> import torch
            >>> head = DNCHead(2, n_classes=1, n_subcentroids=2)
            >>> head.place(torch.tensor([[False, True]]), torch.tensor([[0.0, 2.0]]))
            >>> head.subcentroids[0, 1]
            tensor([0., 1.])
        """
        self._check_shape(features)
        which = which.to(self.subcentroids.device)
        if which.shape != self.store.is_open.shape or int(which.sum()) != len(features):
            raise ValueError(
                f"which must be booleans of shape {tuple(self.store.is_open.shape)} with {len(features)} of them True, one for "
                f"each feature, got shape {tuple(which.shape)} with {int(which.sum())}"
            )
        if bool((which & ~self.store.is_open).any()):
            raise ValueError("which must choose among the sub-centroids that classes have (store.is_open), and chooses others")
        self.store.centroids[which] = self._points(features.to(self.subcentroids.device))
        self.store.started |= which.any(dim=1)

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, *, reducer: TorchReducer | None = None) -> None:
        """Cluster the features with those remembered, inside each class, and move the sub-centroids.

        A class starts, by k-means++, when as many of its samples as it has sub-centroids are at hand.

        Args:
            features: (n, dim); for the cosine of any length, directions are what counts.
            labels: Class of each, integers of shape (n,); or shares of the classes, floats of shape (n, n_classes), as mixup
                gives them: a feature is then clustered with the class of its greatest share.
            reducer: The ranks that share the batch, each with features of its own (there may be none). All then remember those
                of all, in the order of the ranks, and each clusters a part of them: every head is that of one process with the
                whole batch.

        Raises:
            TypeError, ValueError: The arguments do not fit the head, or a label is out of range, on any rank; the head is then
                unchanged.
        """
        if isinstance(labels, Tensor) and labels.is_floating_point() and labels.shape[1:] == (self.n_classes,):
            labels = labels.argmax(dim=1)
        self.store.check(features, labels, reducer=reducer, owner="head")
        with torch.autocast(features.device.type, enabled=False):
            points = self._points(features.detach())
            if reducer is not None:
                points, labels = reducer.gather(points), reducer.gather(labels.to(torch.int64))
            # All was looked at: what follows need not wait for the device to look again.
            self.memory.push(points, labels, check_values=False)
            if isinstance(self.memory, ClassQueue) or len(points) < self.memory.room:
                points, labels = self.memory.features.to(points.dtype), self.memory.labels
            if not len(points):
                return
            if reducer is not None:
                points, labels = (whole.tensor_split(reducer.n_ranks)[reducer.rank] for whole in (points, labels))
            self.store.start(points, labels, seed=self.seed, reducer=reducer)
            scores = PointScores(points, self.subcentroids, metric=self.store.metric)
            share = None if self.store.all_open else self.store.is_open.to(points.dtype)
            share = share if self.growing is None else self.growing.cluster_share(self.store)
            problem = Problem(
                scores,
                cluster_share=share,
                groups=labels,
                n_groups=self.n_classes,
                check_values=False,
                sharded=reducer is not None,
            )
            assigned = solve(problem, self.solver, reducer=reducer)
            self.store.update(points, labels, assigned, reducer=reducer, check_values=False)
            if self.growing is not None:
                self.growing.step(self.store, points, labels, reducer)
