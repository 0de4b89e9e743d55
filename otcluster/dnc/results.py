"""What a finished training leaves behind: pictures, the images that stand for the model, and ``metrics.json``."""

from __future__ import annotations

import json
from typing import Any

from otcluster.dnc.anchoring import Anchors
from otcluster.dnc.classifier import Classifier
from otcluster.dnc.data import ImageData
from otcluster.dnc.distinctness import numbers_found, of_images
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.figures import draw_curves, draw_subcentroids
from otcluster.dnc.head import DNCHead
from otcluster.dnc.readouts import readout_metrics, usual_readouts
from otcluster.dnc.recipe import Recipe
from otcluster.dnc.run import RunFiles
from otcluster.dnc.typical import find_typical
from otcluster.runs.files import write_text


def write_pictures(
    recipe: Recipe,
    files: RunFiles,
    data: ImageData,
    model: Classifier,
    train: Evaluation,
    history: list[dict[str, Any]],
    anchors: Anchors | None,
) -> dict[str, float | None] | None:
    """Draw, keep typical images, and say of the sub-centroids, if there are any, how they share the training images."""
    each = recipe.explain.images_per_subcentroid
    typical = find_typical(model, train, data.train, len(data.classes), each, anchors or ())
    typical.save(files)
    draw_curves(history, files.curves, recipe.name)
    if not isinstance(model.head, DNCHead):
        return None
    draw_subcentroids(typical.pictures(data.train), typical.sizes, data.classes, files.subcentroids)
    return of_images(model.head, typical.sizes)


def write_metrics(
    recipe: Recipe,
    files: RunFiles,
    data: ImageData,
    model: Classifier,
    train: Evaluation,
    test: Evaluation,
    *,
    subcentroids: dict[str, float | None] | None,
    anchored: dict[str, float] | None,
    seconds: float,
    steps: int,
    dnc_share: float | None,
) -> dict[str, Any]:
    """Write ``metrics.json``, which is the mark of a finished run; what it holds."""
    tested = test.metrics(data.classes)
    metrics: dict[str, Any] = {
        "test": tested,
        "seconds": round(seconds, 3),
        "recipe": recipe.name,
        "head": recipe.head.kind,
        "epochs": recipe.train.epochs,
        "steps": steps,
    }
    if names := usual_readouts(recipe):
        metrics["readouts"] = readout_metrics(recipe, names, train, test, data.classes)
    if subcentroids is not None:
        metrics |= {"subcentroids": subcentroids, "dnc_share": None if dnc_share is None else round(dnc_share, 4)}
    if (n_open := numbers_found(model.head)) is not None:
        metrics["n_subcentroids"] = dict(zip(data.classes, n_open, strict=True))
    if anchored is not None:
        metrics["anchoring"] = {"epochs": recipe.anchor_epochs, **anchored, "after": tested["accuracy"]}
    write_text(files.metrics, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics
