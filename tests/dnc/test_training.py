"""A run from end to end: what it leaves, that it resumes to the bit, and that it harms nobody else's files."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from otcluster.cli import main
from otcluster.dnc import DNCHead, explain, load_recipe, load_run, predict, train
from otcluster.dnc.commands import app
from otcluster.dnc.conversion import Conversion
from otcluster.dnc.errors import DataError
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.progress import Silent
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import CheckpointError, RunError
from tests import processes
from tests.disk import full_disk
from tests.dnc.conftest import SMALL, listing, write_images


def train_digits(out):
    """Train the digits by the command line, in an interpreter of its own."""
    command = [sys.executable, "-m", "otcluster", "dnc", "train", "digits", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr


def run_command(*arguments):
    sys.argv[1:] = arguments
    main()


class Killer(Silent):
    """Kills its process after a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, *args, **kwargs):
        if step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def train_digits_and_die(out, at, *changes):
    train(load_recipe("digits", changes), out, progress=Killer(at))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The digits recipe as it is, trained once without interruption by one of the test processes; not to be changed."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    out, ended = root / "digits" / "run", root / "digits" / "ended"
    with (root / "digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ended.exists():
            train_digits(out)
            ended.touch()
    return out


def weights(run):
    latest = (run / "checkpoints" / "latest").read_text().strip()
    return (run / "checkpoints" / latest / "model.safetensors").read_bytes()


def test_the_digits_are_learnt_and_everything_is_left_behind(digits_run):
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= 0.985
    assert metrics["anchoring"]["epochs"] == 2
    assert metrics["anchoring"]["after"] >= metrics["anchoring"]["before"] - 0.005
    assert set(metrics["test"]["per_class"]) == set("0123456789")
    assert metrics["seconds"] > 0
    names = {path.name for path in digits_run.iterdir()}
    assert names == {
        "recipe.yaml", "metrics.json", "history.csv", "curves.png", "subcentroids.png", "index.json", "index.safetensors",
        "checkpoints",
    }  # fmt: skip
    for name in ("curves.png", "subcentroids.png"):
        with Image.open(digits_run / name) as image:
            assert np.asarray(image.convert("L")).std() > 5
    with (digits_run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 26))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_killed_at_three_random_steps_and_resumed_ends_equal_to_the_byte(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    steps_per_epoch, epochs = 15, 4
    changes = [
        f"train.epochs={epochs}", "growth.kind=evidence", "growth.warmup=10", "growth.every=5", "head.n_subcentroids=2",
        "explain.anchor_epochs=1", "data.image_size=8", "data.labels_per_class=48", "data.batch_size=32",
    ]  # fmt: skip
    rng = random.Random(int(time.time()))  # a new place each time: whatever the step, it must hold
    at = sorted(rng.sample([step for step in range(1, steps_per_epoch * epochs) if step % steps_per_epoch], 3))
    for step in (*at, None):
        fork = processes.start("tests.dnc.test_training:train_digits_and_die", out, step, *changes)
        [(code, _, errors)] = processes.end([fork])
        assert code == (0 if step is None else -signal.SIGKILL), (at, errors)
        assert (out / "metrics.json").exists() == (step is None)
    train(load_recipe("digits", changes), whole)
    grown = json.loads((whole / "metrics.json").read_text())["n_subcentroids"]
    assert set(grown.values()) != {2}, grown  # or nothing would show that growth was gone on with
    assert weights(out) == weights(whole), at
    assert (out / "history.csv").read_bytes() == (whole / "history.csv").read_bytes(), at


def test_every_test_digit_is_of_the_class_of_its_nearest_subcentroid(digits_run, tmp_path):
    saved = tmp_path / "test.safetensors"
    printed = CliRunner().invoke(app, ["eval", str(digits_run), "--features", str(saved)]).stdout
    data = load_file(saved)
    latest = (digits_run / "checkpoints" / "latest").read_text().strip()
    centroids = load_file(digits_run / "checkpoints" / latest / "model.safetensors")["head.store.centroids"].astype(np.float64)
    features = data["features"].astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    nearest = np.einsum("nd,ckd->nck", features, centroids).max(2).argmax(1)
    assert len(nearest) >= 350
    np.testing.assert_array_equal(nearest, data["predictions"])
    accuracy = json.loads((digits_run / "metrics.json").read_text())["test"]["accuracy"]
    assert (nearest == data["labels"]).mean() == pytest.approx(accuracy, abs=1e-6)
    assert f"test accuracy {accuracy:.4f} on" in printed


def test_subcentroids_are_unit_vectors_apart_from_each_other(digits_run):
    head = load_run(digits_run).model.head
    torch.testing.assert_close(head.subcentroids.norm(dim=-1), torch.ones(10, 4))
    gram = head.subcentroids @ head.subcentroids.transpose(1, 2)
    off = gram[:, ~torch.eye(4, dtype=torch.bool)]
    assert off.max() < 0.999


def test_every_subcentroid_is_the_nearest_one_of_training_views(digits_run):
    run = load_run(digits_run)
    train, typical = run.load_data().train, TypicalImages.load(run.files)
    assert int(typical.sizes.sum()) == len(train)
    # The crops of training are what sub-centroids were made from: one may stand for moved digits, and so for no clean image.
    views = Conversion(run.recipe.data, augment=True)
    torch.manual_seed(0)
    images = torch.stack([views(train.read(at)) for at in range(len(train))])
    with torch.no_grad():
        features = torch.cat([run.model.eval().features(some) for some in images.split(256)])
    labels = torch.as_tensor(train.labels)
    nearest = run.model.head.similarities(features)[torch.arange(len(labels)), labels].argmax(dim=1)
    assert torch.bincount(labels * 4 + nearest, minlength=40).min() >= 5


def test_a_users_picture_is_predicted_with_its_nearest_training_images(digits_run, tmp_path):
    run = load_run(digits_run)
    data = run.load_data()
    paths, truth = [], []
    for at in range(12):
        path = tmp_path / f"{at}.png"
        data.test.read(at).resize((64, 64), Image.Resampling.NEAREST).save(path)
        paths.append(path)
        truth.append(data.classes[int(data.test.labels[at])])
    found = predict(run, paths)
    assert sum(one.label == name for one, name in zip(found, truth, strict=True)) >= 11
    whole = evaluate(run.model, data.test.subset(range(12)), run.recipe.data)
    assert [one.label for one in found] == [data.classes[label] for label in whole.predictions.tolist()]
    typical = TypicalImages.load(run.files)
    for one in found:
        own = typical.of(run.classes.index(one.label), one.subcentroid - 1).tolist()
        assert {name for name, _ in one.nearest} <= {typical.names[at] for at in own}
        assert [cosine for _, cosine in one.nearest] == sorted((cosine for _, cosine in one.nearest), reverse=True)
        assert 0 < one.share <= 1
        assert 1 <= one.subcentroid <= 4
        assert len(one.nearest) == 3
        assert all(name in data.train.names for name, _ in one.nearest)
    negative = tmp_path / "negative.png"
    Image.fromarray(255 - np.asarray(Image.open(paths[0]))).save(negative)
    assert predict(run, [negative], invert=True)[0].label == found[0].label


def small(folder, *changes, **kwargs):
    return load_recipe("image-folder", [*SMALL, f"data.dir={folder}", *changes], **kwargs)


@pytest.mark.parametrize("head", ["dnc", "linear"])
def test_a_folder_of_images_is_trained_and_resumed_without_repeating(image_folder, tmp_path, head):
    out = tmp_path / "run"
    metrics = train(small(image_folder, f"head.kind={head}"), out)
    assert metrics["head"] == head
    assert (out / "subcentroids.png").exists() == (head == "dnc")
    before = listing(out)
    assert train(small(image_folder, f"head.kind={head}"), out) == metrics
    assert listing(out) == before
    (found,) = predict(load_run(out), [image_folder / "test" / "cat" / "000.png"])
    assert (found.subcentroid is None) == (head == "linear")


@pytest.mark.parametrize("solver", ["solver.kind=sinkhorn_knopp", "solver.kind=nearest"])
def test_the_solver_is_a_key_of_the_recipe(image_folder, tmp_path, solver):
    metrics = train(small(image_folder, solver, "train.epochs=1", "solver.tol=null"), tmp_path / "run")
    assert math.isfinite(metrics["test"]["accuracy"])


@pytest.mark.parametrize(
    "changes", [["optim.name=sgd", "optim.lr=0.01", "optim.schedule=constant"], ["train.precision=bf16-mixed"]]
)
def test_optimizers_schedules_and_precisions(image_folder, tmp_path, changes):
    assert train(small(image_folder, *changes, "train.epochs=1"), tmp_path / "run")["steps"] == 4


def test_mixed_precision_is_that_of_the_backbone(image_folder, tmp_path, monkeypatch):
    dtypes = []
    monkeypatch.setattr(DNCHead, "observe", lambda head, features, labels, *, reducer: dtypes.append(features.dtype))
    train(small(image_folder, "train.precision=bf16-mixed", "train.accelerator=cpu", "train.epochs=1"), tmp_path / "run")
    assert set(dtypes) == {torch.bfloat16}


def test_a_directory_of_another_run_is_left_as_it_is(image_folder, tmp_path):
    out = tmp_path / "run"
    train(small(image_folder, "train.epochs=1"), out)
    before = listing(out)
    with pytest.raises(RunError, match=r"holds a run of another recipe \(train\.epochs is 1 there and 3 here\)"):
        train(small(image_folder, "train.epochs=3"), out)
    write_images(tmp_path / "other" / "train", n=9)
    (out / "metrics.json").rename(tmp_path / "kept.json")
    with pytest.raises(RunError, match="was trained on other images"):
        train(small(tmp_path / "other", "train.epochs=1"), out)
    (tmp_path / "kept.json").rename(out / "metrics.json")
    assert listing(out) == before


def test_a_directory_that_is_no_run_is_left_as_it_is(image_folder, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("words")
    with pytest.raises(RunError, match="exists and is no run"):
        train(small(image_folder), out)
    assert listing(out) == {"thesis.txt": b"words"}
    with pytest.raises(RunError, match="exists and is no run"):
        train(small(image_folder), out / "thesis.txt")


def test_too_few_images_of_a_class_are_named_before_anything_is_written(tmp_path):
    write_images(tmp_path / "x" / "train")
    write_images(tmp_path / "x" / "train", classes=("emu",), n=3)
    write_images(tmp_path / "x" / "test", n=2)
    with pytest.raises(DataError, match=r"class emu has 3 training images, fewer than its 4 sub-centroids"):
        train(small(tmp_path / "x"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_broken_image_stops_the_run_by_name_or_is_skipped(image_folder, tmp_path):
    bad = image_folder / "train" / "dog" / "005.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"005\.png cannot be read"):
        train(small(image_folder, "train.epochs=1"), tmp_path / "one")
    metrics = train(small(image_folder, "train.epochs=1", "data.broken=skip"), tmp_path / "two")
    assert metrics["test"]["images"] == 12


def test_a_checkpoint_of_another_shape_is_named(image_folder, tmp_path):
    out = tmp_path / "run"
    train(small(image_folder, "train.epochs=1"), out)
    text = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(text.replace("n_subcentroids: 4", "n_subcentroids: 3"))
    with pytest.raises(CheckpointError, match=r"head\.store\.age has shape \(3, 4\) there, \(3, 3\) here"):
        load_run(out)


def test_a_run_without_a_checkpoint_says_so(image_folder, tmp_path):
    with pytest.raises(RunError, match="is no run"):
        load_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text(small(image_folder).to_yaml())
    with pytest.raises(RunError, match="holds no checkpoint yet"):
        load_run(tmp_path)


def test_a_corrupt_newest_checkpoint_resumes_from_the_one_before_and_ends_equal(image_folder, tmp_path):
    whole, harmed = tmp_path / "whole", tmp_path / "harmed"
    for out in (whole, harmed):
        train(small(image_folder), out)
    latest = (harmed / "checkpoints" / "latest").read_text().strip()
    path = harmed / "checkpoints" / latest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    (harmed / "metrics.json").unlink()
    train(small(image_folder), harmed)
    assert weights(harmed) == weights(whole)
    assert (harmed / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_disk_that_is_full_in_mid_run_leaves_a_run_that_resumes(image_folder, tmp_path, monkeypatch):
    whole, recipe = tmp_path / "whole", small(image_folder, "train.epochs=2", "train.checkpoint_steps=3")
    train(recipe, whole)
    for n_writes in (0, 3, 9, 16, 25, 30):
        out = tmp_path / f"after-{n_writes}"
        with monkeypatch.context() as patch:
            full_disk(patch, n_writes)
            with pytest.raises(OSError, match="No space left on device"):
                train(recipe, out)
        assert not (out / "metrics.json").exists()
        train(recipe, out)
        assert weights(out) == weights(whole), n_writes
        assert listing(out).keys() == listing(whole).keys()
        assert (out / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_the_rule_of_every_test_digit_says_what_the_model_says_and_holds_for_no_digit_of_another_class(digits_run):
    run = load_run(digits_run)
    test = run.load_test()
    pictures = [test.read(at) for at in range(len(test))]
    said, explained = run.model.predict(pictures), explain(run, pictures, n_nearest=3)
    cosines = torch.stack([each.cosines for each in explained])
    assert [each.label for each in explained] == said.labels.tolist()
    assert [each.subcentroid for each in explained] == said.subcentroids.tolist()
    for at, each in enumerate(explained):
        holds = each.rule.holds(cosines)
        assert holds[at]
        assert set(said.labels[holds].tolist()) == {each.label}
        assert len(each.nearest) == 3
        assert abs(float(each.heat.sum()) - each.alternatives[0].cosine) < 1e-4


def test_a_loss_that_is_not_finite_stops_the_run(image_folder, tmp_path):
    with pytest.raises(RunError, match=r"the loss is nan at step \d+: train with a lower optim\.lr, into a new --out"):
        train(small(image_folder, "optim.name=sgd", "optim.lr=1e30"), tmp_path / "run")


def test_global_random_state_and_signal_handlers_are_given_back(image_folder, tmp_path):
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    train(small(image_folder, "train.epochs=1"), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_run_that_resumes(image_folder, tmp_path, signum, code):
    out = tmp_path / "run"
    changes = [change for change in SMALL if not change.startswith("train.epochs")]
    command = ["dnc", "train", "image-folder", *changes, "train.epochs=300", "--data", str(image_folder), "--out", str(out)]
    fork = processes.start("tests.dnc.test_training:run_command", *command)
    latest = time.monotonic() + 60
    while not (out / "history.csv").exists():
        assert time.monotonic() < latest, fork.errors.read_text()
        time.sleep(0.02)
    os.kill(fork.process.pid, signum)
    [(found, output, errors)] = processes.end([fork])
    assert found == code
    assert output.startswith("epoch 1/300")
    assert "the same command goes on from there" in errors
    step = int(errors.split("after step ")[1].split(";")[0])
    assert (out / "checkpoints" / f"step-{step}").is_dir()
    assert not (out / "metrics.json").exists()
