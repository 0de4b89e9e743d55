"""The vectors of a run: opened, divided among the processes, and loaded where they have to be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otcluster.cluster_command.settings import Settings
from otcluster.clustering.sources import Sharded, Slice, VectorSource, chunk_rows, open_vectors
from otcluster.runs.errors import RunError
from otcluster.runs.ranks import Processes, processes_here

_HELD = 1 << 30  # bytes of vectors that are read once and held, on this machine
_CHUNK = 1 << 25


@dataclass(frozen=True)
class Data:
    """All vectors, as every process sees them.

    Attributes:
        source: The vectors.
        weights: (n,) or None; a map of the file.
        mark: Name, size and time of each file, which tell whether they are those of an earlier call.
    """

    source: VectorSource
    weights: npt.NDArray[Any] | None
    mark: list[list[Any]]

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    def completed(self, settings: Settings) -> Settings:
        """With the start that suits the vectors, where none is asked for; the same however many processes there are."""
        sized = settings.balanced or settings.sized
        usual = "k-means||" if self.n_bytes > _HELD and not sized else "k-means++"
        return replace(settings, init=settings.init or usual)

    @property
    def n_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.source.dtype.itemsize


def open_data(paths: Sequence[Path], weights: Path | None, settings: Settings) -> Data:
    """Open files of vectors, and of weights.

    Raises:
        RunError: They are not there, or not as they should be.
    """
    try:
        source = open_vectors(paths, column=settings.column, tensor=settings.tensor)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise RunError(str(error)) from error
    files = [Path(each.path) for each in _parts(source)]  # type: ignore[attr-defined]
    counted = source.shape[0]
    found = None if weights is None else _open_weights(weights, counted)
    if found is not None and (settings.balanced or settings.sized):
        if not np.isin(found, (0, 1)).all():
            raise RunError(f"{weights} must hold zeros and ones where clusters have sizes: sizes count whole vectors")
        counted = int(np.count_nonzero(found))
    settings.check(counted)
    return Data(source, found, [_mark(file) for file in [*files, *([] if weights is None else [weights])]])


def _open_weights(path: Path, n: int) -> npt.NDArray[Any]:
    try:
        weights = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise RunError(f"--weights: {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise RunError(f"--weights: {path} cannot be read as a .npy file: {error}") from error
    if weights.shape != (n,) or weights.dtype.kind not in "iuf":
        what = f"{weights.dtype} of shape {weights.shape}"
        raise RunError(f"--weights: {path} must hold one number for each of the {n} vectors, shape ({n},), got {what}")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        raise RunError(
            f"--weights: {path} must hold numbers that are finite and not negative, got {weights[bad[0]]} in row {bad[0]}"
        )
    if not weights.any():
        raise RunError(f"--weights: {path} holds only zeros: nothing would be clustered")
    return weights


def _mark(path: Path) -> list[Any]:
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


def _parts(source: VectorSource) -> Sequence[VectorSource]:
    return source.sources if isinstance(source, Sharded) else [source]


@dataclass(frozen=True)
class Part:
    """The vectors of one process: consecutive ones.

    Attributes:
        rows: An array where they are held in memory, else a source.
        weights: Of these rows.
        start: Of all vectors, the first that is here.
        is_held: Whether they are in memory.
    """

    rows: Any
    weights: npt.NDArray[Any] | None
    start: int
    is_held: bool


def part_of(data: Data, settings: Settings, ranks: Processes) -> Part:
    """What this process takes.

    Raises:
        RunError: They have to be in memory, and do not fit or cannot be read.
    """
    n = data.shape[0]
    start, stop = n * ranks.rank // ranks.n, n * (ranks.rank + 1) // ranks.n
    weights = None if data.weights is None else np.array(data.weights[start:stop])
    here = data.n_bytes * min(processes_here(), ranks.n) // ranks.n
    must = settings.balanced or settings.sized
    if must:
        if ranks.n > 1:
            raise RunError(
                "clusters of given sizes are found by one process, which sees all vectors: start it without torchrun"
            )
        room = available_memory()
        if room is not None and here > room:
            raise RunError(
                f"clusters of given sizes need all vectors in memory: they take {here / 1e9:.1f} GB, and "
                f"{room / 1e9:.1f} GB are free. Leave the sizes open, or take a machine with more memory"
            )
    if not must and here > _HELD:
        return Part(Slice(data.source, start, stop), weights, start, False)
    try:
        return Part(data.source.read(start, stop), weights, start, True)
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from error


def available_memory() -> int | None:
    """Bytes that this process may still take without swapping; None where the system does not say."""
    rooms = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        rooms += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            rooms.append(int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError, IndexError):
        pass
    return min(rooms, default=None)


def first_not_finite(part: Part) -> int | None:
    """Of all vectors, the first of this process that holds NaN or infinity."""
    n, width = part.rows.shape
    step = chunk_rows(width, part.rows.dtype, _CHUNK)
    for start in range(0, n, step):
        stop = min(n, start + step)
        block = part.rows[start:stop] if part.is_held else part.rows.read(start, stop)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            return part.start + start + int(bad[0])
    return None


def place(source: VectorSource, row: int) -> str:
    """The file of a vector, and its number in it, from 0."""
    for each in _parts(source):
        if row < each.shape[0]:
            return f"row {row} of {os.fspath(each.path)}"  # type: ignore[attr-defined]
        row -= each.shape[0]
    raise IndexError(row)
