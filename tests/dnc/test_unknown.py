"""What a model does not know: what a run is calibrated on, and what predictions and explanations make of it."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import Calibration, Classifier, LinearHead, Verdict, calibrate, explain, load_run, predict, train
from otcluster.dnc.commands import app
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.unknown.calibration import calibrate_on, halves, model_digest
from otcluster.dnc.unknown.scores import NearestCosine
from otcluster.dnc.unknown.temperature import fit_temperature, negative_log_likelihood
from otcluster.runs.errors import RunError
from tests.dnc.conftest import small


@pytest.fixture
def calibrated(small_run, tmp_path):
    """A run of its own, with a calibration."""
    shutil.copytree(small_run / "run", tmp_path / "run")
    run = load_run(tmp_path / "run")
    found = calibrate(run, keep=0.7, seed=3)
    found.save(run.files)
    return run, found


def test_a_run_is_calibrated_on_half_of_its_test_images_and_reported_on_the_other(calibrated):
    run, found = calibrated
    whole = evaluate(run.model, run.load_test(), run.recipe.data)
    held_out, reported = halves(whole, 3)
    assert (found.n_held_out, found.n_reported) == (len(held_out.labels), len(reported.labels)) == (6, 6)
    fitted = fit_temperature(held_out.logits, held_out.labels)
    assert found.status == fitted.status
    assert found.temperature == (1.0 if fitted.status == "all right" else fitted.temperature)
    cosines = NearestCosine().score(run.model.head, held_out.features, held_out.logits)
    assert (found.score, found.threshold) == ("cosine", cosines.sort().values[1])  # floor(7 * 0.3) is 2
    known = NearestCosine().score(run.model.head, reported.features, reported.logits) >= found.threshold
    assert found.kept == pytest.approx(known.double().mean().item())
    assert found.nll_after == negative_log_likelihood(reported.logits, reported.labels, found.temperature)
    assert found.accuracy == pytest.approx(reported.metrics(run.classes)["accuracy"], abs=1e-6)
    right = (reported.predictions == reported.labels)[known]
    assert found.accuracy_kept == (pytest.approx(right.double().mean().item()) if len(right) else None)
    assert Calibration.load(run) == found
    assert calibrate(run, keep=0.7, seed=3) == found


def test_images_of_ones_own_are_held_out_whole(calibrated):
    run, _ = calibrated
    test = run.load_test()
    found = calibrate(run, split=test.subset(range(5)))
    assert (found.n_held_out, found.n_reported) == (5, 12)
    assert found.threshold == -math.inf  # five are too few to leave out one in twenty
    assert found.kept == 1
    found.save(run.files)
    assert Calibration.load(run) == found
    assert json.loads(run.files.calibration.read_text())["threshold"] is None
    for rows in ([], [0]):
        with pytest.raises(RunError, match="at least one of each is needed"):
            calibrate_small(run, rows)


def calibrate_small(run, rows):
    """Calibrate with a test set of few images."""
    test = run.load_test().subset(rows)
    object.__setattr__(run, "load_test", lambda: test)
    try:
        return calibrate(run)
    finally:
        object.__delattr__(run, "load_test")


def test_where_no_held_out_image_is_wrong_the_temperature_stays_as_it_was():
    logits, labels = 4 * torch.eye(3), torch.arange(3)
    some = Evaluation(torch.eye(3), logits, labels, labels)
    model = Classifier(nn.Flatten(), LinearHead(3, 3))
    found = calibrate_on(model, some, some, score="share", keep=0.5)
    assert (found.status, found.temperature) == ("all right", 1.0)
    assert found.threshold == pytest.approx(math.exp(4) / (math.exp(4) + 2))
    broken = Evaluation(torch.eye(3), logits * torch.nan, labels, labels)
    with pytest.raises(ValueError, match="logits must not be NaN, and those of test image 0 are"):
        calibrate_on(model, some, broken, score="share", keep=0.5)
    with pytest.raises(ValueError, match="row 0 is not"):
        calibrate_on(model, broken, some, score="share", keep=0.5)


def test_predictions_and_explanations_go_by_the_calibration(calibrated, small_run):
    run, found = calibrated
    plain = load_run(small_run / "run")
    paths = sorted((small_run / "images" / "test").rglob("*.png"))
    before, after = predict(plain, paths), predict(run, paths)
    explained = explain(run, [Image.open(path) for path in paths])
    assert {each.known for each in before} == {None}
    assert {each.known for each in explain(plain, Image.open(paths[0]))} == {None}
    assert len({each.known for each in after}) == 2  # some are below the threshold and some are not
    for path, one, other, why in zip(paths, before, after, explained, strict=True):
        said = run.model.predict(Image.open(path))
        logits = run.model.head(said.features)
        assert (one.label, one.subcentroid, one.nearest) == (other.label, other.subcentroid, other.nearest)
        share = float(torch.softmax(logits.double() / found.temperature, dim=1).max())
        assert other.share == pytest.approx(share)
        assert why.alternatives[0].share == pytest.approx(share)
        assert sum(each.share for each in why.alternatives) == pytest.approx(1)
        assert run.classes[why.label] == other.label
        assert other.verdict.value == pytest.approx(why.alternatives[0].cosine, abs=1e-5)
        assert why.verdict.value == pytest.approx(other.verdict.value, abs=1e-6)
        assert other.known == (other.verdict.value >= found.threshold)
        dictionary = why.as_dict(run.classes)
        assert dictionary["known"] == why.known
        assert dictionary["verdict"] == why.verdict.as_dict()


def test_the_commands_say_that_they_do_not_know(calibrated, small_run):
    run, _ = calibrated
    paths = sorted((small_run / "images" / "test").rglob("*.png"))
    found = predict(run, paths)
    unknown, known = (next(each for each in found if each.known is flag) for flag in (False, True))
    said = CliRunner().invoke(app, ["predict", str(run.files.root), unknown.path, known.path])
    assert said.exit_code == 0, said.output
    first, second = said.stdout.splitlines()
    verdict = unknown.verdict
    assert verdict.text().startswith("cosine ")
    assert first.startswith(
        f"{unknown.path}: I do not know, {verdict.text()}; the nearest class is {unknown.label} ({unknown.share:.1%}, "
        f"sub-centroid {unknown.name}), nearest: "
    )
    assert second.startswith(f"{known.path}: {known.label} ({known.share:.1%}, ")
    plain = CliRunner().invoke(app, ["predict", str(run.files.root), unknown.path, "--json"])
    line = json.loads(plain.stdout)
    assert line["known"] is False
    assert line["label"] == unknown.label
    assert line["verdict"] == {
        "known": False,
        "score": "cosine",
        "value": pytest.approx(verdict.value),
        "threshold": pytest.approx(verdict.threshold),
    }
    why = CliRunner().invoke(app, ["explain", str(run.files.root), unknown.path, known.path])
    lines = [line for line in why.stdout.splitlines() if not line.startswith("  ")]
    assert lines[0].startswith(f"{unknown.path}: I do not know, cosine ")
    assert f"; the nearest class is {unknown.label} (" in lines[0]
    assert lines[1].startswith(f"{known.path}: {known.label} (")


def test_verdicts_have_as_many_digits_as_they_need():
    assert Verdict(True, "share", 0.5, 0.5).text() == "share 0.50 at least 0.50"
    assert Verdict(True, "share", 0.7, -math.inf).text() == "share 0.70 at least -inf"
    assert Verdict(False, "logit", 1 - 1e-16, 1.0).text() == "logit 0.9999999999999999 below 1.0000000000000000"
    assert Verdict(False, "cosine", math.nan, 0.5).text() == "cosine nan below 0.50"
    assert json.dumps(Verdict(True, "share", 0.7, -math.inf).as_dict(), allow_nan=False)


def test_a_calibration_of_other_weights_is_not_used_and_warned_about(calibrated, small_run, caplog):
    run, found = calibrated
    path = small_run / "images" / "test" / "cat" / "000.png"
    with torch.no_grad():
        run.model.head.store.centroids[0, 0, 0] += 1e-3
    assert Calibration.load(run) is None
    assert f"{run.files.calibration} is not used: it is of other weights than the model's" in caplog.text
    assert predict(run, [path])[0].known is None
    assert explain(run, Image.open(path))[0].known is None
    assert load_run(run.files.root).model.head.store.centroids is not run.model.head.store.centroids
    assert Calibration.load(load_run(run.files.root)) == found  # that on disk is as it was
    assert model_digest(run.model) != found.model


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', "nothing", "a score", "a temperature", "a name"],
)
def test_a_calibration_that_cannot_be_read_is_refused(calibrated, text, small_run):
    run, found = calibrated
    values = {"format": 1, **found.as_dict()}
    texts = {
        "nothing": json.dumps({**values, "threshold": "high"}),
        "a score": json.dumps({**values, "score": "entropy"}),
        "a temperature": json.dumps({**values, "score": "share", "temperature": 0}),
        "a name": json.dumps({**values, "more": 1}),
    }
    run.files.calibration.write_text(texts.get(text, text), encoding="utf-8")
    with pytest.raises(RunError, match=r"calibration.json cannot be read .* make it anew with 'otcluster dnc calibrate'"):
        predict(run, [small_run / "images" / "test" / "cat" / "000.png"])


def test_the_command_calibrates_runs_of_any_head(small_run, tmp_path):
    train(small(small_run / "images", "head.kind=linear"), tmp_path / "linear")
    root = tmp_path / "linear"
    said = CliRunner().invoke(app, ["calibrate", str(root), "--keep", "0.7", "--data", str(small_run / "images")])
    assert said.exit_code == 0, said.output
    run = load_run(root)
    found = Calibration.load(run)
    assert found == calibrate(run, keep=0.7)
    assert found.score == "share"
    lines = said.stdout.splitlines()
    assert lines[0].startswith(f"temperature {found.temperature:.4f}, of 6 held-out images")
    assert lines[1] == f"known from a share of {found.threshold:.4f} on, to keep 70.0%"
    assert f"  expected calibration error {found.ece_before:.4f}, at the temperature {found.ece_after:.4f}" in lines
    assert f"{found.kept:.1%} known, accuracy {found.accuracy:.4f}" in said.stdout
    pictures = [str(path) for path in sorted((small_run / "images" / "test").rglob("*.png"))]
    spoken = CliRunner().invoke(app, ["predict", str(root), *pictures])
    unknown = [each for each in predict(run, pictures) if not each.known]
    assert [line for line in spoken.stdout.splitlines() if "I do not know" in line] == [each.text() for each in unknown]
    assert unknown
    assert all(f"the likeliest class is {each.label} (" in each.text() for each in unknown)
    assert all(each.share < found.threshold for each in unknown)  # what is shown is what is compared
    none = CliRunner().invoke(app, ["calibrate", str(root), "--score", "logit"])
    assert none.stdout.splitlines()[1] == "every image is known: of 6 held-out images none can be left out to keep 95.0%"
    assert CliRunner().invoke(app, ["predict", str(root), pictures[0], "--json"]).exit_code == 0


def test_the_command_refuses_in_one_line(small_run, tmp_path):
    shutil.copytree(small_run / "run", tmp_path / "run")
    train(small(small_run / "images", "head.kind=linear"), tmp_path / "linear")
    for more, words in (
        (["run", "--keep", "0"], "--keep must lie in (0, 1], got 0.0"),
        (["run", "--data", str(tmp_path / "none")], "there is no folder"),
        (["none"], "is no run"),
        (["linear", "--score", "cosine"], "cannot be calibrated: a cosine tells how well an image is known where a head has"),
    ):
        said = CliRunner().invoke(app, ["calibrate", str(tmp_path / more[0]), *more[1:]])
        assert said.exit_code == 2, said.output
        assert said.stderr.startswith("error: ")
        assert words in said.stderr
        assert said.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "calibration.json").exists()
