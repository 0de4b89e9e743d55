"""What a model has learnt: its sub-centroids, the images that stand for them, and which of them are hard to tell apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otcluster.dnc.classes import need_cosines
from otcluster.dnc.explaining.map import angle_map
from otcluster.dnc.explaining.rule import Place
from otcluster.dnc.head import DNCHead
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages

if TYPE_CHECKING:
    from otcluster.dnc.pixels.runs import PixelRun


@dataclass(frozen=True)
class SubCentroid:
    """One of them.

    Attributes:
        place: Its class, and which of the class, counted from 0.
        name: What it is called.
        size: Of how many training images, or pixels, of its class it is the nearest.
        share: The same, as a part of those of its class; 0 where the class has none.
        typical: The nearest of these images, the nearest first, by name.
        reach: The lowest cosine to it, in [-1, 1], at which no sub-centroid of another class can be nearer: half the way to the
            nearest of them. None where there is no other class.
        anchor: The training image that it is, by name; None where it is none.
    """

    place: Place
    name: str
    size: int
    share: float
    typical: tuple[str, ...]
    reach: float | None
    anchor: str | None


@dataclass(frozen=True)
class Pair:
    """Two sub-centroids, and their cosine."""

    first: Place
    second: Place
    cosine: float


@dataclass(frozen=True)
class Overview:
    """A model, told by its sub-centroids.

    Attributes:
        classes: Names of the classes.
        subcentroids: All that there are, class by class.
        cosines: Between them, in this order, (m, m).
        map: Where each lies on a plane on which distances are near angles, in radians, (m, 2).
        map_kept: How much of the angles the plane keeps: the correlation of distances with them, at most 1; None where there is
            nothing to correlate.
        confusable: Pairs of different classes, the most alike first.
        duplicates: Pairs of one class that stand for the same, the most alike first.
        dead: Sub-centroids that hardly any training image of their class is nearest to.
    """

    classes: tuple[str, ...]
    subcentroids: tuple[SubCentroid, ...]
    cosines: Tensor
    map: Tensor
    map_kept: float | None
    confusable: tuple[Pair, ...]
    duplicates: tuple[Pair, ...]
    dead: tuple[Place, ...]

    def name(self, place: Place) -> str:
        """What a sub-centroid is called."""
        return next(each.name for each in self.subcentroids if each.place == place)

    def lines(self, thing: str) -> list[str]:
        """What is alike and what is dead, as lines of text.

        Args:
            thing: What sub-centroids are the nearest of: ``"training image"``, or ``"training pixel"``.
        """

        def alike(pair: Pair, digits: int) -> str:
            return f"{self.name(pair.first)} and {self.name(pair.second)}, cosine {pair.cosine:.{digits}f}"

        return [
            "most alike of different classes:",
            *(f"  {alike(pair, 3)}" for pair in self.confusable),
            *(f"duplicates: {alike(pair, 4)}" for pair in self.duplicates),
            *(f"dead: {self.name(place)}, of hardly any {thing} the nearest" for place in self.dead),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, sub-centroids by name."""

        def named(pairs: tuple[Pair, ...]) -> list[dict[str, Any]]:
            return [{"first": self.name(each.first), "second": self.name(each.second), "cosine": each.cosine} for each in pairs]

        return {
            "classes": list(self.classes),
            "subcentroids": [
                {
                    "name": each.name,
                    "class": self.classes[each.place[0]],
                    "size": each.size,
                    "share": each.share,
                    "reach": each.reach,
                    "anchor": each.anchor,
                    "typical": list(each.typical),
                }
                for each in self.subcentroids
            ],
            "cosines": self.cosines.tolist(),
            "map": self.map.tolist(),
            "map_kept": self.map_kept,
            "confusable": named(self.confusable),
            "duplicates": named(self.duplicates),
            "dead": [self.name(place) for place in self.dead],
        }


