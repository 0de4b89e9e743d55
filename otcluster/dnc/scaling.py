"""From the scores of classes, such as the largest cosine of each, to logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def check_temperature(temperature: float, name: str = "temperature") -> float:
    """The temperature, if it is one; ``name`` is that of the argument.

    Raises:
        TypeError: It is no number.
        ValueError: It is not positive, or not finite.
    """
    if isinstance(temperature, bool | str) or not hasattr(temperature, "__float__"):
        raise TypeError(f"{name} must be a positive number, got {temperature!r}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {temperature}")
    return float(temperature)


class FixedTemperature(nn.Module):
    """Scores over one fixed number: the default. The class of the largest score stays that of the largest logit.

    Args:
        temperature: What scores are divided with.

    Raises:
        ValueError: ``temperature`` is not positive and finite.

    Example:
        >>> FixedTemperature(0.5)(torch.tensor([[0.25, 1.0]]))
        tensor([[0.5000, 2.0000]])
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def extra_repr(self) -> str:
        return f"{self.temperature}"

    def forward(self, scores: Tensor) -> Tensor:
        """Logits, (n, n_classes), of scores of that shape."""
        return scores / self.temperature


class LearntTemperature(nn.Module):
    """Scores over one learnt number, which is kept positive by learning its logarithm. The largest stays the largest.

    Args:
        temperature: Where it starts.

    Raises:
        ValueError: ``temperature`` is not positive and finite.

    Example:
        >>> LearntTemperature(0.5)(torch.tensor([[0.25, 1.0]]))
        tensor([[0.5000, 2.0000]], grad_fn=<MulBackward0>)
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(check_temperature(temperature))))

    def forward(self, scores: Tensor) -> Tensor:
        """Logits, (n, n_classes), of scores of that shape."""
        return scores * torch.exp(-self.log_temperature)


class ScoreNorm(nn.LayerNorm):
    """Scores normalised over the classes, with a learnt weight and offset for each class, as the code of DNC's authors does.

    For comparison only. **It breaks the rule of the nearest centroid**: with weights and offsets of their own, the class of the
    largest logit need not be that of the largest score, and the explanation by the nearest sub-centroid is then untrue. It also
    ties the head to its number of classes.

    Args:
        n_classes: Number of classes.

    Example:
        >>> norm = ScoreNorm(2)
        >>> with torch.no_grad():
        ...     _ = norm.bias.copy_(torch.tensor([3.0, 0.0]))
        >>> norm(torch.tensor([[0.0, 1.0]])).argmax(1)  # the other score is larger
        tensor([0])

    Source: the code published with Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023).
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(n_classes)
