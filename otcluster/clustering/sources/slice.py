"""Some consecutive vectors of a source as a source of their own."""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from otcluster.clustering.sources.base import Source, Vectors, VectorSource


class Slice(Source):
    """The vectors ``start`` to ``stop - 1`` of a source: what one process of several takes of files that all of them see.

    Args:
        source: Where they lie.
        start: The first.
        stop: One after the last; there may be none.

    Raises:
        TypeError: ``source`` is no source.
        IndexError: The source has not so many vectors.

    Example:
        >>> import tempfile, pathlib
        >>> from otcluster.clustering.sources import open_vectors
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "x.npy")
        ...     np.save(path, np.arange(6.0).reshape(6, 1))
        ...     Slice(open_vectors(path), 2, 5).rows([0, 2]).tolist()
        [[2.0], [4.0]]
    """

    def __init__(self, source: VectorSource, start: int, stop: int) -> None:
        if not isinstance(source, VectorSource):
            raise TypeError(f"source must be a source of vectors, got {source!r}: open_vectors opens paths")
        start, stop = operator.index(start), operator.index(stop)
        n, width = source.shape
        if not 0 <= start <= stop <= n:
            raise IndexError(f"rows {start} to {stop} are not within the {n} rows of {source!r}")
        self.source, self.start = source, start
        self.shape, self.dtype = (stop - start, width), source.dtype

    def __repr__(self) -> str:
        return f"Slice({self.source!r}, {self.start}, {self.start + self.shape[0]})"

    def fill(self, start: int, out: Vectors) -> None:
        if isinstance(self.source, Source):
            self.source.fill(self.start + start, out)
        else:
            out[...] = self.source.read(self.start + start, self.start + start + len(out))

    def gather(self, indices: npt.NDArray[np.int64], out: Vectors) -> None:
        out[...] = self.source.rows(indices + self.start)

    def release(self) -> None:
        if isinstance(self.source, Source):
            self.source.release()
