"""Which problem each sample belongs to, as it was given, brought to the scores."""

from __future__ import annotations

import math
from typing import Any

from otcluster._ops.generic import Array
from otcluster.scores import PointScores, Scores


def group_ids(source: Scores, groups: Any, n_groups: Any) -> tuple[Array | None, int | None]:
    """Group ids as int64 on the device of the scores, and how many groups there are."""
    ops = source.ops
    if groups is None:
        if n_groups is not None:
            raise ValueError("n_groups is given without groups: say which group each sample belongs to")
        if source.n_groups is not None:
            raise ValueError(
                "centroids have a leading dimension that x has not: give groups and n_groups, or x with the same dimension"
            )
        return None, None
    if n_groups is None:
        raise ValueError("groups needs n_groups, the number of groups (empty ones counted)")
    if isinstance(n_groups, bool) or not hasattr(n_groups, "__index__"):
        raise TypeError(f"n_groups must be a whole number, got {n_groups!r}")
    count = int(n_groups)
    if count < 0:
        raise ValueError(f"n_groups must not be negative, got {count}")
    ids = ops.asarray(groups)
    if not ops.is_integer(ids) and math.prod(ids.shape):
        raise TypeError(f"groups must be integers, got {ids.dtype}")
    if source.batch_shape:
        raise ValueError(f"groups and leading batch dimensions do not mix: the scores have batch shape {source.batch_shape}")
    if tuple(ids.shape) != (source.n_samples,):
        raise ValueError(f"groups must have shape ({source.n_samples},), one id per sample, got {tuple(ids.shape)}")
    if isinstance(source, PointScores) and source.n_groups != count:
        raise ValueError(
            f"grouped centroids must have shape (n_groups, n_clusters, d) with n_groups = {count}, "
            f"got {tuple(source.given_centroids.shape)}"
        )
    return ops.copy(ops.cast(ids, ops.integer)), count
