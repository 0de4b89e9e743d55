"""The public face with the kernels and without them."""

from __future__ import annotations

import pytest

from otcluster._ops.torch import TorchOps


@pytest.fixture
def device_like(monkeypatch, place):
    """Where the interpreter plays a device, what the library does on one: it looks at values once, and all at a time."""
    monkeypatch.setenv("OTCLUSTER_COMPILED", "0")
    if place.type == "cuda":
        return place
    original = TorchOps.__init__

    def as_on_a_device(self, array, argument):
        original(self, array, argument)
        self.on_host, self.tile_elements, self.rounds_between_syncs = False, 1 << 20, 8

    monkeypatch.setattr(TorchOps, "__init__", as_on_a_device)
    return place


@pytest.fixture
def both(monkeypatch, device_like):
    """A function that calls what it is given with the kernels, which must be there for it, and without them."""

    def call(ask, kernels="1"):
        found = []
        for asked in (kernels, "0"):
            monkeypatch.setenv("OTCLUSTER_KERNELS", asked)
            found.append(ask())
        return found

    return call
