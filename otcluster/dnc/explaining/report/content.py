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
from otcluster.dnc.run import LoadedRun

FORMAT = "otcluster report 1"
"""What ``report.json`` begins with: by it a folder is known to be a report."""

_CLASSES, _SUBCENTROIDS = 5, 8  # of an explained image, that are told of
_COSINES = 500  # sub-centroids, up to which all cosines between them are told


@dataclass(frozen=True)
class Facts:
    """Some numbers with what they mean, which the page shows as a table with a heading of its own.

    Attributes:
        title: The heading.
        text: What the numbers are of, in a sentence or two.
        rows: (name, value, meaning) each; the meaning may be empty.
    """

    title: str
    text: str
    rows: tuple[tuple[str, str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [{"name": name, "value": value, "meaning": meaning} for name, value, meaning in self.rows]
        return {"title": self.title, "text": self.text, "rows": rows}


@dataclass(frozen=True)
class Names:
    """What is called how.

    Attributes:
        classes: Names of the classes.
        subcentroids: Names of the sub-centroids, class by class; of those that a class does not have, empty.
        stands_for: Of each sub-centroid that is the nearest of a training image, the nearest of these, by name.
    """

    classes: tuple[str, ...]
    subcentroids: list[list[str]]
    stands_for: dict[tuple[int, int], str]

    @classmethod
    def of(cls, found: Overview) -> Names:
        """The names of a model."""
        k = 1 + max(each.place[1] for each in found.subcentroids)
        names = [["" for _ in range(k)] for _ in found.classes]
        for each in found.subcentroids:
            names[each.place[0]][each.place[1]] = each.name
        return cls(found.classes, names, {each.place: each.typical[0] for each in found.subcentroids if each.typical})

    def subcentroid(self, label: int, at: int) -> dict[str, Any]:
        """A sub-centroid, its class, and the training image that shows what it is like; None where it has none."""
        return {
            "class": self.classes[label],
            "subcentroid": self.subcentroids[label][at],
            "image": self.stands_for.get((label, at)),
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


def described(run: LoadedRun, found: Overview, test: dict[str, Any]) -> Facts:
    """The model in short."""
    accuracy = "no test images" if test["accuracy"] is None else f"{test['accuracy']:.2%} of {test['images']:,}"
    flawed = f"{len(found.dead)} dead, {len(found.duplicates)} pairs of duplicates"
    return Facts(
        "The model",
        f"An image is of the class of its nearest sub-centroid: the model compares the image with each of the "
        f"{len(found.subcentroids):,} sub-centroids, by the cosine of the angle between their features, and takes the class of "
        "the most similar. A sub-centroid is the average direction of training images of its class; the images nearest to it "
        "show what it stands for.",
        (
            ("Run", str(run.files.root.name or run.files.root), ""),
            ("Recipe", run.recipe.name, run.recipe.description),
            ("Classes", f"{len(found.classes):,}", ""),
            ("Test accuracy", accuracy, "test images whose class is the predicted one"),
            ("Sub-centroids", f"{len(found.subcentroids):,}", flawed),
        ),
    )


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
