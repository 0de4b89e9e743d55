"""Files that hold the numbers one after the other: .npy and safetensors, read with plain reads.

Memory maps would do, too, but their pages count as memory of the process for as long as the system likes. What is read into
an array of ours is that array and no more.
"""

from __future__ import annotations

import json
import os
from io import FileIO
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from otcluster.clustering.sources.base import Source, Vectors, checked_shape, existing_file, read_dtype, runs

_SCRATCH = 1 << 20  # bytes that are converted or transposed at once
_FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_INTEGERS = {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
_LONGEST_HEADER = 100_000_000  # bytes that the format allows
_LISTED = 8  # names in a message


class _PlainFile(Source):
    """A matrix that begins at ``offset`` of a file. No file stays open, so that there may be thousands."""

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: tuple[int, int],
        stored: np.dtype[Any],
        dtype: np.dtype[Any],
        *,
        bfloat16: bool = False,
        by_column: bool = False,
    ) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self._offset, self._stored, self._bfloat16, self._by_column = offset, stored, bfloat16, by_column

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def fill(self, start: int, out: Vectors) -> None:
        with self._open() as file:
            if self._by_column:
                self._fill_by_column(file, start, out)
            else:
                self._load(file, start * self.shape[1], out.reshape(-1))

    def gather(self, indices: npt.NDArray[np.int64], out: Vectors) -> None:
        n, d = self.shape
        with self._open() as file:
            if not self._by_column:
                for places, start, stop, local in runs(indices, d * self.dtype.itemsize):
                    part = np.empty((stop - start, d), self.dtype)
                    self._load(file, start * d, part.reshape(-1))
                    out[places] = part[local]
                return
            reads = list(runs(indices, self.dtype.itemsize))
            for column in range(d):
                for places, start, stop, local in reads:
                    part = np.empty(stop - start, self.dtype)
                    self._load(file, column * n + start, part)
                    out[places, column] = part[local]

    def _fill_by_column(self, file: FileIO, start: int, out: Vectors) -> None:
        """Some columns at a time, for entries that come to lie side by side to be written together."""
        n, d = self.shape
        rows = max(1, min(len(out), _SCRATCH // (16 * self.dtype.itemsize)))
        block = np.empty((min(d, max(1, _SCRATCH // (rows * self.dtype.itemsize))), rows), self.dtype)
        for top in range(0, len(out), rows):
            for left in range(0, d, len(block)):
                part = out[top : top + rows, left : left + len(block)]
                for j in range(part.shape[1]):
                    self._load(file, (left + j) * n + start + top, block[j, : len(part)])
                part[...] = block[: part.shape[1], : len(part)].T

    def _open(self) -> FileIO:
        return open(self.path, "rb", buffering=0)

    def _load(self, file: FileIO, first: int, out: Vectors) -> None:
        """Entries from the ``first`` on, in the order of the file, into ``out``, contiguous and one-dimensional."""
        if self._stored == self.dtype:
            self._read(file, first, out)
            return
        scratch = np.empty(min(out.size, _SCRATCH // self._stored.itemsize), self._stored)
        for begin in range(0, out.size, max(1, scratch.size)):
            part = out[begin : begin + scratch.size]
            raw = scratch[: part.size]
            self._read(file, first + begin, raw)
            if self._bfloat16:  # the upper half of a float32
                np.left_shift(raw, 16, out=part.view(np.uint32), dtype=np.uint32)
            else:
                part[...] = raw

    def _read(self, file: FileIO, first: int, raw: Vectors) -> None:
        file.seek(self._offset + first * self._stored.itemsize)
        left = raw.view(np.uint8).data
        while len(left):
            got = file.readinto(left)
            if not got:
                raise ValueError(f"{self.path} is cut short: it has become smaller since it was opened")
            left = left[got:]


class NpyFile(_PlainFile):
    """The two-dimensional array of a ``.npy`` file, as ``numpy.save`` writes it.

    float16, float32 and float64 are given out as they are stored, in the byte order of the machine; integers as float32, which
    holds them exactly up to 2**24. Arrays in Fortran order are read by column, with d reads for every chunk: save an array in C
    order if you go through it often.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: It is not there.
        TypeError: It holds something else than floating numbers or integers.
        ValueError: It is no such file, is empty or cut short, or its array is not two-dimensional.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "x.npy")
        ...     np.save(path, np.arange(6, dtype=np.float32).reshape(3, 2))
        ...     x = NpyFile(path)
        ...     x.shape, x.read(0, 1).tolist(), x.rows([2, 0]).tolist()
        ((3, 2), [[0.0, 1.0]], [[4.0, 5.0], [0.0, 1.0]])

    Source: NumPy's NEP 1, "A simple file format for NumPy arrays".
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        found, size = existing_file(path)
        with open(found, "rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"its version is {version}, where arrays of numbers have (1, 0) or (2, 0)")
                header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, by_column, stored = header(file)
            except (ValueError, TypeError, SyntaxError, TokenError, RecursionError) as error:
                raise ValueError(f"{found} is not a .npy file that can be read: {error}") from error
            offset = file.tell()
        dtype = read_dtype(found, stored, "the array")
        rows = checked_shape(found, shape, "the array")
        _check_size(found, offset + rows[0] * rows[1] * stored.itemsize, size)
        super().__init__(found, offset, rows, stored, dtype, by_column=by_column)


class SafetensorsFile(_PlainFile):
    """One two-dimensional tensor of a safetensors file.

    float16, float32 and float64 are given out as they are stored; bfloat16 as float32, without loss; integers, where ``tensor``
    names one, as float32, which holds them exactly up to 2**24. The header is read here, so that the package safetensors, which
    maps the file into memory and gives NumPy no bfloat16, is not needed.

    Args:
        path: The file.
        tensor: Name of the tensor; may be left out where only one is two-dimensional and floating.

    Raises:
        FileNotFoundError: It is not there.
        TypeError: The tensor holds something else than floating numbers or integers.
        ValueError: It is no such file, is empty or cut short; or no tensor fits, or several do.

    Example:
        >>> import tempfile, pathlib
        >>> from safetensors.numpy import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "x.safetensors")
        ...     save_file({"x": np.eye(2), "bias": np.ones(2)}, path)
        ...     SafetensorsFile(path).read(0, 2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Source: The format as its authors document it, https://huggingface.co/docs/safetensors.
    """

    def __init__(self, path: str | os.PathLike[str], tensor: str | None = None) -> None:
        found, size = existing_file(path)
        entries, start = _safetensors_header(found, size)
        if tensor is None:
            self.tensor = _only_matrix(found, entries)
        elif tensor in entries:
            self.tensor = tensor
        else:
            raise ValueError(f"{found} holds no tensor {tensor!r}, but {_some(entries)}")
        kind, shape, (begin, end) = entries[self.tensor]
        what = f"tensor {self.tensor!r}"
        if kind not in _FLOATS | _INTEGERS:
            raise TypeError(f"{found}: {what} must be F16, BF16, F32, F64 or integers, got {kind}: convert it to F32 first")
        stored = np.dtype((_FLOATS | _INTEGERS)[kind])
        rows = checked_shape(found, shape, what)
        if end - begin != rows[0] * rows[1] * stored.itemsize:
            raise ValueError(f"{found} is damaged: {what} of shape {shape} in {kind} cannot have {end - begin} bytes")
        dtype = read_dtype(found, stored, what)  # float32 for the integers that bfloat16 is read as, too
        super().__init__(found, start + begin, rows, stored, dtype, bfloat16=kind == "BF16")


_Entry = tuple[str, tuple[int, ...], tuple[int, int]]


def _safetensors_header(path: Path, size: int) -> tuple[dict[str, _Entry], int]:
    """Dtype, shape and place of each tensor, and where the data begin.

    Raises:
        ValueError: The file is none of safetensors, or not whole.
    """
    with open(path, "rb") as file:
        start = int.from_bytes(file.read(8), "little") + 8
        if size < 10 or file.read(1) != b"{":
            raise ValueError(f"{path} is not a safetensors file: it does not begin with the length of a header and a header")
        if start > min(size, _LONGEST_HEADER):
            raise ValueError(
                f"{path} is cut short, or no safetensors file: its header alone ends after {start} bytes, and it has {size}"
            )
        file.seek(8)
        try:
            header = json.loads(file.read(start - 8))
            entries = {name: _entry(value) for name, value in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a safetensors file that can be read: its header is damaged ({error})") from error
    _check_size(path, start + max((end for _, _, (_, end) in entries.values()), default=0), size)
    return entries, start


def _entry(value: dict[str, Any]) -> _Entry:
    shape, (begin, end) = tuple(value["shape"]), value["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError("shapes and offsets must be whole numbers")
    return str(value["dtype"]), shape, (begin, end)


def _only_matrix(path: Path, entries: dict[str, _Entry]) -> str:
    fitting = [name for name, (kind, shape, _) in entries.items() if kind in _FLOATS and len(shape) == 2]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{path} holds several two-dimensional tensors, {_some(fitting)}: name one of them with tensor=")
    held = [f"{name} ({kind}, {list(shape)})" for name, (kind, shape, _) in entries.items()]
    raise ValueError(f"{path} holds no tensor that is two-dimensional and floating, but {_some(held)}")


def _some(names: Any) -> str:
    names = list(names)
    return (", ".join(names[:_LISTED]) or "nothing") + (", ..." if len(names) > _LISTED else "")


def _check_size(path: Path, expected: int, size: int) -> None:
    if size < expected:
        raise ValueError(f"{path} is cut short: its header asks for {expected} bytes, and it has {size}")
    if size > expected:
        raise ValueError(f"{path} holds more than its header says: {size} bytes, where it asks for {expected}")
