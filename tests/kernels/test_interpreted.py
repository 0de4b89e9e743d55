"""The tests of the kernels by Triton's interpreter, where there is no device: in processes that take some files each."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FILES = sorted({path.name for path in HERE.glob("test_*.py")} - {Path(__file__).name, "test_compiles.py"})


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets already")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device runs the kernels themselves")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("files", [FILES[part::3] for part in range(3)], ids="-".join)
def test_interpreted(files):
    paths = [str(HERE / name) for name in files]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *paths],
        cwd=HERE.parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
