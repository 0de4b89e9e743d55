"""Vectors in Parquet: a column of lists, or columns of numbers, decoded a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from otcluster.clustering.sources.base import Source, Vectors, checked_shape, chunk_rows, existing_file, read_dtype

_MAGIC = b"PAR1"
_BATCH = 1 << 22  # bytes of vectors that are decoded at once, and kept; decoding takes some five times as much
_BUFFER = 1 << 16  # bytes of a column that are read from the file at once


class ParquetFile(Source):
    """The vectors of a Parquet file: a column of lists of numbers or, where there is none, all columns of numbers.

    The file is decoded batch by batch, whatever the size of its row groups, and the last batch (4 MiB) is kept: to go through
    it in order takes one decoding. A read elsewhere decodes from the beginning of its row group, so that files to be read in
    random order want small row groups, or better ``.npy``. Decoding holds a page of every column that is read, some 3 MiB each:
    little for a column of lists, but much for hundreds of columns of numbers. One thread may read at a time.

    Floating numbers are given out as they are stored, columns of different types in the widest; integers as float32, which
    holds them exactly up to 2**24. Columns that pandas wrote as its index are left out.

    Args:
        path: The file.
        column: Name of the column of lists; may be left out where there is only one, or none.

    Attributes:
        columns: Names of the columns that the vectors are made of.

    Raises:
        ImportError: pyarrow is not installed.
        FileNotFoundError: The file is not there.
        TypeError: The column holds something else than lists of floating numbers or integers.
        ValueError: It is no such file, is empty, cut short or damaged; or no column fits, or several do. When it is read: a
            number or a list is missing, or a list is longer or shorter than the first.

    Example:
        >>> import tempfile, pathlib, pyarrow, pyarrow.parquet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "x.parquet")
        ...     table = pyarrow.table({"id": ["a", "b"], "x": [[1.0, 2.0], [3.0, 4.0]]})
        ...     pyarrow.parquet.write_table(table, path)
        ...     ParquetFile(path).read(1, 2).tolist()
        [[3.0, 4.0]]
    """

    def __init__(self, path: str | os.PathLike[str], column: str | None = None) -> None:
        self.path, _ = existing_file(path)
        parquet = _pyarrow()
        _check_magic(self.path)
        self._batches: Iterator[Vectors] | None = None
        self._first, self._kept = 0, np.empty((0, 0))
        with self._reading(), parquet.ParquetFile(self.path) as file:
            self._metadata, schema = file.metadata, file.schema_arrow
            self._of_lists, self.columns = _choose(self.path, schema, column)
        sizes = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        if self._starts[-1] == 0:
            raise ValueError(f"{self.path} holds no vectors: it has no rows")
        kinds = [schema.field(name).type for name in self.columns]
        stored = [np.dtype((kind.value_type if self._of_lists else kind).to_pandas_dtype()) for kind in kinds]
        self.dtype = np.result_type(*(read_dtype(self.path, each, "the column") for each in stored))
        width = self._list_length(kinds[0]) if self._of_lists else len(self.columns)
        self.shape = checked_shape(self.path, (int(self._starts[-1]), width), f"column {self.columns[0]!r}")

    def __repr__(self) -> str:
        return f"ParquetFile({str(self.path)!r})"

    def fill(self, start: int, out: Vectors) -> None:
        done = 0
        while done < len(out):
            row = start + done
            if not self._first <= row < self._first + len(self._kept):
                self._advance(row)
                continue
            part = self._kept[row - self._first :][: len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)

    def release(self) -> None:
        self._batches, self._kept = None, self._kept[:0].copy()

    def _advance(self, row: int) -> None:
        """Decode the next batch; where that cannot lead to ``row``, or not soon, the first one of the row group of ``row``."""
        following = self._first + len(self._kept)
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._batches is None or row < following or self._starts[group] > following:
            self.release()
            size = chunk_rows(self.shape[1], self.dtype, _BATCH)
            self._batches = self._decode(range(group, len(self._starts) - 1), size)
            following = int(self._starts[group])
        self._first, self._kept = following, self._kept[:0].copy()  # the old batch goes before the next one comes
        try:
            with self._reading():
                self._kept = next(self._batches, self._kept)
        except BaseException:
            self.release()  # what was interrupted does not go on
            raise
        if not len(self._kept):
            self.release()
            raise ValueError(f"{self.path} is damaged: it has fewer than {row + 1} rows, where it says {self.shape[0]}")

    def _decode(self, groups: range, size: int) -> Iterator[Vectors]:
        """The vectors of some row groups, in batches."""
        first = int(self._starts[groups.start])
        with self._open() as file:
            for batch in file.iter_batches(size, row_groups=list(groups), columns=self.columns):
                if batch.num_rows:
                    yield self._lists(batch, first) if self._of_lists else self._numbers(batch, first)
                first += batch.num_rows

    def _lists(self, batch: Any, first: int) -> Vectors:
        lists, name = batch.column(0), self.columns[0]
        self._check_present(lists, name, first, 1)
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        uneven = np.flatnonzero(lengths != self.shape[1])
        if uneven.size:
            found = int(lengths[uneven[0]])
            raise ValueError(
                f"{self.path}, row {first + uneven[0]}: the list in column {name!r} has {found} numbers, "
                f"and that of row 0 has {self.shape[1]}: all vectors must have one length"
            )
        entries = lists.flatten()
        self._check_present(entries, name, first, self.shape[1])
        return entries.to_numpy().reshape(batch.num_rows, self.shape[1])

    def _numbers(self, batch: Any, first: int) -> Vectors:
        values = np.empty((batch.num_rows, len(self.columns)), self.dtype)
        for j, name in enumerate(self.columns):
            self._check_present(batch.column(j), name, first, 1)
            values[:, j] = batch.column(j).to_numpy()
        return values

    def _check_present(self, entries: Any, name: str, first: int, width: int) -> None:
        if entries.null_count:
            missing = np.flatnonzero(entries.is_null().to_numpy(zero_copy_only=False))[0] // width
            raise ValueError(f"{self.path}, row {first + missing}: column {name!r} has a null: fill it or drop the row")

    def _list_length(self, kind: Any) -> int:
        """The length of the lists: by their type, or that of the first."""
        if hasattr(kind, "list_size"):
            return int(kind.list_size)
        with self._reading(), self._open() as file:
            lists = next(batch.column(0) for batch in file.iter_batches(1, columns=self.columns) if batch.num_rows)
            self._check_present(lists, self.columns[0], 0, 1)
            return int(lists.value_lengths()[0].as_py())

    def _open(self) -> Any:
        """The file, of which no more is read than is decoded."""
        return _pyarrow().ParquetFile(self.path, metadata=self._metadata, buffer_size=_BUFFER, pre_buffer=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Errors of pyarrow name the file."""
        import pyarrow

        try:
            yield
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{self.path} is damaged, it cannot be read as Parquet: {error}") from error


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install 'otcluster[cli]'") from error
    return pyarrow.parquet