@torch.no_grad()
def overview(
    run: LoadedRun | PixelRun, *, n_typical: int = 5, n_pairs: int = 10, duplicate: float = 0.995, dead: float = 0.01
) -> Overview:
    """Describe the model of a run.

    Args:
        run: Trained to the end, from :func:`otcluster.dnc.load_run`; its head is one of sub-centroids, compared by cosine. Or a
            run of pixels, from :func:`otcluster.dnc.pixels.runs.load_pixel_run`, all of whose training images are then looked
            at: pixels are counted in place of images, and the typical images are those of the nearest places.
        n_typical: How many images to name for each sub-centroid, at most.
        n_pairs: How many confusable pairs to name, at most.
        duplicate: Above this cosine two of one class count as duplicates.
        dead: Below this part of the images of its class one counts as dead.

    Raises:
        TypeError: The head has no sub-centroids, or scales the classes by weights of their own.
        ValueError: The head compares by distance, or a number is out of range.
        RunError: The run has not been trained to the end.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     found = overview(load_run(folder + "/run"))
        >>> len(found.subcentroids), found.subcentroids[0].name, len(found.confusable)
        (40, '0 #1', 10)
    """
    head = need_cosines(run.model.head, "models are explained")
    if n_typical < 0 or n_pairs < 0:
        raise ValueError(f"n_typical and n_pairs must not be negative, got {n_typical} and {n_pairs}")
    if not -1 <= duplicate <= 1 or not 0 <= dead <= 1:
        raise ValueError(f"duplicate must be a cosine and dead a part, got {duplicate} and {dead}")
    if not isinstance(run, LoadedRun):
        from otcluster.dnc.pixels.patches import typical_patches

        patches = typical_patches(run, n=max(n_typical, 1))
        return overview_of(
            head, run.classes, run.names, patches.sizes, lambda label, at: patches.names(label, at)[:n_typical],
            n_pairs=n_pairs, duplicate=duplicate, dead=dead,
        )  # fmt: skip
    typical = TypicalImages.load(run.files)
    anchors: dict[Place, str] = {
        (label, at): typical.names[image]
        for label, at in torch.nonzero(head.store.is_open).tolist()
        if (image := typical.anchor(label, at)) is not None
    }
    return overview_of(
        head, run.classes, run.names, typical.sizes,
        lambda label, at: [typical.names[image] for image in typical.of(label, at)[:n_typical].tolist()],
        anchors=anchors, n_pairs=n_pairs, duplicate=duplicate, dead=dead,
    )  # fmt: skip


def overview_of(
    head: DNCHead,
    classes: Sequence[str],
    names: Sequence[Sequence[str]],
    sizes: Tensor,
    typical: Callable[[int, int], Sequence[str]],
    *,
    anchors: Mapping[Place, str] | None = None,
    n_pairs: int = 10,
    duplicate: float = 0.995,
    dead: float = 0.01,
) -> Overview:
    """Describe a head by what is known of its training images.

    Args:
        head: Compared by cosine.
        classes, names: Of its classes and of their sub-centroids.
        sizes: Of how many training images, or pixels, of its class each sub-centroid is the nearest, (n_classes, k).
        typical: Gives the images of a sub-centroid, by class and place.
        anchors: Those that are images, and which.
        n_pairs, duplicate, dead: As for :func:`overview`.
    """
    is_open = head.store.is_open.cpu()
    places: list[Place] = [(label, at) for label, at in torch.nonzero(is_open).tolist()]
    units = head.subcentroids.cpu().double()[is_open]
    cosines = (units @ units.T).clamp(-1, 1)
    labels = torch.tensor([label for label, _ in places])
    same = labels[:, None] == labels
    per_class = sizes.sum(dim=1)
    foreign = torch.arccos(cosines.masked_fill(same, -1.0)).min(dim=1).values / 2
    found = []
    for row, (label, at) in enumerate(places):
        size = int(sizes[label, at])
        found.append(
            SubCentroid(
                place=(label, at),
                name=names[label][at],
                size=size,
                share=size / max(int(per_class[label]), 1),
                typical=tuple(typical(label, at)),
                reach=None if bool(same[row].all()) else float(foreign[row].cos()),
                anchor=None if anchors is None else anchors.get((label, at)),
            )
        )
    upper = torch.ones_like(same).triu(1)
    on_plane, kept = angle_map(cosines)
    return Overview(
        classes=tuple(classes),
        subcentroids=tuple(found),
        cosines=cosines,
        map=on_plane,
        map_kept=kept,
        confusable=_pairs(cosines, upper & ~same, places)[:n_pairs],
        duplicates=_pairs(cosines, upper & same & (cosines > duplicate), places),
        dead=tuple(each.place for each in found if int(per_class[each.place[0]]) and each.share < dead),
    )


def _pairs(cosines: Tensor, which: Tensor, places: list[Place]) -> tuple[Pair, ...]:
    """Those of the pairs, the most alike first."""
    rows = torch.nonzero(which)
    order = torch.argsort(cosines[which], descending=True, stable=True)
    return tuple(Pair(places[i], places[j], float(cosines[i, j])) for i, j in rows[order].tolist())
