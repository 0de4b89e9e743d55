"""What edits come to for the sub-centroids of one run, or why they cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from otcluster.dnc.explaining.rule import Place
from otcluster.dnc.picking.edits import Drop, Edit, Merge, Rename, Replace, Which
from otcluster.dnc.recipe import nearest_name
from otcluster.runs.errors import RunError


@dataclass(frozen=True)
class Plan:
    """What there is when all edits are done.

    Attributes:
        is_open: Which sub-centroids each class then has, (n_classes, k), at the numbers that they had.
        names: What they are called, by place.
        merged: What each of some places is made of.
        replaced: The image that takes each of some places, as it was given.
    """

    is_open: Tensor
    names: list[list[str]]
    merged: dict[Place, tuple[Place, ...]]
    replaced: dict[Place, str]

    def changed_classes(self, was_open: Tensor) -> list[int]:
        """Labels of the classes whose sub-centroids are others than before, in their order."""
        closed = (self.is_open != was_open).any(dim=1).nonzero().flatten().tolist()
        return sorted({*closed, *(label for label, _ in (*self.merged, *self.replaced))})


def make_plan(edits: Sequence[Edit], classes: Sequence[str], names: Sequence[Sequence[str]], is_open: Tensor) -> Plan:
    """Put edits together. All names and numbers are of the sub-centroids as they are before any of them.

    Args:
        edits: At least one.
        classes: Names of the classes.
        names: What the sub-centroids are called, by place.
        is_open: Which there are, (n_classes, k).

    Raises:
        RunError: There is no such sub-centroid, edits contradict each other, a class would keep none, or two would be called
            the same.
        TypeError: One of them is no edit.
    """
    if not edits:
        raise RunError("no edits were given: at least one is needed")
    there: list[Place] = [(label, at) for label, at in is_open.nonzero().tolist()]
    by_name = {names[label][at]: (label, at) for label, at in there}

    def find(which: Which) -> Place:
        return _find(which, classes, names, there, by_name)

    touched: dict[Place, str] = {}
    gone: dict[Place, str] = {}
    merged: dict[Place, tuple[Place, ...]] = {}
    replaced: dict[Place, str] = {}
    renamed: dict[Place, str] = {}

    def claim(place: Place, what: str) -> None:
        if place in touched:
            name = names[place[0]][place[1]]
            raise RunError(f"{name} is to be {touched[place]} and to be {what}: one of these edits must go")
        touched[place] = what

    for edit in edits:
        match edit:
            case Rename(which, name):
                place = find(which)
                if place in renamed:
                    old = names[place[0]][place[1]]
                    raise RunError(f"{old} is to be called {renamed[place]!r} and {name!r}: one of these edits must go")
                renamed[place] = name
            case Drop(which):
                place = find(which)
                claim(place, "dropped")
                gone[place] = "dropped"
            case Merge(several):
                first, *others = places = [find(each) for each in several]
                if len({label for label, _ in places}) > 1:
                    listed = " and ".join(names[label][at] for label, at in places)
                    raise RunError(f"{listed} are of different classes: only sub-centroids of one class can be merged")
                into = names[first[0]][first[1]]
                for place in places:
                    claim(place, f"merged into {into}")
                gone |= dict.fromkeys(others, f"merged into {into}")
                merged[first] = tuple(places)
            case Replace(which, image):
                place = find(which)
                claim(place, f"replaced by {image}")
                if str(image) in replaced.values():
                    raise RunError(f"{image} is to replace two sub-centroids, which would then be the same: one edit must go")
                replaced[place] = str(image)
            case _:
                raise TypeError(f"edits are Rename, Drop, Merge and Replace, got {edit!r}")
    for (label, at), name in renamed.items():
        if (label, at) in gone:
            raise RunError(f"{names[label][at]} is to be {gone[label, at]}, so it cannot be called {name!r}: one edit must go")
    after = is_open.clone()
    for place in gone:
        after[place] = False
    for label in (~after.any(dim=1)).nonzero().flatten().tolist():
        raise RunError(
            f"class {classes[label]} would have no sub-centroid left: to take a class away, use otcluster dnc remove-class"
        )
    called = [list(row) for row in names]
    for (label, at), name in renamed.items():
        called[label][at] = name
    _check_unique(called, [place for place in there if place not in gone])
    return Plan(after, called, merged, replaced)


def _find(
    which: Which, classes: Sequence[str], names: Sequence[Sequence[str]], there: list[Place], by_name: dict[str, Place]
) -> Place:
    if isinstance(which, str):
        if which not in by_name:
            raise RunError(f"there is no sub-centroid {which!r}{nearest_name(which, list(by_name))}")
        return by_name[which]
    name, number = which
    if name not in classes:
        raise RunError(f"there is no class {name!r}{nearest_name(name, list(classes))}")
    label = list(classes).index(name)
    if (label, number - 1) not in there:
        known = ", ".join(str(at + 1) for each, at in there if each == label)
        raise RunError(f"class {name} has no sub-centroid {number}, only {known}")
    return label, number - 1


def _check_unique(names: list[list[str]], left: list[Place]) -> None:
    """See that no two are called the same."""
    owners: dict[str, Place] = {}
    for place in left:
        name = names[place[0]][place[1]]
        if name in owners:
            raise RunError(f"two sub-centroids would be called {name!r}: names tell them apart, choose another")
        owners[name] = place
