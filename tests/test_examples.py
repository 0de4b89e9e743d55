"""The scripts in examples/ run as their README says, if for less long."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys

import pytest
import torch.distributed as dist

from tests import processes

pytest.importorskip("timm", reason="the examples need timm and scikit-learn, of the extra dnc")


def run(*command):
    """What a script prints, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=300, cwd=processes.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(processes.ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def swav_on_a_rank(_):
    sys.argv[1:] = ["--epochs", "2"]
    runpy.run_path(str(processes.ROOT / "examples" / "swav_digits.py"), run_name="__main__")


def swav_on_two_ranks():
    """What they print, each in a fork: what torchrun itself does is tried with ``otcluster dnc train``."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs gloo, which this torch was built without")
    ended = processes.end(processes.start_ranks(2, "tests.test_examples:swav_on_a_rank", None))
    assert [code for code, *_ in ended] == [0, 0], ended
    return "".join(output for _, output, _ in ended)


@pytest.mark.parametrize(
    "printed", [lambda: run("examples/swav_digits.py", "--epochs", "2"), swav_on_two_ranks], ids=["alone", "two ranks"]
)
def test_swav_learns_without_labels(printed):
    told = printed()
    [loss] = re.findall(r"^epoch 2: loss (\d\.\d+)", told, re.MULTILINE)  # once, of all ranks together
    assert 2 < float(loss) < 3.9  # log(64) = 4.16 where nothing is learnt
    probes = re.findall(r"^(pixels|untrained features|SwAV features) +(\d\.\d{4}) +(\d\.\d{4})$", told, re.MULTILINE)
    assert len(probes) == 3
    assert all(0.3 < float(few) < float(every) <= 1 for _, few, every in probes)


def test_features_are_clustered_side_by_side(tmp_path):
    told = run("examples/cluster_features.py", "-k", "10", "20", "--out", str(tmp_path))
    rows = re.findall(r"^\| (\d+) \| (plain|balanced) \| (\d+) \| (\d+) \|", told, re.MULTILINE)
    assert [(k, way) for k, way, _, _ in rows] == [(k, way) for k in ("10", "20") for way in ("plain", "balanced")]
    assert all(int(largest) - int(smallest) <= 1 for _, way, smallest, largest in rows if way == "balanced")
    assert {path.name for path in tmp_path.iterdir()} == {"sizes.png", "clusters.png"}
