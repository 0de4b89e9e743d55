"""Files by their names, and several files as one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from otcluster.clustering.sources.base import Source, Vectors, VectorSource
from otcluster.clustering.sources.parquet import ParquetFile
from otcluster.clustering.sources.plain import NpyFile, SafetensorsFile

_SUFFIXES = (".npy", ".parquet", ".safetensors")
_KNOWN = ".npy, .parquet or .safetensors"


class Sharded(Source):
    """Several sources as one, in the order in which they are given.

    Where dtypes differ, all is given out in the widest.

    Args:
        sources: At least one; all with vectors of the same length.

    Raises:
        TypeError: One of them is no source.
        ValueError: There are none, or their vectors differ in length; the message names the first that differs.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [pathlib.Path(folder, name) for name in ("a.npy", "b.npy")]
        ...     for path in paths:
        ...         np.save(path, np.ones((2, 3)))
        ...     Sharded([NpyFile(path) for path in paths]).read(1, 4).shape
        (3, 3)
    """

    def __init__(self, sources: Sequence[VectorSource]) -> None:
        self.sources = tuple(sources)
        if not self.sources:
            raise ValueError("sources must hold at least one source, got none")
        for source in self.sources:
            if not isinstance(source, VectorSource):
                raise TypeError(f"sources must be sources of vectors, got {source!r}: open_vectors opens paths")
        width = self.sources[0].shape[1]
        for source in self.sources:
            if source.shape[1] != width:
                raise ValueError(
                    f"all vectors must have one length: those of {source!r} have {source.shape[1]} numbers, "
                    f"and those of {self.sources[0]!r} have {width}"
                )
        self._starts = np.cumsum([0, *(source.shape[0] for source in self.sources)])
        self.shape = int(self._starts[-1]), width
        self.dtype = np.result_type(*(source.dtype for source in self.sources))
        self._last = 0

    def __repr__(self) -> str:
        return f"Sharded([{self.sources[0]!r}{', ...' if len(self.sources) > 1 else ''}])"

    def fill(self, start: int, out: Vectors) -> None:
        stop = start + len(out)
        for shard in range(self._shard(start), len(self.sources)):
            source, offset = self.sources[shard], int(self._starts[shard])
            first, last = max(start, offset), min(stop, int(self._starts[shard + 1]))
            if offset >= stop:
                break
            self._turn_to(shard)
            part = out[first - start : last - start]
            if isinstance(source, Source) and source.dtype == self.dtype:
                source.fill(first - offset, part)
            else:
                part[...] = source.read(first - offset, last - offset)

    def gather(self, indices: npt.NDArray[np.int64], out: Vectors) -> None:
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for shard in np.unique(shards):
            self._turn_to(int(shard))
            here = shards == shard
            out[here] = self.sources[shard].rows(indices[here] - self._starts[shard])

    def release(self) -> None:
        last = self.sources[self._last]
        if isinstance(last, Source):
            last.release()

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _turn_to(self, shard: int) -> None:
        """Only one of the sources keeps something for its next read."""
        if shard != self._last:
            self.release()
            self._last = shard


def open_vectors(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, column: str | None = None, tensor: str | None = None
) -> VectorSource:
    """Open files of vectors by their suffixes: ``.npy``, ``.parquet`` or ``.safetensors``.

    Args:
        paths: A file; a folder, which stands for its files of these suffixes (of one of them), sorted by name as strings, with
            hidden ones and folders inside it left out; or several of both, which are read in the order given.
        column: Of Parquet files: see :class:`ParquetFile`.
        tensor: Of safetensors files: see :class:`SafetensorsFile`.

    Returns:
        One source of all vectors.

    Raises:
        ImportError: A Parquet file is opened and pyarrow is not installed.
        FileNotFoundError: A file is not there.
        TypeError: A path is no path, or a file holds something else than numbers.
        ValueError: A suffix is not known, a folder holds no such file or several kinds, ``column`` or ``tensor`` is given for a
            file that has none, or a file is not as it should be. All messages name the file.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(pathlib.Path(folder, "0.npy"), np.zeros((2, 3)))
        ...     np.save(pathlib.Path(folder, "1.npy"), np.ones((2, 3)))
        ...     open_vectors(folder).rows([0, 3]).tolist()
        [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise TypeError(f"paths must be a path or several, got {type(paths).__name__}")
    files = [file for path in given for file in _files(path)]
    if not files:
        raise ValueError("paths must hold at least one path, got none")
    sources = [_open(file, column, tensor) for file in files]
    return sources[0] if len(sources) == 1 else Sharded(sources)


def _files(path: str | os.PathLike[str]) -> list[Path]:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a path must be a string or a pathlib.Path, got {type(path).__name__}")
    found = Path(path)
    if not found.is_dir():
        return [found]
    inside = sorted(each for each in found.iterdir() if each.suffix.lower() in _SUFFIXES and not each.name.startswith("."))
    files = [each for each in inside if each.is_file()]
    if not files:
        raise ValueError(f"{found} holds no file that ends in {_KNOWN}")
    kinds = {each.suffix.lower(): each.name for each in files}
    if len(kinds) > 1:
        raise ValueError(f"{found} holds files of several kinds, {' and '.join(sorted(kinds.values()))}: name the files")
    return files


def _open(path: Path, column: str | None, tensor: str | None) -> VectorSource:
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{path} must end in {_KNOWN}: convert it, with numpy.save for example")
    if column is not None and suffix != ".parquet":
        raise ValueError(f"column={column!r} is for Parquet files, and {path} is none")
    if tensor is not None and suffix != ".safetensors":
        raise ValueError(f"tensor={tensor!r} is for safetensors files, and {path} is none")
    if suffix == ".npy":
        return NpyFile(path)
    return ParquetFile(path, column) if suffix == ".parquet" else SafetensorsFile(path, tensor)
