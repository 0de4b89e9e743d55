"""Where centroids start: samples drawn far from each other."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from otcluster._ops import GenericOps, select
from otcluster._ops.generic import Array
from otcluster.scores import PointScores


def kmeans_plusplus(
    x: Array,
    n_clusters: int,
    *,
    groups: Array | None = None,
    n_groups: int | None = None,
    metric: Literal["cosine", "sqeuclidean"] = "sqeuclidean",
    seed: int | np.random.Generator = 0,
) -> Array:
    """Draw ``n_clusters`` samples of each group by k-means++, for all groups at once.

    The first is drawn uniformly, each next with a probability proportional to the squared distance to the nearest one drawn.
    Where fewer distinct samples than clusters exist, some are drawn again.

    Args:
        x: Samples, (n, d).
        n_clusters: How many to draw of each group.
        groups: Integers of shape (n,) in [0, n_groups). Default: one group.
        n_groups: How many groups there are, required with ``groups``.
        metric: Distances between the vectors (``"sqeuclidean"``) or between their directions (``"cosine"``).
        seed: Seed or NumPy generator of the draws.

    Returns:
        Indices into ``x``, int64, (n_groups, n_clusters); (n_clusters,) without groups. -1 throughout for an empty group.

    Raises:
        TypeError, ValueError: As :class:`otcluster.PointScores` raises for ``x``; or ``n_clusters`` is not positive.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0, 0.0], [0.0, 0.1], [9.0, 9.0]])
        >>> drawn = kmeans_plusplus(x, 2, seed=0)
        >>> 2 in drawn
        True

    Source: Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding" (2007).
    """
    if n_clusters < 1:
        raise ValueError(f"n_clusters must be at least 1, got {n_clusters}")
    ops = select(x, "x")
    xp = ops.xp
    count = 1 if groups is None else n_groups
    if count is None:
        raise ValueError("groups needs n_groups, the number of groups (empty ones counted)")
    rng = np.random.default_rng(seed)
    n = int(x.shape[0])
    with ops.quiet():
        owner = xp.zeros_like(ops.arange(n)) if groups is None else ops.cast(ops.asarray(groups), ops.integer)
        drawn = [_draw(ops, rng, None, owner, count)]
        far = None
        for _ in range(n_clusters - 1):
            distance = _distance(x, drawn[-1], owner, count, metric)
            far = distance if far is None else xp.minimum(far, distance)
            drawn.append(_draw(ops, rng, far, owner, count))
        indices = xp.stack(drawn, axis=-1)
    return indices if groups is not None else indices[0, :]


def _distance(x: Array, drawn: Array, owner: Array, n_groups: int, metric: Any) -> Array:
    """Squared distance of each sample to the one last drawn in its group, (n,)."""
    ops = select(x, "x")
    xp = ops.xp
    n = int(x.shape[0])
    if n == 0:
        return ops.full((0,), 0.0, ops.wide)
    centroids = xp.take(x, xp.clip(drawn, 0, None), axis=0)[:, None, :]
    points = PointScores(x, centroids, metric=metric)
    rows = points.tile_shape(owner)[1]
    tile = points.tiles(owner)
    parts = [tile(slice(0, 1), slice(start, min(start + rows, n)))[0, :, 0] for start in range(0, n, rows)]
    score = xp.concat(parts, axis=0) if len(parts) > 1 else parts[0]
    distance = -score if metric == "sqeuclidean" else 2 - 2 * score
    return ops.cast(xp.clip(distance, 0.0, None), ops.wide)


def _draw(ops: GenericOps, rng: np.random.Generator, weights: Array | None, owner: Array, n_groups: int) -> Array:
    """One sample of each group with a probability proportional to its weight: the largest of log(weight) + Gumbel noise."""
    xp = ops.xp
    n = int(owner.shape[0])
    noise = ops.asarray(rng.gumbel(size=n), dtype=ops.wide)
    keys = noise
    if weights is not None:
        some = ops.segment_max(weights[:, None], owner, n_groups)[:, 0] > 0
        positive = weights > 0
        log = xp.log(xp.where(positive, weights, xp.ones_like(weights)))
        weighted = xp.where(positive, log + noise, xp.full_like(noise, -float("inf")))
        keys = xp.where(xp.take(some, owner, axis=0), weighted, noise)
    best = ops.segment_max(keys[:, None], owner, n_groups)[:, 0]
    # Of the samples that hold the best key, the lowest index.
    rank = xp.where(keys == xp.take(best, owner, axis=0), -ops.cast(ops.arange(n), ops.wide), -float(n) - 1.0)
    first = -ops.segment_max(rank[:, None], owner, n_groups)[:, 0]
    found = xp.isfinite(first)
    return ops.cast(xp.where(found, first, -xp.ones_like(first)), ops.integer)
