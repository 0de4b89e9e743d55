"""Whether explanations are true: measured, on the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from otcluster.dnc.anchoring import find_anchors
from otcluster.dnc.classes import need_cosines
from otcluster.dnc.conversion import Conversion
from otcluster.dnc.data import load_batches
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.explaining.fading import Fading, fading
from otcluster.dnc.explaining.rule import shortest_rule
from otcluster.dnc.head import DNCHead
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages


@dataclass(frozen=True)
class Measures:
    """How true the explanations of a run are.

    Attributes:
        n_images: Test images that were looked at.
        fidelity: Of how many of them, as a part, the rule made for the image gives the class that the model gives.
        contradictions: How often the rule of one image holds for another one of which the model says another class.
        accuracy: Of the model.
        anchors_accuracy: Of nothing but images: the class of the nearest of as many training images as there are
            sub-centroids, one for each. The same as ``accuracy`` where the sub-centroids are images.
        distinctiveness: How far a sub-centroid is from the nearest other of its class, as 1 - cosine, in the mean. None where
            each class has one.
        separation: The same, from the nearest of another class. None where there is one class.
        comprehensiveness: What part of the spread of a class its sub-centroids account for: 1 - (mean of 1 - cosine to the
            nearest sub-centroid of the class) / (the same to the mean direction of the class). 0 tells no more than the mean.
        fading: How the share of the predicted class falls and rises with what heat maps call important; None where there are
            no heat maps.
    """

    n_images: int
    fidelity: float
    contradictions: int
    accuracy: float
    anchors_accuracy: float
    distinctiveness: float | None
    separation: float | None
    comprehensiveness: float
    fading: Fading | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What was measured, in words, a line each."""

        def said(value: float | None, why: str) -> str:
            return why if value is None else f"{value:.3f}"

        found = [
            f"fidelity: the rule gives the class of the model for {self.fidelity:.1%} of {self.n_images} test images, and is "
            f"contradicted by {self.contradictions}",
            f"accuracy by anchors alone: {self.anchors_accuracy:.4f}, by the model: {self.accuracy:.4f}",
            f"distinctiveness (1 - cosine to the nearest of the class): {said(self.distinctiveness, 'one each')}",
            f"separation (1 - cosine to the nearest of another class): {said(self.separation, 'one class')}",
            f"comprehensiveness (part of the spread of a class accounted for): {self.comprehensiveness:.3f}",
        ]
        if self.fading is None:
            return [*found, "heat maps: none, features are no averages over places"]
        each = self.fading
        return [
            *found,
            f"deletion, share left in the mean of {each.n_images} images: {each.deletion:.3f} in the order of the heat map, "
            f"{each.deletion_against:.3f} of the map against the next class, {each.deletion_random:.3f} in random order (lower "
            "is better)",
            f"insertion: {each.insertion:.3f}, {each.insertion_against:.3f} and {each.insertion_random:.3f} (higher is better)",
        ]


@torch.no_grad()
def measure(run: LoadedRun, *, n_images: int = 100, seed: int = 0) -> Measures:
    """Measure how true the explanations of a run are, on its test images.

    Args:
        run: Trained to the end, from :func:`otcluster.dnc.load_run`; its head is one of sub-centroids, compared by cosine.
        n_images: On how many of the test images heat maps are tried, drawn by ``seed``; 0 leaves them out.
        seed: Of that draw, and of the random orders that heat maps are compared with.

    Raises:
        TypeError: The head has no sub-centroids, or scales the classes by weights of their own.
        ValueError: The head compares by distance, or ``n_images`` is negative.
        RunError: The run has not been trained to the end.
        DataError: Its images are not where they were.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     found = measure(load_run(folder + "/run"), n_images=4)
        >>> found.fidelity, found.contradictions
        (1.0, 0)

    Source: fidelity as in Guidotti et al., "A survey of methods for explaining black box models" (ACM Computing Surveys 2018);
    deletion and insertion: Petsiuk et al., "RISE" (BMVC 2018).
    """
    head = need_cosines(run.model.head, "explanations are measured")
    if n_images < 0:
        raise ValueError(f"n_images must not be negative, got {n_images}")
    typical, test = TypicalImages.load(run.files), run.load_test()
    found = evaluate(run.model, test, run.recipe.data)
    fidelity, contradictions = _fidelity(head, found)
    right = (found.predictions == found.labels).double().mean()
    within, between = _apart(head)
    return Measures(
        n_images=len(found.labels),
        fidelity=fidelity,
        contradictions=contradictions,
        accuracy=float(right),
        anchors_accuracy=_anchors_accuracy(head, typical, found),
        distinctiveness=within,
        separation=between,
        comprehensiveness=_comprehensiveness(head, found),
        fading=_fading(run, _drawn(found.indices, n_images, seed), seed) if n_images else None,
    )


