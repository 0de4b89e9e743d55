"""A network of pixels begins with every weight of a run of images, and what is left over is named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import transfer_pixels
from otcluster.dnc import load_recipe, load_run, train, training
from otcluster.dnc.commands import app
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.pixels.runs import build_segmenter, load_pixel_run
from otcluster.dnc.pixels.transfer import begin_encoder
from otcluster.dnc.progress import Silent
from otcluster.dnc.run import RunFiles
from otcluster.dnc.transfer import digest, starting_point
from otcluster.runs.interruption import Interrupted
from tests import processes
from tests.dnc.conftest import listing, small
from tests.dnc.pixel_files import Stop, pixel_recipe, write_folders


class Notes(Silent):
    """Keeps what training says."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


class Watch:
    """Keeps the encoder as it is before the first step."""

    def __init__(self, monkeypatch):
        begun, self.first = training._begun, None

        def watched(model, recipe, weights):
            told = begun(model, recipe, weights)
            self.first = {name: value.clone() for name, value in model.network.encoder.model.state_dict().items()}
            return told

        monkeypatch.setattr(training, "_begun", watched)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    write_folders(root)
    return root


def recipe(folders, *changes):
    return pixel_recipe(folders, "train.epochs=1", *changes)


def backbone_of(run):
    return load_run(run).model.backbone


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize(("network", "stride"), [("fcn", 8), ("fcn", 16), ("fcn", 32), ("deeplabv3", 16), ("upernet", None)])
def test_every_tensor_of_a_run_of_images_is_what_the_encoder_begins_with(
    small_run, folders, tmp_path, monkeypatch, network, stride
):
    """Whatever is dilated: that changes no shapes."""
    watch, notes = Watch(monkeypatch), Notes()
    stride = "null" if stride is None else stride
    chosen = recipe(folders, f"pixels.network={network}", f"pixels.output_stride={stride}")
    train(chosen, tmp_path / "run", init_from=small_run / "run", progress=notes)
    source = backbone_of(small_run / "run")
    assert same(watch.first, source.state_dict())
    parameters = list(source.parameters())
    n, numbers = len(parameters), sum(each.numel() for each in parameters)
    expected = f"the encoder begins with {n} of {n} parameters of {small_run / 'run'} ({numbers:,} numbers), none discarded"
    assert notes.said == [expected]
    kept = load_pixel_run(tmp_path / "run")
    assert kept.recipe.backbone.init_from == str(small_run / "run")
    assert kept.recipe.backbone.init_digest == digest(source.state_dict())
    assert not same(kept.model.network.encoder.model.state_dict(), source.state_dict())  # it has learnt


def test_of_a_softmax_the_classifier_is_discarded(small_run, folders, tmp_path):
    train(small(small_run / "images", "head.kind=linear"), tmp_path / "softmax")
    notes = Notes()
    train(recipe(folders), tmp_path / "run", init_from=tmp_path / "softmax", progress=notes)
    n = len(list(backbone_of(tmp_path / "softmax").parameters()))
    assert f"{n} of {n + 2} parameters of" in notes.said[0]
    assert notes.said[0].endswith("discarded: head.weight, head.bias")


def test_what_stands_behind_the_last_stage_is_named(small_run, folders, tmp_path):
    """A ConvNeXt ends with a norm that networks of pixels do not have, and timm calls its stages otherwise there."""
    train(small(small_run / "images", "backbone.name=test_convnext", "data.image_size=32"), tmp_path / "source")
    chosen = recipe(folders, "backbone.name=test_convnext", "pixels.network=upernet", "pixels.output_stride=null")
    chosen, weights = starting_point(load_recipe_at(chosen, tmp_path / "source"))
    model = build_segmenter(chosen, ["red", "green", "blue"])
    told = begin_encoder(model, chosen, weights)
    n = len(list(backbone_of(tmp_path / "source").parameters()))
    assert f"{n - 2} of {n} parameters" in told
    assert told.endswith("discarded: backbone.head.norm.weight, backbone.head.norm.bias")
    encoder = model.network.encoder.model.state_dict()
    assert torch.equal(encoder["stages_1.blocks.0.conv_dw.weight"], weights["stages.1.blocks.0.conv_dw.weight"])
    assert len(encoder) == len(weights) - 2


def load_recipe_at(recipe, run):
    recipe.backbone.init_from = str(run)
    return recipe


def test_averaged_weights_are_what_is_begun_with_and_a_frozen_encoder_keeps_them(small_run, folders, tmp_path):
    train(small(small_run / "images", "train.ema=0.5"), tmp_path / "averaged")
    chosen = recipe(folders, "backbone.frozen=true", "train.ema=0.5")
    train(chosen, tmp_path / "run", init_from=tmp_path / "averaged")
    ended = load_pixel_run(tmp_path / "run").model.network.encoder.model.state_dict()
    assert same(ended, backbone_of(tmp_path / "averaged").state_dict())


def test_options_of_a_backbone_are_those_of_an_encoder(small_run, folders, tmp_path):
    thin = "backbone.options={channels: [8, 8, 16, 16]}"
    train(small(small_run / "images", thin), tmp_path / "thin")
    model = load_pixel_run_of(recipe(folders, thin), tmp_path, tmp_path / "thin")
    assert model.network.encoder.out_channels[-1] == 16
    with pytest.raises(
        RecipeError, match=r"has backbone.name=test_resnet with backbone.options=\{'channels'.*, and this recipe"
    ):
        train(recipe(folders), tmp_path / "other", init_from=tmp_path / "thin")


def load_pixel_run_of(recipe, tmp_path, source):
    train(recipe, tmp_path / "pixels", init_from=source)
    return load_pixel_run(tmp_path / "pixels").model


