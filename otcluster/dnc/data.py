"""Images: where they come from, how they become tensors, and in which order."""

from __future__ import annotations

import hashlib
import logging
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from otcluster.dnc.conversion import DIGIT_LEVELS, Conversion
from otcluster.dnc.errors import DataError
from otcluster.dnc.official import official_folder, read_official
from otcluster.dnc.pictures import open_image
from otcluster.dnc.recipe import DataConfig
from otcluster.dnc.recipe_values import FOLDS

logger = logging.getLogger(__name__)

_READERS = 8
_HELD_OUT = ("test", "val")  # names of the folder of test images
_LOOKED_INTO, _LOOKED_AT = 64, 2**16  # files of a folder, and bytes of each, that tell its images from others


@dataclass(frozen=True)
class Split:
    """Some images with their labels; each is read when it is needed.

    Attributes:
        labels: Class of each, (n,).
        names: Name of each.
        marks: What tells each from another of the same name: its bytes, and of some a checksum.
        read: Gives the image at an index. It can be pickled, for the processes that read images.
    """

    labels: Tensor
    names: list[str]
    marks: list[tuple[int, int]]
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Sequence[int]) -> Split:
        """The images at ``indices``, in that order."""
        kept = [int(index) for index in indices]
        names, marks = [self.names[index] for index in kept], [self.marks[index] for index in kept]
        return Split(self.labels[kept], names, marks, partial(_read_nth, self.read, kept))

    def in_memory(self) -> Split:
        """The same images, read now; those that cannot be are read again, and named, when they are needed."""
        with ThreadPoolExecutor(_READERS) as pool:
            images = list(pool.map(partial(_array, self.read), range(len(self))))
        return Split(self.labels, self.names, self.marks, partial(_kept_nth, self.read, images))


def _array(read: Callable[[int], Image.Image], at: int) -> npt.NDArray[np.uint8] | None:
    try:
        return np.asarray(read(at))
    except DataError:
        return None


def _nth_array(images: npt.NDArray[np.uint8], at: int) -> Image.Image:
    return Image.fromarray(images[at])


def _kept_nth(read: Callable[[int], Image.Image], images: list[npt.NDArray[np.uint8] | None], at: int) -> Image.Image:
    pixels = images[at]
    return read(at) if pixels is None else Image.fromarray(pixels)


def _read_nth(read: Callable[[int], Image.Image], kept: list[int], at: int) -> Image.Image:
    return read(kept[at])


