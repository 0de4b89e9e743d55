"""Sub-centroids that are training images: which images, that they stay those images, and that resuming changes nothing."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import nn

from otcluster.dnc import DNCHead, explain, load_recipe, load_run, overview, train
from otcluster.dnc.anchoring import find_anchors
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.progress import Silent
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted
from tests.dnc.conftest import listing, small

ANCHORED = ["train.epochs=3", "explain.anchor_epochs=2"]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 12), st.integers(0, 10**6))
def test_images_are_distinct_and_as_similar_in_all_as_an_assignment_can_make_them(n_classes, k, n, seed):
    generator = torch.Generator().manual_seed(seed)
    head = DNCHead(3, n_classes=n_classes, n_subcentroids=k, memory=0, seed=seed).double()
    features = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (n,), generator=generator)
    found = find_anchors(head, features, labels)
    units = nn.functional.normalize(features, dim=1)
    for label in range(n_classes):
        rows = torch.nonzero(labels == label).flatten()
        chosen = found[label][found[label] >= 0]
        assert len(set(chosen.tolist())) == len(chosen) == min(k, len(rows))
        assert set(chosen.tolist()) <= set(rows.tolist())
        cosines = (units[rows] @ head.subcentroids[label].T).numpy()
        best = cosines[linear_sum_assignment(cosines, maximize=True)].sum()
        ours = sum(float(units[row] @ head.subcentroids[label, at]) for at, row in enumerate(found[label].tolist()) if row >= 0)
        assert ours == pytest.approx(best, abs=1e-9)


def test_closed_places_get_no_image():
    head = DNCHead(2, n_classes=2, n_subcentroids=[1, 3], memory=0)
    found = find_anchors(head, torch.eye(2)[torch.tensor([0, 1, 0, 1, 0])], torch.tensor([0, 1, 1, 1, 0]))
    assert found[0, 1:].tolist() == [-1, -1]
    assert sorted(found[1].tolist()) == [1, 2, 3]


def test_placing_asks_for_a_feature_for_each_that_there_is():
    head = DNCHead(2, n_classes=2, n_subcentroids=[1, 2])
    head.place(torch.tensor([[True, False], [False, True]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    torch.testing.assert_close(head.subcentroids[0, 0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(head.subcentroids[1, 1], torch.tensor([0.0, 1.0]))
    assert head.store.started.tolist() == [True, True]
    with pytest.raises(ValueError, match=r"with 2 of them True, one for each feature, got shape \(2, 2\) with 1"):
        head.place(torch.tensor([[True, False], [False, False]]), torch.eye(2))
    with pytest.raises(ValueError, match="chooses others"):
        head.place(torch.tensor([[False, True], [False, False]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match="features must have shape"):
        head.place(torch.tensor([[True, False], [False, False]]), torch.ones(1, 3))


@pytest.mark.parametrize("changes", [[], ["train.ema=0.5"], ["train.precision=64-true"], ["head.metric=sqeuclidean"]], ids=str)
def test_subcentroids_are_the_features_of_distinct_training_images(image_folder, tmp_path, changes):
    metrics = train(small(image_folder, *ANCHORED, *changes), tmp_path / "run")
    assert metrics["anchoring"]["epochs"] == 2
    assert metrics["anchoring"]["after"] == metrics["test"]["accuracy"]
    assert all(0 <= metrics["anchoring"][when] <= 1 for when in ("before", "tied"))
    run = load_run(tmp_path / "run")
    typical, split = TypicalImages.load(run.files), run.load_train()
    found = evaluate(run.model, split, run.recipe.data)
    at = {int(index): row for row, index in enumerate(found.indices)}
    places = torch.nonzero(run.model.head.store.is_open).tolist()
    images = [int(typical.indices[typical.anchor(label, place)]) for label, place in places]
    assert len(set(images)) == len(images) == 12
    features = found.features[[at[image] for image in images]].to(run.model.head.subcentroids.dtype)
    expected = features if "head.metric=sqeuclidean" in changes else nn.functional.normalize(features, dim=1)
    torch.testing.assert_close(run.model.head.subcentroids.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)
    assert split.labels[images].tolist() == sorted(split.labels[images].tolist())


def test_they_are_named(image_folder, tmp_path):
    train(small(image_folder, *ANCHORED), tmp_path / "run")
    run = load_run(tmp_path / "run")
    told = overview(run)
    names = run.load_train().names
    anchors = [each.anchor for each in told.subcentroids]
    assert set(anchors) <= set(names)
    assert len(set(anchors)) == 12
    assert [each.anchor for each in told.subcentroids] == [each["anchor"] for each in told.as_dict()["subcentroids"]]
    anchor = anchors[0]
    (found,) = explain(run, [run.load_train().read(names.index(anchor))])
    assert found.alternatives[0].cosine == pytest.approx(1, abs=1e-5)
    assert found.nearest[0][0] == anchor


def test_without_they_are_no_images(small_run):
    run = load_run(small_run / "run")
    assert "anchoring" not in json.loads((small_run / "run" / "metrics.json").read_text())
    assert {each.anchor for each in overview(run).subcentroids} == {None}
    assert TypicalImages.load(run.files).anchors.tolist() == [-1] * 36


class Stop(Silent):
    """Sends a signal after a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, *args, **kwargs):
        if step == self.at:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("changes", [(), ("train.ema=0.5",)], ids=["plain", "averaged"])
