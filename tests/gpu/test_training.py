"""The digits are trained on a CUDA device in each precision, stopped, gone on with, and used on the host."""

from __future__ import annotations

import os
import signal

import pytest
import torch

pytest.importorskip("lightning_fabric")
pytest.importorskip("omegaconf")
pytest.importorskip("timm")

from otcluster.dnc import load_recipe, load_run, predict, train
from otcluster.dnc.checkpoint import load_checkpoint
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.progress import Silent
from otcluster.runs.interruption import Interrupted

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:You passed")]
STOPPED = 30  # of 66 steps


class Stopper(Silent):
    """Asks its process to end after a step."""

    def step(self, step, *args, **kwargs):
        if step == STOPPED:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_the_digits(precision, device, tmp_path):
    if device.type == "cpu" and precision == "16-mixed":
        pytest.skip("16-mixed needs a CUDA device, and none is asked for")
    changes = [f"train.accelerator={device.type}", f"train.precision={precision}", "train.epochs=3", "optim.warmup_epochs=0"]
    recipe = load_recipe("digits", changes)
    whole = train(recipe, tmp_path / "whole")
    assert whole["test"]["accuracy"] > 0.8

    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", progress=Stopper())
    _, state = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert state["loop"]["step"] == STOPPED
    assert bool(state["precision"]) == (precision == "16-mixed")
    resumed = train(recipe, tmp_path / "run")
    assert resumed["steps"] == whole["steps"]
    # On a GPU sums come in any order, so that two runs are not the same to the bit.
    assert abs(resumed["test"]["accuracy"] - whole["test"]["accuracy"]) < 0.1

    run = load_run(tmp_path / "run")
    assert {parameter.device.type for parameter in run.model.parameters()} == {"cpu"}
    found = evaluate(run.model, run.load_test(), run.recipe.data).metrics(run.classes)
    assert abs(found["accuracy"] - resumed["test"]["accuracy"]) < 0.02
    run.load_test().read(0).save(tmp_path / "mine.png")
    (one,) = predict(run, [tmp_path / "mine.png"])
    assert one.label in run.classes
    if device.type == "cuda":
        run.model.to(device)
        (two,) = predict(run, [tmp_path / "mine.png"])
        assert (two.label, two.subcentroid) == (one.label, one.subcentroid)
        again = evaluate(run.model, run.load_test(), run.recipe.data)
        assert again.features.device.type == "cpu"
        assert torch.isfinite(again.logits).all()
