"""Images: where they come from, how they become tensors, and in which order."""

from __future__ import annotations

import hashlib
import logging
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
from torchvision.transforms import v2

from otcluster.dnc.errors import DataError
from otcluster.dnc.pictures import open_image
from otcluster.dnc.recipe import DataConfig

logger = logging.getLogger(__name__)

_TEST_SHARE = 0.2
_LOOKED_INTO, _LOOKED_AT = 64, 2**16  # files of a folder, and bytes of each, that tell its images from others
_DIGIT_SIDE = 8
_DIGIT_LEVELS = 16


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


def _read_nth(read: Callable[[int], Image.Image], kept: list[int], at: int) -> Image.Image:
    return read(kept[at])


@dataclass(frozen=True)
class ImageData:
    """Training and test images of the same classes."""

    classes: list[str]
    train: Split
    test: Split

    @property
    def fingerprint(self) -> str:
        """What tells these images from others: a digest of all names, labels and sizes, and of the content of some."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(repr((split.names, split.labels.tolist(), split.marks)).encode())
        return digest.hexdigest()


def load_data(config: DataConfig) -> ImageData:
    """The images that a recipe asks for. Where there is no test set, a fifth of each class is held out.

    Names that begin with a dot are passed over: they are the notes of other programs.

    Args:
        config: ``data.*`` of the recipe; ``split_seed`` decides which fifth.

    Raises:
        DataError: There is no such folder, or it does not hold at least two classes of images.
    """
    if config.kind == "digits":
        return _digits(config)
    root = _root(config)
    if (root / "test").is_dir() and not (root / "train").is_dir():
        raise DataError(f"{root} holds test/ but no train/: training needs train/<class>/*")
    train_root = _train_root(root)
    found = _image_folder(train_root)
    classes: list[str] = found.classes
    if len(classes) < 2:
        raise DataError(f"{train_root} holds one class, {classes[0]}: at least two are needed to tell apart")
    whole = _folder_split(found, root, classes, train_root)
    if (root / "test").is_dir():
        return ImageData(classes, whole, _folder_split(_image_folder(root / "test"), root, classes, train_root))
    kept, held_out = _split(whole.labels, config.split_seed)
    return ImageData(classes, whole.subset(kept), whole.subset(held_out))


def load_test(config: DataConfig, classes: list[str]) -> Split:
    """The test images that a recipe asks for, labelled for a model that was trained before.

    Args:
        config: ``data.*`` of the recipe. Its folder needs no ``train``, and need not hold every class.
        classes: Those of the model, in its order.

    Raises:
        DataError: There is no such folder, or it holds a class that the model has not.
    """
    if config.kind == "digits":
        return _digits(config).test
    root = _root(config)
    if (root / "test").is_dir():
        return _folder_split(_image_folder(root / "test"), root, classes, "the model")
    whole = _folder_split(_image_folder(_train_root(root)), root, classes, "the model")
    return whole.subset(_split(whole.labels, config.split_seed)[1])


def _digits(config: DataConfig) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.as_tensor(digits.target, dtype=torch.int64)
    pixels = np.rint(digits.images * (255 / _DIGIT_LEVELS)).astype(np.uint8)
    names = [f"digit-{at:04d}" for at in range(len(labels))]
    marks = [(each.size, zlib.crc32(each)) for each in pixels]
    whole = Split(labels, names, marks, partial(_digit, pixels))
    train, test = _split(labels, config.split_seed)
    return ImageData([str(name) for name in digits.target_names], whole.subset(train), whole.subset(test))


def _digit(pixels: npt.NDArray[np.uint8], at: int) -> Image.Image:
    return Image.fromarray(pixels[at])


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


def _split(labels: Tensor, seed: int) -> tuple[list[int], list[int]]:
    """Hold out a fifth of each class."""
    rng = np.random.default_rng(seed)
    train: list[int] = []
    test: list[int] = []
    for label in range(int(labels.max()) + 1):
        members = rng.permutation(np.flatnonzero(labels.numpy() == label))
        cut = round(len(members) * _TEST_SHARE)
        test += sorted(members[:cut].tolist())
        train += sorted(members[cut:].tolist())
    return train, test


class Conversion:
    """From a picture to the tensor that the backbone takes, the same for training images and for a user's.

    The digits are 8x8, white on black, in 17 levels of grey: a user's picture of a digit is reduced to that first.

    Args:
        config: ``data.*`` of the recipe.
        augment: Whether to vary the picture as in training.
    """

    def __init__(self, config: DataConfig, *, augment: bool) -> None:
        size = config.image_size
        kind = config.augment if augment else "none"
        # Functions where nothing is drawn: torchvision's classes take three times as long for a small picture.
        steps: list[Callable[..., Any]] = [
            v2.functional.pil_to_tensor,
            partial(v2.functional.resize, size=[size, size], antialias=True),
        ]
        if kind != "none":
            steps.append(v2.RandomCrop(size, padding=max(1, size // 8)))
        if kind == "crop-flip":
            steps.append(v2.RandomHorizontalFlip())
        steps.append(partial(v2.functional.to_dtype, dtype=torch.float32, scale=True))
        steps.append(partial(v2.functional.normalize, mean=[0.5] * config.channels, std=[0.25] * config.channels))
        self._steps = steps
        self._mode = "L" if config.channels == 1 else "RGB"
        self._is_digit = config.kind == "digits"

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor (channels, size, size) of a picture."""
        image = image.convert(self._mode)
        if self._is_digit and image.size != (_DIGIT_SIDE, _DIGIT_SIDE):
            image = image.resize((_DIGIT_SIDE, _DIGIT_SIDE), Image.Resampling.BOX)
            levels = np.rint(np.asarray(image) * (_DIGIT_LEVELS / 255))
            image = Image.fromarray(np.rint(levels * (255 / _DIGIT_LEVELS)).astype(np.uint8))
        pixels: Any = image
        for step in self._steps:
            pixels = step(pixels)
        return pixels


