"""Where the tests run: a CUDA device. ``OTCLUSTER_GPU_TESTS_ON=cpu`` tries the tests themselves on a host that plays one."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from otcluster._ops.torch import TorchOps

PLACE = os.environ.get("OTCLUSTER_GPU_TESTS_ON", "cuda")


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """The device, or what does what a device would, with tensors in host memory."""
    if PLACE == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device is present")
        # The host answers by the definition: to compile its loops would take longer than the tests.
        monkeypatch.setenv("OTCLUSTER_COMPILED", "0")
        return torch.device("cuda", torch.cuda.current_device())
    original = TorchOps.__init__

    def as_on_a_device(self, array, argument):
        original(self, array, argument)
        self.on_host, self.tile_elements, self.rounds_between_syncs = False, 1 << 20, 8

    def refused(self, *args):
        raise TypeError("NumPy would read a tensor of the device: bring it to the host first")

    monkeypatch.setattr(TorchOps, "__init__", as_on_a_device)
    monkeypatch.setattr(torch.Tensor, "__array__", refused)
    return torch.device(PLACE)


@pytest.fixture
def cuda(device):
    """A real one, for what a host cannot play."""
    if device.type != "cuda":
        pytest.skip("only a CUDA device can tell")
    return device


@pytest.fixture
def there(device):
    """A function that brings what it is given to the device, through tuples and dictionaries."""

    def bring(value):
        if isinstance(value, (tuple, list)):
            return type(value)(bring(each) for each in value)
        if isinstance(value, dict):
            return {name: bring(each) for name, each in value.items()}
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        return value.to(device) if isinstance(value, (torch.Tensor, torch.nn.Module)) else value

    return bring


@pytest.fixture
def stays(device):
    """A function that sees that tensors are on the device."""

    def look(*values):
        for value in values:
            assert isinstance(value, torch.Tensor), type(value)
            assert value.device == device or (device.type == "cpu" and value.device.type == "cpu"), value.device

    return look
