"""What an update of a store takes: weights, masks, classes of different sizes, schedules, half precision, a compiler."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import otcluster as otc

CLASSES, K, DIM = 5, 3, 6


def draw(n=40, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, DIM, generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return x, labels, torch.randint(-1, K, (n,), generator=generator), torch.rand(n, K, generator=generator, dtype=dtype)


def make(**arguments):
    return otc.CentroidStore(
        **{"n_classes": CLASSES, "n_centroids": K, "dim": DIM, "momentum": 0.8, "dtype": torch.float64, **arguments}
    )


def states_equal(one, two):
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def weighted_loop(store, x, labels, weights):
    """The default step, one centroid after the other."""
    result = store.centroids.clone()
    for c, k in itertools.product(range(CLASSES), range(K)):
        w = weights[labels == c, k]
        if w.sum() > 0:
            result[c, k] = 0.8 * result[c, k] + 0.2 * (w[:, None] * x[labels == c]).sum(0) / w.sum()
    return result if store.metric == "sqeuclidean" else torch.nn.functional.normalize(result, dim=-1)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_weights_are_the_loop_over_classes(metric):
    store, (x, labels, _, weights) = make(metric=metric), draw()
    expected = weighted_loop(store, x, labels, weights)
    store.update(x, labels, weights)
    torch.testing.assert_close(store.centroids, expected, rtol=0, atol=1e-14)
    one_set = make(n_classes=None, metric=metric)
    one_set.centroids.copy_(make().centroids[0])
    twin = make(metric=metric)
    twin.update(x, torch.zeros_like(labels), weights)
    one_set.update(x, None, weights)  # a matrix product there
    torch.testing.assert_close(one_set.centroids, twin.centroids[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("n_classes", [CLASSES, None])
def test_weights_of_one_are_labels(n_classes):
    hard, soft, (x, labels, chosen, _) = make(n_classes=n_classes), make(n_classes=n_classes), draw()
    labels = None if n_classes is None else labels
    hard.update(x, labels, chosen)
    soft.update(x, labels, (chosen[:, None] == torch.arange(K)).to(torch.float64))
    torch.testing.assert_close(hard.state_dict(), soft.state_dict(), rtol=0, atol=1e-14)


def test_a_plan_is_taken_as_it_is():
    store, (x, labels, _, _) = make(), draw()
    points = otc.PointScores(x, store.centroids, metric="cosine")
    plan = otc.solve(otc.Problem(points, groups=labels, n_groups=CLASSES), otc.LogSinkhorn()).plan()
    store.update(x, labels, plan)
    torch.testing.assert_close(
        store.usage, 0.2 * torch.zeros(CLASSES, K).double().index_add_(0, labels, plan), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [CLASSES, None])
def test_what_is_masked_out_counts_for_nothing_whatever_it_is(soft, n_classes):
    x, labels, chosen, weights = draw()
    mask = torch.rand(len(x), generator=torch.Generator().manual_seed(1)) < 0.5
    without, masked = make(n_classes=n_classes), make(n_classes=n_classes)
    assignment = weights if soft else chosen
    without.update(x[mask], None if n_classes is None else labels[mask], assignment[mask])
    x, labels, assignment = x.clone(), labels.clone(), assignment.clone()
    x[~mask], labels[~mask], assignment[~mask] = torch.nan, 255, 99
    masked.update(x, None if n_classes is None else labels, assignment, sample_mask=mask)
    torch.testing.assert_close(masked.state_dict(), without.state_dict(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("averaging", [otc.MomentumMean(), otc.SumsAndCounts()], ids=repr)
def test_classes_are_stores_of_their_own(averaging):
    together = make(averaging=averaging)
    apart = [make(n_classes=None, averaging=averaging) for _ in range(CLASSES)]
    for store, centroids in zip(apart, together.centroids, strict=True):
        store.centroids.copy_(centroids)
    for step in range(4):
        x, labels, chosen, _ = draw(12, seed=step)
        together.update(x, labels, chosen)
        for c, store in enumerate(apart):
            store.update(x[labels == c], None, chosen[labels == c])
    for name in ("centroids", "usage", "age"):
        torch.testing.assert_close(getattr(together, name), torch.stack([getattr(each, name) for each in apart]))


def test_classes_may_have_different_numbers_of_centroids():
    sizes = [1, 3, 2, 3, 1]
    store, (x, labels, _, _) = make(n_centroids=sizes), draw(200)
    assert store.is_open.sum(1).tolist() == sizes
    assert store.start(x, labels).all()
    problem = otc.Problem(
        otc.PointScores(x, store.centroids, metric="cosine"),
        cluster_share=store.is_open.double(), groups=labels, n_groups=CLASSES,
    )  # fmt: skip
    store.update(x, labels, otc.solve(problem, otc.LogSinkhorn()))
    assert torch.equal(store.centroids.norm(dim=-1) > 0, store.is_open)
    assert torch.equal(store.usage > 0, store.is_open)
    assert (store.usage_statistics().perplexity <= torch.tensor(sizes) + 1e-9).all()
    before = store.centroids.clone()
    with pytest.raises(ValueError, match="a centroid that class 0 does not have: it has 1"):
        store.update(x[:1], torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="a centroid that class 4 does not have"):
        store.update(x[:1], torch.tensor([4]), torch.tensor([[0.5, 0.0, 0.5]]))
    assert torch.equal(store.centroids, before)
    with pytest.raises(ValueError, match="one for each of 5 classes, got 2"):
        make(n_centroids=[1, 2])


def test_momentum_may_follow_a_schedule():
    schedule = otc.CosineMomentum(0.5, 1.0, n_updates=4)
    store = make(metric="sqeuclidean", momentum=schedule)
    expected = store.centroids[0, 0].clone()
    for step in range(6):
        x = draw(1, seed=step)[0]
        store.update(x, torch.tensor([0]), torch.tensor([0]))
        momentum = 1 - 0.25 * (np.cos(np.pi * min(step, 4) / 4) + 1)
        expected = momentum * expected + (1 - momentum) * x[0]
    torch.testing.assert_close(store.centroids[0, 0], expected, rtol=0, atol=1e-14)
    by_hand = make(metric="sqeuclidean", momentum=lambda done: 1 - 0.25 * (torch.cos(torch.pi * done.clamp(max=4) / 4) + 1))
    for step in range(6):
        by_hand.update(draw(1, seed=step)[0], torch.tensor([0]), torch.tensor([0]))
    torch.testing.assert_close(by_hand.centroids, store.centroids, rtol=0, atol=1e-7)  # that lambda counts in float32
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\], and its schedule gave 2"):
        make(momentum=lambda done: done + 2).update(x, torch.tensor([0]), torch.tensor([0]))
    for arguments in ({"first": 2.0}, {"last": -1.0}, {"n_updates": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            otc.CosineMomentum(**{"first": 0.5, "last": 1.0, "n_updates": 3, **arguments})


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_sums_and_counts_are_the_recursion_of_vector_quantisation(metric):
    store = make(metric=metric, averaging=otc.SumsAndCounts())
    sums, counts = torch.zeros(CLASSES * K, DIM).double(), torch.zeros(CLASSES * K).double()
    for step in range(30):
        x, labels, chosen, _ = draw(60, seed=step)
        place, taken = labels * K + chosen, chosen >= 0
        assert (torch.bincount(labels, minlength=CLASSES) > 0).all()
        sums = 0.8 * sums + 0.2 * torch.zeros_like(sums).index_add_(0, place[taken], x[taken])
        counts = 0.8 * counts + 0.2 * torch.zeros_like(counts).index_add_(
            0, place[taken], torch.ones(int(taken.sum())).double()
        )
        store.update(x, labels, chosen)
        expected = (sums / counts[:, None]).view(CLASSES, K, DIM)
        if metric == "cosine":
            expected = torch.nn.functional.normalize(expected, dim=-1)
        if step > 3:  # all were assigned to by then
            torch.testing.assert_close(store.centroids, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(store.usage.flatten(), counts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_state_stays_in_float32_under_half_precision(dtype):
    x, labels, chosen, weights = draw(dtype=torch.float32)
    x = x.to(dtype)
    plain, mixed = make(dtype=torch.float32), make(dtype=torch.float32)
    model = torch.nn.Sequential(mixed).to(dtype)
    for assignment in (chosen, weights):
        plain.update(x.float(), labels, assignment)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model[0].update(x, labels, assignment)
    assert {value.dtype for value in mixed.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert states_equal(plain, mixed)
    assert make(dtype=torch.float32).double().centroids.dtype == torch.float64
    with pytest.raises(ValueError, match=r"dtype must be torch\.float32 or torch\.float64"):
        make(dtype=dtype)


def test_long_sums_keep_their_digits():
    n = 400_000
    x = torch.full((n, 1), 0.1)
    store = otc.CentroidStore(n_centroids=2, dim=1, momentum=0.0, metric="sqeuclidean")
    store.update(x, None, torch.zeros(n, dtype=torch.int64))
    # 4096 equal numbers in turn lose at most 2048 eps, where 400,000 lose a thousandth.
    assert abs(float(store.centroids[0]) / float(x[0]) - 1) <= 2048 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("arguments", [{}, {"averaging": otc.SumsAndCounts(), "revival": otc.Reseed(patience=1)},
                                       {"revival": otc.SplitLargest(patience=1), "momentum": otc.CosineMomentum(0.5, 1.0, 9)}],
                         ids=["default", "reseed", "split"])  # fmt: skip
@pytest.mark.parametrize("soft", [False, True])
def test_an_update_compiles_as_one_graph(soft, arguments):
    plain, traced = make(**arguments), make(**arguments)
    torch.compiler.reset()
    update = torch.compile(traced.update, fullgraph=True, backend="aot_eager")
    for step in range(3):
        x, labels, chosen, weights = draw(seed=step)
        assignment = weights if soft else chosen.clamp(max=1)
        plain.update(x, labels, assignment)
        update(x, labels, assignment)
    torch.testing.assert_close(traced.state_dict(), plain.state_dict(), rtol=0, atol=1e-13)


class Calls(TorchDispatchMode):
    """Counts the operations that torch is asked for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("revival", [None, otc.Reseed(patience=1), otc.SplitLargest(patience=1)], ids=repr)
