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
    SafetensorsFile,
    Sharded,
    VectorSource,
    base,
    chunk_rows,
    open_vectors,
    parquet,
    plain,
)

N, D = 53, 5
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what is open and resident is read from /proc, which is Linux's")


def vectors(dtype="float32", n=N, d=D, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (n, d), dtype=dtype, endpoint=True)
    return rng.standard_normal((n, d)).astype(dtype)


def save_npy(path, array, version=None):
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, version=version)
    return NpyFile(path)


def save_safetensors(path, array):
    safetensors.numpy.save_file({"x": array, "bias": array[0], "ids": np.zeros((3, 4), np.int64)}, path)
    return SafetensorsFile(path, "x" if array.dtype.kind in "iu" else None)


def lists(array, kind=pa.ListArray):
    values = pa.array(array.ravel())
    if kind is pa.FixedSizeListArray:
        return kind.from_arrays(values, array.shape[1])
    places = pa.array(np.arange(len(array) + 1) * array.shape[1], pa.int64() if kind is pa.LargeListArray else pa.int32())
    return kind.from_arrays(places, values)


def save_lists(path, array, kind=pa.ListArray, row_group_size=7):
    table = pa.table({"id": np.arange(len(array)), "x": lists(array, kind), "name": [str(i) for i in range(len(array))]})
    pq.write_table(table, path, row_group_size=row_group_size)
    return ParquetFile(path)


def save_columns(path, arrays, row_group_size=7):
    names = [f"column {i}.x" for i in range(len(arrays))]
    text = pa.array(["?"] * len(arrays[0]))
    pq.write_table(pa.table([text, *map(pa.array, arrays)], ["text", *names]), path, row_group_size=row_group_size)
    return ParquetFile(path)


def save_all(folder):
    """A source of every kind, with the array that it must be equal to."""
    for dtype in FLOATS:
        x = vectors(dtype)
        yield f"npy {dtype}", save_npy(folder / f"{dtype}.npy", x), x
        yield f"npy {dtype} by column", save_npy(folder / f"{dtype}-f.npy", np.asfortranarray(x)), x
        yield f"npy {dtype} swapped", save_npy(folder / f"{dtype}-s.npy", x.astype(x.dtype.newbyteorder(">"))), x
        yield f"safetensors {dtype}", save_safetensors(folder / f"{dtype}.safetensors", x), x
        yield f"parquet {dtype}", save_lists(folder / f"{dtype}.parquet", x), x
        yield f"parquet {dtype} columns", save_columns(folder / f"{dtype}-c.parquet", list(x.T)), x
    for dtype in INTEGERS:
        x = vectors(dtype)
        given_out = x.astype("float32")
        yield f"npy {dtype}", save_npy(folder / f"{dtype}.npy", x), given_out
        yield f"safetensors {dtype}", save_safetensors(folder / f"{dtype}.safetensors", x), given_out
        yield f"parquet {dtype}", save_lists(folder / f"{dtype}.parquet", x), given_out
    x = vectors("int16").astype(">i2")
    yield "npy int16 swapped by column", save_npy(folder / "int16-f.npy", np.asfortranarray(x)), x.astype("float32")
    x = vectors()
    yield "npy 2.0", save_npy(folder / "version.npy", x, (2, 0)), x
    yield "parquet large lists", save_lists(folder / "large.parquet", x, pa.LargeListArray), x
    yield "parquet fixed lists", save_lists(folder / "fixed.parquet", x, pa.FixedSizeListArray), x
    yield "parquet one group", save_lists(folder / "one.parquet", x, row_group_size=N), x
    mixed = [vectors(dtype)[:, 0] for dtype in ("float16", "float32", "int8")]
    yield "parquet mixed columns", save_columns(folder / "mixed.parquet", mixed), np.stack(mixed, 1, dtype="float32")
    brain = torch.from_numpy(x).bfloat16()
    safetensors.torch.save_file({"x": brain}, folder / "bf16.safetensors")
    yield "safetensors bfloat16", SafetensorsFile(folder / "bf16.safetensors"), brain.float().numpy()
    parts = [(0, 20), (20, 21), (21, 40), (40, N)]
    paths = [folder / f"part-{i}" for i in range(4)]
    shards = [
        save_npy(paths[0].with_suffix(".npy"), x[slice(*parts[0])]),
        save_lists(paths[1].with_suffix(".parquet"), x[slice(*parts[1])]),
        save_safetensors(paths[2].with_suffix(".safetensors"), x[slice(*parts[2])]),
        save_lists(paths[3].with_suffix(".parquet"), x[slice(*parts[3])]),
    ]
    yield "shards", Sharded(shards), x
    half = x.astype("float16")
    wide = Sharded([save_npy(folder / "half.npy", half), Listed(x[:9]), Listed(x[:0]), Sharded(shards[2:])])
    yield "shards of several dtypes", wide, np.concatenate([half.astype("float32"), x[:9], x[21:]])


