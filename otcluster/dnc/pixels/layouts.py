"""Where images and their maps of labels lie, as the data sets are published."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from otcluster.dnc.errors import DataError
from otcluster.dnc.pictures import open_image
from otcluster.dnc.pixels.labels import IGNORE, LabelMap, read_labels
from otcluster.dnc.pixels.pairing import partners
from otcluster.dnc.recipe_values import FOLDS

Colour = tuple[int, int, int]
_HELD_OUT = ("test", "val")
_ADE20K = 150
_CAMVID: dict[str, Colour] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


@dataclass(frozen=True)
class PixelSplit:
    """Some images, each with a map of labels; read when they are needed.

    Attributes:
        names: Name of each.
        marks: What tells each from another of the same name: the bytes of image and map.
        read: Gives the image at an index and its map, uint8 (height, width) with ``IGNORE`` for pixels that count for nothing.
            It can be pickled, for the processes that read images.
    """

    names: list[str]
    marks: list[tuple[int, int]]
    read: Callable[[int], tuple[Image.Image, LabelMap]]

    def __len__(self) -> int:
        return len(self.names)

    def spaced(self, most: int) -> list[int]:
        """At most so many of the images, at equal distances in their order."""
        return [int(at) for at in np.unique(np.linspace(0, len(self) - 1, most).round())]

    def subset(self, indices: Sequence[int]) -> PixelSplit:
        """The images at ``indices``, in that order."""
        kept = [int(index) for index in indices]
        names, marks = [self.names[index] for index in kept], [self.marks[index] for index in kept]
        return PixelSplit(names, marks, partial(_read_nth, self.read, kept))


def _read_nth(read: Callable[[int], tuple[Image.Image, LabelMap]], kept: list[int], at: int) -> tuple[Image.Image, LabelMap]:
    return read(kept[at])


@dataclass(frozen=True)
class PixelData:
    """Training and test images of the same classes.

    Attributes:
        classes: Names of the classes.
        palette: A colour for each, red, green and blue from 0 to 255.
        train: The images to learn from.
        test: The others.
    """

    classes: list[str]
    palette: list[Colour]
    train: PixelSplit
    test: PixelSplit

    @property
    def fingerprint(self) -> str:
        """What tells these images from others: a digest of all names and of how many bytes each has."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(repr((split.names, split.marks)).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Layout:
    """How one data set lies: pairs of files by part, and what the values of the maps of a part stand for."""

    pairs: Callable[[str], list[tuple[Path, Path]]]
    parts: tuple[str, str]
    classes: list[str]
    palette: list[Colour]
    table: Callable[[str], Mapping[int, int] | None]


@dataclass(frozen=True)
class _Asked:
    """How a data set is to be taken: with which classes, where it does not name them, and which fifth is held out."""

    classes: list[str] | None = None
    seed: int = 0
    fold: int = 0


def load_pixels(
    layout: str, root: str | Path, *, classes: Sequence[str] | None = None, seed: int = 0, fold: int = 0
) -> PixelData:
    """The images of a data set, with their maps of labels.

    Args:
        layout: ``"folders"``, a folder with ``train/images``, ``train/labels`` and ``test/`` (or ``val/``) likewise, or with
            ``images/train``, ``labels/train`` and so on, or with ``images`` and ``labels`` alone, of which a fifth is held
            out. Files have the same names but for their ends, and ``classes.txt`` names a class in each line, or is absent.
            ``"camvid"``, ``"ade20k"`` or ``"cityscapes"`` as they are published.
        root: The folder; of ADE20K the one that holds ``images`` and ``annotations``, or ``ADEChallengeData2016`` with these.
        classes: Their names, where a model knows them. Default: as the data set has them, or as many as are counted.
        seed, fold: Which fifth is held out, where there are no test images.

    Raises:
        DataError: There is no such folder or layout, it holds no images or other classes, or an image or a map has no partner;
            the message names it. Files are read, and looked at, only when they are needed.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc.pixels.labels import IGNORE
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "test"):
        ...         for kind, mode in (("images", "RGB"), ("labels", "L")):
        ...             place = Path(folder, part, kind)
        ...             place.mkdir(parents=True)
        ...             Image.new(mode, (4, 2)).save(place / "0.png")
        ...     _ = Path(folder, "classes.txt").write_text("road sky".replace(" ", chr(10)))
        ...     data = load_pixels("folders", folder)
        ...     image, labels = data.train.read(0)
        >>> data.classes, image.size, labels.shape
        (['road', 'sky'], (4, 2), (2, 4))
    """
    found = _found(layout, root, _Asked(None if classes is None else list(classes), seed, fold))
    train, test = (_split(found, Path(root), part) for part in found.parts)
    return PixelData(found.classes, found.palette, train, test)


