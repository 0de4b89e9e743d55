"""What a report of pixels says, as plain data: the page and its JSON file are two faces of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from otcluster.dnc.explaining.overview import Overview
from otcluster.dnc.explaining.report.facts import Facts
from otcluster.dnc.pixels.labels import IGNORE, LabelMap
from otcluster.dnc.pixels.owners import Owners, Ownership
from otcluster.dnc.pixels.patches import TypicalPatches
from otcluster.dnc.pixels.runs import PixelRun, inference_of

_ERRORS = 3  # classes that a sub-centroid errs for
_COSINES = 500  # sub-centroids, up to which all cosines between them are told


def of_model(found: Overview, patches: TypicalPatches, owned: Tensor) -> dict[str, Any]:
    """The model, each sub-centroid with its patches and with the test pixels that it owns.

    Args:
        found: The model.
        patches: Of its sub-centroids.
        owned: ``counts`` of an :class:`otcluster.dnc.pixels.owners.Ownership`.
    """
    model, total = found.as_dict(), int(owned.sum())
    if len(found.subcentroids) > _COSINES:  # or else they would be most of the file
        model["cosines"] = None
    for each, said in zip(found.subcentroids, model["subcentroids"], strict=True):
        label, at = each.place
        said["number"] = at + 1
        said["patches"] = [patch.as_dict() for patch in patches.of(label, at)]
        said["owned"] = _owned(owned[label, at], label, found.classes, total)
    return model


def _owned(by_truth: Tensor, label: int, classes: Sequence[str], total: int) -> dict[str, Any]:
    pixels = int(by_truth.sum())
    order = [int(at) for at in by_truth.argsort(descending=True, stable=True) if int(at) != label and int(by_truth[at])]
    return {
        "pixels": pixels,
        "share": pixels / max(total, 1),
        "right": int(by_truth[label]) / pixels if pixels else None,
        "errs_for": [
            {"class": classes[at], "pixels": int(by_truth[at]), "share": int(by_truth[at]) / pixels} for at in order[:_ERRORS]
        ],
    }


def of_test(found: Ownership, classes: Sequence[str]) -> dict[str, Any]:
    """How the pixels of the test images were classified."""
    evaluation = found.evaluation
    return {**evaluation.metrics(classes), "confusion": evaluation.confusion.tolist()}


def of_image(
    found: Owners,
    classes: Sequence[str],
    names: Sequence[Sequence[str]],
    *,
    group: str,
    name: str,
    true: LabelMap | None,
    file: str,
) -> dict[str, Any]:
    """Who owns the pixels of an image.

    Args:
        found: The owners.
        classes, names: Of the classes and of their sub-centroids.
        group: Why it is shown: ``"given"`` or ``"test"``.
        name: Of the image.
        true: Its labels, where they are known.
        file: The PNG file that shows it.
    """
    known = None if true is None else true != IGNORE
    counted = known is not None and bool(known.any())
    return {
        "name": name,
        "group": group,
        "accuracy": float((found.labels == true)[known].mean()) if counted else None,
        **shares_of(found, classes, names, true if counted else None),
        "file": file,
    }


def shares_of(
    found: Owners, classes: Sequence[str], names: Sequence[Sequence[str]], true: LabelMap | None = None
) -> dict[str, Any]:
    """Which parts of an image are of which class, and which sub-centroids own how much of it, the most first.

    Args:
        found: The owners.
        classes, names: Of the classes and of their sub-centroids.
        true: Its labels, where they are known.
    """
    k = len(names[0])
    counts: npt.NDArray[np.int64] = found.counts(len(classes), k)
    by_class, total = counts.sum(axis=1), counts.sum()
    code = found.labels.astype(np.int64) * k + found.subcentroids
    hits = labelled = None
    if true is not None:
        known = true != IGNORE
        labelled, hits = (np.bincount(code[which], minlength=counts.size) for which in (known, known & (found.labels == true)))
    return {
        "parts": [
            {"class": classes[label], "share": float(by_class[label] / total)}
            for label in np.argsort(-by_class, kind="stable").tolist()
            if by_class[label]
        ],
        "owners": [
            {
                "class": classes[at // k],
                "subcentroid": names[at // k][at % k],
                "number": at % k + 1,
                "share": float(counts.flat[at] / total),
                "right": None if hits is None or labelled is None or not labelled[at] else float(hits[at] / labelled[at]),
            }
            for at in np.argsort(-counts.ravel(), kind="stable").tolist()
            if counts.flat[at]
        ],
        "features": found.n_features,
        "faithful": found.n_faithful,
        "nearest_share": found.nearest_share,
    }


def described(run: PixelRun, found: Overview, test: dict[str, Any], patches: TypicalPatches) -> Facts:
    """The model in short.

    Args:
        run: Whose name and recipe are told.
        found: Its model.
        test: From :func:`of_test`.
        patches: For how many training images and pixels were looked at.
    """
    m = len(found.subcentroids)
    rows = [
        ("Run", str(run.files.root.name or run.files.root), ""),
        ("Recipe", run.recipe.name, run.recipe.description),
        ("Classes", f"{len(found.classes):,}", ""),
        (
            "Mean IoU",
            _percent(test["mean_iou"]),
            f"intersection over union of a class, in the mean, of {test['images']:,} test images",
        ),
        ("Pixel accuracy", _percent(test["pixel_accuracy"]), "labelled pixels whose class is the predicted one"),
        ("Mean accuracy", _percent(test["mean_accuracy"]), "the same of each class, in the mean of the classes"),
        ("Sub-centroids", f"{m:,}", f"{len(found.dead)} dead, {len(found.duplicates)} pairs of duplicates"),
        (
            "Training images",
            f"{patches.n_images:,}",
            f"looked at, with {int(patches.sizes.sum()):,} labelled pixels, one for each feature",
        ),
    ]
    return Facts(
        "The model",
        f"A pixel is of the class of its nearest sub-centroid: the model compares the feature of each place of an image with "
        f"each of the {m:,} sub-centroids, by the cosine of the angle between them, and takes the class of the most similar. A "
        "sub-centroid is the average direction of training pixels of its class; the places nearest to it show what it stands "
        "for.",
        tuple(rows),
    )


def truths(run: PixelRun, explained: Sequence[dict[str, Any]]) -> Facts:
    """Whether the owners are the nearest sub-centroids, on the images that are explained.

    Args:
        run: For how pixels are classified.
        explained: From :func:`of_image`, at least one.
    """
    n, faithful = (sum(each[key] for each in explained) for key in ("features", "faithful"))
    nearest = sum(each["nearest_share"] for each in explained) / len(explained)
    how = inference_of(run.recipe)
    plain = how.window is None and how.scales == (1.0,) and not how.flip
    text = (
        f"Found anew on the {len(explained)} {'image' if len(explained) == 1 else 'images'} below, in double precision and "
        "from nothing but the features of these images and the sub-centroids."
    )
    if not plain:
        text += (
            " This model finds the classes of pixels by windows, scales or mirrored images; owners are looked for in features "
            "of the whole image at once."
        )
    rows = (
        (
            "Fidelity",
            f"{faithful:,} of {n:,}",
            "features whose nearest sub-centroid is of the class that the model predicts there",
        ),
        (
            "Nearest of all",
            f"{nearest:.1%}",
            "pixels whose owner is the nearest of all sub-centroids, in the mean of the images; of the others, at borders "
            "between features, it is the nearest one of the predicted class",
        ),
    )
    return Facts("Is the owner the nearest sub-centroid?", text, rows)


def _percent(value: float | None) -> str:
    return "no labelled pixels" if value is None else f"{value:.2%}"
