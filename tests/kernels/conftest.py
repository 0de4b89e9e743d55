"""Where kernels are tested: on a CUDA device, or by Triton's interpreter on the host, in a process of its own.

``TRITON_INTERPRET=1`` has to be set before Triton is imported, and torch imports it as it likes: without a device,
``test_interpreted.py`` runs these files in processes where it is set from the start, and the files themselves are left out.
Only ``test_compiles.py`` needs neither.
"""

from __future__ import annotations

import functools
import os
import warnings

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_[!ic]*.py", "test_i[!n]*.py"]

if INTERPRETED:
    from triton.runtime.interpreter import InterpretedFunction, _patch_lang

    @functools.cache
    def _patch_once(module, some_function):
        _patch_lang(some_function)

    def _call(function, *args, **kwargs):
        _patch_once(function.fn.__module__, function.fn)
        return function.rewrite()(*args, **kwargs)

    # The interpreter prepares the language anew, half its time, whenever a kernel calls a function. To launch does it anyhow.
    InterpretedFunction.__call__ = _call


@pytest.fixture
def place():
    """The device of the tensors."""
    if INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is present, and TRITON_INTERPRET=1 is not set")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def cuda(place):
    """A real device, for large sizes and what the interpreter cannot tell."""
    if place.type != "cuda":
        pytest.skip("only a CUDA device can tell")
    return place


@pytest.fixture(autouse=True)
def filled(monkeypatch):
    """New memory holds NaN, or numbers that are no label: what a kernel leaves out is seen."""
    if not INTERPRETED:  # torch.compile would take note of the changed functions
        return
    empty, empty_like = torch.empty, torch.empty_like

    def spoilt(tensor):
        return tensor.fill_(float("nan") if tensor.is_floating_point() else -77)

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: spoilt(empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: spoilt(empty_like(*args, **kwargs)))


@pytest.fixture(autouse=True)
def infinities():
    """Infinities, and what comes of them where it is not used, are no reason for NumPy, which interprets, to warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(overflow|invalid value) encountered", RuntimeWarning)
        yield
