"""Why one image is of the class that a model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from otcluster.dnc.classes import need_cosines, need_subcentroids
from otcluster.dnc.classifier import Classifier
from otcluster.dnc.explaining.heat import cosine_parts, feature_maps
from otcluster.dnc.explaining.rule import Rule, shortest_rule
from otcluster.dnc.head import DNCHead
from otcluster.dnc.names import subcentroid_names
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.serving import Images, as_batches, evaluating
from otcluster.dnc.typical import TypicalImages
from otcluster.dnc.unknown.calibration import Calibration, Verdict

_BATCH = 32  # outputs of all layers are kept while maps are looked for


@dataclass(frozen=True)
class Alternative:
    """What speaks for one class.

    Attributes:
        label: The class.
        subcentroid: The nearest of its sub-centroids, counted from 0.
        cosine: To it.
        share: Of the softmax, of the whole class; at the temperature of the run's calibration, if it has one.
        lost_by: How far the cosine is below that of the winner; 0 for the winner itself.
    """

    label: int
    subcentroid: int
    cosine: float
    share: float
    lost_by: float


@dataclass(frozen=True)
class Explanation:
    """Why an image is of its class: everything here is what the model computed, and nothing is a guess about it.

    Attributes:
        label: The predicted class, even where the image is not known.
        subcentroid: The sub-centroid that decided, of this class, counted from 0.
        alternatives: What speaks for each class, the likeliest first. The first is the decision, and the second tells what
            would have to change: the nearest sub-centroid of the runner-up, and by how much it lost.
        cosines: To every sub-centroid, (n_classes, k); -inf to those that a class does not have.
        rule: The shortest rule that decides this image, and any other that it holds for.
        nearest: The most similar of the training images kept with the run, as (name, class, cosine). They show what the
            decision is like; they did not make it. Empty without a run.
        heat: What each place of the image gives to the cosine of the winner, (height, width) of the map before pooling; the
            parts add up to the cosine. None where features are no averages over places.
        heat_against: The same, less what the place gives to the cosine of the runner-up: what there is more of for this class
            than for the next. None as for ``heat``, or where there is one class.
        names: What the sub-centroids of each class are called; None until somebody names one.
        verdict: Whether the image is known at all, and by what; None for a model, or a run that was not calibrated.
    """

    label: int
    subcentroid: int
    alternatives: tuple[Alternative, ...]
    cosines: Tensor
    rule: Rule
    nearest: tuple[tuple[str, int, float], ...]
    heat: Tensor | None
    heat_against: Tensor | None
    names: list[list[str]] | None = field(default=None, repr=False)
    verdict: Verdict | None = None

    @property
    def known(self) -> bool | None:
        """Whether the model knows the image, by its calibration; None where there is none."""
        return None if self.verdict is None else self.verdict.known

    def names_in(self, classes: Sequence[str]) -> list[list[str]]:
        """What the sub-centroids are called, class by class."""
        return subcentroid_names(classes, self.cosines.shape[1]) if self.names is None else self.names

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values for JSON; classes by name, sub-centroids counted from 1 and by name."""
        first, names = self.alternatives[0], self.names_in(classes)
        return {
            "class": classes[self.label],
            "subcentroid": self.subcentroid + 1,
            "name": names[self.label][self.subcentroid],
            "cosine": first.cosine,
            "share": first.share,
            "known": self.known,
            "verdict": None if self.verdict is None else self.verdict.as_dict(),
            "rule": self.rule.text(classes[self.label], names),
            "alternatives": [
                {
                    "class": classes[each.label],
                    "subcentroid": each.subcentroid + 1,
                    "name": names[each.label][each.subcentroid],
                    "cosine": each.cosine,
                    "share": each.share,
                    "lost_by": each.lost_by,
                }
                for each in self.alternatives[1:]
            ],
            "nearest": [{"name": name, "class": classes[label], "cosine": cosine} for name, label, cosine in self.nearest],
            "heat": None if self.heat is None else self.heat.tolist(),
            "heat_against": None if self.heat_against is None else self.heat_against.tolist(),
        }


