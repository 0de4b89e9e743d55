"""Images: where they come from, how they become tensors, and in which order."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from otcluster.dnc.errors import DataError
from otcluster.dnc.recipe import DataConfig

logger = logging.getLogger(__name__)

_TEST_SHARE = 0.2
_DIGIT_SIDE = 8
_DIGIT_LEVELS = 16


@dataclass(frozen=True)
class Split:
    """Some images with their labels; each is read when it is needed."""

    labels: Tensor
    names: list[str]
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Sequence[int]) -> Split:
        """The images at ``indices``, in that order."""
        kept = [int(index) for index in indices]
        return Split(self.labels[kept], [self.names[index] for index in kept], lambda at: self.read(kept[at]))


@dataclass(frozen=True)
class ImageData:
    """Training and test images of the same classes."""

    classes: list[str]
    train: Split
    test: Split

    @property
    def fingerprint(self) -> str:
        """What tells these images from others: a digest of all names and labels."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(repr((split.names, split.labels.tolist())).encode())
        return digest.hexdigest()


def load_data(config: DataConfig) -> ImageData:
    """The images that a recipe asks for. Where there is no test set, a fifth of each class is held out.

    Args:
        config: ``data.*`` of the recipe; ``split_seed`` decides which fifth.

    Raises:
        DataError: There is no such folder, or it does not hold at least two classes of images.
    """
    return _digits(config) if config.kind == "digits" else _folder(config)


def _digits(config: DataConfig) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.as_tensor(digits.target, dtype=torch.int64)
    pixels = np.rint(digits.images * (255 / _DIGIT_LEVELS)).astype(np.uint8)
    whole = Split(labels, [f"digit-{at:04d}" for at in range(len(labels))], lambda at: Image.fromarray(pixels[at]))
    train, test = _split(labels, config.split_seed)
    return ImageData([str(name) for name in digits.target_names], whole.subset(train), whole.subset(test))


def _folder(config: DataConfig) -> ImageData:
    if config.dir is None:
        raise DataError("data.dir is not set: pass --data DIR, a folder with train/<class>/* and test/<class>/*")
    root = Path(config.dir)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: --data must name one with train/<class>/* and test/<class>/*")
    train_root = root / "train" if (root / "train").is_dir() else root
    train = _image_folder(train_root)
    if len(train.classes) < 2:
        raise DataError(f"{train_root} holds one class, {train.classes[0]}: at least two are needed to tell apart")
    whole = _folder_split(train, root, train.class_to_idx)
    if train_root != root and (root / "test").is_dir():
        test = _image_folder(root / "test")
        unknown = sorted(set(test.classes) - set(train.classes))
        if unknown:
            raise DataError(f"{root / 'test'} holds classes that {train_root} has not: {', '.join(unknown[:5])}")
        return ImageData(train.classes, whole, _folder_split(test, root, train.class_to_idx))
    kept, held_out = _split(whole.labels, config.split_seed)
    return ImageData(train.classes, whole.subset(kept), whole.subset(held_out))


def _image_folder(root: Path) -> ImageFolder:
    try:
        return ImageFolder(str(root))
    except FileNotFoundError as error:
        raise DataError(f"{root} is no folder of classes: {str(error).splitlines()[0]}") from None


def _folder_split(folder: ImageFolder, root: Path, class_ids: dict[str, int]) -> Split:
    paths = [Path(path) for path, _ in folder.samples]
    labels = torch.tensor([class_ids[folder.classes[label]] for _, label in folder.samples], dtype=torch.int64)
    return Split(labels, [path.relative_to(root).as_posix() for path in paths], lambda at: open_image(paths[at]))


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


def open_image(path: Path) -> Image.Image:
    """Read an image file, turned as its camera says.

    Raises:
        DataError: It is missing, no image, or broken; the message names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from None


class Conversion:
    """From a picture to the tensor that the backbone takes, the same for training images and for a user's.

    The digits are 8x8, white on black, in 17 levels of grey: a user's picture of a digit is reduced to that first.

    Args:
        config: ``data.*`` of the recipe.
        augment: Whether to vary the picture as in training.
    """

    def __init__(self, config: DataConfig, *, augment: bool) -> None:
        size = config.image_size
        steps: list[Any] = [v2.ToImage()]
        kind = config.augment if augment else "none"
        steps.append(v2.Resize((size, size), antialias=True))
        if kind != "none":
            steps.append(v2.RandomCrop(size, padding=max(1, size // 8)))
        if kind == "crop-flip":
            steps.append(v2.RandomHorizontalFlip())
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * config.channels, [0.25] * config.channels)]
        self._steps = v2.Compose(steps)
        self._mode = "L" if config.channels == 1 else "RGB"
        self._is_digit = config.kind == "digits"

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor (channels, size, size) of a picture."""
        image = image.convert(self._mode)
        if self._is_digit and image.size != (_DIGIT_SIDE, _DIGIT_SIDE):
            image = image.resize((_DIGIT_SIDE, _DIGIT_SIDE), Image.Resampling.BOX)
            levels = np.rint(np.asarray(image) * (_DIGIT_LEVELS / 255))
            image = Image.fromarray(np.rint(levels * (255 / _DIGIT_LEVELS)).astype(np.uint8))
        return self._steps(image)


class _Images(Dataset[Any]):
    """What the loader asks for by (epoch, index): tensor, label and index, or None for a broken image to be skipped."""

    def __init__(self, split: Split, convert: Conversion, config: DataConfig, seed: int) -> None:
        self.split, self.convert, self.skip, self.seed = split, convert, config.broken == "skip", seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int] | None:
        epoch, index = key
        try:
            image = self.split.read(index)
        except DataError as error:
            if not self.skip:
                raise DataError(f"{error}; remove it, or pass data.broken=skip") from None
            logger.warning("skipped: %s", error)
            return None
        with torch.random.fork_rng(devices=[]):  # whoever draws, and in which process, draws the same
            torch.manual_seed(seed_of(self.seed, epoch, index))
            return self.convert(image), int(self.split.labels[index]), index


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
        _Images(split, convert, config, seed),
        batch_sampler=[[(epoch, index) for index in batch] for batch in batches],
        num_workers=config.workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(0),
    )
    return iter(loader)


def _collate(items: list[tuple[Tensor, int, int] | None]) -> tuple[Tensor, Tensor, Tensor]:
    read = [item for item in items if item is not None]
    if not read:
        nothing = torch.empty(0, dtype=torch.int64)
        return torch.empty(0), nothing, nothing
    images, labels, indices = zip(*read, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(indices)