def test_an_update_is_as_many_kernels_whatever_the_classes(revival):
    found = set()
    for n_classes in (2, 50):
        store = make(n_classes=n_classes, revival=revival)
        x, labels, chosen, weights = draw()
        for assignment in (chosen, weights):
            with Calls() as calls:
                store.update(x, labels % n_classes, assignment, check_values=False)
            found.add((assignment is weights, calls.count))
    assert len(found) == 2


def test_without_looking_what_is_out_of_range_is_left_out():
    store, other = make(), make()
    x, labels, chosen, _ = draw()
    store.update(x, labels, chosen, check_values=False)
    extra = torch.ones(3, DIM, dtype=torch.float64)
    labels, chosen = torch.cat([labels, torch.tensor([-1, CLASSES, 0])]), torch.cat([chosen, torch.tensor([0, 0, K])])
    other.update(torch.cat([x, extra]), labels, chosen, check_values=False)
    assert states_equal(store, other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"sample_mask": torch.ones(40)},
            TypeError,
            "sample_mask must be a boolean tensor, True for what counts, got torch.float32",
        ),
        ({"sample_mask": torch.ones(3, dtype=torch.bool)}, ValueError, r"sample_mask must have shape \(40,\)"),
        ({"assignment": torch.rand(40, 2)}, ValueError, r"assignment must have shape \(40, 3\)"),
        ({"assignment": -torch.rand(40, 3)}, ValueError, "weights that are finite and not negative"),
        ({"assignment": torch.full((40, 3), torch.nan)}, ValueError, "weights that are finite and not negative"),
        ({"assignment": np.zeros(40, np.int64)}, TypeError, "assignment must be an integer tensor, got ndarray"),
        ({"features": torch.full((40, DIM), torch.inf)}, ValueError, "features must be finite"),
        ({"features": torch.full((40, DIM), torch.nan)}, ValueError, "features must be finite"),
    ],
)
def test_what_does_not_fit_leaves_the_store_as_it_was(arguments, error, message):
    store, (x, labels, chosen, _) = make(), draw()
    given = {"features": x, "labels": labels, "assignment": chosen.clamp(min=0), **arguments}
    with pytest.raises(error, match=message):
        store.update(**given)
    assert states_equal(store, make())


def test_policies_that_cannot_be_are_refused():
    for name, policy in (("averaging", otc.SumsAndCounts), ("averaging", "mean"), ("revival", otc.Reseed), ("revival", 3)):
        with pytest.raises(TypeError, match=f"{name} must be None or an object such as"):
            make(**{name: policy})
    for policy in (otc.Reseed, otc.SplitLargest):
        for arguments in ({"below": 0.0}, {"below": 1.0}, {"patience": 0}):
            with pytest.raises(ValueError, match=next(iter(arguments))):
                policy(**arguments)
    with pytest.raises(ValueError, match="distance"):
        otc.SplitLargest(distance=0)
    with pytest.raises(TypeError, match="momentum must be a number"):
        make(momentum="cosine")
