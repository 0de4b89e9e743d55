"""What a person can change of a sub-centroid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from otcluster.dnc.names import check_name

Which = str | tuple[str, int]
"""A sub-centroid: by the name that is shown, such as "goose #2"; or by its class and its number, counted from 1."""


@dataclass(frozen=True)
class Rename:
    """Call a sub-centroid by another name; nothing else changes.

    Args:
        place: Which, as its name or as (class, number counted from 1).
        name: One line, which no other sub-centroid of the run is called.

    Raises:
        TypeError, ValueError: An argument is none.

    Example:
        >>> Rename("goose #2", "goose in flight")
        Rename(place='goose #2', name='goose in flight')
    """

    place: Which
    name: str

    def __post_init__(self) -> None:
        _check_which("place", self.place)
        check_name(self.name)


@dataclass(frozen=True)
class Drop:
    """Take a sub-centroid away; its images go to the next nearest, of whatever class it is. The others keep their numbers.

    Args:
        place: Which, as its name or as (class, number counted from 1).

    Raises:
        TypeError, ValueError: It is none.

    Example:
        >>> Drop(("goose", 3))
        Drop(place=('goose', 3))
    """

    place: Which

    def __post_init__(self) -> None:
        _check_which("place", self.place)


@dataclass(frozen=True)
class Merge:
    """Make one sub-centroid of several of a class: their mean, weighted by how many training images each has.

    It takes the place and the name of the first; the others go. For the cosine the mean gets unit length.

    Args:
        places: Two or more, as names or as (class, number counted from 1).

    Raises:
        TypeError, ValueError: They are none.

    Example:
        >>> Merge(["goose #1", "goose #4"])
        Merge(places=('goose #1', 'goose #4'))
    """

    places: Sequence[Which]

    def __post_init__(self) -> None:
        if isinstance(self.places, str) or not isinstance(self.places, Sequence) or len(self.places) < 2:
            raise ValueError(f"places must be two sub-centroids or more, got {self.places!r}")
        for each in self.places:
            _check_which("places", each)
        object.__setattr__(self, "places", tuple(self.places))


@dataclass(frozen=True)
class Replace:
    """Put the feature of an image in the place of a sub-centroid, which keeps its name.

    Args:
        place: Which, as its name or as (class, number counted from 1).
        image: Name of a training image as the run shows it, or else a picture file.

    Raises:
        TypeError, ValueError: An argument is none.

    Example:
        >>> Replace("swan #1", "train/swan/0001.png").image
        'train/swan/0001.png'
    """

    place: Which
    image: str | Path

    def __post_init__(self) -> None:
        _check_which("place", self.place)
        if not isinstance(self.image, str | Path) or not str(self.image):
            raise TypeError(f"image must be the name of a training image or a picture file, got {self.image!r}")


Edit = Rename | Drop | Merge | Replace


def _check_which(argument: str, which: Which) -> None:
    if isinstance(which, str) and which:
        return
    if isinstance(which, tuple) and len(which) == 2 and isinstance(which[0], str):
        if isinstance(which[1], int) and not isinstance(which[1], bool) and which[1] >= 1:
            return
        raise ValueError(f"{argument}: the number of a sub-centroid is counted from 1, got {which[1]!r}")
    raise TypeError(f"{argument}: a sub-centroid is its name, or (class, number), got {which!r}")