@dataclass(frozen=True)
class ImageData:
    """Training and test images of the same classes."""

    classes: list[str]
    train: Split
    test: Split

    @property
    def class_sizes(self) -> list[int]:
        """How many training images each class has."""
        return torch.bincount(self.train.labels, minlength=len(self.classes)).tolist()

    @property
    def fingerprint(self) -> str:
        """What tells these images from others: a digest of all names, labels and sizes, and of the content of some."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(repr((split.names, split.labels.tolist(), split.marks)).encode())
        return digest.hexdigest()


def load_data(config: DataConfig) -> ImageData:
    """The images that a recipe asks for.

    A folder holds CIFAR-10 or CIFAR-100 in the official files, or ``train/<class>/*`` and ``test/<class>/*`` (``val``, as in
    ImageNet, where there is no ``test``). Without either, a fifth of each class is held out. Names that begin with a dot are
    passed over: they are the notes of other programs.

    Args:
        config: ``data.*`` of the recipe; ``split_seed`` and ``fold`` decide which fifth, and ``split_seed`` which images
            ``labels_per_class`` leaves for training.

    Raises:
        DataError: There is no such folder, or it does not hold at least two classes of images.
    """
    data = _digits(config) if config.kind == "digits" else _folder(config)
    train, test = data.train, data.test
    if config.labels_per_class is not None:
        train = train.subset(_some_of_each(train.labels, config.labels_per_class, data.classes, config.split_seed))
    if config.in_memory:
        train, test = train.in_memory(), test.in_memory()
    return ImageData(data.classes, train, test)


def load_test(config: DataConfig, classes: list[str]) -> Split:
    """The test images that a recipe asks for, labelled for a model that was trained before.

    Args:
        config: ``data.*`` of the recipe. Its folder needs no ``train``, and need not hold every class.
        classes: Those of the model, in its order.

    Raises:
        DataError: There is no such folder, or it holds a class that the model has not. (Of the digits, which nobody can take
            away, those are left out.)
    """
    if config.kind == "digits":
        digits = _digits(config)
        places = {name: label for label, name in enumerate(classes)}
        labels = torch.tensor([places.get(digits.classes[label], -1) for label in digits.test.labels.tolist()])
        return replace(digits.test, labels=labels).subset(torch.nonzero(labels >= 0).flatten().tolist())
    root = _root(config)
    if (known := official_folder(root)) is not None:
        return _official_split(known, root, classes, "the model", train=False)
    if (held_out := _test_root(root)) is not None:
        return _folder_split(_image_folder(held_out), root, classes, "the model")
    whole = _folder_split(_image_folder(_train_root(root)), root, classes, "the model")
    return whole.subset(_split(whole.labels, config)[1])


def _folder(config: DataConfig) -> ImageData:
    root = _root(config)
    if (known := official_folder(root)) is not None:
        classes = read_official(known, root, train=False)[0]
        train, test = (_official_split(known, root, classes, root, train=part) for part in (True, False))
        return ImageData(classes, train, test)
    held_out = _test_root(root)
    if held_out is not None and not (root / "train").is_dir():
        raise DataError(f"{root} holds {held_out.name}/ but no train/: training needs train/<class>/*")
    train_root = _train_root(root)
    found = _image_folder(train_root)
    classes = list(found.classes)
    if len(classes) < 2:
        raise DataError(f"{train_root} holds one class, {classes[0]}: at least two are needed to tell apart")
    whole = _folder_split(found, root, classes, train_root)
    if held_out is not None:
        return ImageData(classes, whole, _folder_split(_image_folder(held_out), root, classes, train_root))
    kept, rest = _split(whole.labels, config)
    return ImageData(classes, whole.subset(kept), whole.subset(rest))


def _official_split(known: Any, root: Path, classes: list[str], owner: Path | str, *, train: bool) -> Split:
    theirs, labels, images = read_official(known, root, train=train)
    if unknown := [name for name in theirs if name not in classes]:
        raise DataError(f"{root} holds classes that {owner} has not: {', '.join(unknown[:5])}")
    places = np.asarray([classes.index(name) for name in theirs])
    names = [f"{'train' if train else 'test'}/{theirs[label]}/{at:05d}" for at, label in enumerate(labels)]
    marks = [(each.size, zlib.crc32(each)) for each in images]
    return Split(torch.as_tensor(places[labels], dtype=torch.int64), names, marks, partial(_nth_array, images))


def _test_root(root: Path) -> Path | None:
    return next((root / name for name in _HELD_OUT if (root / name).is_dir()), None)


def _digits(config: DataConfig) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.as_tensor(digits.target, dtype=torch.int64)
    pixels = np.rint(digits.images * (255 / DIGIT_LEVELS)).astype(np.uint8)
    names = [f"digit-{at:04d}" for at in range(len(labels))]
    marks = [(each.size, zlib.crc32(each)) for each in pixels]
    whole = Split(labels, names, marks, partial(_nth_array, pixels))
    train, test = _split(labels, config)
    return ImageData([str(name) for name in digits.target_names], whole.subset(train), whole.subset(test))


def _root(config: DataConfig) -> Path:
    if config.dir is None:
        raise DataError("data.dir is not set: pass --data DIR, a folder with train/<class>/* and test/<class>/*")
    root = Path(config.dir)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: --data must name one with train/<class>/* and test/<class>/*")
    return root


def _train_root(root: Path) -> Path:
    return root / "train" if (root / "train").is_dir() else root


class _VisibleFolder(ImageFolder):  # type: ignore[misc]
    """An image folder without what is hidden in it."""

    def __init__(self, root: Path) -> None:
        def is_image(path: str) -> bool:
            hidden = any(part.startswith(".") for part in Path(path).relative_to(root).parts)
            return not hidden and has_file_allowed_extension(path, IMG_EXTENSIONS)

        super().__init__(str(root), is_valid_file=is_image)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        if not classes:
            raise FileNotFoundError(f"it holds no folders but hidden ones, {directory}")
        return classes, {name: label for label, name in enumerate(classes)}


def _image_folder(root: Path) -> ImageFolder:
    try:
        return _VisibleFolder(root)
    except FileNotFoundError as error:
        raise DataError(
            f"{root} is no folder of classes: {str(error).splitlines()[0]} (images end in {', '.join(IMG_EXTENSIONS)})"
        ) from None


def _folder_split(folder: ImageFolder, root: Path, classes: list[str], owner: Path | str) -> Split:
    """The images of a folder, labelled by the place of their class in ``classes``, which are those of ``owner``."""
    paths = [Path(path) for path, _ in folder.samples]
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DataError(f"the name {str(path)!a} is not UTF-8, in which a run writes names down: rename it") from None
    ids = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in folder.classes if name not in ids]
    if unknown:
        raise DataError(f"{folder.root} holds classes that {owner} has not: {', '.join(unknown[:5])}")
    labels = torch.tensor([ids[folder.classes[label]] for _, label in folder.samples], dtype=torch.int64)
    names = [path.relative_to(root).as_posix() for path in paths]
    stride = math.ceil(len(paths) / _LOOKED_INTO)
    marks = [_mark(path, look=at % stride == 0) for at, path in enumerate(paths)]
    return Split(labels, names, marks, partial(_open_nth, paths))


def _open_nth(paths: list[Path], at: int) -> Image.Image:
    return open_image(paths[at])


def _mark(path: Path, *, look: bool) -> tuple[int, int]:
    try:
        with path.open("rb") if look else nullcontext() as file:
            return path.stat().st_size, zlib.crc32(file.read(_LOOKED_AT)) if file else 0
    except OSError:  # a link to nowhere, say: whoever reads it will name it
        return -1, 0


def _split(labels: Tensor, config: DataConfig) -> tuple[list[int], list[int]]:
    """Hold out a fifth of each class."""
    rng = np.random.default_rng(config.split_seed)
    train: list[int] = []
    test: list[int] = []
    for label in range(int(labels.max()) + 1):
        members = rng.permutation(np.flatnonzero(labels.numpy() == label))
        start, stop = (round(len(members) * fold / FOLDS) for fold in (config.fold, config.fold + 1))
        test += sorted(members[start:stop].tolist())
        train += sorted(np.delete(members, slice(start, stop)).tolist())
    return train, test


def _some_of_each(labels: Tensor, n: int, classes: list[str], seed: int) -> list[int]:
    """``n`` of each class."""
    rng = np.random.default_rng([seed, n])
    kept: list[int] = []
    for label, name in enumerate(classes):
        members = rng.permutation(np.flatnonzero(labels.numpy() == label))
        if len(members) < n:
            raise DataError(f"class {name} has {len(members)} training images, data.labels_per_class asks for {n}")
        kept += members[:n].tolist()
    return sorted(kept)


class _Images(Dataset[Any]):
    """What the loader asks for by (epoch, index): tensor, label and index, or what is wrong with the image."""

    def __init__(self, split: Split, convert: Conversion, seed: int, views: int) -> None:
        self.split, self.convert, self.seed, self.views = split, convert, seed, views

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int] | DataError:
        epoch, index = key
        try:
            image = self.split.read(index)
        except DataError as error:  # returned, since a process that reads images would raise it with its own traceback
            return error
        with drawing(self.seed, epoch, index):
            views = [self.convert(image) for _ in range(self.views)]
            return views[0] if self.views == 1 else torch.stack(views), int(self.split.labels[index]), index


@contextmanager
def drawing(*parts: int) -> Iterator[None]:
    """Let torch draw as these numbers say: whoever draws, and in which process, draws the same."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that also notes down for GPUs not yet used, with the stack, which seed they are to get.
        torch.default_generator.manual_seed(seed_of(*parts))
        yield


def seed_of(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The order of an epoch. A last batch that is not full is left out, unless it is the only one."""
    order = np.random.default_rng([seed, epoch]).permutation(n).tolist()
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


def load_batches(
    split: Split,
    convert: Conversion,
    config: DataConfig,
    batches: list[list[int]],
    *,
    seed: int = 0,
    epoch: int = 0,
    views: int = 1,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Read batches of images: tensors (b, channels, size, size), labels (b,) and indices (b,). Batches may come out empty.

    With several ``views`` each image is varied so many times: (b, views, channels, size, size).

    Raises:
        DataError: An image cannot be read, and ``data.broken`` is not ``skip``.
    """
    return read_batches(_Images(split, convert, seed, views), batches, epoch, config.workers, config.broken)


def read_batches(
    images: Dataset[Any], batches: list[list[int]], epoch: int, workers: int, broken: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of what ``images`` gives by (epoch, index): a tensor, a label (a number or a map) and the index, or an error.

    Raises:
        DataError: It gave one, and ``broken`` is not ``skip``.
    """
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=[[(epoch, index) for index in batch] for batch in batches],
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(0),
    )
    for tensors, labels, indices, errors in loader:
        for error in errors:
            if broken != "skip":
                raise DataError(
                    f"{error}; train with data.broken=skip to leave it out, "
                    "or mend or remove it (a run that has begun then needs a new --out)"
                )
            logger.warning("skipped: %s", error)
        yield tensors, labels, indices


def _collate(items: list[tuple[Tensor, Tensor | int, int] | DataError]) -> tuple[Tensor, Tensor, Tensor, list[DataError]]:
    errors = [item for item in items if isinstance(item, DataError)]
    read = [item for item in items if not isinstance(item, DataError)]
    if not read:
        nothing = torch.empty(0, dtype=torch.int64)
        return torch.empty(0), nothing, nothing, errors
    images, labels, indices = zip(*read, strict=True)
    return torch.stack(images), torch.stack([torch.as_tensor(label) for label in labels]), torch.tensor(indices), errors
