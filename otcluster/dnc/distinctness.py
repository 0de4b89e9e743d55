"""Whether the sub-centroids of a class are different ones, and all in use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from otcluster.dnc.head import DNCHead
from otcluster.stores.usage import UsageStatistics, usage_statistics

_DEAD = 0.1  # of the fair share


def within_class_cosines(subcentroids: Tensor, is_open: Tensor) -> Tensor:
    """Cosines of all pairs of sub-centroids of one class, of all classes one after the other.

    Args:
        subcentroids: (n_classes, k, dim), of any length.
        is_open: Which there are, booleans (n_classes, k).

    Example:
        >>> within_class_cosines(torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]]), torch.ones(1, 3, dtype=torch.bool))
        tensor([0., 1., 0.])
    """
    unit = nn.functional.normalize(subcentroids, dim=-1)
    k = unit.shape[1]
    pairs = torch.ones(k, k, dtype=torch.bool, device=unit.device).triu(1) & is_open[:, :, None] & is_open[:, None, :]
    return (unit @ unit.transpose(1, 2))[pairs]


def of_usage(head: DNCHead) -> dict[str, float | None]:
    """What the head itself knows, for a line of the history.

    Returns:
        ``cosine_mean`` and ``cosine_max`` of pairs within a class; ``perplexity``, the mean over the classes, and
        ``dead_share``, of counts that momentum decays. None where there are no pairs, or nothing was counted.
    """
    return _summary(head, head.store.usage_statistics(below=_DEAD))


def of_images(head: DNCHead, sizes: Tensor) -> dict[str, float | None]:
    """What images say: the same, with how many training images are nearest to each sub-centroid in place of decayed counts.

    Args:
        head: The head.
        sizes: Of how many training images of its class each sub-centroid is the nearest, (n_classes, k).

    Returns:
        As :func:`of_usage`, and ``least_share``: the least part of the images of its class that a sub-centroid owns.
    """
    is_open = head.store.is_open.cpu()
    share = sizes / sizes.sum(dim=1, keepdim=True)
    owned = share[is_open & (sizes.sum(dim=1, keepdim=True) > 0)]
    statistics = usage_statistics(sizes.to(torch.float64), is_open, _DEAD)
    return {**_summary(head, statistics), "least_share": round(float(owned.min()), 6) if len(owned) else None}


def _summary(head: DNCHead, statistics: UsageStatistics) -> dict[str, float | None]:
    cosines = within_class_cosines(head.subcentroids, head.store.is_open)
    return {
        "cosine_mean": _number(cosines.mean()),
        "cosine_max": _number(cosines.max()) if len(cosines) else None,
        "perplexity": _number(statistics.perplexity.nanmean()),
        "dead_share": _number(_dead_share(statistics, head)),
    }


def _dead_share(statistics: UsageStatistics, head: DNCHead) -> Tensor:
    """Of all sub-centroids of classes that samples came to; classes may have different numbers of them."""
    n_open = head.store.is_open.sum(dim=1).to(statistics.dead_share)
    known = ~statistics.dead_share.isnan()
    return (statistics.dead_share * n_open)[known].sum() / n_open[known].sum()


def _number(value: Any) -> float | None:
    number = float(value)
    return round(number, 6) if number == number else None


def numbers_found(head: nn.Module) -> list[int] | None:
    """How many sub-centroids each class has now, where classes find it by themselves; None elsewhere."""
    return head.n_open.tolist() if isinstance(head, DNCHead) and head.growing is not None else None
