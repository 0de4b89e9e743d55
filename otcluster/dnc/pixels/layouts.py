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
from torchvision.datasets.folder import IMG_EXTENSIONS

from otcluster.dnc.errors import DataError
from otcluster.dnc.pictures import open_image
from otcluster.dnc.pixels.labels import IGNORE, LabelMap, read_labels

Colour = tuple[int, int, int]
_HELD_OUT = ("test", "val")
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
    """How one data set lies: pairs of files by part, and what the values of its maps stand for."""

    pairs: Callable[[Path, str], list[tuple[Path, Path]]]
    parts: tuple[str, str]
    classes: list[str]
    palette: list[Colour]
    table: Mapping[int, int] | None


def load_pixels(layout: str, root: str | Path) -> PixelData:
    """The images of a data set, with their maps of labels.

    Args:
        layout: ``"folders"``, a folder with ``train/images``, ``train/labels`` and ``test/`` (or ``val/``) likewise, where
            files have the same names but for their ends, and ``classes.txt`` names a class in each line, or is absent;
            ``"camvid"``, ``"ade20k"`` or ``"cityscapes"`` as they are published.
        root: The folder; of ADE20K the one that holds ``images`` and ``annotations``, or ``ADEChallengeData2016`` with these.

    Raises:
        DataError: There is no such folder or layout, it holds no images, or an image or a map has no partner; the message
            names it. Files are read, and looked at, only when they are needed.

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
    place = Path(root)
    if layout not in LAYOUTS:
        raise DataError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if not place.is_dir():
        raise DataError(f"there is no folder {place}: --data must name that of the images")
    found = LAYOUTS[layout](place)
    if not 2 <= len(found.classes) < IGNORE:
        raise DataError(f"{place} has {len(found.classes)} classes, and from 2 to {IGNORE - 1} can be told apart")
    train, test = (_split(found, place, part) for part in found.parts)
    return PixelData(found.classes, found.palette, train, test)


def _split(layout: _Layout, root: Path, part: str) -> PixelSplit:
    pairs = layout.pairs(root, part)
    if not pairs:
        raise DataError(f"{root} holds no images of {part}")
    names = [image.relative_to(root).as_posix() for image, _ in pairs]
    marks = [(_size(image), _size(labels)) for image, labels in pairs]
    return PixelSplit(names, marks, partial(_read, pairs, len(layout.classes), layout.table))


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


def _partners(
    images: list[Path], labels: list[Path], key: Callable[[Path], str], other: Callable[[Path], str] | None = None
) -> list[tuple[Path, Path]]:
    """Images with their maps, by what their names have in common.

    Raises:
        DataError: One has no partner.
    """
    theirs = {(other or key)(path): path for path in labels}
    pairs = []
    for path in images:
        if (partner := theirs.pop(key(path), None)) is None:
            raise DataError(f"{path} has no map of labels")
        pairs.append((path, partner))
    if theirs:
        raise DataError(f"{next(iter(theirs.values()))} has no image")
    return pairs


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    return sorted(
        path for path in folder.glob(pattern) if path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")
    )


def _beside(root: Path, part: str) -> list[tuple[Path, Path]]:
    images, labels = (_files(root / part / kind) for kind in ("images", "labels"))
    return _partners(images, labels, lambda path: path.stem)


def _held_out(root: Path) -> str:
    for name in _HELD_OUT:
        if (root / name).is_dir():
            return name
    raise DataError(f"{root} holds neither {' nor '.join(each + '/' for each in _HELD_OUT)}: there are no test images")


def _folders(root: Path) -> _Layout:
    named = root / "classes.txt"
    if named.is_file():
        classes = [line.strip() for line in named.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(set(classes)) < len(classes):
            raise DataError(f"{named} names a class twice")
    else:
        classes = [str(label) for label in range(_count_classes(root))]
    return _Layout(_beside, ("train", _held_out(root)), classes, palette(len(classes)), None)


def _count_classes(root: Path) -> int:
    """One more than the greatest label of all training images."""
    most = 0
    for _, path in _beside(root, "train"):
        labels = read_labels(path, IGNORE)
        most = max([most, *(int(value) + 1 for value in np.unique(labels) if value != IGNORE)])
    return most


def _camvid(root: Path) -> _Layout:
    table = {label: label for label in range(len(_CAMVID))} | {len(_CAMVID): IGNORE, IGNORE: IGNORE}
    return _Layout(_beside, ("train", "test"), list(_CAMVID), list(_CAMVID.values()), table)


def _ade20k(root: Path) -> _Layout:
    inside = root / "ADEChallengeData2016"
    base = inside if inside.is_dir() else root
    names = base / "objectInfo150.txt"
    classes = [f"class {label + 1}" for label in range(150)]
    if names.is_file():
        rows = [line.split("\t") for line in names.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        classes = [re.split(r"[,;]", row[-1])[0].strip() for row in rows]
    table = {0: IGNORE} | {label + 1: label for label in range(len(classes))}

    def pairs(_: Path, part: str) -> list[tuple[Path, Path]]:
        images, labels = (_files(base / kind / part) for kind in ("images", "annotations"))
        return _partners(images, labels, lambda path: path.stem)

    return _Layout(pairs, ("training", "validation"), classes, palette(len(classes)), table)


def _cityscapes(root: Path) -> _Layout:
    from torchvision.datasets import Cityscapes

    known = sorted((each for each in Cityscapes.classes if 0 <= each.train_id < IGNORE), key=lambda each: each.train_id)
    by_id = {each.id: each.train_id if 0 <= each.train_id < IGNORE else IGNORE for each in Cityscapes.classes if each.id >= 0}
    by_id[IGNORE] = IGNORE  # licence plates, -1 in the table
    train_ids = any((root / "gtFine").glob("train/*/*_gtFine_labelTrainIds.png"))
    kind = "labelTrainIds" if train_ids else "labelIds"

    def pairs(_: Path, part: str) -> list[tuple[Path, Path]]:
        images = _files(root / "leftImg8bit" / part, "*/*_leftImg8bit.png")
        labels = _files(root / "gtFine" / part, f"*/*_gtFine_{kind}.png")
        return _partners(
            images,
            labels,
            lambda path: path.name.removesuffix("_leftImg8bit.png"),
            lambda path: path.name.removesuffix(f"_gtFine_{kind}.png"),
        )

    return _Layout(
        pairs, ("train", "val"), [each.name for each in known], [each.color for each in known], None if train_ids else by_id
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


LAYOUTS: dict[str, Callable[[Path], _Layout]] = {
    "folders": _folders,
    "camvid": _camvid,
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
}
