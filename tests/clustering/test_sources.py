"""Vectors in files: whatever is read, and however, is what was stored; and what is wrong is said with the name of the file."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from otcluster.clustering.sources import (
    NpyFile,
    ParquetFile,
    VectorSource,
    base,
    chunk_rows,
    open_vectors,
    parquet,
    plain,
)
from tests.clustering.stored import LINUX, D, N, lists, save_all, save_lists, save_npy, vectors


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return {name: (source, array) for name, source, array in save_all(tmp_path_factory.mktemp("vectors"))}


# The limits of every day, which these files do not come near, and such as they exceed.
LIMITS = pytest.mark.parametrize("little", [False, True], ids=["as it is", "little at once"])


@contextmanager
def limits(little):
    with pytest.MonkeyPatch.context() as patch:
        for room, name, value in (base, "_GAP", 50), (base, "_SPAN", 100), (plain, "_SCRATCH", 144), (parquet, "_BATCH", 60):
            if little:
                patch.setattr(room, name, value)
        yield


@LIMITS
def test_every_kind_gives_what_was_stored_in_its_dtype(sources, little):
    for name, (source, expected) in sources.items():
        assert isinstance(source, VectorSource)
        assert (source.shape, source.dtype) == (expected.shape, expected.dtype), name
        with limits(little):
            both = source.read(0, source.shape[0]), source.rows(np.arange(source.shape[0]))
        for found in both:
            assert found.dtype == expected.dtype
            assert found.dtype.isnative
            assert found.flags.c_contiguous
            assert found.flags.writeable
            np.testing.assert_array_equal(found, expected, err_msg=name)


# A range to read, or rows to gather: in any order, again and again, with some left out.
PLACES = st.integers(0, N)
CALLS = st.lists(st.tuples(PLACES, PLACES) | st.lists(st.integers(0, N - 1), max_size=2 * N), max_size=6)


@LIMITS
@given(data=st.data(), calls=CALLS)
def test_whatever_is_read_in_whatever_order_is_what_was_stored(sources, little, data, calls):
    source, expected = sources[data.draw(st.sampled_from(sorted(sources)))]
    n = len(expected)
    with limits(little):
        for call in calls:
            if isinstance(call, tuple):
                start, stop = sorted(min(place, n) for place in call)
                np.testing.assert_array_equal(source.read(start, stop), expected[start:stop])
            else:
                indices = [index % n for index in call]
                np.testing.assert_array_equal(source.rows(indices), expected[indices] if indices else expected[:0])


@LIMITS
@given(data=st.data(), rows=st.integers(1, N + 1))
def test_any_split_into_chunks_gives_the_whole(sources, little, data, rows):
    source, expected = sources[data.draw(st.sampled_from(sorted(sources)))]
    n = len(expected)
    with limits(little):
        chunks = [source.read(start, min(start + rows, n)) for start in range(0, n, rows)]
    np.testing.assert_array_equal(np.concatenate(chunks), expected)


def counted(monkeypatch, owner, name):
    calls = []
    original = getattr(owner, name)

    def count(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(owner, name, count)
    return calls


def test_rows_that_lie_close_are_one_read(tmp_path, monkeypatch):
    source = save_npy(tmp_path / "x.npy", vectors(n=5000, d=64))  # 256 bytes each: 256 rows are 64 KiB
    reads = counted(monkeypatch, NpyFile, "_read")
    for indices, expected in [
        (np.random.default_rng(0).permutation(5000), 1),
        ([4999, 0, 2500, 0], 3),
        ([300, 44, 556], 1),
        ([301, 44, 558], 3),
    ]:
        reads.clear()
        source.rows(indices)
        assert len(reads) == expected, indices


@pytest.mark.parametrize(("order", "shape"), [("C", (9 << 13, 128)), ("F", (9 << 19, 2))])
def test_no_more_than_a_span_is_read_at_once_for_rows(tmp_path, monkeypatch, order, shape):
    source = save_npy(tmp_path / "x.npy", np.zeros(shape, np.int8, order=order))
    loads = counted(monkeypatch, NpyFile, "_load")
    source.rows(np.arange(0, source.shape[0], 2))
    sizes = [out.nbytes for *_, out in loads]
    assert max(sizes) <= 4 << 20
    assert len(sizes) == 36 // 4 + (order == "F")  # of 36 MiB, as float32; of two columns with 18 MiB each


def test_parquet_is_decoded_once_for_a_pass_and_for_rows_in_any_order(tmp_path, monkeypatch):
    x = vectors()
    source = save_lists(tmp_path / "x.parquet", x)
    monkeypatch.setattr(parquet, "_BATCH", 60)
    decodings, batches = counted(monkeypatch, ParquetFile, "_decode"), counted(monkeypatch, ParquetFile, "_lists")
    for start in range(N):
        source.read(start, start + 1)
    assert len(decodings) == 1
    assert len(batches) == -(-N // 3)
    source.rows(np.random.default_rng(0).permutation(N))
    assert len(decodings) == 2


@LINUX
def test_no_more_than_one_file_stays_open(tmp_path):
    for i in range(6):
        save_lists(tmp_path / f"{i}.parquet", vectors(seed=i))
    before = len(os.listdir("/proc/self/fd"))
    source = open_vectors(tmp_path)
    for start in [*range(0, 6 * N, 17), 5, 200]:
        source.read(start, min(start + 17, 6 * N))
        assert len(os.listdir("/proc/self/fd")) <= before + 1
    source.rows([N * i for i in range(6)])
    source.release()
    assert len(os.listdir("/proc/self/fd")) == before


# Printed: by how many bytes the process grew at most while it went through a file, and while it gathered rows of it.
SCRIPT = """
import json, sys
import numpy as np
from benchmarks.timing import one_heap, peak_memory
from otcluster.clustering.sources import open_vectors

