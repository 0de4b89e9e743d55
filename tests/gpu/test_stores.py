"""Stores and the head on a CUDA device: moved, updated, saved and read elsewhere, under autocast."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import otcluster as otc

pytestmark = pytest.mark.gpu
N, D, CLASSES, K = 300, 16, 5, 4


def batch(seed=0):
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (N,), generator=drawn)
    modes = torch.randn(CLASSES, K, D, generator=torch.Generator().manual_seed(9))
    own = torch.randint(K, (N,), generator=drawn)
    features = modes[labels, own] + 0.3 * torch.randn(N, D, generator=drawn)
    return nn.functional.normalize(features, dim=1), labels, own


def are_one(mine, theirs, atol=1e-5):
    here, there = mine.state_dict(), theirs.state_dict()
    assert here.keys() == there.keys()
    for name, value in here.items():
        torch.testing.assert_close(value.cpu(), there[name].cpu(), rtol=0, atol=atol if value.is_floating_point() else 0)


def saved(module):
    """Through a file, to the host."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


STORES = {
    "means": {},
    "sums": {"averaging": otc.SumsAndCounts()},
    "reseed": {"revival": otc.Reseed()},
    "split": {"revival": otc.SplitLargest()},
    "sqeuclidean": {"metric": "sqeuclidean"},
    "float64": {"dtype": torch.float64},
}


@pytest.mark.parametrize("options", STORES.values(), ids=STORES)
@pytest.mark.parametrize("checked", [True, False])
def test_a_store_moves_as_on_the_host(options, checked, there, stays):
    mine, theirs = (otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5, **options) for _ in range(2))
    mine = there(mine)
    for step in range(4):
        features, labels, own = batch(step)
        if step == 0:  # once: its draws follow from the bytes of unit vectors, and their last bits from the device
            theirs.start(features, labels)
            mine.load_state_dict(theirs.state_dict())
        for store, place in ((mine, there), (theirs, lambda value: value)):
            store.update(place(features), place(labels), place(own), check_values=checked)
    stays(mine.centroids, mine.usage, mine.n_updates)
    are_one(mine, theirs)
    back = otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5, **options)
    back.load_state_dict(saved(mine))
    are_one(back, mine, atol=0)
    again = there(otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5, **options))
    again.load_state_dict(saved(theirs))
    are_one(again, theirs, atol=0)
    stays(again.centroids)


def test_an_update_is_the_same_each_time(there):
    features, labels, own = there(batch())
    found = []
    for _ in range(3):
        store = there(otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5))
        store.update(features, labels, own)
        found.append(store.centroids)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_weights_and_masks(there, stays):
    features, labels, _ = batch()
    plan = torch.rand(N, K, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(N) % 3 > 0
    stores = [otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5) for _ in range(2)]
    there(stores[0])
    for store, place in zip(stores, (there, lambda value: value), strict=True):
        store.update(place(features), place(labels), place(plan), sample_mask=place(mask))
    stays(stores[0].centroids)
    are_one(*stores)


def test_values_that_cannot_be_are_refused(there):
    features, labels, own = there(batch())
    store = there(otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5))
    with pytest.raises(ValueError, match="labels must lie in"):
        store.update(features, labels + 1, own)
    with pytest.raises(ValueError, match="features must be finite"):
        store.update(features * float("nan"), labels, own)


def test_a_store_of_one_device_refuses_another(cuda):
    features, labels, own = batch()
    store = otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5).to(cuda)
    with pytest.raises(ValueError, match="move one to the other"):
        store.update(features, labels, own)


def test_an_update_without_checks_does_not_wait(cuda):
    features, labels, own = (each.to(cuda) for each in batch())
    store = otc.CentroidStore(n_classes=CLASSES, n_centroids=K, dim=D, momentum=0.5).to(cuda)
    queues = [otc.MemoryQueue(64, D).to(cuda), otc.ClassQueue(64, D, n_classes=CLASSES).to(cuda)]

    def step():
        store.update(features, labels, own, check_values=False)
        for queue in queues:
            queue.push(features, labels, check_values=False)

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "make",
    [
        lambda: otc.MemoryQueue(70, D, payloads={"ids": torch.int64}),
        lambda: otc.ClassQueue(70, D, n_classes=CLASSES, payloads={"ids": torch.int64}),
    ],
    ids=["memory", "by class"],
)
def test_queues(make, there, stays):
    mine, theirs = there(make()), make()
    for step in range(3):
        features, labels, _ = batch(step)
        for queue, place in ((mine, there), (theirs, lambda value: value)):
            queue.push(place(features[:47]), place(labels[:47]), ids=place(torch.arange(47) + 100 * step))
    stays(mine.features, mine.labels, mine.payload("ids"))
    held = [(queue.features, queue.labels, queue.payload("ids")) for queue in (mine, theirs)]
    for one, two in zip(*held, strict=True):
        assert torch.equal(one.cpu(), two)
    drawn = mine.sample(5, seed=3)
    stays(drawn.features, drawn.labels)
    assert torch.equal(drawn.features.cpu(), theirs.sample(5, seed=3).features)
    back = make()
    back.load_state_dict(saved(mine))
    assert torch.equal(back.features, theirs.features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None], ids=str)
def test_the_head_under_autocast(dtype, there, stays, device):
    dnc = pytest.importorskip("otcluster.dnc")
    heads = [dnc.DNCHead(D, CLASSES, n_subcentroids=K, momentum=0.9, memory=128) for _ in range(2)]
    heads[0] = there(heads[0])
    linear = there(nn.Linear(D, D))
    for step in range(3):
        features, labels, _ = batch(step)
        if device.type == "cpu" and dtype is torch.float16:
            pytest.skip("hosts have no autocast to float16 for all operations")
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            made = linear(there(features))
            assert made.dtype == (dtype or torch.float32)
            logits = heads[0](made)
            assert logits.dtype == torch.float32
            loss = nn.functional.cross_entropy(logits, there(labels))
        loss.backward()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            heads[0].observe(made.detach(), there(labels))
        heads[1].observe(made.detach().cpu(), labels)
        if step == 0:  # the draws of a start follow from the bytes of unit vectors, and their last bits from the device
            assert bool(heads[0].store.started.all())
            heads[0].load_state_dict(heads[1].state_dict())
    stays(logits, linear.weight.grad, heads[0].subcentroids)
    assert bool(torch.isfinite(linear.weight.grad).all())
    are_one(*heads, atol=1e-3)
    assert heads[0].subcentroids.dtype == torch.float32
    torch.testing.assert_close(heads[0](made).detach().cpu(), heads[1](made.detach().cpu()), rtol=0, atol=2e-2)
    back = dnc.DNCHead(D, CLASSES, n_subcentroids=K, momentum=0.9, memory=128)
    back.load_state_dict(saved(heads[0]))
    are_one(back, heads[0], atol=0)
