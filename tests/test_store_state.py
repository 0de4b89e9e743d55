"""Stop, save, load and go on: nothing of the state of stores and queues is lost."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp

import otcluster as otc

DIM = 5


class Parts(torch.nn.Module):
    """Everything that outlives a step, of every kind."""

    def __init__(self, seed=0):
        super().__init__()
        schedule = otc.CosineMomentum(0.5, 0.99, n_updates=30)
        sizes = {"n_classes": 3, "n_centroids": [2, 4, 3], "dim": DIM, "seed": seed, "momentum": schedule}
        self.plain = otc.CentroidStore(**sizes)
        self.reseed = otc.CentroidStore(**sizes, averaging=otc.SumsAndCounts(), revival=otc.Reseed(below=0.5, patience=2))
        self.split = otc.CentroidStore(**sizes, revival=otc.SplitLargest(below=0.5, patience=2), metric="sqeuclidean")
        self.one_set = otc.CentroidStore(n_centroids=4, dim=DIM, seed=seed)
        self.queue = otc.MemoryQueue(13, DIM, dtype=torch.float16, payloads={"ids": torch.int32})
        self.shared = otc.ClassQueue(13, DIM, n_classes=3, payloads={"ids": torch.int64})

    def step(self, at):
        generator = torch.Generator().manual_seed(at)
        n = int(torch.randint(0, 12, (), generator=generator))
        x, labels = torch.randn(n, DIM, generator=generator), torch.randint(3, (n,), generator=generator)
        for queue in (self.queue, self.shared):
            queue.push(x, labels, ids=torch.arange(n))
        x, labels = self.shared.features, self.shared.labels
        chosen = torch.randint(2, (len(x),), generator=generator)
        for store in (self.plain, self.reseed, self.split):
            store.start(x, labels)
            store.update(x, labels, chosen)
        self.one_set.update(self.queue.features, None, torch.rand(len(self.queue), 4, generator=generator))


def equal(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items()) and one.keys() == two.keys()


@pytest.mark.parametrize("at", [0, 1, 7, 20])
def test_stop_save_load_and_go_on_is_the_same_to_the_bit(at, tmp_path):
    whole, first = Parts(), Parts()
    for step in range(25):
        whole.step(step)
    for step in range(at):
        first.step(step)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Parts(seed=1)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(at, 25):
        second.step(step)
    assert equal(whole.state_dict(), second.state_dict())
    assert torch.equal(whole.queue.payload("ids"), second.queue.payload("ids"))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_holds_all_of_it(tmp_path):
    parts = Parts()
    for step in range(9):
        parts.step(step)
    dcp.save(parts.state_dict(), checkpoint_id=tmp_path / "step", no_dist=True)
    other = Parts(seed=1)
    state = other.state_dict()
    dcp.load(state, checkpoint_id=tmp_path / "step", no_dist=True)
    other.load_state_dict(state)
    assert equal(parts.state_dict(), other.state_dict())
    for each in (parts, other):
        each.step(9)
    assert equal(parts.state_dict(), other.state_dict())


def test_state_is_buffers_and_a_store_of_another_size_is_refused():
    parts = Parts()
    assert not list(parts.parameters())
    with pytest.raises(RuntimeError, match="size mismatch"):
        otc.CentroidStore(n_centroids=5, dim=DIM).load_state_dict(parts.one_set.state_dict())
    assert parts.to("meta").plain.centroids.device.type == "meta"


def test_centroids_of_classes_that_have_fewer_are_refused():
    saved = otc.CentroidStore(n_classes=2, n_centroids=(2, 3), dim=DIM).state_dict()
    other = otc.CentroidStore(n_classes=2, n_centroids=(3, 2), dim=DIM)
    with pytest.raises(RuntimeError, match=r"centroids in other classes than n_centroids=\[3, 2\]"):
        other.load_state_dict(saved)
    same = otc.CentroidStore(n_classes=2, n_centroids=(2, 3), dim=DIM, seed=1)
    same.load_state_dict(saved)
    assert torch.equal(same.centroids, saved["centroids"])