def test_stopped_anywhere_it_ends_the_same(image_folder, tmp_path, changes):
    recipe = small(image_folder, *ANCHORED, "explain.images_per_subcentroid=3", *changes)
    steps = train(recipe, tmp_path / "whole")["steps"] // 3
    for at in (steps - 1, steps, steps + 2, 2 * steps, 3 * steps):  # before, at the border, within, at the next, at the end
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "run", progress=Stop(at))
    train(recipe, tmp_path / "run")
    ended, whole = listing(tmp_path / "run"), listing(tmp_path / "whole")
    weights = [name for name in whole if name.endswith(("model.safetensors", "history.csv", "index.safetensors", "index.json"))]
    assert len(weights) >= 4
    for name in weights:
        if name in ended:
            assert ended[name] == whole[name], name
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == (
        tmp_path / "whole" / "checkpoints" / "latest"
    ).read_text()
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text())["anchoring"] for name in ("run", "whole"))
    assert first == second


def test_a_tenth_of_the_epochs_unless_said_otherwise(image_folder, tmp_path):
    assert load_recipe("digits").anchor_epochs == 2
    assert load_recipe("digits", ["train.epochs=100"]).anchor_epochs == 10
    assert load_recipe("digits", ["train.epochs=9"]).anchor_epochs == 0
    assert load_recipe("digits", ["explain.anchor_epochs=0"]).anchor_epochs == 0
    assert load_recipe("digits", ["head.kind=linear"]).anchor_epochs == 0
    with pytest.raises(RecipeError, match=r"lie from 0 to less than train.epochs=25, got 25"):
        load_recipe("digits", ["explain.anchor_epochs=25"])
    with pytest.raises(RecipeError, match="got -1"):
        load_recipe("digits", ["explain.anchor_epochs=-1"])
    with pytest.raises(RecipeError, match=r"is for head.kind=dnc, got head.kind=linear"):
        load_recipe("digits", ["explain.anchor_epochs=1", "head.kind=linear"])


def test_a_run_goes_on_only_with_as_many_anchored_epochs(image_folder, tmp_path):
    with pytest.raises(Interrupted):
        train(small(image_folder, *ANCHORED), tmp_path / "run", progress=Stop(3))
    with pytest.raises(RunError, match=r"explain.anchor_epochs is 2 there and 1 here"):
        train(small(image_folder, "train.epochs=3", "explain.anchor_epochs=1"), tmp_path / "run")
    metrics = train(small(image_folder, *ANCHORED), tmp_path / "run")
    assert metrics["anchoring"]["epochs"] == 2


def test_broken_images_are_no_anchors(image_folder, tmp_path):
    for name in ("000", "001"):
        (image_folder / "train" / "cat" / f"{name}.png").write_bytes(b"no picture")
    train(small(image_folder, *ANCHORED, "data.broken=skip"), tmp_path / "run")
    told = overview(load_run(tmp_path / "run"))
    assert not {each.anchor for each in told.subcentroids} & {"cat/000.png", "cat/001.png", None}


def test_a_class_that_grew_keeps_its_places(image_folder, tmp_path):
    growth = ["growth.kind=evidence", "growth.warmup=2", "growth.every=1", "growth.k_max=4", "head.n_subcentroids=2"]
    train(small(image_folder, *ANCHORED, *growth), tmp_path / "run")
    run = load_run(tmp_path / "run")
    is_open, typical = run.model.head.store.is_open, TypicalImages.load(run.files)
    anchored = np.array([[typical.anchor(label, at) is not None for at in range(4)] for label in range(3)])
    np.testing.assert_array_equal(anchored, is_open.numpy())