@torch.no_grad()
def explain(run: LoadedRun | Classifier, images: Images, *, n_nearest: int = 5) -> list[Explanation]:
    """Say why each image is of its class.

    Args:
        run: A trained run, from :func:`otcluster.dnc.load_run`, or a model, which knows no training images. Its head is one of
            sub-centroids, compared by cosine.
        images: As for :meth:`otcluster.dnc.Classifier.predict`.
        n_nearest: How many similar training images to name, at most.

    Returns:
        One explanation for each image, in their order. Of a run that was calibrated (:func:`otcluster.dnc.calibrate`) they have
        shares at its temperature, and say whether the image is known.

    Raises:
        TypeError: The head has no sub-centroids, or scales the classes by weights of their own, so that the nearest
            sub-centroid need not decide; or the images are none.
        ValueError: The head compares by distance, ``n_nearest`` is negative, or the images have another shape or give
            features that are not finite.
        RunError: The run has not been trained to the end, or its calibration cannot be read.

    Example:
        >>> from torch import nn
        >>> from otcluster.dnc import DNCHead
        >>> model = Classifier(nn.Flatten(), DNCHead(4, n_classes=3), classes=["cat", "dog", "owl"])
        >>> image = torch.rand(1, 1, 2, 2)
        >>> (found,) = explain(model, image)
        >>> found.label == int(model.predict(image).labels[0]), len(found.alternatives)
        (True, 3)

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023), section 4.3.
    """
    model = run.model if isinstance(run, LoadedRun) else run
    need_cosines(model.head, "decisions are explained")
    if n_nearest < 0:
        raise ValueError(f"n_nearest must not be negative, got {n_nearest}")
    typical = TypicalImages.load(run.files) if isinstance(run, LoadedRun) and n_nearest else None
    calibration = Calibration.load(run) if isinstance(run, LoadedRun) else None
    found: list[Explanation] = []
    with evaluating(model):
        for batch in as_batches(model, images, _BATCH):
            features, maps = feature_maps(model.backbone, lambda batch=batch: model.features(batch))  # type: ignore[misc]
            if not bool(features.isfinite().all()):
                at = len(found) + int((~features.isfinite().all(dim=1)).to(torch.int64).argmax())
                raise ValueError(f"the features of image {at} are not finite: there is no nearest sub-centroid to explain")
            found += _explained(model, features, maps, typical, n_nearest, calibration)
    return found


def _explained(
    model: Classifier,
    features: Tensor,
    maps: Tensor | None,
    typical: TypicalImages | None,
    n_nearest: int,
    calibration: Calibration | None,
) -> list[Explanation]:
    head = need_subcentroids(model.head, "decisions are explained")
    cosines = head.similarities(features)
    logits = head(features)
    shares = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
    verdicts: list[Verdict | None] = [None] * len(features)
    if calibration is not None:
        shares, verdicts = calibration.shares(logits), [*calibration.verdicts(head, features, logits)]
    best, which = cosines.max(dim=2)
    order = torch.argsort(best, dim=1, descending=True, stable=True)
    unit = torch.nn.functional.normalize(features.to(head.subcentroids.dtype), dim=1)
    heats = [
        None if maps is None or place >= order.shape[1] else _heat(head, maps, features, order[:, place], which)
        for place in (0, 1)
    ]
    subcentroids, is_open = head.subcentroids.cpu().double(), head.store.is_open.cpu()
    found = []
    for row in range(len(features)):
        values = [float(value) for value in best[row]]
        top = values[int(order[row, 0])]
        alternatives = tuple(
            Alternative(label, int(which[row, label]), values[label], float(shares[row, label]), top - values[label])
            for label in order[row].tolist()
        )
        heat = None if heats[0] is None else heats[0][row].cpu()
        found.append(
            Explanation(
                label=alternatives[0].label,
                subcentroid=alternatives[0].subcentroid,
                alternatives=alternatives,
                cosines=cosines[row].cpu(),
                rule=shortest_rule(cosines[row].cpu(), subcentroids, is_open),
                nearest=() if typical is None else _nearest(typical, unit[row].cpu(), n_nearest),
                heat=heat,
                heat_against=None if heat is None or heats[1] is None else heat - heats[1][row].cpu(),
                names=model.subcentroid_names,
                verdict=verdicts[row],
            )
        )
    return found


def _heat(head: DNCHead, maps: Tensor, features: Tensor, labels: Tensor, which: Tensor) -> Tensor:
    rows = torch.arange(len(labels), device=labels.device)
    dtype = head.subcentroids.dtype
    return cosine_parts(maps.to(dtype), features.to(dtype), head.subcentroids[labels, which[rows, labels]])


def _nearest(typical: TypicalImages, unit: Tensor, n: int) -> tuple[tuple[str, int, float], ...]:
    best = torch.topk(typical.features @ unit.to(typical.features.dtype), min(n, len(typical.names)))
    return tuple(
        (typical.names[at], int(typical.classes[at]), cosine)
        for at, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
