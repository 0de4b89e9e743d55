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
    "Calibration": "otcluster.dnc.unknown.calibration",
    "Classifier": "otcluster.dnc.classifier",
    "ContrastHead": "otcluster.dnc.pixels.contrast",
    "Recipe": "otcluster.dnc.recipe",
    "ablate": "otcluster.dnc.ablations.work",
    "Drop": "otcluster.dnc.picking.edits",
    "Merge": "otcluster.dnc.picking.edits",
    "Rename": "otcluster.dnc.picking.edits",
    "Replace": "otcluster.dnc.picking.edits",
    "edit": "otcluster.dnc.picking.work",
    "load_edits": "otcluster.dnc.picking.reading",
    "calibrate": "otcluster.dnc.unknown.calibration",
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
    "Segmenter": "otcluster.dnc.pixels.segmenter",
    "Verdict": "otcluster.dnc.unknown.calibration",
    "out_of_distribution": "otcluster.dnc.unknown.measures",
    "report": "otcluster.dnc.explaining.report.work",
    "train": "otcluster.dnc.training",
}

__all__ = [
    "Ablation",
    "Calibration",
    "Classifier",
    "ContrastHead",
    "DNCHead",
    "DeepNCMHead",
    "Drop",
    "Evidence",
    "Explanation",
    "FixedTemperature",
    "KNNHead",
    "Largest",
    "LearntTemperature",
    "LinearHead",
    "Measures",
    "Merge",
    "Mixture",
    "Overview",
    "Predictions",
    "Recipe",
    "Rename",
    "Replace",
    "ScoreNorm",
    "Segmenter",
    "SimCLRHead",
    "Verdict",
    "ablate",
    "calibrate",
    "edit",
    "evaluate",
    "evaluate_readouts",
    "explain",
    "export",
    "load_edits",
    "load_recipe",
    "load_run",
    "measure",
    "out_of_distribution",
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
