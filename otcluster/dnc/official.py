"""CIFAR-10 and CIFAR-100 in the files that their authors published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision.datasets import CIFAR10, CIFAR100

from otcluster.dnc.errors import DataError

_KNOWN: tuple[Any, ...] = (CIFAR10, CIFAR100)


def official_folder(root: Path) -> Any | None:
    """The torchvision class of the official files that lie in ``root``; None where none do."""
    return next((known for known in _KNOWN if (root / known.base_folder).is_dir()), None)


def read_official(known: Any, root: Path, *, train: bool) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Classes, labels (n,) and images (n, 32, 32, 3) of one of the two parts.

    The files are pickles, which can hold code: torchvision opens those only that have the published checksums.

    Raises:
        DataError: The files are not whole, or not those that were published.
    """
    try:
        found = known(str(root), train=train, download=False)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{root / known.base_folder} does not hold {known.__name__} as it was published ({str(error).splitlines()[0]}): "
            "unpack the archive anew"
        ) from None
    return list(found.classes), np.asarray(found.targets, dtype=np.int64), np.ascontiguousarray(found.data)
