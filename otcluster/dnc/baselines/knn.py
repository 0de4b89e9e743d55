"""Nearest neighbours among the features that were seen last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.distributed import TorchReducer
from otcluster.dnc.scaling import check_temperature
from otcluster.stores.batch import Layout
from otcluster.stores.exchange import checked
from otcluster.stores.queue import MemoryQueue


class KNNHead(nn.Module):
    """DeepNCA: an image is of the class of its nearest neighbours among remembered features, and the backbone learns by it.

    The logit of a class is the logarithm of the sum of ``exp(cosine / temperature)`` over its remembered features, so that the
    cross-entropy is the loss of neighbourhood components analysis: minus the logarithm of the chance that a neighbour, drawn by
    similarity, is of the same class. In training all that is remembered counts, in evaluation mode the ``n_neighbours``
    nearest. A class of which nothing counts has the logit of a single feature that points the other way. The features of a
    batch are remembered after the step, by :meth:`observe`: a loss is that of its sample and the memory, on however many ranks.

    Args:
        dim: Length of a feature vector.
        n_classes: Number of classes.
        n_neighbours: How many neighbours decide in evaluation mode; where fewer are remembered, all.
        temperature: What cosines are divided with.
        memory: How many recent features are remembered, at least one.

    Raises:
        TypeError: A whole number is none.
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> head = KNNHead(2, n_classes=2, n_neighbours=1, memory=8).eval()
        >>> features, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
        >>> head.observe(features, labels)
        >>> head(features)
        tensor([[ 10., -10.],
                [-10.,  10.]])

    Source: Goldberger et al., "Neighbourhood components analysis" (2004); with features that are remembered and a temperature,
    Wu, Efros & Yu, "Improving generalization via scalable neighborhood component analysis" (ECCV 2018).
    """

    def __init__(
        self, dim: int, n_classes: int, *, n_neighbours: int = 20, temperature: float = 0.1, memory: int = 4096
    ) -> None:
        super().__init__()
        self.n_classes = check_whole("n_classes", n_classes, 1)
        self.n_neighbours = check_whole("n_neighbours", n_neighbours, 1)
        self.temperature = check_temperature(temperature)
        self.memory = MemoryQueue(check_whole("memory", memory, 1), dim)

    def extra_repr(self) -> str:
        return f"n_classes={self.n_classes}, n_neighbours={self.n_neighbours}, temperature={self.temperature}"

    def forward(self, features: Tensor) -> Tensor:
        """Logits, (n, n_classes), of features (n, dim); never in half precision.

        Raises:
            ValueError: The features have another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.memory.dim:
            raise ValueError(f"features must have shape (n, {self.memory.dim}), got {tuple(features.shape)}")
        with torch.autocast(features.device.type, enabled=False):
            scores = self._unit(features) @ self.memory.features.T / self.temperature
            labels = self.memory.labels.expand(scores.shape)
            if not self.training and self.n_neighbours < scores.shape[1]:
                scores, nearest = scores.topk(self.n_neighbours, dim=1)
                labels = labels.gather(1, nearest)
            empty = scores.new_full((len(scores), self.n_classes), -torch.inf)
            top = empty.scatter_reduce(1, labels, scores.detach(), "amax")
            kernel = torch.exp(scores - top.gather(1, labels))
            sums = torch.zeros_like(top).scatter_add(1, labels, kernel)
            seen = sums > 0
            return torch.where(seen, top, -1 / self.temperature) + torch.where(seen, sums, 1.0).log()

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, *, reducer: TorchReducer | None = None) -> None:
        """Remember the features, forgetting the oldest.

        Args:
            features: (n, dim), of any length; directions are what counts.
            labels: Class of each, integers of shape (n,).
            reducer: The ranks that share the batch, each with features of its own. All then remember those of all, in the order
                of the ranks.

        Raises:
            TypeError, ValueError: The arguments do not fit the head, or a label is out of range, on any rank; the head is then
                unchanged.
        """
        stored = self.memory.stored_features
        layout = Layout(stored, torch.ones(self.n_classes, 1, dtype=torch.bool, device=stored.device), has_classes=True)
        checked(layout, (features, labels, None), reducer, "head")
        with torch.autocast(features.device.type, enabled=False):
            unit, labels = self._unit(features.detach()), labels.to(torch.int64)
            if reducer is not None:
                unit, labels = reducer.gather(unit), reducer.gather(labels)
            self.memory.push(unit, labels, check_values=False)

    def _unit(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features.to(self.memory.stored_features.dtype), dim=-1)
