"""``backbone.neck=batch_norm``: features about their mean, on any backbone, in everything that is done with a run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from otcluster.dnc import export, load_run, train
from otcluster.dnc.classifier import build_classifier
from otcluster.dnc.data import load_data
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.evaluation import evaluate
from tests.dnc.conftest import small

NECK = "backbone.neck=batch_norm"


def model_of(*changes):
    return build_classifier(small(None, *changes), 3).train()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_byobnet", "mobilenetv2_035", "test_convnext"])
def test_features_of_a_batch_have_mean_0_and_variance_1(name):
    changes = [f"backbone.name={name}", "data.image_size=160" if name == "test_vit" else "data.image_size=32"]
    without, model = model_of(*changes), model_of(*changes, NECK)
    size = int(changes[1].split("=")[1])
    images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(0))
    features = model.features(images).double()
    assert features.shape == (16, model.head.store.dim)
    torch.testing.assert_close(features.mean(0), torch.zeros_like(features[0]), rtol=0, atol=1e-4)
    spread = without.features(images).double().var(0, unbiased=False)
    torch.testing.assert_close(features.var(0, unbiased=False), spread / (spread + 1e-5), rtol=1e-3, atol=1e-3)


def test_it_has_no_weights_and_the_rest_of_the_backbone_starts_the_same():
    without, model = model_of(), model_of(NECK)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in without.named_parameters()]
    for ours, theirs in zip(model.parameters(), without.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert set(model.state_dict()) - set(without.state_dict()) == {
        f"backbone.fc.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert isinstance(model.backbone.fc, nn.BatchNorm1d)


def test_a_backbone_without_one_place_for_it_and_a_frozen_one_are_refused(small_run, tmp_path):
    with pytest.raises(RecipeError, match=r"backbone\.neck=batch_norm.*several classifiers, head, head_dist"):
        build_classifier(small(None, NECK, "backbone.name=deit_tiny_distilled_patch16_224", "data.image_size=224"), 3)
    with pytest.raises(RecipeError, match=r"backbone\.neck=batch_norm learns .* backbone\.frozen=true"):
        build_classifier(small(None, NECK, "backbone.frozen=true"), 3)
    with pytest.raises(RecipeError, match=r"backbone\.neck must be one of none, batch_norm, got 'layer'"):
        small(None, "backbone.neck=layer")
    train(small(small_run / "images", NECK), tmp_path / "run")
    frozen = small(small_run / "images", NECK, "backbone.frozen=true")
    train(frozen, tmp_path / "frozen", init_from=tmp_path / "run")
    (theirs, ours) = (load_run(tmp_path / name).model.backbone.state_dict() for name in ("run", "frozen"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize("more", [[], ["train.ema=0.5"], ["train.precision=bf16-mixed", "data.image_size=32"]])
def test_a_run_with_it_is_evaluated_resumed_and_exported_as_it_was_trained(small_run, tmp_path, more):
    recipe = small(small_run / "images", NECK, "train.checkpoint_steps=2", *more)
    metrics = train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    split = load_data(recipe.data).test
    found = evaluate(run.model, split, recipe.data)
    assert found.metrics(run.classes)["accuracy"] == metrics["test"]["accuracy"]
    assert run.model.backbone.fc.num_batches_tracked > 0
    assert run.model.backbone.fc.running_var.std() > 0
    export(run, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.randn(3, 3, recipe.data.image_size, recipe.data.image_size)
    torch.testing.assert_close(program(images)[0], run.model.eval()(images))
