"""Sub-centroids choose their number: the true one, within bounds, whatever drifts, and the same on every rank."""

from __future__ import annotations

import csv
import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from otcluster.dnc import DNCHead, Evidence, load_recipe, load_run, train
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.typical import TypicalImages
from otcluster.stores.centroids import CentroidStore
from otcluster.stores.twofold import divide, sides
from tests.dnc.conftest import listing, small, write_images
from tests.dnc.modes import DIM, Case, around, drawn_modes, found, unit
from tests.reducers import run_ranks

QUICK = Evidence(k_max=6, every=2, warmup=4, patience=2)


def test_the_number_of_modes_is_found_from_below_and_above_and_of_uneven_ones():
    cases = [Case(s, k, start=1) for s, k in ((0.5, 1), (1.5, 2), (0.5, 5), (1.5, 10))]  # benchmarks.growth has all numbers
    cases += [Case(1.5, 1, start=4), Case(1.5, 2, start=1, largest=9), Case(1.5, 10, start=1, largest=3)]
    for case, (placed, _) in zip(cases, found(cases, draws=10, steps=500, growth=Evidence()), strict=True):
        assert placed >= 9, case


def drift(k, start, turn, policy, *, steps=300, memory=2000):
    """The numbers over time, (steps, 5), while each mode goes its own way by ``turn(step)`` at a step; memory spans ten."""
    modes = drawn_modes(0.5, k, 5)
    head = DNCHead(DIM, 5, n_subcentroids=start, momentum=0.99, memory=memory, growth=policy)
    generator = torch.Generator().manual_seed(0)
    numbers = []
    for step in range(steps):
        modes = unit(modes + turn(step) * unit(torch.randn(modes.shape, generator=generator)))
        head.observe(*around(modes, torch.ones(k), 40, generator))
        numbers.append(head.n_open)
    return torch.stack(numbers)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize(
    "turn", [lambda step: 0.02, lambda step: 0.1, lambda step: 0.6 * (step % 37 == 36)], ids=["slow", "fast", "jumps"]
)
def test_features_that_drift_do_not_blow_the_number_up(turn, k):
    assert (drift(k, k, turn, Evidence()) == k).all()


def test_what_passes_is_waited_out():
    def jump(step):
        return 0.6 * (step == 29)

    at_once = drift(1, 1, jump, Evidence(every=5, warmup=5, patience=1), steps=60)
    patient = drift(1, 1, jump, Evidence(every=5, warmup=5, patience=3), steps=60)
    assert at_once.max() > 1  # memory holds what was before the jump and what came after: two modes, for ten steps
    assert patient.max() == 1


def test_nothing_changes_in_the_warmup():
    numbers = drift(1, 4, lambda step: 0.0, Evidence(every=5, warmup=20, patience=1), steps=30)
    assert (numbers[:24] == 4).all()
    assert (numbers[24:] < 4).all()


@pytest.mark.parametrize(("k_min", "k_max", "k", "ends"), [(1, 3, 6, 3), (3, 6, 1, 3), (2, 2, 5, 2)])
def test_the_number_stays_within_its_bounds(k_min, k_max, k, ends):
    policy = Evidence(k_min=k_min, k_max=k_max, every=5, warmup=5)
    numbers = drift(k, k_min if k > k_min else k_max, lambda step: 0.0, policy, steps=100)
    assert numbers.min() >= k_min
    assert numbers.max() <= k_max
    assert (numbers[-1] == ends).all()


def test_a_class_of_few_samples_starts_with_what_they_allow_and_keeps_it():
    head = DNCHead(4, 3, n_subcentroids=4, memory=0, growth=QUICK)
    x = torch.randn(85, 4, generator=torch.Generator().manual_seed(0))
    x[3::4] += 50 * torch.eye(4)[0]  # modes that many samples would show
    y = torch.cat([torch.zeros(80, dtype=torch.int64), torch.tensor([1, 1, 1, 2, 2])])
    for _ in range(30):
        head.observe(x, y)
    assert head.n_open[1:].tolist() == [1, 1]
    assert head.store.started.all()


