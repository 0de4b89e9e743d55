"""Whether groups of samples are each one cluster or two: all groups at once, whichever rank holds the samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from otcluster.distributed import Reducer
from otcluster.stores.lots import lots
from otcluster.stores.seeding import draw_far
from otcluster.stores.sums import place_sums

_ROUNDS = 4  # of 2-means
_FEW = 128  # lines onto which all samples are projected by one product; with more, each sample onto its own
_LEAST_WITHIN = 1e-6  # of the variance along the line, that copies have


class Twofold(NamedTuple):
    """What :func:`divide` found of each group.

    Attributes:
        gain: How much likelier two Gaussians make a sample than one does, in nats a sample, (n_groups,); -1 where a side is
            empty.
        cuts: The division on which more was gained, as the means of its sides in the half that it was made from,
            (n_groups, 2, d).
    """

    gain: Tensor
    cuts: Tensor


def divide(
    features: Tensor, group: Tensor, n_groups: int, *, begin: Tensor | None = None, seed: int, reducer: Reducer | None
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
        features: (n, d), such as unit vectors. Which half one is in follows from what it is; copies go together.
        group: Group of each, (n,); ``n_groups`` for those left out.
        n_groups: How many there are.
        begin: Where 2-means begins, (n_groups, 2, d). Default: cut at the mean, across the way to a sample drawn at random.
        seed: Seed of the halves, and of the samples drawn.
        reducer: The ranks that share the samples; None where all are here.

    Example:
        >>> angle = torch.cat([torch.linspace(0, 0.2, 50), torch.linspace(1, 1.2, 50), torch.linspace(0, 0.2, 50)])
        >>> x, group = torch.stack([angle.cos(), angle.sin()], dim=1), torch.arange(150) // 100
        >>> found = divide(x, group, 2, seed=0, reducer=None)
        >>> found.gain > 0, sides(x, group, found.cuts, None)[1][0]
        (tensor([ True, False]), tensor([50., 50.]))

    Source: Schwarz, "Estimating the dimension of a model" (1978), for the two numbers more; a line and its own samples: Hamerly
    & Elkan, "Learning the k in k-means" (2003). Other samples to judge by are ours.
    """
    half = (lots(features, 4, seed) < 0.5).to(torch.int64)
    n_halves = 2 * n_groups
    owner = torch.where(group < n_groups, 2 * group + half, n_halves)
    own = owner.clamp(max=n_halves - 1)
    if begin is None:
        total, count = _summed(features, owner, n_halves, reducer)
        middle = total / count.clamp(min=1)[:, None]
        drawn = draw_far(features, owner, n_halves, 1, seed=seed, reducer=reducer)[:, 0]
        pairs = torch.stack([2 * middle - drawn, drawn], dim=1)
    else:
        pairs = begin.repeat_interleave(2, dim=0)
    for _ in range(_ROUNDS):
        pairs, _ = sides(features, owner, pairs, reducer)
    at = _along(features, own ^ 1, pairs)  # of the other half
    places = torch.where(owner < n_halves, 2 * own + (at > 0), 2 * n_halves)
    moments, count = _summed(torch.stack([at, at.square()], dim=1), places, 2 * n_halves, reducer)
    gain = _gain(moments.view(n_halves, 2, 2), count.view(n_halves, 2)).view(n_groups, 2)
    n = count.view(n_groups, 4).sum(dim=1)
    each = gain / count.view(n_groups, 2, 2).sum(dim=2).clamp(min=1)
    better = each.argmax(dim=1) ^ 1  # what half 1 gained was by the line of half 0
    cuts = pairs.view(n_groups, 2, *pairs.shape[1:])[torch.arange(n_groups, device=better.device), better]
    return Twofold(gain.sum(dim=1) / n.clamp(min=1), cuts)


def sides(features: Tensor, group: Tensor, cuts: Tensor, reducer: Reducer | None) -> tuple[Tensor, Tensor]:
    """The means of the two sides of each group's cut, (n_groups, 2, d), and how many samples are in each, (n_groups, 2).

    A side without samples keeps the mean that the cut has.
    """
    n_groups = len(cuts)
    own = group.clamp(max=n_groups - 1)
    places = torch.where(group < n_groups, 2 * own + (_along(features, own, cuts) > 0), 2 * n_groups)
    total, count = _summed(features, places, 2 * n_groups, reducer)
    means = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], cuts.flatten(0, 1))
    return means.view(cuts.shape), count.view(n_groups, 2)


def _along(features: Tensor, which: Tensor, cuts: Tensor) -> Tensor:
    """Where each sample lies on the line across one of the cuts, from the cut, (n,)."""
    line = torch.nn.functional.normalize(cuts[:, 1] - cuts[:, 0], dim=1)
    middle = (cuts.mean(dim=1) * line).sum(dim=1)
    if len(cuts) <= _FEW:
        at = (features @ line.T).gather(1, which[:, None])[:, 0]
    else:
        at = (features * line.index_select(0, which)).sum(dim=1)
    return at - middle[which]


def _summed(values: Tensor, places: Tensor, n_places: int, reducer: Reducer | None) -> tuple[Tensor, Tensor]:
    """Sums and counts by place, over all ranks."""
    total, count = place_sums(values, places, n_places)
    packed = torch.cat([total, count[:, None]], dim=1)
    packed = packed if reducer is None else reducer.sum(packed)
    return packed[:, :-1], packed[:, -1]


def _gain(moments: Tensor, count: Tensor) -> Tensor:
    """Of sums of places and their squares, (groups, 2 sides, 2), and of counts, (groups, 2): nats of all samples, (groups,)."""
    n, some = count.sum(dim=1), count.clamp(min=1)
    first, second = moments.unbind(dim=2)
    within = (second - first.square() / some).clamp(min=0).sum(dim=1)
    whole = (second.sum(dim=1) - first.sum(dim=1).square() / n.clamp(min=1)).clamp(min=torch.finfo(n.dtype).tiny)
    fit = n / 2 * -torch.log((within / whole).clamp(min=_LEAST_WITHIN)) - n.clamp(min=1).log()
    shares = torch.xlogy(count, count / n.clamp(min=1)[:, None]).sum(dim=1)
    return torch.where((count > 0).all(dim=1), fit + shares, -n)
