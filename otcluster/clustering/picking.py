"""Which samples of each cluster are taken: how many, and which come first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]


@runtime_checkable
class Pick(Protocol):
    """Which samples of a cluster come first, where only some are taken."""

    def keys(self, distances: Numbers, rng: np.random.Generator) -> Numbers:
        """A number for each sample, (n,), from its squared distance to the centroid; in each cluster the least are taken."""
        ...


@dataclass(frozen=True)
class PickRandom:
    """Any sample of a cluster is as likely as another.

    Example:
        >>> import otcluster as otc
        >>> x = np.array([[0.0], [1.0], [5.0]])
        >>> len(otc.hierarchical_kmeans(x, (1,)).sample(2, rule=otc.PickRandom()))
        2
    """

    def keys(self, distances: Numbers, rng: np.random.Generator) -> Numbers:
        return rng.random(len(distances))


@dataclass(frozen=True)
class PickNearest:
    """The samples nearest to the centroid of their cluster: the typical ones.

    Example:
        >>> import otcluster as otc
        >>> x = np.array([[0.0], [1.0], [5.0]])
        >>> otc.hierarchical_kmeans(x, (1,)).sample(2, rule=otc.PickNearest())
        array([0, 1])
    """

    def keys(self, distances: Numbers, rng: np.random.Generator) -> Numbers:
        return distances


@dataclass(frozen=True)
class PickFarthest:
    """The samples farthest from the centroid of their cluster: the unusual ones, and the errors among them.

    Example:
        >>> import otcluster as otc
        >>> x = np.array([[0.0], [1.0], [5.0]])
        >>> otc.hierarchical_kmeans(x, (1,)).sample(2, rule=otc.PickFarthest())
        array([0, 2])
    """

    def keys(self, distances: Numbers, rng: np.random.Generator) -> Numbers:
        return -distances


def check_rule(rule: Any) -> Pick:
    """``rule``, or :class:`PickRandom` for None.

    Raises:
        TypeError: It is neither.
    """
    if rule is None:
        return PickRandom()
    if isinstance(rule, type) or not isinstance(rule, Pick):
        raise TypeError(f"rule must be PickRandom(), PickNearest(), PickFarthest() or have their method keys, got {rule!r}")
    return rule


def picked(labels: Numbers, distances: Numbers, quotas: Numbers, rule: Pick, rng: np.random.Generator) -> Numbers:
    """``quotas[c]`` samples of each cluster c, or all where there are fewer: ascending indices.

    Args:
        labels: (n,), from 0 to k - 1; -1 is never taken.
        distances: (n,), to the centroids of the labels.
        quotas: (k,), whole numbers.
        rule: Which come first; of equal ones, those of lower index.
        rng: Of what is left to chance.
    """
    keys = np.asarray(rule.keys(distances, rng))
    if keys.shape != labels.shape:
        raise ValueError(f"rule must give one key for each of the {labels.size} samples, got shape {keys.shape} from {rule!r}")
    order = np.lexsort((keys, labels))
    ordered = labels[order]
    starts = np.searchsorted(ordered, np.arange(len(quotas)))
    place = np.arange(len(order)) - starts[ordered]
    return np.sort(order[(ordered >= 0) & (place < quotas[ordered])])


def water_filled(sizes: Numbers, n: int, rng: np.random.Generator) -> Numbers:
    """Share ``n`` among children so that each gets the same, or all it has where that is less.

    What does not come out even is drawn by lot among those that have more.

    Args:
        sizes: What each has, (k,) whole numbers, not negative; ``n`` is at most their sum.
        n: Of how many.
        rng: Draws the lots.

    Returns:
        (k,) int64, at most ``sizes``, whose sum is ``n``; of all such the smallest is as large as can be, then the next.
    """
    sizes = np.asarray(sizes, np.int64)
    ascending = np.sort(sizes)
    # With the level at the size of one child, those before it give all they have and the others as much as it.
    filled = np.cumsum(ascending) - ascending + ascending * np.arange(len(sizes), 0, -1)
    full = int(np.searchsorted(filled, n, side="right"))
    if full == len(sizes):
        return sizes.copy()
    level = (n - int(ascending[:full].sum())) // (len(sizes) - full)
    quotas = np.minimum(sizes, level)
    more = np.flatnonzero(sizes > level)
    quotas[rng.choice(more, n - int(quotas.sum()), replace=False)] += 1
    return quotas
