"""Whether groups of samples are each one cluster or two: all groups at once, whichever rank holds the samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from otcluster.distributed import Reducer
from otcluster.stores.lots import lots
from otcluster.stores.seeding import draw_far
from otcluster.stores.sums import place_sums

_ROUNDS = 6  # of 2-means
_LEAST_WITHIN = 1e-6  # of the variance along the line, that copies have


class Twofold(NamedTuple):
    """What :func:`divide` found of each group.

    Attributes:
        gain: How much likelier two Gaussians make a sample than one does, in nats a sample, (n_groups,); -1 where a side is
            empty.
        pairs: Means of the two sides, (n_groups, 2, d).
        counts: Samples of each side, (n_groups, 2).
    """

    gain: Tensor
    pairs: Tensor
    counts: Tensor


def divide(
    features: Tensor,
    group: Tensor,
    n_groups: int,
    *,
    begin: Tensor | None = None,
    seed: int,
    reducer: Reducer | None,
) -> Twofold:
    """Divide groups of samples in two, and judge each division by samples that it was not made from.

    The samples of a group are split in halves. Each half is divided by 2-means, and the other half is looked at along the line
    between the two means, cut where that half was cut. With n_1 + n_2 = n samples on the two sides, whose variance along the
    line is v, and w within the sides, two Gaussians of one variance are likelier than one by

        n / 2 log(v / w) + n_1 log(n_1 / n) + n_2 log(n_2 / n) - log(n),

    where the last term is for the two numbers more that they take. A Gaussian has -0.19 n, cut in the middle, and samples
    spread evenly over a line have 0: what is above has two modes. Nothing depends on the other coordinates, however many, or on
    whether clusters are round; and the line owes nothing to the samples that are looked at, so that few do.

    Args:
        features: (n, d), such as unit vectors: the halves follow from directions.
        group: Group of each, (n,); ``n_groups`` for those left out.
        n_groups: How many there are.
        begin: Where 2-means begins, (n_groups, 2, d). Default: two samples far from each other.
        seed: Seed of the halves, and of the samples drawn.
        reducer: The ranks that share the samples; None where all are here.

    Example:
        >>> angle = torch.cat([torch.linspace(0, 0.2, 50), torch.linspace(1, 1.2, 50), torch.linspace(0, 0.2, 50)])
        >>> found = divide(torch.stack([angle.cos(), angle.sin()], dim=1), torch.arange(150) // 100, 2, seed=0, reducer=None)
        >>> found.gain > 0, found.counts[0]
        (tensor([ True, False]), tensor([50., 50.]))

    Source: Schwarz, "Estimating the dimension of a model" (1978), for the two numbers more; a line and its own samples: Hamerly
    & Elkan, "Learning the k in k-means" (2003). Other samples to judge by are ours.
    """
    half = (lots(features, 4, seed) < 0.5).to(torch.int64)
    n_halves = 2 * n_groups
    owner = torch.where(group < n_groups, 2 * group + half, n_halves)
    own, counted = owner.clamp(max=n_halves - 1), owner < n_halves
    if begin is None:
        pairs = draw_far(features, owner, n_halves, 2, seed=seed, reducer=reducer)
    else:
        pairs = begin.repeat_interleave(2, dim=0)

    def along(which: Tensor) -> Tensor:
        """Where each sample lies on the line of one division, from the cut."""
        line = torch.nn.functional.normalize(pairs[:, 1] - pairs[:, 0], dim=1)
        middle = (pairs.mean(dim=1) * line).sum(dim=1)
        return (features * line[which]).sum(dim=1) - middle[which]

    def sums(values: Tensor, side: Tensor, places: int, of: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        total, count = place_sums(values, torch.where(here, 2 * of + side, 2 * places), 2 * places)
        packed = torch.cat([total, count[:, None]], dim=1)
        packed = packed if reducer is None else reducer.sum(packed)
        return packed[:, :-1].view(places, 2, -1), packed[:, -1].view(places, 2)

    for _ in range(_ROUNDS):
        total, count = sums(features, (along(own) > 0).to(torch.int64), n_halves, own, counted)
        pairs = torch.where(count[..., None] > 0, total / count.clamp(min=1)[..., None], pairs)

    at = along(own ^ 1)
    moments, count = sums(torch.stack([at, at.square()], dim=1), (at > 0).to(torch.int64), n_halves, own, counted)
    gain = _gain(moments, count).view(n_groups, 2)
    n = count.view(n_groups, 2, 2).sum(dim=2)
    # The line on which more is gained divides the whole group: that of half 0 was looked at by half 1.
    better = (gain / n.clamp(min=1)).argmax(dim=1) ^ 1
    pairs = pairs.view(n_groups, 2, 2, -1)[torch.arange(n_groups, device=better.device), better]
    group_own = group.clamp(max=n_groups - 1)
    total, count = sums(features, (along(group_own) > 0).to(torch.int64), n_groups, group_own, counted)
    pairs = torch.where(count[..., None] > 0, total / count.clamp(min=1)[..., None], pairs)
    return Twofold(gain.sum(dim=1) / n.sum(dim=1).clamp(min=1), pairs, count)


def _gain(moments: Tensor, count: Tensor) -> Tensor:
    """Of sums of places and their squares, (groups, 2 sides, 2), and of counts, (groups, 2): nats of all samples, (groups,)."""
    n, some = count.sum(dim=1), count.clamp(min=1)
    first, second = moments.unbind(dim=2)
    within = (second - first.square() / some).clamp(min=0).sum(dim=1)
    whole = (second.sum(dim=1) - first.sum(dim=1).square() / n.clamp(min=1)).clamp(min=torch.finfo(n.dtype).tiny)
    fit = n / 2 * -torch.log((within / whole).clamp(min=_LEAST_WITHIN)) - n.clamp(min=1).log()
    shares = torch.xlogy(count, count / n.clamp(min=1)[:, None]).sum(dim=1)
    return torch.where((count > 0).all(dim=1), fit + shares, -n)
