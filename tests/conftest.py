"""Settings of the whole suite: property tests draw the same examples on every machine."""

from __future__ import annotations

import gc
import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

import otcluster as otc
from otcluster._ops.numpy import NumpyOps
from tests.strategies import STRICT

# With two workers on two cores, more threads than one each only get in each other's way.
torch.set_num_threads(1)

gc.disable()  # until all is imported


def pytest_collection_finish():
    """Modules and tests stay to the end: without them there is little for the collector of garbage to look through."""
    gc.collect()
    gc.freeze()
    gc.enable()


def _sets_of_dtypes(table, kind):
    """Make each tuple of dtypes in a table of names a set, of which membership is found in one step."""
    for name, value in table.items():
        if isinstance(value, tuple) and value and all(isinstance(each, kind) for each in value):
            table[name] = frozenset(value)


# array-api-strict compares the dtype of each array it makes with one after another of those it knows: a third of its time.
if STRICT is not None:
    for _module in [module for name, module in sys.modules.items() if name.split(".")[0] == "array_api_strict"]:
        for _table in [vars(_module), *(each for each in vars(_module).values() if type(each) is dict)]:
            _sets_of_dtypes(_table, type(STRICT.int8))

settings.register_profile(
    "ci",
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("quick", settings.get_profile("ci"), max_examples=20)
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=1500, derandomize=False)
settings.load_profile(os.environ.get("OTCLUSTER_HYPOTHESIS", "ci"))


@pytest.fixture
def formed(monkeypatch):
    """How many scores `PointScores` of NumPy form at once, tile by tile, where tiles are small."""
    monkeypatch.setattr(NumpyOps, "tile_elements", 1 << 12)
    sizes = []
    original = otc.PointScores._compare

    def watch(self, *args):
        values = original(self, *args)
        sizes.append(values.size)
        return values

    monkeypatch.setattr(otc.PointScores, "_compare", watch)
    return sizes
