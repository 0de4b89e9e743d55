"""The directory of a run: who may have it, what may change in it, and what is said when a file of it is harmed."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from otcluster.dnc import DNCHead, evaluate, load_run, predict, tasks, train
from otcluster.dnc.counts import warn_of_late_classes
from otcluster.dnc.data import load_data
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.figures import draw_curves, draw_subcentroids
from otcluster.dnc.run import RunFiles
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted
from tests.dnc.conftest import listing, small, write_images


@pytest.fixture
def copy(small_run, tmp_path):
    """A finished run of one epoch, to be harmed, and the images it was trained on."""
    return shutil.copytree(small_run / "run", tmp_path / "copy"), small_run / "images"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["backbone.name=resnt18"], r"timm has no model 'resnt18', did you mean resnet18\?"),
        (["backbone.name=vit_tiny_patch16_224"], r"vit_tiny_patch16_224 cannot be used .*data\.image_size=16"),
        (["train.accelerator=cpu", "train.precision=16-mixed"], r"16-mixed needs a GPU.*pass bf16-mixed"),
        pytest.param(
            ["train.accelerator=cuda"],
            r"train\.accelerator=cuda .* cannot be had here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it can be had here"),
        ),
    ],
)
def test_a_start_that_fails_leaves_the_directory_to_another_recipe(small_run, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        train(small(small_run / "images", *changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_may_become_anothers(tmp_path):
    files = RunFiles(tmp_path / "run")
    files.root.mkdir()
    leftover = files.root / ".recipe.yaml.123.part.yaml"  # of a process that was killed while it claimed
    leftover.write_text("name: x")
    for epochs in (1, 2):
        recipe = small(tmp_path, f"train.epochs={epochs}")
        files.check(recipe)
        files.claim(recipe)
        assert files.read_recipe() == recipe
    assert not leftover.exists()
    (files.checkpoints / "step-1").mkdir(parents=True)
    (files.checkpoints / ".latest.123.part").write_text("step-1")
    with pytest.raises(RunError, match=r"train\.epochs is 2 there and 1 here"):
        files.check(small(tmp_path, "train.epochs=1"))
    files.claim(recipe)
    assert [path.name for path in files.checkpoints.iterdir()] == ["step-1"]


def test_a_finished_run_given_other_images_says_so(copy, tmp_path):
    out, images = copy
    other = shutil.copytree(images, tmp_path / "other")
    assert train(small(other), out) == RunFiles(out).read_metrics()
    path = other / "train" / "cat" / "000.png"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    before = listing(out)
    with pytest.raises(RunError, match="was trained on other images"):
        train(small(other), out)
    assert listing(out) == before


def test_what_does_not_decide_the_result_may_change_and_is_written_down(copy, tmp_path, monkeypatch):
    out, images = copy
    metrics = RunFiles(out).read_metrics()
    (out / "metrics.json").unlink()
    shutil.copytree(images, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    changes = ("data.broken=skip", "data.workers=0", "train.checkpoint_steps=7", "explain.images_per_subcentroid=2", "name=x")
    assert train(small("moved", *changes), out)["test"] == metrics["test"]
    assert RunFiles(out).read_recipe() == small(tmp_path / "moved", *changes)
    monkeypatch.chdir("/")
    assert len(load_run(out).load_test()) == 12
    assert len(TypicalImages.load(RunFiles(out)).names) <= 3 * 4 * 2


def test_a_broken_test_image_costs_no_epoch_and_the_advice_can_be_followed(image_folder, tmp_path):
    bad = image_folder / "test" / "dog" / "000.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"000\.png cannot be read.*data\.broken=skip"):
        train(small(image_folder), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "step-4").is_dir()
    assert train(small(image_folder, "data.broken=skip"), tmp_path / "run")["test"]["images"] == 11


def test_too_few_readable_images_end_the_run(copy, image_folder, tmp_path):
    run = load_run(copy[0])
    recipe = small(image_folder, "data.broken=skip", "data.batch_size=36")
    for path in (image_folder / "train" / "dog").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"class dog has 0 training images that can be read, fewer than its 4 sub-centroids"):
        train(recipe, tmp_path / "run")
    for path in (image_folder / "test").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 12 images can be read, from test/cat/000\.png on"):
        evaluate(run.model, load_data(recipe.data).test, recipe.data)


def test_no_images_are_evaluated_to_no_rows(copy):
    run = load_run(copy[0])
    result = evaluate(run.model, run.load_test().subset([]), run.recipe.data)
    assert result.logits.shape == (0, 3)
    assert result.features.shape[0] == len(result.predictions) == 0
    assert result.metrics(run.classes)["accuracy"] is None


@pytest.mark.parametrize(("call", "signum"), [(1, signal.SIGTERM), (2, signal.SIGINT), (3, signal.SIGTERM)])
def test_a_signal_after_the_last_step_is_heeded(copy, monkeypatch, call, signum):
    out, images = copy
    metrics, calls = RunFiles(out).read_metrics(), []
    before = listing(out / "checkpoints")
    (out / "metrics.json").unlink()

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signum)
        return evaluate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "evaluate", interrupted)  # of the last epoch, and of both splits when all is done
        with pytest.raises(Interrupted, match="after step 4; the same command goes on") as stopped:
            train(small(images), out)
    assert stopped.value.exit_code == 128 + signum
    assert not (out / "metrics.json").exists()
    assert train(small(images), out)["test"] == metrics["test"]
    assert listing(out / "checkpoints") == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.yaml", b"a: [1,"),
        ("recipe.yaml", b"\xff\xfe"),
        ("recipe.yaml", b""),
        ("index.safetensors", b"x"),
        ("index.json", b"{"),
        ("index.json", b"[]"),
        ("metrics.json", b"{"),
        ("metrics.json", b"{}"),
        ("metrics.json", b"\xff"),
    ],
)
def test_a_harmed_file_is_named(copy, name, content):
    out, images = copy
    (out / name).write_bytes(content)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        train(small(images), out) if name == "metrics.json" else predict(load_run(out), [images / "test" / "cat" / "000.png"])


def test_what_a_launcher_says_of_processes_is_read_with_care(copy, monkeypatch):
    out, images = copy
    monkeypatch.setenv("WORLD_SIZE", "")
    train(small(images), out)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(RunError, match="WORLD_SIZE must be a number of processes, and is 'two'"):
        train(small(images), out)


def test_any_class_name_is_drawn_as_it_is(copy, tmp_path):
    run = load_run(copy[0])
    names = ["$^$", "a$x_{$b", r"\frac{"]
    typical = TypicalImages.load(run.files)
    draw_subcentroids(typical.pictures(run.load_data().train), typical.sizes, names, tmp_path / "a.png")
    draw_curves([{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "test_accuracy": 0.5}], tmp_path / "b.png", names[0])
    assert {path.name for path in tmp_path.glob("*.png")} == {"a.png", "b.png"}


def test_classes_that_never_start_are_warned_of(image_folder, tmp_path, caplog):
    train(small(image_folder, "head.n_subcentroids=9", "memory.capacity=0"), tmp_path / "run")
    assert "3 of 3 classes have no sub-centroids from data yet (cat, dog, owl)" in caplog.text
    assert caplog.text.count("sub-centroids from data") == 1
    assert "never were 9 images of one at hand at once; add images of them, raise memory.capacity" in caplog.text
    warn_of_late_classes(DNCHead(2, 2), ["sky", "road"], "labelled pixels")
    assert "(sky, road): never were 4 labelled pixels of one" in caplog.text


def test_a_models_own_classes_label_other_folders(copy, tmp_path):
    out, _ = copy
    write_images(tmp_path / "new" / "test", classes=("owl",), n=2, seed=1)
    run = load_run(out, data_dir=os.path.relpath(tmp_path / "new"))
    assert run.recipe.data.dir == str(tmp_path / "new")
    assert run.load_test().labels.tolist() == [2, 2]
    assert replace(run.recipe, data=replace(run.recipe.data, dir=None)) == small(None)


def test_a_last_step_that_spoils_the_model_is_no_result(image_folder, tmp_path):
    spoilt = small(image_folder, "data.batch_size=36", "optim.name=sgd", "optim.lr=1e38")  # one step, from a finite loss
    with pytest.raises(RunError, match=r"the logits of test images are NaN: train with a lower optim\.lr, into a new --out"):
        train(spoilt, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()