def test_stopped_anywhere_it_ends_the_same_without_the_run_it_began_with(small_run, folders, tmp_path):
    shutil.copytree(small_run / "run", tmp_path / "source")
    chosen = recipe(folders, "train.epochs=2")
    train(chosen, tmp_path / "whole", init_from=tmp_path / "source")
    with pytest.raises(Interrupted):
        train(chosen, tmp_path / "run", init_from=tmp_path / "source", progress=Stop(1))
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    begun = load_pixel_run(tmp_path / "run").recipe
    with pytest.raises(Interrupted):
        train(begun, tmp_path / "run", progress=Stop(3))
    train(begun, tmp_path / "run")
    ended, other = (listing(tmp_path / each / "checkpoints" / "step-4") for each in ("run", "whole"))
    assert ended["model.safetensors"] == other["model.safetensors"]
    assert (tmp_path / "run" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()
    with pytest.raises(RecipeError, match="is not there any more, and this run has not begun yet"):
        train(begun, tmp_path / "new")


@pytest.mark.parametrize(
    ("source", "ours", "message"),
    [
        ([], ["backbone.name=resnet10t"], r"run has backbone.name=test_resnet, and this recipe backbone.name=resnet10t: \S+ "),
        (["backbone.name=resnet34"], ["backbone.name=resnet18"], r"=resnet34, and .*=resnet18: the encoder has no layer1\.2\."),
        (["backbone.name=resnet18"], ["backbone.name=resnet34"], r"=resnet18, and .*=resnet34: the run has no layer1\.2\."),
        (
            ["backbone.name=resnet18", "backbone.stem=cifar"],
            ["backbone.name=resnet18"],
            r"conv1\.weight has shape \(64, 3, 3, 3\) there and \(64, 3, 7, 7\) here, for the run begins as small images "
            r"need it \(backbone\.stem=cifar\).*train it with backbone\.stem=imagenet",
        ),
        (["data.channels=1"], [], r"trained on images of 1 channels, and data\.channels is 3"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_begun(small_run, folders, tmp_path, source, ours, message):
    begun = small_run / "run"
    if source:
        begun = tmp_path / "source"
        changes = ["data.labels_per_class=2", "head.kind=linear", *source]
        train(small(small_run / "images", *changes), begun)
    with pytest.raises(RecipeError, match=message):
        train(recipe(folders, *ours), tmp_path / "run", init_from=begun)
    assert not (tmp_path / "run").exists()


def test_runs_that_are_none_or_of_pixels_are_refused(small_run, folders, tmp_path):
    train(recipe(folders), tmp_path / "pixels")
    for source, message in (
        (tmp_path / "none", r"is no run"),
        (tmp_path / "pixels", "classifies pixels: name a run of images"),
    ):
        with pytest.raises(RecipeError, match=rf"backbone\.init_from: .*{message}"):
            train(recipe(folders), tmp_path / "run", init_from=source)
    with pytest.raises(RecipeError, match="classifies pixels: name a run of images"):
        train(small(small_run / "images"), tmp_path / "run", init_from=tmp_path / "pixels")
    with pytest.raises(RecipeError, match=r"backbone\.pretrained=true both say with which weights to begin"):
        train(load_recipe("ade20k-fcn-resnet101"), tmp_path / "run", init_from=small_run / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_begins_with_a_run(small_run, folders, tmp_path):
    changes = ["data.kind=pixel-folders", "pixels.resize=null", "pixels.crop=[32,48]", "data.batch_size=4", "pixels.dim=16"]
    command = ["train", "camvid-fcn-resnet18", *changes, "backbone.name=test_resnet", "train.epochs=1", "--data", str(folders)]
    told = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run"), "--init-from", str(small_run / "run")])
    assert told.exit_code == 0, told.output
    assert "none discarded" in told.stdout.replace("\n", " ")
    assert np.isfinite(load_pixel_run(tmp_path / "run").model.head.subcentroids.numpy()).all()


def test_the_benchmark_trains_all_from_images_and_takes_runs_that_are_there(small_run, folders, tmp_path, capsys, monkeypatch):
    forks = processes.forks()
    monkeypatch.setattr(transfer_pixels.multiprocessing, "get_context", lambda _: forks)
    tiny = ["backbone.name=test_resnet", "data.batch_size=4", "train.epochs=1"]
    pixels = [*tiny, "data.kind=pixel-folders", "pixels.resize=null", "pixels.crop=[32,48]", "pixels.dim=16"]
    arguments = ["--data", str(folders), "--out", str(tmp_path), "--set", *pixels]
    images = ["--images", str(small_run / "images"), "--image-recipe", "image-folder"]
    transfer_pixels.main([*arguments, *images, "--set-images", *tiny, "data.image_size=16"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(values) for name, values in results["mean_iou"].items()} == {"DNC": 1, "softmax": 1, "random weights": 1}
    told = capsys.readouterr().out
    assert (tmp_path / "results.md").read_text() in told
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| DNC", "| softmax", "| random weights"]
    n = backbone_of(tmp_path / "images-dnc-0").num_features
    assert [row[3] for row in rows] == ["0", f"{3 * n + 3:,}", ""]  # of three classes
    for name in ("dnc", "softmax"):
        source = RunFiles(tmp_path / f"pixels-{name}-0").read_recipe().backbone.init_from
        assert source == str(tmp_path / f"images-{name}-0")
    before = listing(tmp_path)
    runs = [str(tmp_path / f"images-{name}-0") for name in ("dnc", "softmax")]
    transfer_pixels.main([*arguments, "--images", *runs])
    assert listing(tmp_path) == before  # finished runs are read, and say the same
