"""The head: modes are found, the nearest sub-centroid decides, and observing is apart from classifying."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import otcluster as otc
from otcluster.dnc import Classifier, DNCHead, LinearHead
from tests.dnc.modes import Case, found
from tests.reducers import outcomes, run_ranks


def test_the_default_head_finds_the_modes_of_a_class():
    cases = [Case(s, k) for s in (0.5, 1.5) for k in (4, 10)]
    for case, (placed, _) in zip(cases, found(cases), strict=True):
        assert placed >= 19, case


def trained_head():
    generator = torch.Generator().manual_seed(0)
    head = DNCHead(8, 5, n_subcentroids=3, momentum=0.9, memory=64)
    for _ in range(5):
        y = torch.randint(5, (40,), generator=generator)
        head.observe(torch.randn(40, 8, generator=generator) + 2 * torch.eye(8)[y], y)
    return head


def test_the_predicted_class_is_that_of_the_nearest_subcentroid():
    head = trained_head()
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    points, centroids = x.double().numpy(), head.subcentroids.double().numpy()
    cosine = np.einsum("nd,ckd->nck", points / np.linalg.norm(points, axis=1, keepdims=True), centroids)
    np.testing.assert_array_equal(head(x).argmax(1).numpy(), cosine.max(2).argmax(1))
    np.testing.assert_allclose(head(x).numpy(), cosine.max(2) / 0.1, atol=1e-5)


def test_forward_changes_nothing_in_any_mode():
    head = trained_head()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    for training in (True, False):
        head.train(training)(torch.randn(7, 8))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_gradients_reach_the_features_and_no_parameter_is_the_heads():
    head = trained_head()
    x = torch.randn(6, 8, requires_grad=True)
    nn.functional.cross_entropy(head(x), torch.tensor([0, 1, 2, 3, 4, 0])).backward()
    assert x.grad.abs().sum() > 0
    assert not list(head.parameters())


def test_a_memory_as_large_as_the_batch_is_no_memory():
    heads = [DNCHead(4, 2, n_subcentroids=2, momentum=0.5, memory=memory) for memory in (0, 20)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x, y = torch.randn(20, 4, generator=generator), torch.randint(2, (20,), generator=generator)
        for head in heads:
            head.observe(x, y)
    torch.testing.assert_close(heads[0].subcentroids, heads[1].subcentroids, rtol=0, atol=1e-6)


def test_memory_lets_small_batches_cluster_as_large_ones():
    small = DNCHead(4, 2, n_subcentroids=4, memory=64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(16):
        small.observe(torch.randn(2, 4, generator=generator), torch.tensor([0, 1]))
    assert small.store.started.all()  # no batch alone held four samples of a class
    assert len(small.memory) == 32


def test_stop_save_load_and_go_on_is_the_same_to_the_bit():
    def feed(head, start, stop):
        for step in range(start, stop):
            generator = torch.Generator().manual_seed(step)
            y = torch.randint(5, (30,), generator=generator)
            head.observe(torch.randn(30, 8, generator=generator), y)

    whole = DNCHead(8, 5, memory=50)
    feed(whole, 0, 12)
    first = DNCHead(8, 5, memory=50)
    feed(first, 0, 5)
    second = DNCHead(8, 5, memory=50, seed=0)
    second.load_state_dict(first.state_dict())
    feed(second, 5, 12)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("solver", [otc.SinkhornKnopp(), otc.LogSinkhorn(), otc.Nearest()], ids=repr)
def test_any_solver_serves(solver):
    head = DNCHead(4, 3, solver=solver, memory=30)
    head.observe(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)
    torch.testing.assert_close(head.subcentroids.norm(dim=-1), torch.ones(3, 4))


@pytest.mark.parametrize(("memory", "steps"), [(50, 100), (0, 20)])
def test_heads_on_uneven_ranks_are_that_of_one_process_and_the_same_to_the_bit(memory, steps):
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(24, 8)), rng.integers(0, 3, 24), np.sort(rng.integers(0, 25, 2))) for _ in range(steps)]

    def learn(reducer, rank=None):
        head = DNCHead(8, 3, n_subcentroids=2, momentum=0.9, memory=memory).double()
        for x, y, cuts in batches:
            own = slice(None) if rank is None else slice(*[0, *cuts, 24][rank : rank + 2])
            head.observe(torch.from_numpy(x[own]), torch.from_numpy(y[own]), reducer=reducer)
        return head.state_dict()

    whole = learn(None)
    ranks = run_ranks(3, lambda rank, reducer: learn(reducer, rank))
    assert any(cuts[0] == 0 or cuts[0] == cuts[1] or cuts[1] == 24 for *_, cuts in batches)  # a rank without samples
    for name, value in whole.items():
        assert all(torch.equal(rank[name], ranks[0][name]) for rank in ranks)
        torch.testing.assert_close(ranks[0][name], value, rtol=0, atol=1e-12)  # sums in another order, a hundred times


def test_what_does_not_fit_on_one_rank_leaves_all_heads_as_they_were():
    def observe(rank, reducer):
        head = DNCHead(2, 2, n_subcentroids=1)
        before = head.state_dict()
        try:
            head.observe(torch.ones(2, 2), torch.tensor([0, 2 * rank]), reducer=reducer)
        finally:
            assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())

    found, _ = outcomes(2, observe)
    assert [type(error) for error in found] == [ValueError, ValueError]
    assert "what another rank gave its head does not fit" in str(found[0])
    assert "labels must lie in [0, 2)" in str(found[1])


def test_half_precision_features_are_compared_in_float32():
    head = trained_head()
    x = torch.randn(6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32
        torch.testing.assert_close(head(x), head(x.clone()))
    assert head(x.half()).dtype == torch.float32
    head.observe(x.half(), torch.zeros(6, dtype=torch.int64))


def test_one_sample_and_no_sample_are_observed():
    head = DNCHead(4, 2, memory=8)
    head.observe(torch.ones(1, 4), torch.tensor([1]))
    head.observe(torch.ones(0, 4), torch.zeros(0, dtype=torch.int64))
    assert head.subcentroids.isfinite().all()


@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        (torch.ones(2, 3), torch.tensor([0, 1]), ValueError, "features must have shape"),
        (torch.ones(2, 4), torch.tensor([0, 2]), ValueError, r"labels must lie in \[0, 2\)"),
        (torch.ones(2, 4), torch.tensor([0.0, 1.0]), TypeError, "labels must be an integer tensor"),
        (torch.full((2, 4), float("nan")), torch.tensor([0, 1]), ValueError, "features must be finite"),
    ],
)
def test_the_head_refuses_what_does_not_fit_and_stays_as_it_was(features, labels, error, message):
    head = DNCHead(4, 2, memory=8)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(error, match=message):
        head.observe(features, labels)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 1, 4)])
def test_features_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"features must have shape \(n, 4\), got \("):
        DNCHead(4, 2)(torch.ones(shape))


@pytest.mark.parametrize("arguments", [{"temperature": 0}, {"momentum": 2}, {"n_subcentroids": 0}, {"memory": -1}])
def test_impossible_heads_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        DNCHead(4, 2, **arguments)
    with pytest.raises(TypeError, match="solver must be a solver"):
        DNCHead(4, 2, solver="nearest")


def test_a_head_that_cannot_observe_is_refused():
    with pytest.raises(TypeError, match="head must have a method observe"):
        Classifier(nn.Flatten(), nn.Linear(4, 3))


def test_a_classifier_is_a_backbone_and_a_head():
    for head in (DNCHead(4, 3), LinearHead(4, 3)):
        model = Classifier(nn.Flatten(), head)
        x = torch.rand(2, 1, 2, 2)
        assert torch.equal(model(x), head(model.features(x)))
        head.observe(model.features(x), torch.tensor([0, 1]))


def test_shares_of_classes_stand_for_the_class_of_the_greatest():
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    shares = torch.softmax(torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    heads = [DNCHead(8, 3, n_subcentroids=2, memory=32) for _ in range(2)]
    heads[0].observe(features, shares)
    heads[1].observe(features, shares.argmax(1))
    assert torch.equal(heads[0].subcentroids, heads[1].subcentroids)
    with pytest.raises(TypeError, match="labels must be an integer tensor"):
        heads[0].observe(features, shares[:, :2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_subcentroids": 0}, ValueError, "n_subcentroids must be at least 1, got 0"),
        ({"n_subcentroids": [1, 2]}, ValueError, "n_subcentroids must be one number, or one for each of 3 classes"),
        ({"n_subcentroids": "4"}, TypeError, "n_subcentroids must be a whole number, got '4'"),
        ({"memory": -1}, ValueError, "memory must be at least 0, got -1"),
        ({"memory": 2.5}, TypeError, "memory must be a whole number, got 2.5"),
        ({"temperature": "0.1"}, TypeError, "temperature must be a positive number, got '0.1'"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, got 1.5"),
    ],
)
def test_arguments_are_named_as_the_head_names_them(arguments, error, message):
    with pytest.raises(error, match=message.replace("[", r"\[")):
        DNCHead(4, 3, **arguments)


def test_features_that_are_no_tensor_are_named():
    with pytest.raises(TypeError, match=r"features must be a tensor of shape \(n, 4\), got ndarray"):
        DNCHead(4, 3)(np.zeros((2, 4)))
