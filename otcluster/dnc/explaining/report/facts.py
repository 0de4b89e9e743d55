"""Tables of numbers: the model in short, and whether its explanations are true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from otcluster.dnc.explaining.measures import Measures
from otcluster.dnc.explaining.overview import Overview
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.unknown.calibration import Calibration


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


def described(run: LoadedRun, found: Overview, test: dict[str, Any]) -> Facts:
    """The model in short.

    Args:
        run: Whose name, recipe and metrics are told.
        found: Its model.
        test: How its test images were classified.
    """
    m, anchored = len(found.subcentroids), sum(each.anchor is not None for each in found.subcentroids)
    accuracy = "no test images" if test["accuracy"] is None else f"{test['accuracy']:.2%} of {test['images']:,}"
    what = {0: "the average direction of training images of its class", m: "a training image of its class"}.get(
        anchored, f"the average direction of training images of its class, or one of these images ({anchored:,} are)"
    )
    rows = [
        ("Run", str(run.files.root.name or run.files.root), ""),
        ("Recipe", run.recipe.name, run.recipe.description),
        ("Classes", f"{len(found.classes):,}", ""),
        ("Test accuracy", accuracy, "test images whose class is the predicted one"),
        ("Sub-centroids", f"{m:,}", f"{len(found.dead)} dead, {len(found.duplicates)} pairs of duplicates"),
    ]
    if anchored:
        rows.append(("Anchored", f"{anchored:,}", "sub-centroids that are training images"))
    tied = run.files.read_metrics().get("anchoring") if run.files.metrics.is_file() else None
    if tied is not None:
        steps = f"{tied['before']:.2%} before, {tied['tied']:.2%} when tied"
        rows.append(
            (
                "After anchoring",
                f"{tied['after']:.2%}",
                f"test accuracy: {steps}, and {tied['epochs']} {'epoch' if tied['epochs'] == 1 else 'epochs'} later",
            )
        )
    return Facts(
        "The model",
        f"An image is of the class of its nearest sub-centroid: the model compares the image with each of the {m:,} "
        "sub-centroids, by the cosine of the angle between their features, and takes the class of the most similar. "
        f"A sub-centroid is {what}; the images nearest to it show what it stands for.",
        tuple(rows),
    )


def truths(found: Measures) -> Facts:
    """Whether the explanations are true."""
    rows = [
        ("Fidelity", f"{found.fidelity:.1%}", "images whose rule gives the class that the model gives"),
        (
            "Contradictions",
            f"{found.contradictions:,}",
            "how often a rule holds for an image of which the model says another class",
        ),
        (
            "By images alone",
            f"{found.anchors_accuracy:.2%}",
            "accuracy by the nearest of one training image for each sub-centroid",
        ),
        ("Distinctiveness", _said(found.distinctiveness), "1 - cosine to the nearest sub-centroid of the class, in the mean"),
        ("Separation", _said(found.separation), "1 - cosine to the nearest of another class, in the mean"),
        (
            "Comprehensiveness",
            _said(found.comprehensiveness),
            "part of the spread of a class that its sub-centroids account for",
        ),
    ]
    if (fading := found.fading) is not None:
        shares = f"mean share of the predicted class of {fading.n_images} images, with places"
        rows += [
            ("Deletion", _said(fading.deletion), f"{shares} hidden, the hottest first; lower is better"),
            ("Deletion, against", _said(fading.deletion_against), "the same by the heat against the next class"),
            ("Deletion, random", _said(fading.deletion_random), "the same in random order"),
            ("Insertion", _said(fading.insertion), f"{shares} shown, the hottest first; higher is better"),
            ("Insertion, against", _said(fading.insertion_against), "the same by the heat against the next class"),
            ("Insertion, random", _said(fading.insertion_random), "the same in random order"),
        ]
    return Facts("Are these explanations true?", f"Measured on {found.n_images:,} test images.", tuple(rows))


def doubts(found: Calibration) -> Facts:
    """From where on the model does not know."""
    rest = f"of the {found.n_reported:,} others"
    rows = (
        ("Temperature", _said(found.temperature), "what logits are divided with to make shares"),
        ("Threshold", _said(found.threshold), f"{found.score} from which on an image is known, to keep {found.keep:.0%}"),
        ("Kept", f"{found.kept:.1%}", f"{rest}, the part that is known"),
        ("Accuracy", f"{found.accuracy:.2%}", f"{rest}, all"),
        ("Accuracy, kept", "none is" if found.accuracy_kept is None else f"{found.accuracy_kept:.2%}", f"{rest}, those known"),
        ("Calibration error", f"{found.ece_before:.4f}, {found.ece_after:.4f}", f"{rest}, before and at the temperature"),
    )
    text = (
        f"Found on {found.n_held_out:,} held-out images: shares on this page are at the temperature, and of an image below the "
        "threshold the model says that it does not know it."
    )
    return Facts("When it does not know", text, rows)


def _said(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.3f}"
