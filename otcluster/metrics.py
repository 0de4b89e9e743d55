"""How evenly clusters share the samples, and how well they agree with classes: the measures that other libraries lack.

Of cluster sizes, :func:`imbalance_factor`, :func:`size_imbalance`, :func:`perplexity` and :func:`normalized_entropy`; of
labels, :func:`clustering_accuracy`. Normalised mutual information, the adjusted Rand index and the silhouette are left to
scikit-learn: ``normalized_mutual_info_score``, ``adjusted_rand_score`` and ``silhouette_score`` of ``sklearn.metrics``.

Arrays may be of NumPy, torch or another library of the array standard, or lists. They are looked at on the host, and what comes
back is a Python float.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from otcluster._ops import select
from otcluster._ops.generic import Array
from otcluster.checks import check_whole


def cluster_sizes(labels: Array, n_clusters: int) -> Array:
    """How many samples each cluster has; empty clusters are counted, samples without a cluster (label -1) are not.

    Args:
        labels: Integers from -1 to n_clusters - 1, (n,).
        n_clusters: How many clusters there are.

    Returns:
        int64, (n_clusters,), of the library of ``labels`` and on its device; all zero where there are no labels.

    Raises:
        TypeError, ValueError: ``labels`` are not integers, not one-dimensional, or out of range.

    Example:
        >>> cluster_sizes(np.array([0, 2, 2, -1]), 4)
        array([1, 0, 2, 0])
    """
    check_whole("n_clusters", n_clusters, 1)
    host = _host(labels, "labels")
    if host.ndim != 1:
        raise ValueError(f"labels must be one-dimensional, got shape {host.shape}")
    if host.size and host.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {host.dtype}")
    if host.size and (host.min() < -1 or host.max() >= n_clusters):
        raise ValueError(f"labels must be from -1 to {n_clusters - 1}, got {host.min()} to {host.max()}")
    counts = np.bincount(host.astype(np.int64) + 1, minlength=n_clusters + 1)[1:]
    ops = select(host if isinstance(labels, list | tuple) else labels, "labels")
    return ops.asarray(counts, dtype=ops.integer)


def imbalance_factor(sizes: Array) -> float:
    """The imbalance factor k * sum(p**2) of cluster sizes, where p are their shares: from 1 (all equal) to k (one has all).

    It is the mean size of the cluster of a sample over the mean size of a cluster, so it says how much longer an inverted list
    is searched than if all were of one length.

    Args:
        sizes: Counts or masses, (k,), empty clusters included: of :func:`cluster_sizes` or ``assignment.cluster_sizes()``.

    Raises:
        TypeError, ValueError: ``sizes`` are not one-dimensional, not numbers, negative or not finite, or they are all zero.

    Example:
        >>> imbalance_factor([2, 2, 0, 0])
        2.0

    Source: Jégou, Douze & Schmid, "Improving bag-of-features for large scale image search" (2010); faiss computes it so.
    """
    share = _shares(sizes)
    return float(share.size * np.sum(share**2))


def size_imbalance(sizes: Array) -> float:
    """The largest cluster over the mean size, max(p) * k: from 1 (all equal) to k (one has all).

    Where :func:`imbalance_factor` weighs all clusters, this is the worst one. In graph partitioning and scheduling it is called
    load imbalance; ``UsageStatistics.balance`` is one over it.

    Args:
        sizes: Counts or masses, (k,), empty clusters included.

    Raises:
        TypeError, ValueError: As :func:`imbalance_factor` raises.

    Example:
        >>> size_imbalance([3, 1, 1, 1])
        2.0

    Source: Karypis & Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs" (1998).
    """
    share = _shares(sizes)
    return float(share.max() * share.size)


def perplexity(sizes: Array) -> float:
    """How many clusters of equal size would be as mixed: the exponential of the entropy of the shares, from 1 to k.

    Args:
        sizes: Counts or masses, (k,), empty clusters included.

    Raises:
        TypeError, ValueError: As :func:`imbalance_factor` raises.

    Example:
        >>> round(perplexity([5, 5, 0]), 12)
        2.0

    Source: Shannon, "A mathematical theory of communication" (1948); of codebooks: van den Oord et al., "Neural discrete
    representation learning" (2017).
    """
    return float(np.exp(entropy(_shares(sizes))))


def normalized_entropy(sizes: Array) -> float:
    """The entropy of the shares over the largest there is, log(k): from 0 (one cluster has all) to 1 (all equal).

    A single cluster has 1: it is as even as can be.

    Args:
        sizes: Counts or masses, (k,), empty clusters included.

    Raises:
        TypeError, ValueError: As :func:`imbalance_factor` raises.

    Example:
        >>> round(normalized_entropy([5, 5, 0, 0]), 12)
        0.5

    Source: Pielou, "The measurement of diversity in different types of biological collections" (1966), where it is evenness.
    """
    share = _shares(sizes)
    return min(1.0, float(entropy(share)) / math.log(share.size)) if share.size > 1 else 1.0


def entropy(share: Array) -> Array:
    """Entropy in nats of shares (..., k) that add up to 1, shape (...); NaN where they are NaN."""
    xp = select(share, "share").xp
    return abs(xp.sum(share * xp.log(xp.where(share == 0, xp.ones_like(share), share)), axis=-1))


def clustering_accuracy(labels_true: Array, labels_pred: Array) -> float:
    """The share of the samples whose cluster stands for their class, where clusters stand for classes in the best way there is.

    A cluster stands for one class at most, and a class has one cluster at most; there may be more of either, and samples of
    those that are left over count as wrong. So do samples that ``labels_pred`` gives to no cluster, with -1. It takes memory
    for the pairs of class and cluster that occur, not for all that could.

    Args:
        labels_true: Classes, integers or strings, (n,).
        labels_pred: Clusters, integers or strings, (n,); the integer -1 is no cluster.

    Returns:
        From 0 to 1.

    Raises:
        TypeError, ValueError: Labels are neither integers nor strings, not one-dimensional, none, or not as many on both sides.

    Example:
        >>> clustering_accuracy(["cat", "cat", "dog", "dog"], [1, 1, 0, 1])
        0.75

    Source: Yang et al., "Image clustering using local discriminant models and global integration" (2010). The matching is
    Kuhn's (1955), found on the pairs that occur by SciPy's ``min_weight_full_bipartite_matching``.
    """
    true, pred = _labels(labels_true, "labels_true"), _labels(labels_pred, "labels_pred")
    n = true.size
    if n != pred.size:
        raise ValueError(f"labels_true and labels_pred must have one label for each sample, got {n} and {pred.size}")
    if n == 0:
        raise ValueError("labels_true and labels_pred hold no labels: there is no accuracy of no samples")
    if pred.dtype.kind == "i":
        true, pred = true[pred != -1], pred[pred != -1]
        if pred.size == 0:
            return 0.0
    rows, columns, counts = _contingency(true, pred)
    return _largest_matching(rows, columns, counts) / n


_Indices = npt.NDArray[np.int64]


def _contingency(true: npt.NDArray[Any], pred: npt.NDArray[Any]) -> tuple[_Indices, _Indices, _Indices]:
    """The pairs that occur, as indices of their labels, and how often each does; the side of fewer labels comes first."""
    classes, of_true = np.unique(true, return_inverse=True)
    clusters, of_pred = np.unique(pred, return_inverse=True)
    if classes.size > clusters.size:
        classes, clusters, of_true, of_pred = clusters, classes, of_pred, of_true
    pairs, counts = np.unique(of_true.astype(np.int64) * clusters.size + of_pred, return_counts=True)
    return pairs // clusters.size, pairs % clusters.size, counts


def _largest_matching(rows: _Indices, columns: _Indices, counts: _Indices) -> int:
    """The largest sum of counts of pairs in which no row and no column comes twice.

    SciPy matches every row. One column more for each row, of count zero, is there for those that are better left out. A zero
    would be no entry: one is added to all counts, which a matching then has once for each row.
    """
    n_rows, n_columns = int(rows.max()) + 1, int(columns.max()) + 1
    alone = np.arange(n_rows)
    values = np.concatenate([counts + 1.0, np.ones(n_rows)])
    at = np.concatenate([rows, alone]), np.concatenate([columns, n_columns + alone])
    graph = csr_matrix((values, at), shape=(n_rows, n_columns + n_rows))
    matched = min_weight_full_bipartite_matching(graph, maximize=True)
    return round(float(np.asarray(graph[matched]).sum())) - n_rows


def _shares(sizes: Array) -> npt.NDArray[np.float64]:
    host = _host(sizes, "sizes")
    if host.dtype.kind not in "iuf":
        raise TypeError(f"sizes must be numbers, got {host.dtype}")
    if host.ndim != 1:
        raise ValueError(f"sizes must be one-dimensional, one number for each cluster, got shape {host.shape}")
    wide = host.astype(np.float64)
    fine = np.isfinite(wide) & (wide >= 0)
    if not fine.all():
        raise ValueError(f"sizes must be finite and not negative, got {host[~fine][0]}: cluster_sizes makes them of labels")
    total = wide.sum()
    if not total > 0:
        raise ValueError(f"sizes must hold some samples, got {host.size} clusters of size zero")
    return wide / total


def _labels(labels: Array, argument: str) -> npt.NDArray[Any]:
    host = _host(labels, argument)
    if host.ndim != 1:
        raise ValueError(f"{argument} must be one-dimensional, got shape {host.shape}")
    if host.size == 0 or host.dtype.kind in "biuU":
        return host
    if host.dtype.kind in "OT" and all(isinstance(label, str) for label in host):
        return host.astype(np.str_)
    raise TypeError(f"{argument} must be integers or strings, got {host.dtype}")


def _host(array: Array, argument: str) -> npt.NDArray[Any]:
    """An array of any library, or a list, as NumPy's."""
    array = np.asarray(array) if isinstance(array, list | tuple) else array
    return np.asarray(select(array, argument).to_numpy(array))
