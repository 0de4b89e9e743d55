"""Scores of how well an image is known: of every one, larger is better known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from otcluster.dnc.classes import need_subcentroids
from otcluster.dnc.head import DNCHead
from otcluster.dnc.scaling import ScoreNorm, check_temperature


class KnownScore(Protocol):
    """A score of how well images are known. ``name`` says which, in files and in text."""

    @property
    def name(self) -> str: ...

    def score(self, head: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
        """Scores, float64, (n,), of what a head was given, (n, dim), and what it made of it, (n, n_classes)."""
        ...


@dataclass(frozen=True)
class NearestCosine:
    """The cosine to the nearest sub-centroid, of whatever class.

    Raises:
        TypeError: When it scores a head in which sub-centroids do not decide alone.
        ValueError: When it scores a head that compares by distances.

    Example:
        >>> head = DNCHead(2, n_classes=2, n_subcentroids=1)
        >>> head.observe(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> features = torch.tensor([[3.0, 0.0], [-1.0, -1.0]])
        >>> NearestCosine().score(head, features, head(features)).round(decimals=3)
        tensor([ 1.0000, -0.7070], dtype=torch.float64)
    """

    name: str = "cosine"

    def score(self, head: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
        """Cosines, in [-1, 1], (n,)."""
        of = need_subcentroids(head, "a cosine tells how well an image is known")
        if of.store.metric != "cosine":
            raise ValueError(f"this score is a cosine, and the head compares by metric={of.store.metric!r}: choose 'logit'")
        return of.similarities(features.to(of.subcentroids.device)).amax(dim=(1, 2)).double().to(features.device)


@dataclass(frozen=True)
class GreatestShare:
    """The share of the predicted class.

    Args:
        temperature: What logits are divided with first.

    Raises:
        ValueError: The temperature is not positive and finite.

    Example:
        >>> GreatestShare().score(nn.Identity(), torch.zeros(1, 2), torch.tensor([[0.0, 0.0]]))
        tensor([0.5000], dtype=torch.float64)

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural networks"
    (ICLR 2017).
    """

    temperature: float = 1.0
    name: str = "share"

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def score(self, head: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
        """Shares, in (0, 1], (n,)."""
        return torch.softmax(logits.double() / self.temperature, dim=1).amax(dim=1)


@dataclass(frozen=True)
class LargestLogit:
    """The logit of the predicted class. Of DNC with cosines and one temperature it orders images as :class:`NearestCosine`.

    Example:
        >>> LargestLogit().score(nn.Identity(), torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([3.], dtype=torch.float64)

    Source: Hendrycks et al., "Scaling out-of-distribution detection for real-world settings" (ICML 2022).
    """

    name: str = "logit"

    def score(self, head: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
        """Logits, (n,)."""
        return logits.double().amax(dim=1)


@dataclass(frozen=True)
class Energy:
    """Minus the free energy: a smooth largest logit, temperature times the log of the sum of exp(logits / temperature).

    Args:
        temperature: What logits are divided with first.

    Raises:
        ValueError: The temperature is not positive and finite.

    Example:
        >>> Energy().score(nn.Identity(), torch.zeros(1, 2), torch.tensor([[0.0, 0.0]]))  # log 2
        tensor([0.6931], dtype=torch.float64)

    Source: Liu et al., "Energy-based out-of-distribution detection" (NeurIPS 2020).
    """

    temperature: float = 1.0
    name: str = "energy"

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def score(self, head: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
        """In the unit of the logits, (n,)."""
        return self.temperature * torch.logsumexp(logits.double() / self.temperature, dim=1)


@dataclass(frozen=True, eq=False)
class ClassMeanCosine:
    """The cosine to the nearest mean direction of the training features of a class: for heads that have no sub-centroids.

    Args:
        means: Unit vectors, (n_classes, dim); zero for a class without features.

    Example:
        >>> features, labels = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1])
        >>> ClassMeanCosine.of(features, labels, 2).score(nn.Identity(), torch.tensor([[5.0, 0.0]]), torch.zeros(1, 2))
        tensor([1.], dtype=torch.float64)
    """

    means: Tensor
    name: str = "class mean"

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, n_classes: int) -> ClassMeanCosine:
        """From training features (n, dim) and their classes (n,)."""
        unit = nn.functional.normalize(features.double(), dim=1)
        sums = torch.zeros(n_classes, features.shape[1], dtype=unit.dtype, device=unit.device).index_add_(0, labels, unit)
        return cls(nn.functional.normalize(sums, dim=1))

    def score(self, head: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
        """Cosines, in [-1, 1], (n,)."""
        return (nn.functional.normalize(features.double(), dim=1) @ self.means.T.to(features.device)).amax(dim=1)


SCORE_NAMES = ("cosine", "share", "logit", "energy")
"""Scores that need nothing but a model, so that a run can name them."""


def score_of(name: str, temperature: float = 1.0) -> KnownScore:
    """The score of a name; shares and energies at a temperature.

    Raises:
        ValueError: There is none of this name.

    Example:
        >>> score_of("share", 2.0)
        GreatestShare(temperature=2.0, name='share')
    """
    if name == "share":
        return GreatestShare(temperature)
    if name == "energy":
        return Energy(temperature)
    if name not in SCORE_NAMES:
        raise ValueError(f"score must be one of {', '.join(SCORE_NAMES)}, got {name!r}")
    return NearestCosine() if name == "cosine" else LargestLogit()


def usual_score(head: nn.Module) -> str:
    """The cosine, where the nearest sub-centroid decides by it; the share of other heads.

    Example:
        >>> usual_score(DNCHead(4, n_classes=2)), usual_score(nn.Linear(4, 2))
        ('cosine', 'share')
    """
    by_cosine = isinstance(head, DNCHead) and head.store.metric == "cosine" and not isinstance(head.scaling, ScoreNorm)
    return "cosine" if by_cosine else "share"
