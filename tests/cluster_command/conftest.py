"""What the tests of ``otcluster cluster`` begin with."""

from __future__ import annotations

import numpy as np
import pytest

from otcluster.cluster_command import work as work_room
from tests.cluster_command.ranks import slow


@pytest.fixture
def x():
    return slow()


@pytest.fixture
def file(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


@pytest.fixture
def always_saved(monkeypatch):
    """A checkpoint of every round, however quick."""
    monkeypatch.setattr(work_room, "_SAVING", np.inf)