def test_a_subcentroid_that_nothing_comes_to_is_closed():
    head = DNCHead(DIM, 1, n_subcentroids=2, memory=0, momentum=0.9, growth=QUICK)
    modes, generator = drawn_modes(1.5, 2, 1), torch.Generator().manual_seed(0)
    for _ in range(8):
        head.observe(*around(modes, torch.ones(2), 100, generator))
    assert head.n_open.tolist() == [2]
    for _ in range(20):
        head.observe(*around(modes, torch.tensor([1.0, 0.0]), 100, generator))
    assert head.n_open.tolist() == [1]
    assert float(head.subcentroids[head.store.is_open] @ modes[0, 0]) > 0.97


def feed(head, start, stop):
    modes = drawn_modes(1.5, 3, 4)
    for step in range(start, stop):
        head.observe(*around(modes, torch.tensor([1.0, 2.0, 3.0]), 30, torch.Generator().manual_seed(step)))


@pytest.mark.parametrize("at", [5, 9, 14])
def test_stop_save_load_and_go_on_is_the_same_to_the_bit(at):
    whole, first, second = (DNCHead(DIM, 4, n_subcentroids=1, memory=200, momentum=0.9, growth=QUICK) for _ in range(3))
    feed(whole, 0, 40)
    feed(first, 0, at)
    second.load_state_dict(first.state_dict())
    feed(second, at, 40)
    assert whole.n_open.tolist() == [3, 3, 3, 3]
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


def test_forward_changes_nothing_and_never_answers_by_a_closed_subcentroid():
    head = DNCHead(DIM, 4, n_subcentroids=1, memory=200, momentum=0.9, growth=QUICK)
    feed(head, 0, 25)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    x = torch.randn(50, DIM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(head.similarities(x).isfinite(), head.store.is_open.expand(50, 4, 6))
    assert head(x).isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("memory", [0, 200])
def test_ranks_decide_as_one_process_and_are_the_same_to_the_bit(memory):
    modes, rng = drawn_modes(1.5, 3, 4).double(), np.random.default_rng(0)
    batches = []
    for step in range(40):
        x, y = around(modes, torch.tensor([1.0, 2.0, 3.0]), 60, torch.Generator().manual_seed(step))
        order = torch.from_numpy(rng.permutation(len(x)))
        batches.append((x[order], y[order], np.sort(rng.integers(0, len(x) + 1, 2))))

    def learn(reducer, rank=None):
        head = DNCHead(DIM, 4, n_subcentroids=1, memory=memory, momentum=0.9, growth=QUICK).double()
        for x, y, cuts in batches:
            own = slice(None) if rank is None else slice(*[0, *cuts, len(x)][rank : rank + 2])
            head.observe(x[own], y[own], reducer=reducer)
        return head.state_dict()

    whole, ranks = learn(None), run_ranks(3, lambda rank, reducer: learn(reducer, rank))
    assert whole["store.is_open"].sum(dim=1).tolist() == [3, 3, 3, 3]
    for name, value in whole.items():
        assert all(torch.equal(rank[name], ranks[0][name]) for rank in ranks)
        torch.testing.assert_close(ranks[0][name], value, rtol=0, atol=1e-9)


def test_a_division_is_worth_something_only_where_there_are_two():
    generator = torch.Generator().manual_seed(0)
    modes = torch.cat([drawn_modes(0.5, 2, 50), drawn_modes(0.5, 1, 50).expand(50, 2, DIM)])
    x, group = around(modes, torch.ones(2), 32, generator)
    found = divide(x, group, 100, seed=0, reducer=None)
    assert (found.gain[:50] > 0.1).all()  # 32 samples in 64 dimensions are enough
    assert (found.gain[50:] < 0).all()
    means, counts = sides(x, group, found.cuts, None)
    assert counts.sum(dim=1).tolist() == [32] * 100
    assert (torch.einsum("gjd,gmd->gjm", unit(means[:50]), modes[:50]).amax(dim=1) > 0.9).all()


def test_a_thousand_classes_take_no_more_operations_than_ten():
    def n_operations(n_classes):
        head = DNCHead(8, n_classes, n_subcentroids=2, memory=0, growth=Evidence(k_max=4, every=1, warmup=0, patience=99))
        y = torch.arange(n_classes).repeat_interleave(40)
        x = torch.randn(len(y), 8, generator=torch.Generator().manual_seed(0))
        head.observe(x, y)
        with torch.profiler.profile() as profile:
            head.growing.step(head.store, unit(x), y, None)
        return sum(event.count for event in profile.key_averages())

    assert n_operations(1000) <= 2 * n_operations(10)


def test_state_keeps_its_precision_when_weights_lose_theirs():
    head = DNCHead(4, 2, growth=QUICK).half()
    assert head.growing.shares.dtype == head.subcentroids.dtype == torch.float32


def test_a_store_with_room_opens_and_closes():
    store = CentroidStore(n_classes=2, n_centroids=[1, 2], room=3, dim=2)
    assert store.is_open.tolist() == [[True, False, False], [True, True, False]]
    assert "is_open" in store.state_dict()
    is_open = torch.tensor([[True, True, False], [False, True, False]])
    fresh, means = torch.zeros_like(is_open), store.centroids.clone()
    fresh[0, 1], means[0, 1] = True, torch.tensor([0.0, 3.0])
    kept = store.centroids[1, 1].clone()
    store.rearrange(is_open, fresh, means, torch.ones(2, 3))
    assert torch.equal(store.centroids.norm(dim=2) > 0, is_open)
    assert torch.equal(store.centroids[0, 1], torch.tensor([0.0, 1.0]))
    assert torch.equal(store.centroids[1, 1], kept)
    assert torch.equal(store.usage > 0, is_open)
    with pytest.raises(ValueError, match="make it with room="):
        CentroidStore(n_centroids=2, dim=2).rearrange(is_open, fresh, means, torch.ones(2, 3))
    with pytest.raises(ValueError, match="room must be at least 4"):
        CentroidStore(n_centroids=4, dim=2, room=3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k_min": 0}, ValueError, "k_min must be at least 1"),
        ({"k_min": 5, "k_max": 4}, ValueError, "k_max must be at least 5"),
        ({"every": 1.5}, TypeError, "every must be a whole number"),
        ({"least": 1}, ValueError, "least must be at least 2"),
        ({"margin": -0.1}, ValueError, "margin must be finite and not negative"),
        ({"margin": "much"}, TypeError, "margin must be a number"),
    ],
)
def test_impossible_policies_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Evidence(**arguments)
    with pytest.raises(FrozenInstanceError):
        Evidence().k_min = 3
    with pytest.raises(ValueError, match="n_subcentroids must lie from k_min=2 to k_max=16 of the growth, got 1 to 1"):
        DNCHead(4, 2, n_subcentroids=1, growth=Evidence(k_min=2))
    with pytest.raises(ValueError, match="k_max=16 of the growth, got 1 to 17"):
        DNCHead(4, 2, n_subcentroids=[1, 17], growth=Evidence())
    with pytest.raises(TypeError, match="growth must be None or an object such as Evidence"):
        DNCHead(4, 2, growth="evidence")


