"""Readouts of a run: three classifiers on its features, beside its head; and runs whose backbone stays as it starts."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import evaluate, evaluate_readouts, load_recipe, load_run, train
from otcluster.dnc.classifier import build_classifier
from otcluster.dnc.commands import app
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.readouts import READOUT_NAMES, ClassMeans, Neighbours, SubCentroids, read_out, readout_of
from otcluster.runs.errors import RunError
from tests.dnc.conftest import small, write_images
from tests.dnc.test_baselines import TINY

FROZEN = [*TINY, "backbone.frozen=true"]


def features_of(n, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 6, generator=generator) + 2 * torch.eye(6)[labels]
    return Evaluation(x, torch.zeros(n, 3), labels, torch.arange(n))


def test_readouts_are_what_they_are_called():
    train_part, test_part = features_of(120, 0), features_of(50, 1)
    x, y = nn.functional.normalize(train_part.features), train_part.labels
    new = nn.functional.normalize(test_part.features)
    means = torch.stack([x[y == label].mean(0) for label in range(3)])
    assert torch.equal(read_out(ClassMeans(), train_part, test_part), torch.cdist(new, means).argmin(1))
    votes = nn.functional.one_hot(y[torch.cdist(new, x).topk(7, largest=False).indices], 3).sum(1)
    assert torch.equal(read_out(Neighbours(7), train_part, test_part), votes.argmax(1))
    lone = nn.functional.normalize(means)
    assert torch.equal(read_out(SubCentroids(1), train_part, test_part), (new @ lone.T).argmax(1))


def test_lengths_of_features_say_nothing():
    train_part, test_part = features_of(90, 0), features_of(40, 1)
    longer = Evaluation(test_part.features * 10, test_part.logits, test_part.labels, test_part.indices)
    for readout in (ClassMeans(), Neighbours(5), SubCentroids(3)):
        assert torch.equal(read_out(readout, train_part, longer), read_out(readout, train_part, test_part))


def test_few_images_and_none_are_read_out():
    few, nothing = features_of(3, 0), features_of(0, 0)
    few = Evaluation(few.features, few.logits, torch.arange(3), few.indices)
    for readout in (ClassMeans(), Neighbours(20), SubCentroids(4)):
        assert read_out(readout, few, features_of(5, 1)).shape == (5,)
        assert read_out(readout, few, nothing).shape == (0,)
        with pytest.raises(RunError, match="no training features"):
            read_out(readout, nothing, few)


def test_numbers_are_those_of_the_recipe():
    recipe = load_recipe("digits", ["head.n_neighbours=3", "head.n_subcentroids=7"])
    assert [readout_of(name, recipe) for name in READOUT_NAMES] == [ClassMeans(), Neighbours(3), SubCentroids(7)]


def test_any_run_is_read_out_beside_its_head(small_run):
    run = load_run(small_run / "run")
    found = evaluate_readouts(run, READOUT_NAMES)
    test = evaluate(run.model, run.load_test(), run.recipe.data)
    assert evaluate_readouts(run, ["ncm"], test) == {"ncm": found["ncm"]}
    printed = CliRunner().invoke(app, ["eval", str(small_run / "run"), "--readout", "knn", "--readout", "ncm"])
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.splitlines()
    assert lines[-3].startswith(f"test accuracy {test.metrics(run.classes)['accuracy']:.4f} on 12 images, of")
    for line, name in zip(lines[-2:], ["knn", "ncm"], strict=True):
        assert line == f"test accuracy {found[name]['accuracy']:.4f} on 12 images, by {name} on its features"


def test_a_readout_that_is_none_and_other_training_images_are_named(small_run, tmp_path):
    printed = CliRunner().invoke(app, ["eval", str(small_run / "run"), "--readout", "svm"])
    assert printed.exit_code == 2
    assert "there is no readout 'svm': choose among ncm, knn, sub-centroids" in printed.stderr
    shutil.copytree(small_run / "images", tmp_path / "other")
    write_images(tmp_path / "other" / "train", classes=("emu",), n=4)
    with pytest.raises(RunError, match=r"of 4 classes .* was trained on 3"):
        evaluate_readouts(load_run(small_run / "run", data_dir=str(tmp_path / "other")), ["ncm"])


@pytest.mark.parametrize("kind", ["dnc", "deepncm", "knn", "linear"])
def test_a_frozen_backbone_stays_as_it_starts_and_only_the_head_learns(tmp_path, kind):
    recipe = load_recipe("digits", [*FROZEN, f"head.kind={kind}"])
    train(recipe, tmp_path / "run")
    run, start = load_run(tmp_path / "run"), build_classifier(recipe, 10)
    expected = start.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.model.backbone.state_dict().items())
    before = start.head.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in run.model.head.state_dict().items())
    found = evaluate_readouts(run, READOUT_NAMES)
    assert found["knn"]["accuracy"] > 0.5  # chance is 0.1


def test_frozen_features_are_the_same_whatever_the_head(tmp_path):
    found = []
    for kind in ("dnc", "knn"):
        train(load_recipe("digits", [*FROZEN, f"head.kind={kind}", "train.precision=64-true"]), tmp_path / kind)
        found.append(evaluate_readouts(load_run(tmp_path / kind), READOUT_NAMES))
    assert found[0] == found[1]


def test_a_frozen_run_resumes(image_folder, tmp_path):
    recipe = small(image_folder, "backbone.frozen=true")
    metrics = train(recipe, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert train(recipe, tmp_path / "run")["test"] == metrics["test"]