class Listed:
    """A source of someone else: four members, and nothing of ours."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, start, stop):
        return self.array[start:stop].copy()

    def rows(self, indices):
        return self.array[indices]


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


def save_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def tensor(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def save_array(path, array):
    np.save(path, array, allow_pickle=True)


def save_tensors(path, **arrays):
    safetensors.numpy.save_file(arrays, path)


def save_table(path, **columns):
    pq.write_table(pa.table(columns), path)


X = vectors()
BAD = {
    "nothing there": ("x.npy", lambda path: None, FileNotFoundError, "does not exist"),
    "nothing there, parquet": ("x.parquet", lambda path: None, FileNotFoundError, "does not exist"),
    "empty": ("x.npy", lambda path: path.touch(), ValueError, "is empty"),
    "empty parquet": ("x.parquet", lambda path: path.touch(), ValueError, "is empty"),
    "empty safetensors": ("x.safetensors", lambda path: path.touch(), ValueError, "is empty"),
    "suffix": ("x.npz", lambda path: np.savez(path, X), ValueError, r"must end in \.npy, \.parquet or \.safetensors"),
    "folder without files": ("x", lambda path: path.mkdir(), ValueError, r"holds no file that ends in \.npy"),
    "foreign npy": ("x.npy", lambda path: path.write_text("Once upon a time"), ValueError, r"not a \.npy file"),
    "npz as npy": ("x.npy", lambda path: np.savez(path.open("wb"), X), ValueError, r"not a \.npy file"),
    "version": (
        "x.npy",
        lambda path: np.lib.format.write_array(path.open("wb"), X, (3, 0)),
        ValueError,
        r"version is \(3, 0\)",
    ),
    "objects": ("x.npy", lambda path: save_array(path, np.array([[None]])), TypeError, "got object"),
    "booleans": ("x.npy", lambda path: save_array(path, X > 0), TypeError, "got bool: convert it to float32"),
    "complex": ("x.npy", lambda path: save_array(path, X + 0j), TypeError, "got complex64"),
    "text": ("x.npy", lambda path: save_array(path, X.astype(str)), TypeError, "got <U32"),
    "one dimension": ("x.npy", lambda path: save_array(path, X[0]), ValueError, r"two-dimensional.*got shape \(5,\)"),
    "three dimensions": ("x.npy", lambda path: save_array(path, X[None]), ValueError, r"got shape \(1, 53, 5\)"),
    "no rows": ("x.npy", lambda path: save_array(path, X[:0]), ValueError, r"holds no vectors, its shape is \(0, 5\)"),
    "no columns": ("x.npy", lambda path: save_array(path, X[:, :0]), ValueError, "holds no vectors"),
    "more than an array": (
        "x.npy",
        lambda path: path.write_bytes(saved(path, X) * 2),
        ValueError,
        "holds more than its header says: 2376 bytes, where it asks for 1188",
    ),
    "foreign safetensors": ("x.safetensors", lambda path: save_npy(path, X), ValueError, "not a safetensors file"),
    "a few bytes": ("x.safetensors", lambda path: path.write_bytes(b"\x02" + bytes(7)), ValueError, "not a safetensors"),
    "header beyond the end": (
        "x.safetensors",
        lambda path: path.write_bytes(b"\xff" * 8 + b"{}"),
        ValueError,
        "cut short, or no safetensors file",
    ),
    "no json": ("x.safetensors", lambda path: save_header(path, b"{nothing}"), ValueError, "its header is damaged"),
    "deep json": ("x.safetensors", lambda path: save_header(path, b'{"x":' + b"[" * 99999), ValueError, "header is damaged"),
    "no offsets": ("x.safetensors", lambda path: save_header(path, {"x": {"dtype": "F32"}}), ValueError, "is damaged"),
    "no dictionary": ("x.safetensors", lambda path: save_header(path, {"x": 3}), ValueError, "header is damaged"),
    "negative": ("x.safetensors", lambda path: save_header(path, {"x": tensor(shape=(-2, -3))}), ValueError, "whole numbers"),
    "half a row": ("x.safetensors", lambda path: save_header(path, {"x": tensor(shape=(2, 2.5))}), ValueError, "whole numbers"),
    "size of a tensor": (
        "x.safetensors",
        lambda path: save_header(path, {"x": tensor(shape=(2, 4))}, bytes(24)),
        ValueError,
        r"shape \(2, 4\) in F32 cannot have 24 bytes",
    ),
    "backwards": (
        "x.safetensors",
        lambda path: save_header(path, {"x": tensor(offsets=(24, 0)), "y": tensor()}, bytes(24)),
        ValueError,
        "several",
    ),
    "no data": ("x.safetensors", lambda path: save_header(path, {"x": tensor()}, bytes(23)), ValueError, "is cut short"),
    "data left over": ("x.safetensors", lambda path: save_header(path, {"x": tensor()}, bytes(25)), ValueError, "holds more"),
    "no tensor": ("x.safetensors", lambda path: save_tensors(path), ValueError, "but nothing"),
    "vectors of tensors": (
        "x.safetensors",
        lambda path: save_tensors(path, bias=X[0], ids=np.zeros((2, 3), np.int64)),
        ValueError,
        r"no tensor that is two-dimensional and floating, but (bias \(F32, \[5\]\), ids|ids)",
    ),
    "several tensors": (
        "x.safetensors",
        lambda path: save_tensors(path, a=X, b=X),
        ValueError,
        "several two-dimensional tensors, a, b: name one of them with tensor=",
    ),
    "no vectors in a tensor": ("x.safetensors", lambda path: save_tensors(path, a=X[:0]), ValueError, "holds no vectors"),
    "foreign parquet": ("x.parquet", lambda path: save_npy(path, X), ValueError, "not a Parquet file"),
    "parquet without end": ("x.parquet", lambda path: path.write_bytes(b"PAR1"), ValueError, "is cut short"),
    "magic alone": ("x.parquet", lambda path: path.write_bytes(b"PAR1" * 3), ValueError, "is damaged"),
    "no rows in parquet": ("x.parquet", lambda path: save_table(path, x=lists(X)[:0]), ValueError, "has no rows"),
    "no numbers": ("x.parquet", lambda path: save_table(path, a=["a"], b=[True]), ValueError, "none of numbers, but a, b"),
    "several columns": ("x.parquet", lambda path: save_table(path, a=lists(X), b=lists(X)), ValueError, "a, b: name one"),
    "lists of lists": ("x.parquet", lambda path: save_table(path, i=[1], x=[[[1.0]]]), ValueError, "'x' .* may be meant"),
    "structures": ("x.parquet", lambda path: save_table(path, i=[1], x=[{"v": [1.0]}]), ValueError, "'x' .* may be meant"),
    "first list is null": (
        "x.parquet",
        lambda path: save_table(path, x=[None, [1.0]]),
        ValueError,
        "row 0: column 'x' has a null",
    ),
    "first list is empty": ("x.parquet", lambda path: save_table(path, x=[[], [1.0]]), ValueError, "holds no vectors"),
    "one name twice": (
        "x.parquet",
        lambda path: pq.write_table(pa.table([[1.0], [2.0]], ["a", "a"]), path),
        ValueError,
        "several columns of the name 'a'",
    ),
}


def saved(path, array):
    np.save(path, array)
    return path.read_bytes()


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_what_is_wrong_with_it(tmp_path, case):
    name, make, error, message = BAD[case]
    make(tmp_path / name)
    with pytest.raises(error, match=message) as caught:
        open_vectors(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


GOOD_FILES = {
    ".npy": lambda path: np.save(path, X),
    "-f.npy": lambda path: np.save(path, np.asfortranarray(X)),
    ".safetensors": lambda path: save_safetensors(path, X),
    ".parquet": lambda path: save_lists(path, X),
    "-c.parquet": lambda path: save_columns(path, list(X.T)),
}


@pytest.mark.parametrize("suffix", GOOD_FILES)
def test_a_file_that_is_cut_anywhere_is_told_when_it_is_opened(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    GOOD_FILES[suffix](path)
    content = path.read_bytes()
    for length in {*range(0, len(content), 29), *range(40), len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"is empty|is cut short|not a .* file") as caught:
            open_vectors(path)
        assert str(path) in str(caught.value)


@given(suffix=st.sampled_from([".npy", ".safetensors"]), place=st.integers(0, 300), byte=st.integers(0, 255))
def test_a_damaged_header_is_an_error_or_a_source_and_never_anything_else(tmp_path_factory, suffix, place, byte):
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    GOOD_FILES[suffix](path)
    content = bytearray(path.read_bytes())
    content[place] = byte
    path.write_bytes(content)
    try:
        source = open_vectors(path)
    except (ValueError, TypeError) as error:
        said = str(error)
    else:
        said = str(path)
        assert source.read(0, source.shape[0]).shape == source.shape
    assert str(path) in said


@pytest.mark.parametrize("suffix", GOOD_FILES)
def test_a_file_that_was_cut_after_it_was_opened_is_told_when_it_is_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    GOOD_FILES[suffix](path)
    source = open_vectors(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"is cut short|is damaged") as caught:
        source.read(0, N)
    assert str(path) in str(caught.value)


def test_parquet_names_the_row_that_has_no_vector(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH", 100)
    rows = vectors("float64").tolist()
    broken = {
        "the list in column 'x' has 4 numbers, and that of row 0 has 5": [1.0] * 4,
        "the list in column 'x' has 0 numbers": [],
        "column 'x' has a null: fill it or drop the row": None,
        "column 'x' has a null": [1.0, 2.0, 3.0, 4.0, None],
    }
    for place in (2, 30, N - 1):
        for message, row in broken.items():
            path = tmp_path / "x.parquet"
            pq.write_table(pa.table({"x": [*rows[:place], row, *rows[place + 1 :]]}), path, row_group_size=8)
            source = ParquetFile(path)
            np.testing.assert_array_equal(source.read(0, 1), rows[:1])
            for read in (lambda: source.read(0, N), lambda: source.rows([place])):  # again and again
                with pytest.raises(ValueError, match=message) as caught:
                    read()
                assert f"{path}, row {place}: " in str(caught.value)
            np.testing.assert_array_equal(source.read(0, 1), rows[:1])
    column = [None if i == 30 else float(i) for i in range(N)]
    save_table(path, a=np.arange(N), b=column)
    with pytest.raises(ValueError, match="row 30: column 'b' has a null"):
        ParquetFile(path).read(0, N)
    fixed = pa.array([[1.0, None if i == 30 else 2.0] for i in range(N)], pa.list_(pa.float64(), 2))
    save_table(path, x=fixed)
    with pytest.raises(ValueError, match="row 30: column 'x' has a null"):
        ParquetFile(path).read(0, N)


def test_parquet_columns_are_chosen_by_name_and_others_are_left_out(tmp_path):
    path = tmp_path / "x.parquet"
    save_table(path, a=lists(X), **{"b.c": lists(X[:, :2])}, text=["t"] * N, words=[["w"]] * N, number=np.arange(N))
    assert ParquetFile(path, "a").columns == ["a"]
    np.testing.assert_array_equal(ParquetFile(path, "b.c").read(0, N), X[:, :2])
    with pytest.raises(ValueError, match=r"has no column 'd', but a, b\.c, text, words, number"):
        open_vectors(path, column="d")
    for name in ("number", "words", "text"):
        with pytest.raises(TypeError, match=f"column '{name}' must hold lists of numbers, got "):
            open_vectors(path, column=name)
    save_table(path, a=X[:, 0], words=[["w"]] * N, b=X[:, 1], flag=X[:, 0] > 0)
    assert ParquetFile(path).columns == ["a", "b"]


def test_the_index_of_pandas_is_no_feature(tmp_path):
    table = pa.table({"a": X[:, 0], "__index_level_0__": np.arange(N)})
    metadata = {"pandas": json.dumps({"index_columns": ["__index_level_0__"], "columns": []})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    assert ParquetFile(tmp_path / "x.parquet").columns == ["a"]


def test_tensors_are_chosen_by_name(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, a=X, b=2 * X, flag=X > 0, bias=X[0])
    np.testing.assert_array_equal(SafetensorsFile(path, "b").read(0, N), 2 * X)
    with pytest.raises(ValueError, match="holds no tensor 'c', but "):
        open_vectors(path, tensor="c")
    with pytest.raises(TypeError, match="tensor 'flag' must be F16, BF16, F32, F64 or integers, got BOOL"):
        open_vectors(path, tensor="flag")
    with pytest.raises(ValueError, match="tensor 'bias' must be two-dimensional"):
        open_vectors(path, tensor="bias")
    save_header(path, {"x": tensor(offsets=(24, 0)), "y": tensor()}, bytes(24))
    with pytest.raises(ValueError, match=r"'x' .* cannot have -24 bytes"):
        open_vectors(path, tensor="x")


def test_files_are_opened_by_suffix_and_a_folder_is_its_files_by_name(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    for name, part in {"b.npy": X[10:], "a.NPY": X[:10]}.items():
        with open(folder / name, "wb") as file:
            np.save(file, part)
    (folder / "README.md").write_text("Not of vectors.")
    (folder / ".hidden.npy").write_text("Nor this.")
    np.testing.assert_array_equal(open_vectors(folder).read(0, N), X)
    np.testing.assert_array_equal(open_vectors(str(folder)).read(0, N), X)
    both = open_vectors([folder / "b.npy", str(folder)])
    np.testing.assert_array_equal(both.read(0, both.shape[0]), np.concatenate([X[10:], X]))
    assert isinstance(open_vectors(iter([folder / "b.npy"])), NpyFile)

    save_lists(folder / "c.parquet", X)
    with pytest.raises(ValueError, match=r"files of several kinds, b\.npy and c\.parquet: name the files"):
        open_vectors(folder)
    with pytest.raises(ValueError, match=r"column='x' is for Parquet files, and .*b.npy is none"):
        open_vectors(folder / "b.npy", column="x")
    with pytest.raises(ValueError, match=r"tensor='x' is for safetensors files, and .*c.parquet is none"):
        open_vectors(folder / "c.parquet", tensor="x")
    assert open_vectors([folder / "c.parquet"], column="x").shape == (N, D)
    with pytest.raises(ValueError, match="folder is not a file: open_vectors takes a folder"):
        NpyFile(folder)


@pytest.mark.parametrize("paths", [3, b"x.npy", None, [3], [["x.npy"]]])
def test_what_is_no_path_is_told(paths):
    with pytest.raises(TypeError, match=r"paths? must be a "):
        open_vectors(paths)
    with pytest.raises(TypeError, match="path must be a string"):
        NpyFile(paths)


def test_no_path_is_no_source():
    with pytest.raises(ValueError, match="paths must hold at least one path"):
        open_vectors([])
    with pytest.raises(ValueError, match="sources must hold at least one source"):
        Sharded([])


def test_shards_must_have_one_width_and_be_sources(tmp_path):
    first, other = save_npy(tmp_path / "a.npy", X), save_npy(tmp_path / "b.npy", X[:, :3])
    with pytest.raises(
        ValueError, match=r"those of NpyFile\('.*b.npy'\) have 3 numbers, and those of NpyFile\('.*a.npy'\) have 5"
    ):
        Sharded([first, first, other])
    with pytest.raises(ValueError, match=r"b\.npy"):
        open_vectors(tmp_path)
    for wrong in ("a.npy", X):
        with pytest.raises(TypeError, match="open_vectors opens paths"):
            Sharded([first, wrong])


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
