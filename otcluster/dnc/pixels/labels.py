"""Maps of which class each pixel is of, in files and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from otcluster.dnc.errors import DataError

IGNORE = 255
"""The label of pixels that count for nothing."""

LabelMap = npt.NDArray[np.uint8]


def read_labels(path: Path, n_classes: int, table: Mapping[int, int] | None = None) -> LabelMap:
    """Read a map of labels, (height, width).

    Of a picture with a palette the indices are the labels, and of grey of 8, 16 or 32 bits the values.

    Args:
        path: The file.
        n_classes: How many classes there are; at most 255.
        table: The class of each value in the file, or ``IGNORE``; what is not in it is an error. Default: values are classes,
            and 255 is ``IGNORE``.

    Raises:
        DataError: It cannot be read, is a picture in colours, or holds a value that stands for no class; the message names it.
    """
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or error  # the name is said already
        raise DataError(f"{path} cannot be read as a map of labels: {why}") from None
    if mode not in ("P", "L", "1") and not mode.startswith("I"):
        raise DataError(
            f"{path} is a picture of mode {mode}, and labels are whole numbers: save the map as grey (or with a palette), a "
            "class for each value"
        )
    values = values.astype(np.int64)
    known = {label: label for label in range(n_classes)} | {IGNORE: IGNORE} if table is None else dict(table)
    there = np.unique(values)
    unknown = [value for value in there.tolist() if value not in known]
    if unknown:
        allowed = "see its layout for what stands for them" if table else f"0 to {n_classes - 1}, and {IGNORE} for no class"
        raise DataError(f"{path} holds the label {unknown[0]}, and there are {n_classes} classes ({allowed})")
    places = np.searchsorted(there, values)
    return np.array([known[value] for value in there.tolist()], dtype=np.uint8)[places]
