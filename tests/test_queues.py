"""Queues: first in first out, of all or of each class, and only what is filled is ever seen."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import otcluster as otc

CAPACITY, DIM, CLASSES = 6, 2, 3


class Machine(RuleBasedStateMachine):
    """A queue against deques, through pushes of any length, reloads and samples."""

    def __init__(self):
        super().__init__()
        self.queue, self.next = self.make(), 0
        self.held = {label: deque(maxlen=self.room) for label in range(CLASSES)}
        self.all = deque(maxlen=self.room)

    @rule(labels=st.lists(st.integers(0, CLASSES - 1), max_size=14))
    def push(self, labels):
        n = len(labels)
        ids = torch.arange(self.next, self.next + n)
        self.next += n
        features = (ids + 1.0)[:, None].repeat(1, DIM)
        self.queue.push(features, torch.tensor(labels, dtype=torch.int64), ids=ids)
        for label, value in zip(labels, ids.tolist(), strict=True):
            self.held[label].append((value, label))
            self.all.append((value, label))

    @rule()
    def reload(self):
        other = self.make()
        other.load_state_dict(self.queue.state_dict())
        self.queue = other

    @rule(seed=st.integers(0, 5), part=st.floats(0, 1))
    def sample(self, seed, part):
        n = int(part * len(self.queue))
        drawn = self.queue.sample(n, seed=seed)
        ids = drawn.payloads["ids"].tolist()
        assert len(set(ids)) == n
        assert set(zip(ids, drawn.labels.tolist(), strict=True)) <= set(self.expected())
        assert drawn.features[:, 0].tolist() == [value + 1 for value in ids]

    @invariant()
    def holds_what_the_deques_hold(self):
        expected = self.expected()
        assert self.queue.payload("ids").tolist() == [value for value, _ in expected]
        assert self.queue.labels.tolist() == [label for _, label in expected]
        assert self.queue.features[:, 1].tolist() == [value + 1 for value, _ in expected]
        assert len(self.queue) == len(expected)
        assert self.queue.ready == (len(expected) >= 4)


class MemoryQueueMachine(Machine):
    room = CAPACITY

    def make(self):
        return otc.MemoryQueue(CAPACITY, DIM, payloads={"ids": torch.int64}, ready_at=4)

    def expected(self):
        return list(self.all)


class ClassQueueMachine(Machine):
    room = CAPACITY // CLASSES

    def make(self):
        return otc.ClassQueue(CAPACITY + 1, DIM, n_classes=CLASSES, payloads={"ids": torch.int64}, ready_at=4)

    def expected(self):
        return sorted(pair for held in self.held.values() for pair in held)


TestMemoryQueue = MemoryQueueMachine.TestCase
TestClassQueue = ClassQueueMachine.TestCase
# Twelve pushes of up to 14 go round a room of 6 many times.
TestMemoryQueue.settings = TestClassQueue.settings = settings(stateful_step_count=12)


def test_a_rare_class_keeps_its_samples():
    rare = otc.ClassQueue(8, 1, n_classes=2)
    common = otc.MemoryQueue(8, 1)
    for queue in (rare, common):
        queue.push(torch.tensor([[7.0]]), torch.tensor([1]))
        for step in range(20):
            queue.push(torch.full((5, 1), float(step)), torch.zeros(5, dtype=torch.int64))
    assert rare.labels.tolist() == [1, 0, 0, 0, 0]
    assert 1 not in common.labels


def test_a_class_queue_gives_out_its_features_by_class():
    queue, labels = otc.ClassQueue(9, 2, n_classes=3), torch.tensor([0, 2, 2, 0, 2, 2, 2])
    queue.push(torch.arange(14.0).view(7, 2), labels)
    features, is_there = queue.by_class()
    assert is_there.sum(dim=1).tolist() == [2, 0, 3]
    for label in range(3):
        expected = queue.features[queue.labels == label]
        assert sorted(features[label][is_there[label]].tolist()) == sorted(expected.tolist())


def test_a_queue_is_ready_when_it_is_full_unless_told_otherwise():
    queue = otc.MemoryQueue(3, 1)
    for expected in (False, False, True, True):
        queue.push(torch.ones(1, 1))
        assert queue.ready is expected
    assert otc.MemoryQueue(3, 1, ready_at=0).ready


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_and_payloads_keep_the_dtypes_of_the_queue(dtype):
    queue = otc.MemoryQueue(4, 2, dtype=dtype, payloads={"score": torch.float64, "seen": torch.bool, "ids": torch.int32})
    queue.push(torch.rand(3, 2), score=torch.rand(3), seen=torch.tensor([True, False, True]), ids=torch.arange(3))
    assert queue.features.dtype == dtype
    assert [queue.payload(name).dtype for name in ("score", "seen", "ids")] == [torch.float64, torch.bool, torch.int32]
    assert queue.payload("seen").tolist() == [True, False, True]


def test_samples_are_drawn_by_their_seed_and_never_touch_the_global_state():
    queue = otc.MemoryQueue(50, 1)
    queue.push(torch.arange(50.0)[:, None])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, same, other = (queue.sample(20, seed=seed).features for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(queue.sample(20, seed=generator).features, one)
    assert not torch.equal(queue.sample(20, seed=generator).features, one)
    with pytest.raises(ValueError, match="n must be at most 50"):
        queue.sample(51, seed=0)


def test_a_class_queue_needs_labels_that_it_has_room_for():
    queue = otc.ClassQueue(4, 1, n_classes=2)
    with pytest.raises(ValueError, match="labels are needed"):
        queue.push(torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
        queue.push(torch.ones(1, 1), torch.tensor([2]))
    queue.push(torch.ones(3, 1), torch.tensor([2, 1, -1]), check_values=False)
    assert queue.labels.tolist() == [1]  # unseen, what is out of range is left out
    with pytest.raises(ValueError, match="capacity must be at least 3"):
        otc.ClassQueue(2, 1, n_classes=3)


@pytest.mark.parametrize("make", [lambda: otc.MemoryQueue(4, 2), lambda: otc.ClassQueue(4, 2, n_classes=2)])
def test_a_push_compiles_as_one_graph(make):
    plain, traced = make(), make()
    torch.compiler.reset()
    push = torch.compile(traced.push, fullgraph=True, backend="aot_eager")
    for step in range(3):
        features, labels = torch.rand(5, 2, generator=torch.Generator().manual_seed(step)), torch.arange(5) % 2
        plain.push(features, labels)
        push(features, labels)
    assert all(torch.equal(value, traced.state_dict()[name]) for name, value in plain.state_dict().items())


def test_payloads_that_do_not_fit_are_refused():
    queue = otc.MemoryQueue(4, 2, payloads={"ids": torch.int64})
    x = torch.ones(2, 2)
    with pytest.raises(TypeError, match=r"payloads must be \['ids'\], as the queue was made, got \[\]"):
        queue.push(x)
    with pytest.raises(TypeError, match="got \\['ids', 'other'\\]"):
        queue.push(x, ids=torch.arange(2), other=torch.arange(2))
    with pytest.raises(TypeError, match="ids must be a tensor, got list"):
        queue.push(x, ids=[1, 2])
    with pytest.raises(ValueError, match=r"ids must have shape \(2,\)"):
        queue.push(x, ids=torch.arange(3))
    with pytest.raises(KeyError, match="no payload 'other'"):
        queue.payload("other")
    for names, error in (({"labels": torch.int64}, ValueError), ({"1": torch.int64}, ValueError), ({"ids": int}, TypeError)):
        with pytest.raises(error, match="payloads must"):
            otc.MemoryQueue(4, 2, payloads=names)
    assert len(queue) == 0


def test_what_the_queue_gives_out_is_a_copy():
    queue = otc.MemoryQueue(2, 1)
    queue.push(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 2]))
    held = queue.features
    queue.push(torch.tensor([[3.0], [4.0]]), torch.tensor([3, 4]))
    assert held.flatten().tolist() == [1, 2]


def test_the_queue_keeps_no_gradient_and_its_own_dtype():
    queue = otc.MemoryQueue(4, 2)
    queue.push(torch.ones(2, 2, dtype=torch.float16, requires_grad=True), torch.tensor([0, 1], dtype=torch.int32))
    assert not queue.features.requires_grad
    assert queue.features.dtype == torch.float32
    assert queue.labels.dtype == torch.int64


def test_labels_may_be_left_out_and_memory_may_be_none():
    queue = otc.MemoryQueue(4, 2)
    queue.push(torch.ones(2, 2))
    assert queue.labels.tolist() == [-1, -1]
    none = otc.MemoryQueue(0, 2)
    none.push(torch.ones(2, 2))
    assert len(none) == 0
    assert none.features.shape == (0, 2)


@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        (torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), ValueError, r"features must have shape \(n, 2\), got \(2, 3\)"),
        (torch.ones(2), None, ValueError, "features must have shape"),
        (torch.ones(2, 2), torch.zeros(3, dtype=torch.int64), ValueError, r"labels must have shape \(2,\)"),
        (torch.ones(2, 2), torch.zeros(2), TypeError, "labels must be an integer tensor, got torch.float32"),
        (torch.ones(2, 2, dtype=torch.int64), None, TypeError, "features must be a floating-point tensor"),
        (np.ones((2, 2)), None, TypeError, "floating-point tensor, got ndarray"),
        (torch.ones(2, 2, device="meta"), None, ValueError, "features are on meta, the queue is on cpu"),
    ],
)
def test_the_queue_refuses_what_does_not_fit_and_stays_as_it_was(features, labels, error, message):
    queue = otc.MemoryQueue(4, 2)
    queue.push(torch.full((1, 2), 7.0), torch.tensor([7]))
    with pytest.raises(error, match=message):
        queue.push(features, labels)
    assert queue.labels.tolist() == [7]


def test_numbers_that_the_dtype_of_the_queue_cannot_hold_are_refused():
    queue = otc.MemoryQueue(4, 2, dtype=torch.float16)
    with pytest.raises(ValueError, match="features must be finite"):
        queue.push(torch.tensor([[1.0, 1e6]]))
    assert len(queue) == 0
    queue.push(torch.tensor([[1.0, 6e4]]))
    assert queue.features.isfinite().all()


@pytest.mark.parametrize(("seed", "error"), [(None, TypeError), (0.5, TypeError), (-1, ValueError)])
def test_seeds_of_samples_are_whole_numbers_or_generators(seed, error):
    queue = otc.MemoryQueue(4, 2)
    queue.push(torch.ones(4, 2), torch.arange(4))
    with pytest.raises(error, match="seed must be"):
        queue.sample(2, seed=seed)
    drawn = [queue.sample(4, seed=np.random.default_rng(3)).labels for _ in range(2)]
    assert torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(("capacity", "dim", "error"), [(-1, 2, ValueError), (2, 0, ValueError), (2.5, 2, TypeError)])
def test_impossible_queues_are_refused(capacity, dim, error):
    with pytest.raises(error):
        otc.MemoryQueue(capacity, dim)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"ready_at": 5}, ValueError),
        ({"ready_at": -1}, ValueError),
        ({"dtype": torch.int64}, TypeError),
        ({"dtype": float}, TypeError),
        ({"payloads": ["ids"]}, TypeError),
    ],
)
def test_queues_that_cannot_be_are_refused(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        otc.MemoryQueue(4, 2, **arguments)
