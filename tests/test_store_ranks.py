"""Stores whose samples several ranks share: the centroids of one process, the same on all, and errors on all."""

from __future__ import annotations

import pytest
import torch

import otcluster as otc
from tests.reducers import outcomes, run_ranks

RANKS, CLASSES, K, DIM = 3, 4, 3, 6
POLICIES = {
    "default": {},
    "sums": {"averaging": otc.SumsAndCounts()},
    "reseed": {"averaging": otc.SumsAndCounts(), "revival": otc.Reseed(below=0.3, patience=4)},
    "split": {"revival": otc.SplitLargest(below=0.3, patience=4), "metric": "sqeuclidean"},
}


def make(**arguments):
    return otc.CentroidStore(
        **{"n_classes": CLASSES, "n_centroids": K, "dim": DIM, "momentum": 0.7, "dtype": torch.float64, **arguments}
    )


def draw(step):
    """A global batch, with classes that come and go, and the rank of each sample: some ranks have none."""
    generator = torch.Generator().manual_seed(step)
    n = int(torch.randint(0, 40, (), generator=generator))
    labels = torch.randint(1 + step % CLASSES, (n,), generator=generator)
    x = torch.randn(n, DIM, generator=generator, dtype=torch.float64) + torch.eye(DIM, dtype=torch.float64)[labels]
    chosen = torch.randint(-1, 1 + step % K, (n,), generator=generator)
    share = torch.tensor([0.8, 0.2, 0.0]).roll(step // 7)
    return x, labels, chosen, torch.multinomial(share, max(n, 1), replacement=True, generator=generator)[:n]


def train(store, steps, rank=None, reducer=None):
    for step in range(steps):
        x, labels, chosen, owner = draw(step)
        own = slice(None) if rank is None else owner == rank
        if step > 2:
            store.start(x[own], labels[own], reducer=reducer)
        store.update(x[own], labels[own], chosen[own], sample_mask=x[own, 0] < 1.5, reducer=reducer)
    return store


@pytest.mark.parametrize("policy", POLICIES)
def test_ranks_hold_the_centroids_of_one_process_after_100_uneven_steps(policy):
    whole = train(make(**POLICIES[policy]), 100)
    stores = run_ranks(RANKS, lambda rank, reducer: train(make(**POLICIES[policy]), 100, rank, reducer))
    for store in stores[1:]:
        assert all(torch.equal(value, store.state_dict()[name]) for name, value in stores[0].state_dict().items())
    torch.testing.assert_close(stores[0].state_dict(), whole.state_dict(), rtol=0, atol=1e-10)
    assert whole.started.all()
    if whole.revival is not None:
        assert (whole.age < 100 - 4).any()  # something was revived


def test_an_update_is_one_exchange():
    x, labels, chosen, _ = draw(3)
    _, sizes = outcomes(RANKS, lambda rank, reducer: make().update(x, labels, chosen, reducer=reducer))
    assert sizes == [CLASSES * K * (DIM + 1) + 1]


def test_a_store_saved_on_ranks_goes_on_in_one_process():
    stores = run_ranks(RANKS, lambda rank, reducer: train(make(), 10, rank, reducer))
    alone = make()
    alone.load_state_dict(stores[2].state_dict())
    for store in (alone, whole := train(make(), 10)):
        x, labels, chosen, _ = draw(11)
        store.update(x, labels, chosen)
    torch.testing.assert_close(alone.state_dict(), whole.state_dict(), rtol=0, atol=1e-12)


def test_revival_from_queues_is_the_same_on_all_ranks():
    def run(rank, reducer):
        store = make(revival=otc.Reseed(patience=1))
        queue = otc.MemoryQueue(64, DIM, dtype=torch.float64)
        for step in range(8):
            x, labels, _, owner = draw(step)
            queue.push(x[owner == rank], labels[owner == rank])
        one = torch.ones(1, DIM, dtype=torch.float64)
        store.update(one, torch.tensor([0]), torch.tensor([0]), reducer=reducer)
        return store.revive(queue.features, queue.labels, reducer=reducer), store.centroids

    found = run_ranks(RANKS, run)
    assert found[0][0].any()
    for each in found[1:]:
        assert torch.equal(each[0], found[0][0])
        assert torch.equal(each[1], found[0][1])


FAULTS = [
    ("update", {"assignment": torch.full((5,), K)}, ValueError, "assignment must lie in"),
    *(
        (call, *fault)
        for call in ("update", "start", "revive")
        for fault in (
            ({"labels": torch.full((5,), CLASSES)}, ValueError, "labels must lie in"),
            ({"labels": torch.zeros(4, dtype=torch.int64)}, ValueError, "labels must have shape"),
            ({"features": torch.zeros(5, DIM, dtype=torch.int64)}, TypeError, "features must be a floating-point tensor"),
            ({"features": torch.full((5, DIM), torch.nan)}, ValueError, "features must be finite"),
        )
    ),
]


@pytest.mark.parametrize(("call", "fault", "error", "message"), FAULTS)
def test_an_error_of_one_rank_is_raised_on_all_and_no_store_changes(call, fault, error, message):
    def run(rank, reducer):
        store = make(revival=otc.Reseed(patience=1))
        given = {"features": torch.ones(5, DIM), "labels": torch.arange(5) % 2, "assignment": torch.zeros(5, dtype=torch.int64)}
        given.update(fault if rank == 1 else {})
        if call != "update":
            del given["assignment"]
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(store, call)(**given, reducer=reducer)
        assert all(torch.equal(value, make().state_dict()[name]) for name, value in store.state_dict().items())
        return caught.type, str(caught.value)

    found = run_ranks(RANKS, run)
    assert found[1][0] is error
    assert message in found[1][1]
    for other, text in (found[0], found[2]):
        assert other is ValueError
        assert "another rank" in text or "finite" in text