GROW = ["growth.kind=evidence", "growth.every=2", "growth.warmup=2", "growth.patience=1", "growth.k_max=5"]


def test_a_run_tells_how_many_subcentroids_its_classes_chose(image_folder, tmp_path):
    recipe = small(image_folder, *GROW, "train.epochs=3", "growth.least=2")
    metrics = train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    numbers = run.model.head.n_open.tolist()
    assert metrics["n_subcentroids"] == dict(zip(run.classes, numbers, strict=True))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["n_subcentroids"] == metrics["n_subcentroids"]
    with (tmp_path / "run" / "history.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["subcentroids"]) == pytest.approx(sum(numbers) / 3)
    owned = TypicalImages.load(run.files).sizes
    assert owned.shape == (3, 5)
    assert (owned[~run.model.head.store.is_open] == 0).all()
    before = listing(tmp_path / "run")
    assert train(recipe, tmp_path / "run") == metrics
    assert listing(tmp_path / "run") == before


def test_a_class_may_have_fewer_images_than_it_would_start_with(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", n=4, seed=1)
    for rare in sorted((tmp_path / "train" / "owl").iterdir())[2:]:
        rare.unlink()
    with pytest.raises(DataError, match="class owl has 2 training images, fewer than its 4 sub-centroids"):
        train(small(tmp_path), tmp_path / "fixed")
    assert train(small(tmp_path, *GROW), tmp_path / "run")["n_subcentroids"]["owl"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["head.kind=linear"], "growth.kind=evidence is for head.kind=dnc"),
        (["head.n_subcentroids=17"], "must lie from growth.k_min=1 to growth.k_max=16, got 17"),
        (["growth.k_min=5"], "must lie from growth.k_min=5 to growth.k_max=16, got 4"),
        (["growth.least=1"], "growth.least must be at least 2"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits", ["growth.kind=evidence", *changes])
