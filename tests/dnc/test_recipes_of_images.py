"""What recipes of larger images can ask for: stems, options, averages, mixing and smoothing, in runs of an epoch."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn

from otcluster.dnc import load_recipe, load_run, train
from otcluster.dnc.classifier import build_classifier
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.progress import Silent
from otcluster.dnc.recipe import recipe_names
from tests.dnc.conftest import small

BACKBONES = ("resnet18", "resnet50", "resnet101", "mobilenetv2_100", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224")


def test_the_small_stem_keeps_the_size_of_the_picture():
    recipe = load_recipe("cifar10-resnet18")
    model = build_classifier(recipe, 10)
    maps = []
    model.backbone.layer1.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert maps == [(2, 64, 32, 32)]
    assert isinstance(model.backbone.maxpool, nn.Identity)
    with pytest.raises(RecipeError, match="the small stem is for timm's ResNets"):
        build_classifier(load_recipe("cifar10-resnet18", ["backbone.name=mobilenetv2_100"]), 10)


def test_options_go_to_the_backbone_and_wrong_ones_are_named():
    thin = build_classifier(load_recipe("cifar10-thin"), 10)
    assert thin.head.store.dim == 128
    with pytest.raises(RecipeError, match=r"backbone\.options=.*'width': 3.*unexpected keyword argument 'width'"):
        build_classifier(load_recipe("cifar10-thin", ["backbone.options={width: 3}"]), 10)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_timm_are_taken_by_name(name):
    size = 224 if "224" in name else 64
    recipe = load_recipe("image-folder", [f"backbone.name={name}", f"data.image_size={size}"])
    model = build_classifier(recipe, 3).eval()
    with torch.no_grad():
        features = model.features(torch.zeros(1, 3, size, size))
    assert features.shape == (1, model.head.store.dim)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("imagenet")])
def test_recipes_of_imagenet_train_on_its_layout(image_folder, tmp_path, name):
    (image_folder / "test").rename(image_folder / "val")
    changes = ["train.epochs=1", "data.workers=0", "data.batch_size=12", "backbone.name=test_resnet", "data.image_size=32"]
    metrics = train(load_recipe(name, [*changes, f"data.dir={image_folder}"]), tmp_path / "run")
    assert metrics["test"]["images"] == 12


@pytest.mark.parametrize(
    "changes",
    [
        ["data.mixup=0.2", "data.cutmix=1.0"],
        ["optim.label_smoothing=0.1", "train.channels_last=true"],
        ["optim.name=sgd", "optim.nesterov=true", "optim.schedule=one-cycle", "head.kind=linear", "data.cutmix=1.0"],
    ],
)
def test_options_of_training_train(image_folder, tmp_path, changes):
    first = train(small(image_folder, *changes), tmp_path / "a")
    second = train(small(image_folder, *changes), tmp_path / "b")
    assert first["test"] == second["test"]
    plain = train(small(image_folder), tmp_path / "c")
    losses = [next(csv.DictReader((tmp_path / each / "history.csv").open()))["train_loss"] for each in "abc"]
    assert losses[0] == losses[1] != losses[2]
    assert plain["steps"] == first["steps"]


class Stopper(Silent):
    """Raises after a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, *args, **kwargs):
        if step == self.at:
            raise KeyboardInterrupt


def test_the_average_of_the_weights_is_what_is_judged_and_survives_a_stop(image_folder, tmp_path):
    changes = ["train.ema=0.5", "train.epochs=2", "train.checkpoint_steps=1"]
    metrics = train(small(image_folder, *changes), tmp_path / "whole")
    run = load_run(tmp_path / "whole")
    assert evaluate(run.model, run.load_test(), run.recipe.data).metrics(run.classes) == metrics["test"]
    with pytest.raises(KeyboardInterrupt):
        train(small(image_folder, *changes), tmp_path / "stopped", progress=Stopper(6))
    train(small(image_folder, *changes), tmp_path / "stopped")
    again, plain = load_run(tmp_path / "stopped").model.state_dict(), tmp_path / "plain"
    assert all(torch.equal(value, again[name]) for name, value in run.model.state_dict().items())
    train(small(image_folder, "train.epochs=2"), plain)
    raw = load_run(plain).model.backbone.state_dict()
    assert any(not torch.equal(value, raw[name]) for name, value in run.model.backbone.state_dict().items())


def test_tests_may_be_further_apart_than_epochs(image_folder, tmp_path):
    train(small(image_folder, "train.epochs=3", "train.test_every=2"), tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert [row["test_accuracy"] != "" for row in rows] == [False, True, True]