class _Images(Dataset[Any]):
    """What the loader asks for by (epoch, index): tensor, label and index, or what is wrong with the image."""

    def __init__(self, split: Split, convert: Conversion, seed: int) -> None:
        self.split, self.convert, self.seed = split, convert, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int] | DataError:
        epoch, index = key
        try:
            image = self.split.read(index)
        except DataError as error:  # returned, since a process that reads images would raise it with its own traceback
            return error
        with torch.random.fork_rng(devices=[]):  # whoever draws, and in which process, draws the same
            # Not torch.manual_seed: that also notes down for GPUs not yet used, with the stack, which seed they are to get.
            torch.default_generator.manual_seed(seed_of(self.seed, epoch, index))
            return self.convert(image), int(self.split.labels[index]), index


def blank(config: DataConfig) -> Tensor:
    """A black image as the backbone takes it, (1, channels, size, size)."""
    return torch.zeros(1, config.channels, config.image_size, config.image_size)


def seed_of(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The order of an epoch. A last batch that is not full is left out, unless it is the only one."""
    order = np.random.default_rng([seed, epoch]).permutation(n).tolist()
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


def load_batches(
    split: Split, convert: Conversion, config: DataConfig, batches: list[list[int]], *, seed: int = 0, epoch: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Read batches of images: tensors (b, channels, size, size), labels (b,) and indices (b,). Batches may come out empty.

    Raises:
        DataError: An image cannot be read, and ``data.broken`` is not ``skip``.
    """
    loader: DataLoader[Any] = DataLoader(
        _Images(split, convert, seed),
        batch_sampler=[[(epoch, index) for index in batch] for batch in batches],
        num_workers=config.workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(0),
    )
    for images, labels, indices, errors in loader:
        for error in errors:
            if config.broken != "skip":
                raise DataError(
                    f"{error}; train with data.broken=skip to leave it out, "
                    "or mend or remove it (a run that has begun then needs a new --out)"
                )
            logger.warning("skipped: %s", error)
        yield images, labels, indices


def _collate(items: list[tuple[Tensor, int, int] | DataError]) -> tuple[Tensor, Tensor, Tensor, list[DataError]]:
    errors = [item for item in items if isinstance(item, DataError)]
    read = [item for item in items if not isinstance(item, DataError)]
    if not read:
        nothing = torch.empty(0, dtype=torch.int64)
        return torch.empty(0), nothing, nothing, errors
    images, labels, indices = zip(*read, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(indices), errors
