"""What a source of vectors is, and how scattered rows are gathered from one with few reads."""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[Any]

_GAP = 1 << 16  # bytes between two rows that are sooner read than skipped: about what a disk reads ahead
_SPAN = 1 << 22  # bytes that are read at once for rows that are picked from them


@runtime_checkable
class VectorSource(Protocol):
    """Vectors that are read a chunk at a time. Anything with these four members is one.

    Values are given out as they are stored; NaN and infinities are left to whoever computes with them.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Number of vectors and their length, (n, d)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of what is read, in the byte order of the machine: float16, float32 or float64."""
        ...

    def read(self, start: int, stop: int) -> Vectors:
        """The vectors ``start`` to ``stop - 1``, C-contiguous, (stop - start, d); the caller may write to it."""
        ...

    def rows(self, indices: npt.ArrayLike) -> Vectors:
        """The vectors at ``indices``, in that order, C-contiguous, (len(indices), d). An index may come more than once."""
        ...


def chunk_rows(width: int, dtype: npt.DTypeLike, memory: int) -> int:
    """How many vectors fit into some memory; at least one.

    Args:
        width: Length of a vector.
        dtype: Of its entries.
        memory: Bytes.

    Raises:
        ValueError: ``width`` or ``memory`` is not positive.

    Example:
        >>> chunk_rows(256, "float32", 1 << 20)
        1024
    """
    if width < 1 or memory < 1:
        raise ValueError(f"width and memory must be positive, got {width} and {memory}")
    return max(1, int(memory) // (int(width) * np.dtype(dtype).itemsize))


class Source(ABC):
    """What the sources of this package share: their checks, and gathering. They differ in :meth:`fill`."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @abstractmethod
    def fill(self, start: int, out: Vectors) -> None:
        """Write the vectors from ``start`` on to ``out``, C-contiguous (rows, d) of the dtype of this source."""

    def release(self) -> None:  # noqa: B027  what keeps nothing has nothing to forget
        """Forget what was kept for the next read, which works all the same."""

    def read(self, start: int, stop: int) -> Vectors:
        """The vectors ``start`` to ``stop - 1``, C-contiguous, (stop - start, d).

        Raises:
            IndexError: They are not all there.
            ValueError: The file is damaged.
        """
        start, stop = operator.index(start), operator.index(stop)
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} are not within the {self.shape[0]} rows of {self!r}")
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        self.fill(start, out)
        return out

    def rows(self, indices: npt.ArrayLike) -> Vectors:
        """The vectors at ``indices``, in that order, C-contiguous, (len(indices), d).

        They are read in the order of the file, those that lie close to each other at once.

        Args:
            indices: Integers from 0 to n - 1 in any order, (m,); some may be equal.

        Raises:
            TypeError, ValueError, IndexError: ``indices`` are not integers, not one-dimensional, or out of range.
        """
        at = self._checked(indices)
        out = np.empty((at.size, self.shape[1]), self.dtype)
        self.gather(at, out)
        return out

    def gather(self, indices: npt.NDArray[np.int64], out: Vectors) -> None:
        """Write the vectors at ``indices``, which are checked, to ``out``."""
        for places, start, stop, local in runs(indices, self.shape[1] * self.dtype.itemsize):
            out[places] = self.read(start, stop)[local]

    def _checked(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        at = np.asarray(indices)
        if at.ndim != 1:
            raise ValueError(f"indices must be one-dimensional, got shape {at.shape}")
        if at.size and at.dtype.kind not in "iu":
            raise TypeError(f"indices must be integers, got {at.dtype}: numpy.flatnonzero makes them from a mask")
        beyond = (at < 0) | (at >= self.shape[0])
        if beyond.any():
            raise IndexError(f"row {at[beyond][0]} is not within the {self.shape[0]} rows of {self!r}")
        return at.astype(np.int64)


def runs(
    indices: npt.NDArray[np.int64], row_bytes: int
) -> Iterator[tuple[npt.NDArray[np.int64], int, int, npt.NDArray[np.int64]]]:
    """Reads that gather some rows, in the order of the file.

    Yields:
        Positions in ``indices``, the rows from which to which to read for them, and where in those each lies.
    """
    if indices.size == 0:
        return
    order = np.argsort(indices, kind="stable")
    rows = indices[order]
    far = np.diff(rows) > max(1, _GAP // row_bytes)
    first = rows[np.concatenate(([True], far))]
    piece = (rows - first[np.cumsum(np.concatenate(([False], far)))]) // max(1, _SPAN // row_bytes)
    cuts = np.flatnonzero(far | (np.diff(piece) > 0)) + 1
    for begin, end in zip([0, *cuts], [*cuts, rows.size], strict=True):
        start, stop = int(rows[begin]), int(rows[end - 1]) + 1
        yield order[begin:end], start, stop, rows[begin:end] - start


def existing_file(path: str | os.PathLike[str]) -> tuple[Path, int]:
    """A path to a file that is there and holds something, and its size in bytes.

    Raises:
        TypeError: It is no path.
        FileNotFoundError: Nothing is there.
        ValueError: It is no file, or an empty one.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a pathlib.Path, got {type(path).__name__}")
    found = Path(path)
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist")
    if not found.is_file():
        raise ValueError(f"{found} is not a file: open_vectors takes a folder of files too")
    size = found.stat().st_size
    if size == 0:
        raise ValueError(f"{found} is empty")
    return found, size


def checked_shape(path: Path, shape: tuple[int, ...], what: str) -> tuple[int, int]:
    """``shape`` if it is that of at least one vector.

    Raises:
        ValueError: It is not; the message names ``path`` and ``what`` has that shape.
    """
    if len(shape) != 2:
        raise ValueError(f"{path}: {what} must be two-dimensional, (vectors, length), got shape {shape}: reshape it first")
    if min(shape) < 1:
        raise ValueError(f"{path}: {what} holds no vectors, its shape is {shape}")
    return int(shape[0]), int(shape[1])


def read_dtype(path: Path, stored: np.dtype[Any], what: str) -> np.dtype[Any]:
    """The dtype in which numbers that are ``stored`` so are given out.

    Raises:
        TypeError: They are neither integers nor numbers of 16, 32 or 64 bits; the message names ``path`` and ``what`` they are.
    """
    if stored.kind in "iu":
        return np.dtype(np.float32)
    if stored.kind == "f" and stored.itemsize <= 8:
        return stored.newbyteorder("=")
    raise TypeError(f"{path}: {what} must be float16, float32, float64 or integers, got {stored}: convert it to float32 first")
