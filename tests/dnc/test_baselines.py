"""The heads that DNC is compared with, and the choices inside its own: laws of each, and one epoch of all on the digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import otcluster as otc
from otcluster.dnc import (
    DeepNCMHead,
    DNCHead,
    FixedTemperature,
    KNNHead,
    LearntTemperature,
    LinearHead,
    ScoreNorm,
    SimCLRHead,
    evaluate,
    evaluate_readouts,
    load_recipe,
    load_run,
    predict,
    train,
)
from otcluster.dnc.classifier import build_classifier
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.heads import build_head, build_solver
from otcluster.dnc.readouts import READOUT_NAMES
from otcluster.dnc.run import RunFiles
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError
from tests.dnc.conftest import small, write_images
from tests.reducers import outcomes, run_ranks

TINY = ["data.image_size=8", "train.epochs=1", "data.batch_size=128"]
HEADS = {
    "dnc": lambda: DNCHead(8, 3, n_subcentroids=2, momentum=0.9, memory=40),
    "distances": lambda: DNCHead(8, 3, n_subcentroids=2, momentum=0.9, memory=40, metric="sqeuclidean"),
    "deepncm": lambda: DeepNCMHead(8, 3),
    "deepncm-cosine": lambda: DeepNCMHead(8, 3, metric="cosine", averaging=otc.SumsAndCounts()),
    "knn": lambda: KNNHead(8, 3, n_neighbours=5, memory=40),
}


def batches(steps=6, n=24):
    """Features around a mean of their class that is not the origin, labels, and two cuts between ranks."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        y = rng.integers(0, 3, n)
        x = rng.normal(size=(n, 8)) + 3 * np.eye(8)[y] + 1
        yield torch.from_numpy(x), torch.from_numpy(y), np.sort(rng.integers(0, n + 1, 2))


def taught(head, steps=6):
    for x, y, _ in batches(steps):
        head.observe(x.to(next(head.buffers()).dtype), y)
    return head


