"""Vectors in files of every kind, as the tests of the sources store them."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from otcluster.clustering.sources import (
    NpyFile,
    ParquetFile,
    SafetensorsFile,
    Sharded,
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
