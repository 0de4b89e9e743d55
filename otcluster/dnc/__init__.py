"""Deep Nearest Centroids: an image is of the class whose training images it lies nearest to.

The head needs torch alone. What trains, evaluates and predicts needs ``pip install 'otcluster[dnc]'`` and loads on first use.
"""

from __future__ import annotations

from typing import Any

from otcluster.dnc.baselines import LinearHead
from otcluster.dnc.growth import Evidence
from otcluster.dnc.head import DNCHead

_ON_USE = {
    "Classifier": "otcluster.dnc.classifier",
    "Recipe": "otcluster.dnc.recipe",
    "evaluate": "otcluster.dnc.evaluation",
    "load_recipe": "otcluster.dnc.recipe",
    "load_run": "otcluster.dnc.run",
    "predict": "otcluster.dnc.prediction",
    "train": "otcluster.dnc.training",
}

__all__ = [
    "Classifier",
    "DNCHead",
    "Evidence",
    "LinearHead",
    "Recipe",
    "evaluate",
    "load_recipe",
    "load_run",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ON_USE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
