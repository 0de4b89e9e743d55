"""Where centroids start: samples far from each other, of every class at once, whichever rank holds them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from otcluster.distributed import Reducer
from otcluster.stores.lots import lots
from otcluster.stores.sums import place_sums


def draw_far(
    features: Tensor, owner: Tensor, n_classes: int, n_centroids: int, *, seed: int, reducer: Reducer | None
) -> Tensor:
    """Draw ``n_centroids`` samples of each class by greedy k-means++.

    The first is drawn uniformly. For each next a few are drawn with a probability proportional to the squared distance to the
    nearest one so far, and the one that brings the samples of the class nearest to those drawn is kept. Draws follow from the
    features themselves (:func:`otcluster.stores.lots.lots`), so that they are the same for any split of the samples over ranks.

    Args:
        features: (n, d); of unit length where directions are to be compared.
        owner: Class of each; ``n_classes`` for those left out.
        n_classes: Number of classes; those without samples get zeros.
        n_centroids: How many to draw of each.
        seed: Seed of the draws.
        reducer: Asked for a maximum and two sums of a few centroids a class for each draw; None where all samples are here.

    Returns:
        (n_classes, n_centroids, d).

    Source: Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding" (2007).
    """
    own = owner.clamp(max=n_classes - 1)
    n_tries = 2 + int(math.log(n_centroids))
    drawn = [_drawn(features, owner, n_classes, torch.ones_like(features[:, 0]), (seed, 0), 1, reducer)[:, 0]]
    distance = torch.full_like(features[:, 0], torch.inf)
    for turn in range(1, n_centroids):
        distance = torch.minimum(distance, _distance(features, drawn[-1][own]))
        tries = _drawn(features, owner, n_classes, distance, (seed, turn), n_tries, reducer)
        left = [torch.minimum(distance, _distance(features, tries[own, each])) for each in range(n_tries)]
        spread, _ = place_sums(torch.stack(left, dim=1), owner, n_classes)
        spread = spread if reducer is None else reducer.sum(spread)
        drawn.append(tries[torch.arange(n_classes, device=own.device), spread.argmin(dim=1)])
    return torch.stack(drawn, dim=1)


def _distance(features: Tensor, points: Tensor) -> Tensor:
    return (features - points).square().sum(dim=1)


def _drawn(
    features: Tensor,
    owner: Tensor,
    n_classes: int,
    weights: Tensor,
    keys: tuple[int, int],
    n_tries: int,
    reducer: Reducer | None,
) -> Tensor:
    """Samples of each class with probabilities proportional to their weights, (n_classes, n_tries, d).

    That with the largest log(weight) + Gumbel noise. Exact copies draw the same lot and win together: their mean is taken.
    """
    own, counted = owner.clamp(max=n_classes - 1), owner < n_classes
    log = torch.log(weights.clamp(min=torch.finfo(weights.dtype).tiny))
    noise, best = [], []
    for each in range(n_tries):
        chance = lots(features, *keys, each).clamp(min=1e-7, max=1 - 1e-7)
        gumbel = -torch.log(-torch.log(chance))
        weighted = torch.where(weights > 0, log + gumbel, -torch.inf)
        noise.append((weighted, gumbel))
        # Where no weight is left in a class (all samples are copies of those drawn), some are drawn again.
        best.append(torch.stack([_class_max(key, owner, n_classes) for key in noise[-1]]))
    tops = torch.stack(best)
    tops = tops if reducer is None else reducer.max(tops)
    parts = []
    for (weighted, gumbel), (top, spare) in zip(noise, tops.unbind(), strict=True):
        wins = torch.where((top == -torch.inf)[own], gumbel == spare[own], weighted == top[own])
        parts.append(torch.cat([each.view(n_classes, -1) for each in _sums(features, counted & wins, owner, n_classes)], dim=1))
    packed = torch.stack(parts, dim=1)
    packed = packed if reducer is None else reducer.sum(packed)
    return packed[..., :-1] / packed[..., -1:].clamp(min=1)


def _sums(features: Tensor, which: Tensor, owner: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    return place_sums(features, torch.where(which, owner, n_classes), n_classes)


def _class_max(keys: Tensor, owner: Tensor, n_classes: int) -> Tensor:
    return keys.new_full((n_classes + 1,), -torch.inf).scatter_reduce_(0, owner, keys, "amax")[:n_classes]