def load_test_pixels(layout: str, root: str | Path, classes: Sequence[str], *, seed: int = 0, fold: int = 0) -> PixelSplit:
    """The test images of a data set alone, for a model that knows ``classes``; it need hold no others.

    Args:
        layout, root, seed, fold: As for :func:`load_pixels`.
        classes: Those of the model, in its order.

    Raises:
        DataError: As for :func:`load_pixels`.
    """
    found = _found(layout, root, _Asked(list(classes), seed, fold))
    return _split(found, Path(root), found.parts[1])


def _found(layout: str, root: str | Path, asked: _Asked) -> _Layout:
    place = Path(root)
    if layout not in LAYOUTS:
        raise DataError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if not place.is_dir():
        raise DataError(f"there is no folder {place}: --data must name that of the images")
    found = LAYOUTS[layout](place, asked)
    if not 2 <= len(found.classes) < IGNORE:
        raise DataError(f"{place} has {len(found.classes)} classes, and from 2 to {IGNORE - 1} can be told apart")
    if asked.classes is not None and found.classes != asked.classes:
        pairs = zip(found.classes, asked.classes, strict=False)
        other = next((f"{theirs!r} stands where the run has {ours!r}" for theirs, ours in pairs if theirs != ours), None)
        raise DataError(
            f"{place} has other classes than the run was trained on: "
            f"{other or f'{len(found.classes)} and not {len(asked.classes)}'}; pass --data, the folder of its images"
        )
    return found


