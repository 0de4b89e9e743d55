"""``otcluster cluster`` over several processes, and under torchrun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch.distributed as dist

from otcluster.cluster_command.settings import Settings
from otcluster.cluster_command.work import cluster
from tests import processes
from tests.cluster_command.ranks import SCENARIOS, K, shared, slow
from tests.cluster_command.runs import assert_same_end, read, succeed

gloo = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")


@pytest.fixture(scope="module", params=[2, 4])
def launched(request, tmp_path_factory):
    """The folder that some processes leave, of which the last was killed; and how many they were."""
    n = request.param
    folder = tmp_path_factory.mktemp(f"launched{n}")
    shared(folder)
    ended = processes.end(processes.start_ranks(n, "tests.cluster_command.ranks:work", folder))
    assert [code for code, *_ in ended] == [0] * (n - 1) + [-signal.SIGKILL], ended
    return folder, n


@gloo
@pytest.mark.parametrize("name", SCENARIOS)
def test_processes_give_the_labels_of_one(launched, name, tmp_path):
    folder, n = launched
    paths, settings, weights = SCENARIOS[name]
    cluster([folder / path for path in paths], settings, tmp_path / "one", weights=weights and folder / weights)
    assert_same_end(folder / f"{name}-{n}", tmp_path / "one")
    (_, _, one), (_, _, many) = read(tmp_path / "one"), read(folder / f"{name}-{n}")
    assert many["inertia"] == pytest.approx(one["inertia"], rel=1e-6)
    assert (one["processes"], many["processes"]) == (1, n)


@gloo
def test_an_error_of_one_process_is_that_of_all(launched):
    folder, n = launched
    for rank in range(n - 1):
        found = json.loads((folder / f"{n}-{rank}.json").read_text())
        assert f"NaN or infinity in row 900 of {folder / 'bad.npy'}" in found["nan"]
        assert "clusters of given sizes are found by one process" in found["sized"]
        assert "absent.npy does not exist" in found["absent"] or "settings must be the same on all ranks" in found["absent"]
    assert not (folder / "nan").exists()


@gloo
def test_a_process_that_is_killed_ends_the_others_and_one_goes_on(launched, tmp_path):
    folder, n = launched
    for rank in range(n - 1):
        found = json.loads((folder / f"{n}-{rank}.json").read_text())
        assert "what was saved is whole, and the same command goes on from there" in found["lost"]
        assert found["seconds"] < 60
    out = shutil.copytree(folder / f"lost-{n}", tmp_path / "lost")
    assert not (out / "report.json").exists()
    cluster([folder / "shards"], Settings(K), out)
    assert_same_end(out, folder / f"shards-{n}")


@gloo
def test_torchrun_gives_the_labels_of_one_process(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, slow())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "otcluster"]
    done = subprocess.run(
        [*command, "cluster", str(file), "-k", str(K), "--out", str(tmp_path / "two")],
        capture_output=True, text=True, check=False, timeout=300, cwd=processes.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shared by 2 processes") == done.stdout.count("inertia ") == 1
    succeed(file, "-k", K, "--out", tmp_path / "one")
    assert_same_end(tmp_path / "two", tmp_path / "one")
