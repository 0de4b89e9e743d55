"""Clustering with optimal transport: which sample belongs to which cluster when the clusters must share the samples."""

from __future__ import annotations

from typing import Any

from otcluster.assignment import Assignment, Status
from otcluster.clustering.annealing import Annealing
from otcluster.clustering.empty import KeepEmpty, RelocateFarthest
from otcluster.clustering.kmeans import KMeansResult, kmeans
from otcluster.clustering.progress import KMeansProgress
from otcluster.clustering.starts import KMeansParallel, KMeansPlusPlus
from otcluster.distributed import Reducer, TorchReducer
from otcluster.gradients import ImplicitGradient, UnrolledGradient
from otcluster.masses import RelaxedKL
from otcluster.problem import InfeasibleError, Problem
from otcluster.scores import DenseScores, PointScores
from otcluster.solve import exact_balanced, log_sinkhorn, nearest, sinkhorn_knopp, solve
from otcluster.solvers import (
    Anderson,
    ExactBalanced,
    ExponentialDecay,
    LogSinkhorn,
    Nearest,
    Newton,
    PlainRounds,
    SinkhornKnopp,
    Solver,
)

__version__ = "0.1.0"

# These keep their state in torch modules: torch is imported when one of them is first asked for.
_NEED_TORCH = {
    "CentroidStore": "otcluster.stores.centroids",
    "ClassQueue": "otcluster.stores.class_queue",
    "CosineMomentum": "otcluster.stores.momentum",
    "MemoryQueue": "otcluster.stores.queue",
    "MomentumMean": "otcluster.stores.averaging",
    "QueueSample": "otcluster.stores.queue",
    "Reseed": "otcluster.stores.revival",
    "SplitLargest": "otcluster.stores.revival",
    "SumsAndCounts": "otcluster.stores.averaging",
    "UsageStatistics": "otcluster.stores.usage",
}

__all__ = [
    "Anderson",
    "Annealing",
    "Assignment",
    "CentroidStore",
    "ClassQueue",
    "CosineMomentum",
    "DenseScores",
    "ExactBalanced",
    "ExponentialDecay",
    "ImplicitGradient",
    "InfeasibleError",
    "KMeansParallel",
    "KMeansPlusPlus",
    "KMeansProgress",
    "KMeansResult",
    "KeepEmpty",
    "LogSinkhorn",
    "MemoryQueue",
    "MomentumMean",
    "Nearest",
    "Newton",
    "PlainRounds",
    "PointScores",
    "Problem",
    "QueueSample",
    "Reducer",
    "RelaxedKL",
    "RelocateFarthest",
    "Reseed",
    "SinkhornKnopp",
    "Solver",
    "SplitLargest",
    "Status",
    "SumsAndCounts",
    "TorchReducer",
    "UnrolledGradient",
    "UsageStatistics",
    "exact_balanced",
    "kmeans",
    "log_sinkhorn",
    "nearest",
    "sinkhorn_knopp",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_NEED_TORCH[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
