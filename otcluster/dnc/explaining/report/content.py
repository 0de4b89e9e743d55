"""What a report says, as plain data: the page and its JSON file are two faces of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.metrics import confusion_matrix

from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.explaining.decision import Explanation
from otcluster.dnc.explaining.overview import Overview
from otcluster.dnc.explaining.report.choosing import Chosen
from otcluster.dnc.explaining.report.facts import Facts
from otcluster.dnc.explaining.rule import Place

FORMAT = "otcluster report 1"
"""What ``report.json`` begins with: by it a folder is known to be a report."""

_CLASSES, _SUBCENTROIDS = 5, 8  # of an explained image, that are told of
_COSINES = 500  # sub-centroids, up to which all cosines between them are told


@dataclass(frozen=True)
class Names:
    """What is called how.

    Attributes:
        classes: Names of the classes.
        subcentroids: Names of the sub-centroids, class by class; of those that a class does not have, empty.
        images: Of each sub-centroid the training image that it is; or else the nearest of those that it is the nearest of, by
            name. Without it where there is none.
        anchored: Those that are images.
    """

    classes: tuple[str, ...]
    subcentroids: list[list[str]]
    images: dict[Place, str]
    anchored: frozenset[Place]

    @classmethod
    def of(cls, found: Overview) -> Names:
        """The names of a model."""
        k = 1 + max(each.place[1] for each in found.subcentroids)
        names = [["" for _ in range(k)] for _ in found.classes]
        for each in found.subcentroids:
            names[each.place[0]][each.place[1]] = each.name
        shown = {each.place: each.anchor or next(iter(each.typical), None) for each in found.subcentroids}
        return cls(
            found.classes,
            names,
            {place: image for place, image in shown.items() if image is not None},
            frozenset(each.place for each in found.subcentroids if each.anchor is not None),
        )

    def subcentroid(self, label: int, at: int) -> dict[str, Any]:
        """A sub-centroid, its class, and the training image that it is or that shows what it is like; None for none."""
        return {
            "class": self.classes[label],
            "subcentroid": self.subcentroids[label][at],
            "image": self.images.get((label, at)),
            "is_image": (label, at) in self.anchored,
        }


def tested(found: Evaluation, classes: Sequence[str], left_out: int) -> dict[str, Any]:
    """How the test images were classified.

    Args:
        found: Of the test images.
        classes: Names of the classes.
        left_out: Test images of classes that the model does not know.
    """
    n = len(classes)
    said, labels = found.predictions.numpy(), found.labels.numpy()
    confusion = confusion_matrix(labels, said, labels=range(n)) if len(labels) else None
    return {
        "images": len(found.labels),
        "left_out": left_out,
        "accuracy": float((found.predictions == found.labels).double().mean()) if len(found.labels) else None,
        "confusion": [[0] * n for _ in range(n)] if confusion is None else confusion.tolist(),
    }


def explained(found: Explanation, names: Names, *, group: str, name: str, true: int | None, file: str) -> dict[str, Any]:
    """Why an image is of its class.

    Args:
        found: The explanation.
        names: What is called how.
        group: Why it is shown: ``"given"``, ``"failure"``, ``"close"`` or ``"sure"``.
        name: Of the image.
        true: Its class, where that is known.
        file: The PNG file that shows it.
    """
    first = found.alternatives[0]
    ranked = [
        {**names.subcentroid(each.label, each.subcentroid), "cosine": each.cosine, "share": each.share, "lost_by": each.lost_by}
        for each in found.alternatives
    ]
    k = found.cosines.shape[1]
    order = found.cosines.flatten().argsort(descending=True, stable=True)[:_SUBCENTROIDS].tolist()
    near = [(*divmod(place, k), float(found.cosines[divmod(place, k)])) for place in order]
    return {
        "name": name,
        "group": group,
        "true": None if true is None else names.classes[true],
        "right": None if true is None else true == found.label,
        **names.subcentroid(found.label, found.subcentroid),
        "cosine": first.cosine,
        "share": first.share,
        "known": found.known,
        "verdict": None if found.verdict is None else found.verdict.text(),
        "rule": found.rule.text(names.classes[found.label], names.subcentroids),
        "runner_up": ranked[1] if len(ranked) > 1 else None,
        "classes": ranked[:_CLASSES],
        "other_share": max(0.0, sum(each["share"] for each in ranked[_CLASSES:])),
        "subcentroids": [
            {"subcentroid": names.subcentroids[label][at], "class": names.classes[label], "cosine": cosine}
            for label, at, cosine in near
            if cosine >= -1  # minus infinity to those that a class does not have
        ],
        "nearest": [{"name": image, "class": names.classes[label], "cosine": cosine} for image, label, cosine in found.nearest],
        "heat": None if found.heat is None else found.heat.tolist(),
        "heat_against": None if found.heat_against is None else found.heat_against.tolist(),
        "file": file,
    }


def content(
    facts: Sequence[Facts], found: Overview, test: dict[str, Any], chosen: Chosen, images: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """All of it, for JSON.

    Args:
        facts: Tables of numbers, in their order; the first is of the model.
        found: The model.
        test: From :func:`tested`.
        chosen: Which test images are explained.
        images: From :func:`explained`.
        more: What else there is to say, such as pictures that could not be read.
    """
    model = found.as_dict()
    if len(found.subcentroids) > _COSINES:  # or else they would be most of the file
        model["cosines"] = None
    return {
        "format": FORMAT,
        "facts": [each.as_dict() for each in facts],
        "model": model,
        "test": test,
        "failures": {"images": chosen.n_failures, "kinds": chosen.n_kinds, "explained": len(chosen.failures)},
        "explained": images,
        **more,
    }