one_heap()
memory, found = int(sys.argv[1]), {}
for small, path in zip(sys.argv[2::2], sys.argv[3::2]):
    for name in (small, path):  # the first time, what is loaded on the way is not counted
        source = open_vectors(name)
        rows = memory // (source.shape[1] * source.dtype.itemsize)
        pieces = [(start, min(start + rows, source.shape[0])) for start in range(0, source.shape[0], rows)]
        some = np.random.default_rng(0).integers(0, source.shape[0], 1000)
        passed = peak_memory(lambda: [len(source.read(*piece)) for piece in pieces])
        found[name] = [passed, peak_memory(lambda: len(source.rows(some)))]
print(json.dumps(found))
"""


@LINUX
def test_a_pass_over_a_large_file_takes_the_memory_of_a_chunk(tmp_path):
    memory = 8 << 20
    x = np.random.default_rng(0).random((100_000, 512), dtype=np.float32)  # 200 MB
    kinds = {
        ".npy": np.save,
        "-f.npy": lambda path, x: np.save(path, np.asfortranarray(x)),
        ".safetensors": lambda path, x: safetensors.torch.save_file({"x": torch.from_numpy(x).bfloat16()}, path),
        ".parquet": lambda path, x: pq.write_table(pa.table({"x": lists(x, pa.FixedSizeListArray)}), path),
    }
    pairs = [[tmp_path / f"{size}{suffix}" for size in ("small", "large")] for suffix in kinds]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}  # others keep what is freed, and use it again unseen
    command = [sys.executable, "-c", SCRIPT, str(memory), *map(str, itertools.chain(*pairs))]
    root = Path(__file__).parent.parent.parent
    try:
        for (small, large), save in zip(pairs, kinds.values(), strict=True):
            save(small, x[:100])
            save(large, x)
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, env=environment)
    finally:
        for path in itertools.chain(*pairs):
            path.unlink(missing_ok=True)
    found = {Path(name).name: peaks for name, peaks in json.loads(done.stdout.splitlines()[-1]).items()}
    for suffix in (".npy", "-f.npy", ".safetensors"):
        assert max(found["large" + suffix]) < 2 * memory, found
    assert max(found["large.parquet"]) < 100 << 20, found  # the decoder's buffers, whatever the size of the file


def test_npy_needs_neither_torch_nor_pyarrow(tmp_path):
    save_npy(tmp_path / "x.npy", vectors())
    code = (
        "import sys; from otcluster.clustering.sources import open_vectors\n"
        f"open_vectors({str(tmp_path)!r}).read(0, 3)\n"
        "assert not {'torch', 'pyarrow', 'safetensors'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent.parent)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    save_lists(tmp_path / "x.parquet", vectors())
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'otcluster\[cli\]'"):
        open_vectors(tmp_path / "x.parquet")


def test_rows_out_of_range_and_indices_of_another_kind_are_told(sources):
    for name in ("npy float32", "npy float32 by column", "parquet float32", "shards"):
        source, _ = sources[name]
        for start, stop in [(-1, 3), (3, 2), (0, N + 1)]:
            with pytest.raises(IndexError, match=f"rows {start} to {stop} are not within the 53 rows of "):
                source.read(start, stop)
        with pytest.raises(TypeError):
            source.read(0.0, 3)
        for wrong in (-1, N):
            with pytest.raises(IndexError, match=f"row {wrong} is not within the 53 rows"):
                source.rows([0, wrong])
        with pytest.raises(TypeError, match=r"indices must be integers, got bool: numpy.flatnonzero"):
            source.rows([True, False])
        with pytest.raises(TypeError, match="indices must be integers, got float64"):
            source.rows([1.0])
        with pytest.raises(ValueError, match=r"indices must be one-dimensional, got shape \(1, 1\)"):
            source.rows([[1]])
        assert source.rows(np.array([2, 1], np.uint64)).shape == (2, D)


def test_a_chunk_has_as_many_rows_as_fit_and_at_least_one():
    assert chunk_rows(100, np.float32, 4000) == 10
    assert chunk_rows(100, "float16", 4199) == 20
    assert chunk_rows(100, "float64", 1) == 1
    for width, memory in [(0, 10), (10, 0)]:
        with pytest.raises(ValueError, match="width and memory must be positive"):
            chunk_rows(width, "float32", memory)