@pytest.mark.parametrize("name", HEADS)
def test_forward_changes_nothing_and_observe_is_what_learns(name):
    head = taught(HEADS[name]())
    before = {key: value.clone() for key, value in head.state_dict().items()}
    x = torch.cat([x for x, *_ in batches(2)]).float()
    for mode in (True, False):
        assert head.train(mode)(x).shape == (48, 3)
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())
    taught(head, 1)
    assert any(not torch.equal(value, before[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_a_gradient_reaches_the_features_and_logits_are_finite(name):
    for head in (HEADS[name](), taught(HEADS[name]())):  # also before anything was observed
        x = next(batches())[0].float().requires_grad_()
        loss = nn.functional.cross_entropy(head(x), next(batches())[1])
        assert math.isfinite(loss.item())
        loss.backward()
        assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    assert not list(head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_stop_save_load_and_go_on_is_the_same_to_the_bit(name):
    whole, other = taught(taught(HEADS[name]())), HEADS[name]()
    other.load_state_dict(taught(HEADS[name]()).state_dict())
    taught(other)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_heads_on_uneven_ranks_are_that_of_one_process(name):
    def learn(reducer, rank=None):
        head = HEADS[name]().double()
        for x, y, cuts in batches(12):
            own = slice(None) if rank is None else slice(*[0, *cuts, len(x)][rank : rank + 2])
            head.observe(x[own], y[own], reducer=reducer)
        return head.state_dict()

    whole, ranks = learn(None), run_ranks(3, lambda rank, reducer: learn(reducer, rank))
    for key, value in whole.items():
        assert all(torch.equal(rank[key], ranks[0][key]) for rank in ranks)
        torch.testing.assert_close(ranks[0][key], value, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["deepncm", "knn"])
def test_what_does_not_fit_on_one_rank_leaves_all_heads_as_they_were(name):
    def observe(rank, reducer):
        head = HEADS[name]()
        before = {key: value.clone() for key, value in head.state_dict().items()}
        try:
            head.observe(torch.ones(2, 8), torch.tensor([0, 3 * rank]), reducer=reducer)
        finally:
            assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())

    found, _ = outcomes(2, observe)
    assert "what another rank gave its head does not fit" in str(found[0])
    assert "labels must lie in [0, 3)" in str(found[1])


@pytest.mark.parametrize("name", HEADS)
def test_half_precision_is_compared_in_float32_and_wrong_shapes_are_named(name):
    head = taught(HEADS[name]())
    x = next(batches())[0].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32
    assert head(x.half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"features must have shape \(n, 8\), got \(2, 3\)"):
        head(torch.ones(2, 3))


def test_deepncm_is_a_running_mean_of_each_class_and_the_posterior_of_gaussians():
    head = DeepNCMHead(8, 3, momentum=0.75).double()
    means = None
    for x, y, _ in batches(9):
        head.observe(x, y)
        now = torch.stack([x[y == label].mean(0) for label in range(3)])
        # It starts at a sample of each class, which the first update has moved.
        means = head.subcentroids[:, 0].clone() if means is None else 0.75 * means + 0.25 * now
        torch.testing.assert_close(head.subcentroids[:, 0], means)
    x = next(batches())[0]
    gaussians = [torch.distributions.MultivariateNormal(mean, torch.eye(8).double()) for mean in means]
    log = torch.stack([each.log_prob(x) for each in gaussians], dim=1)
    torch.testing.assert_close(head(x).log_softmax(1), log.log_softmax(1))


def test_means_of_all_samples_weigh_them_alike():
    head = DeepNCMHead(1, 2, momentum=1 - 1e-9, averaging=otc.SumsAndCounts()).double()
    rng, seen = np.random.default_rng(0), []
    for n in (1, 5, 30):  # batches of very different sizes
        x = torch.from_numpy(rng.normal(size=(n, 1)))
        seen.append(x)
        head.observe(x, torch.zeros(n, dtype=torch.int64))
    torch.testing.assert_close(head.subcentroids[0, 0], torch.cat(seen).mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.003])  # exp(2 / 0.003) and its inverse are no numbers
def test_knn_loses_by_neighbourhood_components_and_predicts_by_the_nearest(temperature):
    head = taught(KNNHead(8, 3, n_neighbours=7, memory=60, temperature=temperature).double())
    x, y = (torch.cat(column) for column in zip(*[(x, y) for x, y, _ in batches(2)], strict=True))
    unit = nn.functional.normalize(x, dim=1)
    cosine = unit @ head.memory.features.T
    assert len(head.memory) == 60
    same = head.memory.labels == y[:, None]
    nca = (cosine / temperature).logsumexp(1) - (cosine / temperature).masked_fill(~same, -torch.inf).logsumexp(1)
    found = nn.functional.cross_entropy(head(x), y, reduction="none")
    torch.testing.assert_close(found, nca)

    near = cosine.topk(7, dim=1)
    weights = torch.exp((near.values - near.values[:, :1]) / temperature)
    votes = torch.zeros(len(x), 3).double().scatter_add(1, head.memory.labels[near.indices], weights)
    assert torch.equal(head.eval()(x).argmax(1), votes.argmax(1))
    assert head(x).isfinite().all()


def test_nearest_in_place_of_sinkhorn_is_k_means():
    """One step of Lloyd's with momentum, on the directions of a class: no shares are balanced."""
    assert build_solver(load_recipe("digits", ["solver.kind=nearest"]).solver) == otc.Nearest()
    head = DNCHead(4, 1, n_subcentroids=3, momentum=0.5, memory=0, solver=otc.Nearest()).double()
    rng = np.random.default_rng(0)
    labels = torch.zeros(90, dtype=torch.int64)
    modes = np.array([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]])
    for step in range(5):
        before = head.subcentroids[0].clone()
        x = nn.functional.normalize(torch.from_numpy(rng.normal(size=(90, 4)) + modes[rng.choice(3, 90, p=[0.8, 0.1, 0.1])]))
        head.observe(x, labels)
        if step == 0:
            continue  # it started from these features
        nearest = torch.cdist(x, before).argmin(1)
        for k in range(3):
            moved = (before[k] + x[nearest == k].mean(0)) / 2 if (nearest == k).any() else before[k]
            torch.testing.assert_close(head.subcentroids[0, k], moved / moved.norm())
    assert head.store.usage[0].max() > 2 * head.store.usage[0].min()


def test_distances_decide_by_the_nearest_subcentroid_and_their_length_is_kept():
    head = taught(HEADS["distances"]())
    x = torch.cat([x for x, *_ in batches(4)]).float()
    square = torch.cdist(x, head.subcentroids.flatten(0, 1)).square().view(-1, 3, 2)
    torch.testing.assert_close(head(x), -square.amin(2) / 2, rtol=1e-4, atol=1e-4)
    assert head.subcentroids.norm(dim=-1).min() > 1.5


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_own_similarities_are_those_to_the_subcentroids_of_the_class(metric):
    head = taught(DNCHead(8, 3, n_subcentroids=[1, 3, 2], momentum=0.9, memory=40, metric=metric))
    x, y, _ = next(batches())
    whole = head.similarities(x.float())[torch.arange(len(y)), y]
    torch.testing.assert_close(head.own_similarities(x.float(), y), whole, rtol=1e-4, atol=1e-4)
    assert whole[y == 0].isinf().sum() == 2 * (y == 0).sum()


def test_temperatures_keep_the_rule_of_the_nearest_and_score_norm_may_not():
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    for scaling in (FixedTemperature(0.2), LearntTemperature(0.2)):
        torch.testing.assert_close(scaling(scores), scores / 0.2)
    learnt = LearntTemperature(0.2)
    nn.functional.cross_entropy(learnt(scores), scores.argmax(1)).backward()
    assert learnt.log_temperature.grad > 0  # right everywhere: colder is better
    norm = ScoreNorm(4)
    assert torch.equal(norm(scores).argmax(1), scores.argmax(1))  # as it begins
    with torch.no_grad():
        norm.bias[2] = 5.0
    assert not torch.equal(norm(scores).argmax(1), scores.argmax(1))
    for wrong in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            LearntTemperature(wrong)


@pytest.mark.parametrize(
    ("changes", "kind"), [("temperature", FixedTemperature), ("learnt", LearntTemperature), ("layer_norm", ScoreNorm)]
)
def test_the_scaling_is_a_key_of_the_recipe_and_is_trained_and_loaded(image_folder, tmp_path, changes, kind):
    train(small(image_folder, f"head.scaling={changes}", "optim.lr=0.01"), tmp_path / "run")
    head = load_run(tmp_path / "run").model.head
    assert type(head.scaling) is kind
    fresh = build_classifier(small(image_folder, f"head.scaling={changes}"), 3).head
    for name, value in head.named_parameters():
        assert not torch.equal(value, fresh.get_parameter(name))


def test_both_a_scaling_and_a_temperature_are_refused():
    with pytest.raises(ValueError, match="scaling must be None where temperature is given"):
        DNCHead(4, 2, temperature=0.1, scaling=FixedTemperature(0.1))


@pytest.mark.parametrize(
    ("changes", "metric", "temperature"),
    [
        (["head.kind=dnc"], "cosine", 0.1),
        (["head.kind=dnc", "head.metric=sqeuclidean"], "sqeuclidean", 1.0),
        (["head.kind=deepncm"], "sqeuclidean", 1.0),
        (["head.kind=deepncm", "head.metric=cosine", "head.temperature=0.05"], "cosine", 0.05),
    ],
)
def test_metric_and_temperature_are_those_of_the_method_unless_they_are_given(changes, metric, temperature):
    head = build_head(load_recipe("digits", changes), 8, 3)
    assert (head.store.metric, head.scaling.temperature) == (metric, temperature)
    assert head.store.momentum == 0.99


def test_what_is_usual_may_be_said_or_not(small_run):
    same = small(small_run / "images", "head.metric=cosine", "head.temperature=0.1")
    RunFiles(small_run / "run").check(same)
    with pytest.raises(RunError, match=r"head\.temperature is 0\.1 there and 1\.0 here"):
        RunFiles(small_run / "run").check(small(small_run / "images", "head.temperature=1"))


def test_classes_have_subcentroids_by_their_size(tmp_path):
    for name, n in (("cat", 16), ("dog", 8), ("owl", 3)):
        write_images(tmp_path / "images" / "train", classes=(name,), n=n)
    write_images(tmp_path / "images" / "test", n=2, seed=1)
    with pytest.raises(DataError, match="class owl has 3 training images, fewer than its 4 sub-centroids"):
        train(small(tmp_path / "images"), tmp_path / "equal")
    train(small(tmp_path / "images", "head.allocation=by_size"), tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.model.head.store.is_open.sum(1).tolist() == [4, 2, 1]
    sizes = TypicalImages.load(run.files).sizes
    assert sizes.sum(1).tolist() == [16, 8, 3]
    assert not sizes[~run.model.head.store.is_open].any()
    with pytest.raises(RecipeError, match=r"head\.allocation=by_size needs the sizes of the classes"):
        build_head(run.recipe, 8, 3)


def test_mistakes_in_recipes_of_heads_are_named():
    for changes, message in (
        (["head.kind=knn", "memory.capacity=0"], "needs a memory"),
        (["head.kind=knn", "head.metric=sqeuclidean"], r"head\.metric=cosine \(or null\)"),
        (["head.metric=l1"], r"head\.metric must be one of null, cosine, sqeuclidean, got 'l1'"),
        (["head.temperature=0"], r"head\.temperature must be null or positive"),
        (["head.n_neighbours=0"], r"head\.n_neighbours must be at least 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe("digits", changes)


RIVALS = [
    ["head.kind=linear"],
    ["head.kind=dnc"],
    ["head.kind=deepncm"],
    ["head.kind=knn"],
    ["head.kind=simclr"],
    ["solver.kind=nearest"],
    ["head.metric=sqeuclidean", "solver.epsilon=5"],
    ["head.allocation=by_size", "head.averaging=sums_and_counts"],
    ["head.scaling=learnt"],
    ["head.scaling=layer_norm"],
    ["backbone.frozen=true"],
]


@pytest.mark.parametrize("changes", RIVALS, ids=" ".join)
def test_every_rival_trains_on_the_digits_and_is_evaluated_by_the_same_code(tmp_path, changes):
    metrics = train(load_recipe("digits", [*TINY, *changes]), tmp_path / "run")
    run = load_run(tmp_path / "run")
    kinds = {"linear": LinearHead, "deepncm": DeepNCMHead, "knn": KNNHead, "simclr": SimCLRHead}
    assert type(run.model.head) is kinds.get(metrics["head"], DNCHead)
    test = evaluate(run.model, run.load_test(), run.recipe.data)
    assert test.metrics(run.classes) == metrics["test"]
    assert metrics["test"]["images"] == 359
    found = evaluate_readouts(run, READOUT_NAMES, test)
    assert min(each["accuracy"] for each in found.values()) > 0.2  # chance is 0.1
    run.load_test().read(0).save(tmp_path / "a.png")
    (found,) = predict(run, [tmp_path / "a.png"])
    assert found.label in run.classes
    assert (found.subcentroid is not None) == isinstance(run.model.head, DNCHead)
    assert (tmp_path / "run" / "subcentroids.png").exists() == isinstance(run.model.head, DNCHead)
