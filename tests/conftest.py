"""Settings of the whole suite: property tests draw the same examples on every machine."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

import otcluster as otc
from otcluster._ops.numpy import NumpyOps
from tests.strategies import STRICT
from tests.strict import quicken

# With two workers on two cores, more threads than one each only get in each other's way.
torch.set_num_threads(1)

gc.disable()  # until all is imported


def pytest_collection_finish():
    """Modules and tests stay to the end: without them there is little for the collector of garbage to look through."""
    gc.collect()
    gc.freeze()
    gc.enable()


if STRICT is not None:
    quicken()

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