def _split(layout: _Layout, root: Path, part: str) -> PixelSplit:
    pairs = layout.pairs(part)
    if not pairs:
        raise DataError(f"{root} holds no images of {part}")
    names = [image.relative_to(root).as_posix() for image, _ in pairs]
    marks = [(_size(image), _size(labels)) for image, labels in pairs]
    return PixelSplit(names, marks, partial(_read, pairs, len(layout.classes), layout.table(part)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nowhere, say: whoever reads it will name it
        return -1


def _read(
    pairs: list[tuple[Path, Path]], n_classes: int, table: Mapping[int, int] | None, at: int
) -> tuple[Image.Image, LabelMap]:
    image, labels = open_image(pairs[at][0]).convert("RGB"), read_labels(pairs[at][1], n_classes, table)
    if labels.shape != image.size[::-1]:
        raise DataError(
            f"{pairs[at][0]} has {image.width} x {image.height} pixels, and its map of labels {pairs[at][1]} has "
            f"{labels.shape[1]} x {labels.shape[0]}"
        )
    return image, labels


def _folders(root: Path, asked: _Asked) -> _Layout:
    inside = (root / "images").is_dir() and not (root / "train").is_dir()

    def place(kind: str, part: str) -> Path:
        return root / kind / part if inside else root / part / kind

    alone = inside and not any(place("images", part).is_dir() for part in ("train", *_HELD_OUT))

    def pairs(part: str) -> list[tuple[Path, Path]]:
        if not alone:
            return partners(place("images", part), place("labels", part))
        whole = partners(root / "images", root / "labels")
        order = np.random.default_rng(asked.seed).permutation(len(whole))
        held_out = {int(index) for index in order[asked.fold :: FOLDS]}
        return [pair for at, pair in enumerate(whole) if (at in held_out) == (part == "test")]

    def held_out() -> str:
        for name in _HELD_OUT:
            if alone or (root / name).is_dir() or place("images", name).is_dir():
                return name
        raise DataError(f"{root} holds neither {' nor '.join(each + '/' for each in _HELD_OUT)}: there are no test images")

    parts = ("train", held_out())
    named = root / "classes.txt"
    classes = _read_names(named) if named.is_file() else asked.classes
    if classes is None:
        classes = [str(label) for label in range(_count_classes([pair for part in parts for pair in pairs(part)]))]
    return _Layout(pairs, parts, classes, palette(len(classes)), _no_table)


def _no_table(_: str) -> None:
    """The values of maps are the classes."""
    return


def _read_names(path: Path) -> list[str]:
    """A name in each line that is not empty."""
    names = [line.strip() for line in _lines(path)]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise DataError(f"{path} names a class twice, {twice!r}")
    return names


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8: {error}") from None


def _count_classes(pairs: list[tuple[Path, Path]]) -> int:
    """One more than the greatest label of all images."""
    most = 0
    for _, path in pairs:
        labels = read_labels(path, IGNORE)
        most = max([most, *(int(value) + 1 for value in np.unique(labels) if value != IGNORE)])
    return most


def _camvid(root: Path, _: _Asked) -> _Layout:
    table = {label: label for label in range(len(_CAMVID))} | {len(_CAMVID): IGNORE, IGNORE: IGNORE}

    def pairs(part: str) -> list[tuple[Path, Path]]:
        return partners(root / part / "images", root / part / "labels")

    return _Layout(pairs, ("train", "test"), list(_CAMVID), list(_CAMVID.values()), lambda _: table)


def _ade20k(root: Path, _: _Asked) -> _Layout:
    inside = root / "ADEChallengeData2016"
    base = inside if inside.is_dir() else root
    names = base / "objectInfo150.txt"
    classes = _names_of_ade20k(names) if names.is_file() else [f"class {label + 1}" for label in range(_ADE20K)]
    table = {0: IGNORE} | {label + 1: label for label in range(_ADE20K)}

    def pairs(part: str) -> list[tuple[Path, Path]]:
        return partners(base / "images" / part, base / "annotations" / part)

    return _Layout(pairs, ("training", "validation"), classes, palette(_ADE20K), lambda _: table)


def _names_of_ade20k(path: Path) -> list[str]:
    """The first of the names that the list has for each class, or all of them where two classes have the same first one."""
    whole = [line.split("\t")[-1].strip() for line in _lines(path)[1:]]
    first = [re.split(r"[,;]", names)[0].strip() for names in whole]
    found = first if len(set(first)) == len(first) else whole
    if len(set(found)) != _ADE20K:
        raise DataError(f"{path} names {len(set(found))} classes, and a heading with a line for each of {_ADE20K} was expected")
    return found


def _cityscapes(root: Path, _: _Asked) -> _Layout:
    from torchvision.datasets import Cityscapes

    known = sorted((each for each in Cityscapes.classes if 0 <= each.train_id < IGNORE), key=lambda each: each.train_id)
    by_id = {each.id: each.train_id if 0 <= each.train_id < IGNORE else IGNORE for each in Cityscapes.classes if each.id >= 0}
    by_id[IGNORE] = IGNORE  # licence plates, -1 in the table

    def end(part: str) -> str:
        """Of the maps of a part: those of training ids where they are."""
        there = any((root / "gtFine" / part).glob("*/*_gtFine_labelTrainIds.png"))
        return "_gtFine_labelTrainIds" if there else "_gtFine_labelIds"

    def pairs(part: str) -> list[tuple[Path, Path]]:
        return partners(root / "leftImg8bit" / part, root / "gtFine" / part, "_leftImg8bit", end(part))

    return _Layout(
        pairs,
        ("train", "val"),
        [each.name for each in known],
        [each.color for each in known],
        lambda part: None if end(part).endswith("TrainIds") else by_id,
    )


def palette(n: int) -> list[Colour]:
    """Colours that are told apart, for as many classes: the bits of a class spread over red, green and blue.

    Example:
        >>> palette(3)
        [(128, 0, 0), (0, 128, 0), (128, 128, 0)]

    Source: Everingham et al., "The Pascal visual object classes challenge" (IJCV 2010), whose map of colours it is, without
    the black of its background.
    """
    colours = []
    for label in range(1, n + 1):
        parts = [0, 0, 0]
        for at in range(8):
            bits = label >> (3 * at)
            for channel in range(3):
                parts[channel] |= (bits >> channel & 1) << (7 - at)
        colours.append((parts[0], parts[1], parts[2]))
    return colours


LAYOUTS: dict[str, Callable[[Path, _Asked], _Layout]] = {
    "folders": _folders,
    "camvid": _camvid,
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
}