def _fidelity(head: DNCHead, found: Evaluation) -> tuple[float, int]:
    """The part of images whose own rule gives the model's class, and how often another's rule gives another class."""
    device = head.subcentroids.device
    cosines = torch.cat([head.similarities(rows.to(device)).cpu() for rows in torch.split(found.features, 4096)])
    subcentroids, is_open, said = head.subcentroids.cpu().double(), head.store.is_open.cpu(), found.predictions
    true, wrong = 0, 0
    for row in range(len(cosines)):
        rule = shortest_rule(cosines[row], subcentroids, is_open)
        holds = rule.holds(cosines)
        true += bool(holds[row]) and rule.winner[0] == int(said[row])
        wrong += int((holds & (said != rule.winner[0])).sum())
    return true / len(cosines), wrong


def _anchors_accuracy(head: DNCHead, typical: TypicalImages, found: Evaluation) -> float:
    """Of the nearest of one kept training image for each sub-centroid."""
    features = typical.features.to(head.subcentroids.dtype)
    rows = find_anchors(head, features, typical.classes)
    chosen = rows[rows >= 0]
    unit = nn.functional.normalize(found.features.to(features.dtype), dim=1)
    nearest = torch.cat([(part @ features[chosen].T).argmax(dim=1) for part in torch.split(unit, 4096)])
    return float((typical.classes[chosen][nearest] == found.labels).double().mean())


def _apart(head: DNCHead) -> tuple[float | None, float | None]:
    is_open = head.store.is_open.cpu()
    units, labels = head.subcentroids.cpu().double()[is_open], torch.nonzero(is_open)[:, 0]
    cosines, same = units @ units.T, labels[:, None] == labels
    itself = torch.eye(len(units), dtype=torch.bool)
    return _mean_of_nearest(cosines, same & ~itself), _mean_of_nearest(cosines, ~same)


def _mean_of_nearest(cosines: Tensor, among: Tensor) -> float | None:
    nearest = cosines.masked_fill(~among, -torch.inf).max(dim=1).values
    known = nearest.isfinite()
    return float((1 - nearest[known]).mean()) if bool(known.any()) else None


def _comprehensiveness(head: DNCHead, found: Evaluation) -> float:
    device = head.subcentroids.device
    own = head.own_similarities(found.features.to(device), found.labels.to(device)).cpu().double().max(dim=1).values
    unit = nn.functional.normalize(found.features.double(), dim=1)
    sums = torch.zeros(head.n_classes, unit.shape[1], dtype=unit.dtype).index_add_(0, found.labels, unit)
    mean = (unit * nn.functional.normalize(sums, dim=1)[found.labels]).sum(dim=1)
    spread = float((1 - mean).mean())
    return 1 - float((1 - own).mean()) / spread if spread > 0 else 0.0


def _drawn(indices: Tensor, n: int, seed: int) -> list[int]:
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:n]
    return sorted(indices[order].tolist())


def _fading(run: LoadedRun, chosen: Sequence[int], seed: int) -> Fading | None:
    data = run.recipe.data
    batches = load_batches(run.load_test(), Conversion(data, augment=False), data, [list(chosen)])
    images, _, _ = next(iter(batches))
    return fading(run.model, images, seed=seed)
