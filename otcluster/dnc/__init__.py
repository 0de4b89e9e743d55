"""Deep Nearest Centroids: an image is of the class whose training images it lies nearest to.

The head needs torch alone. What trains, evaluates and predicts needs ``pip install 'otcluster[dnc]'`` and loads on first use.
"""

from __future__ import annotations

from typing import Any

from otcluster.dnc.baselines import DeepNCMHead, KNNHead, LinearHead, SimCLRHead
from otcluster.dnc.growth import Evidence
from otcluster.dnc.head import DNCHead
from otcluster.dnc.pooling import Largest, Mixture
from otcluster.dnc.scaling import FixedTemperature, LearntTemperature, ScoreNorm

_ON_USE = {
    "Ablation": "otcluster.dnc.ablations.plan",
    "Classifier": "otcluster.dnc.classifier",
    "Recipe": "otcluster.dnc.recipe",
    "ablate": "otcluster.dnc.ablations.work",
    "Explanation": "otcluster.dnc.explaining.decision",
    "explain": "otcluster.dnc.explaining.decision",
    "export": "otcluster.dnc.exporting",
    "evaluate": "otcluster.dnc.evaluation",
    "evaluate_readouts": "otcluster.dnc.readouts",
    "load_recipe": "otcluster.dnc.recipe",
    "load_run": "otcluster.dnc.run",
    "Predictions": "otcluster.dnc.serving",
    "replace_classifier": "otcluster.dnc.replacing",
    "measure": "otcluster.dnc.explaining.measures",
    "Measures": "otcluster.dnc.explaining.measures",
    "overview": "otcluster.dnc.explaining.overview",
    "Overview": "otcluster.dnc.explaining.overview",
    "predict": "otcluster.dnc.prediction",
    "report": "otcluster.dnc.explaining.report.work",
    "train": "otcluster.dnc.training",
}

__all__ = [
    "Ablation",
    "Classifier",
    "DNCHead",
    "DeepNCMHead",
    "Evidence",
    "Explanation",
    "FixedTemperature",
    "KNNHead",
    "Largest",
    "LearntTemperature",
    "LinearHead",
    "Measures",
    "Mixture",
    "Overview",
    "Predictions",
    "Recipe",
    "ScoreNorm",
    "SimCLRHead",
    "ablate",
    "evaluate",
    "evaluate_readouts",
    "explain",
    "export",
    "load_recipe",
    "load_run",
    "measure",
    "overview",
    "predict",
    "replace_classifier",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ON_USE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
