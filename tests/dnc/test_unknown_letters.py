"""What a model of digits does not know: letters, and the benchmark that measures it."""

from __future__ import annotations

import string

import numpy as np
import pytest
from PIL import Image

from otcluster.dnc import calibrate, explain, load_recipe, load_run, out_of_distribution, predict, train
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.unknown.calibration import calibrate_on, halves
from otcluster.dnc.unknown.scores import NearestCosine
from tests.oracles import brute_auroc


def test_letters_are_made_as_digits_are_and_street_scenes_have_no_cars(tmp_path):
    reason = "letters and patches are made by benchmarks/, which is not here"
    letters, ood = (pytest.importorskip(f"benchmarks.{name}", reason=reason) for name in ("letters", "ood"))
    some = letters.letters(60, seed=1)
    assert (some == letters.letters(60, seed=1)).all()
    assert (some != letters.letters(60, seed=2)).any()
    levels = np.rint(np.arange(17) * (255 / 16)).astype(np.uint8)
    assert set(some.ravel().tolist()) == set(levels.tolist())
    assert sorted(letters.LETTERS + letters.LEFT_OUT) == sorted(string.ascii_letters)
    for folder in ("images", "labels"):
        (tmp_path / "test" / folder).mkdir(parents=True)
    for name, value, label in (("street", 200, 3), ("cars", 10, 8)):
        Image.fromarray(np.full((300, 400, 3), value, np.uint8)).save(tmp_path / "test" / "images" / f"{name}.jpg")
        Image.fromarray(np.full((300, 400), label, np.uint8)).save(tmp_path / "test" / "labels" / f"{name}.png")
    patches = ood.patches(tmp_path / "test", 16)
    assert patches.shape == (10, 16, 16, 3)
    assert patches.min() > 190  # none of the frame of cars


def test_the_benchmark_measures_what_the_scores_say(small_run, capsys):
    ood = pytest.importorskip("benchmarks.ood", reason="the benchmark is not here")
    run = load_run(small_run / "run")
    unseen = ood.others(run, None)
    found = ood.measured(run, unseen)
    test, noise = (evaluate(run.model, split, run.recipe.data) for split in (run.load_test(), unseen["noise"]))
    known, other = (NearestCosine().score(run.model.head, each.features, each.logits) for each in (test, noise))
    assert found["unknown"]["noise", "cosine"]["auroc"] == pytest.approx(brute_auroc(known, other))
    fits = [calibrate_on(run.model, *halves(test, seed), score="cosine", keep=0.95) for seed in range(ood.HALVINGS)]
    assert found["gains"]["nll_after"] == pytest.approx(np.mean([fit.nll_after for fit in fits]))
    ood.print_calibration({"dnc": [found], "linear": [found]})
    assert (
        f"| accuracy | {found['gains']['accuracy']:.4f} | {found['gains']['accuracy']:.4f} | +0.00 |" in capsys.readouterr().out
    )


def test_digits_are_told_from_letters(tmp_path):
    letters = pytest.importorskip("benchmarks.letters", reason="letters are drawn by benchmarks/, which is not here")
    recipe = load_recipe("digits", ["data.image_size=16", "train.epochs=3", "head.momentum=0.9"])
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    test = evaluate(run.model, run.load_test(), run.recipe.data)
    drawn_letters = letters.as_split(letters.letters(200, seed=0))
    others = evaluate(run.model, drawn_letters, run.recipe.data)
    score = NearestCosine()
    known, other = (score.score(run.model.head, each.features, each.logits) for each in (test, others))
    assert out_of_distribution(known, other)["auroc"] > 0.7
    found = calibrate(run, keep=0.9)
    found.save(run.files)
    # One threshold of 180 digits, for 179 others: both vary, with a deviation of about 0.03 around 0.9.
    assert found.kept > 0.79
    drawn_letters.read(0).save(tmp_path / "letter.png")
    explained = explain(run, [drawn_letters.read(at) for at in range(50)])
    assert sum(not each.known for each in explained) > 0.2 * 50
    assert predict(run, [tmp_path / "letter.png"])[0].known == explained[0].known
