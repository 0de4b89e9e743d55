"""Sums of features by the centroid that they go to: one gathering kernel, whatever the number of classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LONGEST = 4096  # samples in one sequence of additions, for the rounding of long sums
_SPARE = 8  # parts of a sum are kept while they take at most this part of the features' memory


def place_sums(values: Tensor, places: Tensor, n_places: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Add rows by their place, in the same order whatever the number of threads.

    Args:
        values: (n, d), floating point.
        places: Where each row goes, (n,), or (n, r) for r places of each row; those at ``n_places`` are left out.
        n_places: How many places there are.
        weights: What each row is multiplied with at each of its places, of the shape of ``places``. Default: ones.

    Returns:
        Sums (n_places, d), and how much weight is in each, (n_places,).
    """
    n = len(values)
    if not places.numel():
        return values.new_zeros(n_places, values.shape[1]), values.new_zeros(n_places)
    parts = max(1, min(n // _LONGEST, n // (_SPARE * n_places)))
    part = torch.arange(n, device=values.device) * parts // n
    keys = places * parts + (part if places.ndim == 1 else part[:, None])
    each = 1 if places.ndim == 1 else places.shape[1]
    ordered, order = torch.sort(keys.flatten(), stable=True)
    starts = torch.searchsorted(ordered, torch.arange((n_places + 1) * parts, device=values.device))
    factors = None if weights is None else weights.to(values.dtype).flatten()[order]
    rows = order if each == 1 else order // each

    def gathered(table: Tensor) -> Tensor:
        bags = nn.functional.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=factors)
        return bags.view(n_places + 1, parts, -1).sum(dim=1)[:n_places] if parts > 1 else bags[:n_places]

    return gathered(values), gathered(values.new_ones(n, 1))[:, 0]
