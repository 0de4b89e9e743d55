"""The command line: what it prints, and the codes it exits with."""

from __future__ import annotations

import importlib.util
import json

import pytest
from PIL import ImageOps
from typer.testing import CliRunner

from otcluster import __version__, cli
from otcluster.dnc import load_run
from otcluster.dnc.recipe import recipe_names
from tests.dnc.conftest import SMALL, image_folder, listing, small_run, write_images

__all__ = ["image_folder", "small_run"]


def invoke(*arguments):
    return CliRunner().invoke(cli.build(), [str(argument) for argument in arguments])


def train_small(folder, out, *changes):
    return invoke("dnc", "train", "image-folder", *SMALL, *changes, "--data", folder, "--out", out)


def test_recipes_are_listed():
    result = invoke("dnc", "recipes")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert len({line.index(line.split(maxsplit=1)[1]) for line in lines}) == 1  # all descriptions begin in one column


def test_train_eval_and_predict(image_folder, tmp_path):
    out = tmp_path / "run"
    result = train_small(image_folder, out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith("epoch 1/2  loss")
    assert result.stdout.splitlines()[-1].startswith("test accuracy ")
    assert str(out) in result.stdout.splitlines()[-1]
    again = train_small(image_folder, out)
    assert again.exit_code == 0
    assert "is finished: nothing to train" in again.stdout
    result = invoke("dnc", "eval", out)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("test accuracy ")
    image = image_folder / "test" / "dog" / "001.png"
    result = invoke("dnc", "predict", out, image, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["path"] == str(image)
    assert found["label"] in ("cat", "dog", "owl")
    assert "nearest: train/" in invoke("dnc", "predict", out, image).stdout
    (image_folder / "bad.png").write_text("no image")
    result = invoke("dnc", "predict", out, image_folder / "bad.png", image)
    assert result.exit_code == 2
    assert "bad.png cannot be read as an image" in result.output
    assert "nearest: train/" in result.output


def test_mistakes_exit_with_2_and_leave_files_alone(image_folder, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for arguments, message in (
        (["train", "digit"], "did you mean digits?"),
        (["train", "digits", "train.epoch=1"], "did you mean train.epochs?"),
        (["train", "digits", "--out", out], "exists and is no run"),
        (["train", "digits", "--data", image_folder, "--out", tmp_path / "none"], "data.kind=digits takes no folder"),
        (["train", "digits", "train.seed=-1"], "train.seed must be at least 0"),
        (["train", "image-folder", "--out", tmp_path / "none"], "pass --data DIR"),
        (["train", "image-folder", "--data", tmp_path / "nowhere"], "there is no folder"),
        (["eval", out], "is no run"),
        (["eval", out / "mine.txt"], "mine.txt is no run"),
        (["predict", out, "x.png"], "is no run"),
    ):
        result = invoke("dnc", *arguments)
        assert result.exit_code == 2, result.output
        assert message in result.output.replace("\n", " ")
    assert listing(tmp_path / "run") == {"mine.txt": b"mine"}


def test_what_eval_cannot_do_is_said_by_the_names_that_were_given(small_run, tmp_path):
    result = invoke("dnc", "eval", small_run / "run", "--readout", "trees")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no readout 'trees': choose among ncm" in result.output
    result = invoke("dnc", "eval", small_run / "run", "--features", tmp_path / "none" / "x.safetensors")
    assert result.exit_code == 2
    assert f"{tmp_path}/none/x.safetensors;" in result.output.replace("\n", "")


def test_another_recipe_in_the_same_directory_exits_with_2(image_folder, tmp_path):
    out = tmp_path / "run"
    train_small(image_folder, out, "train.epochs=1")
    before = listing(out)
    result = train_small(image_folder, out, "train.epochs=3")
    assert result.exit_code == 2
    assert "train.epochs is 1 there and 3 here" in result.output.replace("\n", " ")
    assert listing(out) == before


def test_other_folders_are_evaluated_by_class_name(small_run, tmp_path):
    run = small_run / "run"
    write_images(tmp_path / "owls" / "test", classes=("owl",), n=3, seed=1)
    result = invoke("dnc", "eval", run, "--data", tmp_path / "owls")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines[:3]] == ["cat", "dog", "owl"]
    assert lines[0][1:] == lines[1][1:] == ["no", "images"]
    assert f"test accuracy {lines[2][1]} on 3 images" in result.stdout
    write_images(tmp_path / "others" / "test", classes=("ant", "cat"), n=2)
    result = invoke("dnc", "eval", run, "--data", tmp_path / "others")
    assert result.exit_code == 2
    assert "holds classes that the model has not: ant" in result.output.replace("\n", " ")


def test_the_corrected_command_may_follow_a_start_that_failed(image_folder, tmp_path):
    for changes, code in ((["backbone.name=tets_resnet"], 2), (["train.epochs=1"], 0)):
        result = train_small(image_folder, tmp_path / "run", *changes)
        assert result.exit_code == code, result.output
        assert (tmp_path / "run").exists() == (code == 0)


def test_the_version_is_shown():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"otcluster {__version__}\n")


def test_what_is_not_installed_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find(name))
    result = invoke("dnc", "train", "digits", "--out", "somewhere")
    assert result.exit_code == 1
    assert str(result.exception) == "otcluster dnc needs timm: pip install 'otcluster[dnc]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find(name))
    with pytest.raises(SystemExit, match=r"the command line needs rich: pip install 'otcluster\[cli\]'"):
        cli.main()


def test_runs_of_the_digits_say_how_they_are_drawn_and_offer_inversion(tmp_path):
    run, ink = tmp_path / "run", tmp_path / "ink" / "7.png"
    small = ["train.epochs=1", "data.image_size=8", "data.labels_per_class=8"]
    assert invoke("dnc", "train", "digits", *small, "--out", run).exit_code == 0
    ink.parent.mkdir()
    ImageOps.invert(load_run(run).load_test().read(0).convert("L")).resize((40, 40)).save(ink)
    offer = "the digits are 0 to 16, white on black: pass --invert for dark ink on light paper\n"
    for command in (
        ["predict", run, ink],
        ["explain", run, ink],
        ["add-class", run, "mine", ink, "--out", tmp_path / "more"],
    ):
        as_it_is, inverted = invoke("dnc", *command), invoke("dnc", *command, "--invert")
        assert offer in as_it_is.stderr, command
        assert offer not in inverted.stderr, command
    assert invoke("dnc", "explain", run).stderr == ""
    assert invoke("dnc", "predict", run, ink, "--json").stderr == ""
