"""Files that are not what they should be, and how files, columns and tensors are chosen."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st

from otcluster.clustering.sources import (
    NpyFile,
    ParquetFile,
    SafetensorsFile,
    Sharded,
    open_vectors,
    parquet,
)
from tests.clustering.stored import D, N, lists, save_columns, save_lists, save_npy, save_safetensors, vectors


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
