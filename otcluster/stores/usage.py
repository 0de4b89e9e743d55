"""How evenly centroids are used, and which of them are dead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otcluster.metrics import entropy


@dataclass(frozen=True)
class UsageStatistics:
    """How evenly the centroids of each class are used; nan for a class that no sample has come to yet.

    Attributes:
        perplexity: How many equally used centroids would be as mixed: from 1 to the number of centroids, as
            :func:`otcluster.metrics.perplexity` has it.
        dead_share: Share of the centroids that are used too little.
        balance: The fair share over the largest: 1 where all are used alike, 1 / k where one takes everything.
    """

    perplexity: Tensor
    dead_share: Tensor
    balance: Tensor


def usage_statistics(usage: Tensor, is_open: Tensor, below: float) -> UsageStatistics:
    """The statistics of decayed counts (..., k); a centroid is dead ``below`` this part of the fair share."""
    total = usage.sum(dim=-1, keepdim=True)
    share = usage / total  # 0 / 0 is nan, as it should be
    n_open = is_open.sum(dim=-1)
    dead = (is_open & (share * n_open[..., None] < below)).sum(dim=-1) / n_open
    return UsageStatistics(
        perplexity=entropy(share).exp(),
        dead_share=torch.where(total[..., 0] > 0, dead, torch.nan),
        balance=1 / (share.amax(dim=-1) * n_open),
    )


def find_dead(usage: Tensor, age: Tensor, is_open: Tensor, below: float, patience: int) -> Tensor:
    """Which centroids (classes, k) have less than ``below`` of the fair share, ``patience`` updates after they were placed."""
    fair = usage.sum(dim=-1, keepdim=True) / is_open.sum(dim=-1, keepdim=True)
    return is_open & (age >= patience) & (usage < below * fair)
