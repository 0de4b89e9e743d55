"""The scripts in examples/ run as their README says, if for less long."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch.distributed as dist

from tests.processes import ROOT

pytest.importorskip("timm", reason="the examples need timm and scikit-learn, of the extra dnc")

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["alone", "two ranks"])
def test_swav_learns_without_labels(launcher):
    if launcher and not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs gloo, which this torch was built without")
    done = subprocess.run(
        [sys.executable, *launcher, "examples/swav_digits.py", "--epochs", "2"],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [loss] = re.findall(r"^epoch 2: loss (\d\.\d+)", done.stdout, re.MULTILINE)  # once, of all ranks together
    assert 2 < float(loss) < 3.9  # log(64) = 4.16 where nothing is learnt
    probes = re.findall(r"^(pixels|untrained features|SwAV features) +(\d\.\d{4}) +(\d\.\d{4})$", done.stdout, re.MULTILINE)
    assert len(probes) == 3
    assert all(0.3 < float(few) < float(every) <= 1 for _, few, every in probes)


def test_features_are_clustered_side_by_side(tmp_path):
    done = subprocess.run(
        [sys.executable, "examples/cluster_features.py", "-k", "10", "20", "--out", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (\d+) \| (plain|balanced) \| (\d+) \| (\d+) \|", done.stdout, re.MULTILINE)
    assert [(k, way) for k, way, _, _ in rows] == [(k, way) for k in ("10", "20") for way in ("plain", "balanced")]
    assert all(int(largest) - int(smallest) <= 1 for _, way, smallest, largest in rows if way == "balanced")
    assert {path.name for path in tmp_path.iterdir()} == {"sizes.png", "clusters.png"}
