"""Runs of pixels from end to end: training that resumes, evaluation, maps and overlays."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from otcluster.dnc import load_recipe, load_run, train
from otcluster.dnc.commands import app
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.pixels.conversion import PixelConversion
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.runs import load_pixel_run
from otcluster.dnc.recipe import recipe_names
from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted
from tests.dnc.conftest import listing
from tests.dnc.pixel_files import FAST, Stop, harm, save, write_folders, write_layout
from tests.dnc.pixel_files import pixel_recipe as recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("pixels")
    write_folders(root / "images")
    train(recipe(root / "images", "train.epochs=30", "train.test_every=30", "pixels.output_stride=8"), root / "run")
    return root


def test_blocks_are_learnt_and_everything_is_left_behind(run):
    metrics = json.loads((run / "run" / "metrics.json").read_text())
    assert metrics["test"]["pixel_accuracy"] > 0.7  # a third by chance
    assert set(metrics["test"]["per_class"]) == {"red", "green", "blue"}
    assert metrics["subcentroids"]["cosine_mean"] < 0.999
    assert {path.name for path in (run / "run").iterdir()} == {
        "recipe.yaml", "metrics.json", "history.csv", "curves.png", "subcentroids.png", "predictions.png", "checkpoints",
    }  # fmt: skip
    assert (run / "run" / "history.csv").read_text().splitlines()[0].count("test_mean_iou") == 1
    for name in ("predictions.png", "subcentroids.png"):
        with Image.open(run / "run" / name) as sheet:
            assert np.asarray(sheet).std() > 20, name


def test_eval_and_predict_by_the_command_line(run, tmp_path):
    metrics = json.loads((run / "run" / "metrics.json").read_text())["test"]
    told = CliRunner().invoke(app, ["eval", str(run / "run")])
    assert f"test mean IoU {metrics['mean_iou']:.4f}, pixel accuracy {metrics['pixel_accuracy']:.4f}" in told.stdout
    image = run / "images" / "test" / "images" / "0.png"
    out = tmp_path / "maps"
    result = CliRunner().invoke(app, ["predict", str(run / "run"), str(image), str(tmp_path / "none.png"), "--out", str(out)])
    assert result.exit_code == 2
    assert "none.png cannot be read" in result.stderr
    assert result.stdout.startswith(f"{image}: ")
    with Image.open(out / "0.png") as shown:
        assert shown.mode == "P"
        labels = np.asarray(shown)
    loaded = load_pixel_run(run / "run")
    with Image.open(image) as opened:
        tensor = PixelConversion(mean=tuple(loaded.recipe.data.mean), std=tuple(loaded.recipe.data.std)).image(
            opened.convert("RGB")
        )
    np.testing.assert_array_equal(labels, loaded.model.predict(tensor[None]).labels[0].numpy())
    assert (out / "0-overlay.png").is_file()
    for arguments, message in (
        (["predict", str(run / "run"), str(image)], "pass --out DIR"),
        (["predict", str(run / "run"), str(image), str(image), "--out", str(out)], "two pictures are called 0"),
        (["eval", str(run / "run"), "--readout", "knn"], "this run is of pixels"),
        (["export", str(run / "run"), str(tmp_path / "model.onnx")], "classifies pixels"),
    ):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert message in refused.stderr
    with pytest.raises(RunError, match="classifies pixels"):
        load_run(run / "run")


def test_eval_and_predict_need_no_training_images(run, tmp_path):
    shutil.copytree(run / "images" / "test", tmp_path / "moved" / "test")
    metrics = json.loads((run / "run" / "metrics.json").read_text())["test"]
    for classes in ("red\ngreen\nblue\n", None):  # the run knows what they are called
        if classes is not None:
            (tmp_path / "moved" / "classes.txt").write_text(classes)
        else:
            (tmp_path / "moved" / "classes.txt").unlink()
        told = CliRunner().invoke(app, ["eval", str(run / "run"), "--data", str(tmp_path / "moved")])
        assert told.exit_code == 0, told.output
        assert f"test mean IoU {metrics['mean_iou']:.4f}" in told.stdout
    (tmp_path / "moved" / "classes.txt").write_text("red\ngreen\nyellow\n")
    told = CliRunner().invoke(app, ["eval", str(run / "run"), "--data", str(tmp_path / "moved")])
    assert told.exit_code == 2
    assert "'yellow' stands where the run has 'blue'" in told.stderr
    shutil.copytree(run / "run", tmp_path / "run")
    recipe = (tmp_path / "run" / "recipe.yaml").read_text()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.replace(str(run / "images"), str(tmp_path / "nowhere")))
    image = str(tmp_path / "moved" / "test" / "images" / "0.png")
    told = CliRunner().invoke(app, ["predict", str(tmp_path / "run"), image, "--out", str(tmp_path / "maps")])
    assert told.exit_code == 0, told.output
    told = CliRunner().invoke(app, ["eval", str(tmp_path / "run")])
    assert told.exit_code == 2
    assert "there is no folder" in told.stderr


def test_pictures_too_small_for_the_network_are_named(run, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    result = CliRunner().invoke(app, ["predict", str(run / "run"), str(tmp_path / "small.png"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "small.png cannot be classified: images must have shape" in result.stderr


def test_the_averaged_network_is_the_one_that_is_kept(folders, tmp_path):
    metrics = train(recipe(folders, "train.ema=0.5", "train.epochs=3"), tmp_path / "run")["test"]
    told = CliRunner().invoke(app, ["eval", str(tmp_path / "run")]).stdout
    assert f"test mean IoU {metrics['mean_iou']:.4f}, pixel accuracy {metrics['pixel_accuracy']:.4f}" in told


def test_a_run_of_images_takes_no_out(small_run, tmp_path):
    image = next((small_run / "images" / "test" / "cat").iterdir())
    refused = CliRunner().invoke(app, ["predict", str(small_run / "run"), str(image), "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert "--out is for runs of pixels" in refused.stderr
    with pytest.raises(RunError, match="classifies images as a whole"):
        load_pixel_run(small_run / "run")


@pytest.mark.parametrize(
    "changes", [("train.ema=0.5",), ("head.kind=linear", "pixels.aux_weight=0.4")], ids=["dnc, averaged", "linear"]
)
def test_stopped_anywhere_it_ends_the_same(folders, tmp_path, changes):
    whole = recipe(folders, *changes)
    steps = train(whole, tmp_path / "whole")["steps"]
    assert steps == 4
    for at in (1, 2, 3):
        with pytest.raises(Interrupted):
            train(whole, tmp_path / "run", progress=Stop(at))
    train(whole, tmp_path / "run")
    ended, other = listing(tmp_path / "run" / "checkpoints" / "step-4"), listing(tmp_path / "whole" / "checkpoints" / "step-4")
    assert ended["model.safetensors"] == other["model.safetensors"]
    assert (tmp_path / "run" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()
    first, second = (json.loads((tmp_path / each / "metrics.json").read_text())["test"] for each in ("run", "whole"))
    assert first == second


def test_what_cannot_be_read_is_left_out_or_ends_training(folders, tmp_path):
    harm(folders, "value")
    with pytest.raises(DataError, match=r"labels/3.png holds the label 3"):
        train(recipe(folders, "train.epochs=1"), tmp_path / "refused")
    metrics = train(recipe(folders, "train.epochs=1", "data.broken=skip"), tmp_path / "run")
    assert metrics["steps"] == 2


def test_crops_without_a_label_and_classes_that_never_occur_are_survived(folders, tmp_path):
    for path in (folders / "train" / "labels").iterdir():
        save(np.full((48, 64), IGNORE if int(path.stem) % 2 else 0, np.uint8), path)
    metrics = train(recipe(folders, "train.epochs=1"), tmp_path / "run")
    assert 0 <= metrics["test"]["pixel_accuracy"] <= 1


@pytest.mark.parametrize("head", ["dnc", "linear"])
def test_a_last_step_that_spoils_the_model_is_no_result(folders, tmp_path, head):
    spoilt = recipe(
        folders, "train.epochs=1", "data.batch_size=64", "optim.lr=1e38", "optim.warmup_epochs=0", f"head.kind={head}"
    )
    with pytest.raises(RunError, match=r"the logits of .* are NaN: train with a lower optim\.lr, into a new --out"):
        train(spoilt, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).of_pixels])
def test_every_recipe_takes_a_step_on_its_layout(tmp_path, name):
    layout = name.split("-")[0]
    write_layout(layout, tmp_path / "images", np.random.default_rng(0))
    side = 64
    changes = [
        f"data.dir={tmp_path / 'images'}", "backbone.pretrained=false", "data.batch_size=2", "data.workers=0",
        f"pixels.crop=[{side},{side}]", "pixels.dim=16", "train.epochs=1", "train.accelerator=cpu", "train.checkpoint_steps=10",
    ]  # fmt: skip
    kind = load_recipe(name)
    if kind.pixels.window is not None:
        changes.append(f"pixels.window=[{side},{side}]")
    if kind.pixels.resize is not None:
        changes.append("pixels.resize=null")
    thin = {
        "resnet18": "channels: [8, 8, 16, 16]",
        "resnet101": "channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]",
        "swin_base_patch4_window7_224": "embed_dim: 16, depths: [1, 1, 2, 1], num_heads: [1, 2, 4, 4]",
    }[kind.backbone.name]
    changes.append(f"backbone.options={{{thin}}}")
    metrics = train(load_recipe(name, changes), tmp_path / "run")
    assert metrics["steps"] == 1
    assert metrics["test"]["mean_iou"] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["pixels.network=null"], r"do not go together"),
        (["data.kind=folder"], r"do not go together"),
        (["head.kind=knn"], r"head.kind must be dnc, linear, deepncm or contrast for pixels, got knn"),
        (["data.mixup=0.2"], r"data.mixup must be 0 for pixels"),
        (["data.augment=crop"], r"data.augment must be none for pixels"),
        (["explain.anchor_epochs=1"], r"explain.anchor_epochs is for images with a class each, got 1"),
        (["pixels.crop=[0,4]"], r"pixels.crop must be a height and a width"),
        (["pixels.scale=[2.0,1.0]"], r"pixels.scale must be a least and a greatest factor"),
        (["pixels.stride=[4,4]"], r"pixels.stride must be at most pixels.window"),
        (["pixels.test_scales=[]"], r"pixels.test_scales must be positive factors"),
        (["optim.label_smoothing=0.1"], r"optim.label_smoothing must be 0 for pixels"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("camvid-fcn-resnet18", changes)
    with pytest.raises(RecipeError, match="do not go together"):
        load_recipe("digits", ["pixels.network=fcn"])


def test_variants_are_compared_by_mean_iou(folders, tmp_path):
    changes = [*FAST, "data.kind=pixel-folders", "pixels.resize=null", "pixels.crop=[32,48]", "backbone.name=test_resnet"]
    arguments = ["ablate", "camvid-fcn-resnet18", *changes, "train.epochs=1", "--data", str(folders), "--seeds", "1"]
    told = CliRunner().invoke(app, [*arguments, "--vary", "head.kind=linear,dnc", "--out", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "| variant | runs | test mean IoU |" in told.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["measure"] == "mean IoU"
    for outcome in results["outcomes"]:
        metrics = json.loads((tmp_path / "out" / outcome["folder"] / "metrics.json").read_text())
        assert outcome["value"] == metrics["test"]["mean_iou"]
    told = CliRunner().invoke(
        app, [*arguments, "--vary", "head.kind=linear", "--splits", "2", "--out", str(tmp_path / "splits")]
    )
    assert told.exit_code == 2
    assert "these images have test images of their own" in told.stderr


def test_test_images_without_any_label_are_an_error(folders, run, tmp_path):
    for path in (folders / "test" / "labels").iterdir():
        save(np.full((48, 64), IGNORE, np.uint8), path)
    with pytest.raises(DataError, match="no pixel of the 3 test images has a label"):
        train(recipe(folders), tmp_path / "run")
    told = CliRunner().invoke(app, ["eval", str(run / "run"), "--data", str(folders)])
    assert told.exit_code == 2
    assert "no pixel of the 3 test images has a label" in told.stderr


@pytest.mark.parametrize("key", ["crop", "resize", "window"])
def test_sides_that_no_network_takes_are_refused_before_anything_is_read(key):
    with pytest.raises(RecipeError, match=rf"pixels\.{key} must be a height and a width, both at least 32, got \[64, 31\]"):
        load_recipe("camvid-fcn-resnet18", [f"pixels.{key}=[64,31]"])
