"""The bare three rounds that training codes paste, as they compute them: the peer of the soft solvers."""

from __future__ import annotations

import torch
from torch import Tensor


def three_rounds(scores: Tensor, epsilon: float = 0.05, rounds: int = 3) -> Tensor:
    """Plan (n, k) of scores (n, k), rows summing to 1; overflows where scores / epsilon is large."""
    q = torch.exp(scores / epsilon).t()
    k, n = q.shape
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(dim=1, keepdim=True)
        q /= k
        q /= q.sum(dim=0, keepdim=True)
        q /= n
    q *= n
    return q.t()