def _check_magic(path: Path) -> None:
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path} is not a Parquet file: it does not begin with {_MAGIC.decode()}")
        file.seek(max(len(_MAGIC), path.stat().st_size - len(_MAGIC)))
        if file.read() != _MAGIC:
            raise ValueError(f"{path} is cut short: a Parquet file ends with {_MAGIC.decode()}")


def _choose(path: Path, schema: Any, column: str | None) -> tuple[bool, list[str]]:
    """Whether the vectors are lists, and which columns hold them."""
    names = schema.names
    if column is not None:
        if column not in names:
            raise ValueError(f"{path} has no column {column!r}, but {', '.join(names)}")
        if not _is_list(schema.field(names.index(column)).type):
            raise TypeError(f"{path}: column {column!r} must hold lists of numbers, got {schema.field(column).type}")
        chosen, of_lists = [column], True
    else:
        chosen, of_lists = [field.name for field in schema if _is_list(field.type)], True
        if len(chosen) > 1:
            raise ValueError(f"{path} has several columns of lists, {', '.join(chosen)}: name one of them with column=")
    if not chosen:
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        chosen, of_lists = [field.name for field in schema if _is_number(field.type) and field.name not in index], False
        for field in schema:
            if _holds_numbers_inside(field.type):
                raise ValueError(
                    f"{path} has no column of lists of numbers, and column {field.name!r} ({field.type}) may be meant: "
                    "store it as lists of numbers, or leave it out for the columns of numbers to be taken"
                )
    if not chosen:
        raise ValueError(f"{path} has no column of lists of numbers and none of numbers, but {', '.join(names) or 'nothing'}")
    twice = [name for name in chosen if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has several columns of the name {twice[0]!r}: rename them")
    return of_lists, chosen


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) and _is_number(kind.value_type)


def _is_number(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_integer(kind) or types.is_floating(kind)


def _holds_numbers_inside(kind: Any) -> bool:
    """Whether there are numbers in a type that is not numbers itself: lists of lists, structures, tensors."""
    import pyarrow.types as types

    kind = getattr(kind, "storage_type", kind)
    if not types.is_nested(kind):
        return False
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return any(_is_number(each) or _holds_numbers_inside(each) for each in inner)
