"""From the similarities of a feature to the sub-centroids of a class to one score of the class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otcluster.dnc.scaling import check_temperature


class Largest(nn.Module):
    """The largest similarity: the default, and the rule of Deep Nearest Centroids, in training too.

    A gradient reaches a feature from one sub-centroid of each class.

    Example:
        >>> Largest()(torch.tensor([[[0.5, 1.0], [0.25, 0.0]]]))
        tensor([[1.0000, 0.2500]])

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023).
    """

    def forward(self, similarities: Tensor) -> Tensor:
        """Scores, (n, n_classes), of similarities (n, n_classes, n_subcentroids)."""
        # With a place, so that nothing of the size of the similarities is kept for the gradient, and but one goes back.
        return similarities.max(dim=-1).values if similarities.requires_grad else similarities.amax(dim=-1)


class Mixture(nn.Module):
    """In training a smooth maximum, T log mean exp(similarity / T) over the sub-centroids that are there; else the largest.

    Every sub-centroid of a class then draws its features, the nearest most. With the largest alone, what a balanced assignment
    found in features that are not learnt yet (the light of a picture, say) is held on to: each feature is drawn to one
    sub-centroid of its class, and never to the others. In evaluation mode the class is always that of the nearest sub-centroid.

    Args:
        temperature: T; the smaller, the nearer to the largest.

    Raises:
        ValueError: ``temperature`` is not positive and finite.

    Example:
        >>> pool, similarities = Mixture(0.1), torch.tensor([[[0.5, 1.0], [0.25, 0.25]]])
        >>> pool(similarities)
        tensor([[0.9314, 0.2500]])
        >>> pool.eval()(similarities)
        tensor([[1.0000, 0.2500]])

    Source: Qian et al., "SoftTriple loss" (ICCV 2019), where the several centers of a class are learnt and softly chosen.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def extra_repr(self) -> str:
        return f"{self.temperature}"

    def forward(self, similarities: Tensor) -> Tensor:
        """Scores, (n, n_classes), of similarities (n, n_classes, n_subcentroids)."""
        if not self.training:
            return similarities.amax(dim=-1)
        n_open = (similarities > -torch.inf).sum(dim=-1).clamp(min=1)
        return self.temperature * (torch.logsumexp(similarities / self.temperature, dim=-1) - n_open.log())
