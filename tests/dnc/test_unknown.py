"""What a model does not know: temperatures, scores, thresholds, and what predictions and explanations make of them."""

from __future__ import annotations

import json
import math
import shutil
import string

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from scipy.special import logsumexp
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import (
    Calibration,
    Classifier,
    DNCHead,
    LinearHead,
    ScoreNorm,
    Verdict,
    calibrate,
    explain,
    load_recipe,
    load_run,
    out_of_distribution,
    predict,
    train,
)
from otcluster.dnc.commands import app
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.unknown.calibration import calibrate_on, halves, model_digest
from otcluster.dnc.unknown.measures import calibration_error, known_threshold
from otcluster.dnc.unknown.scores import ClassMeanCosine, Energy, GreatestShare, LargestLogit, NearestCosine, score_of
from otcluster.dnc.unknown.temperature import fit_temperature, negative_log_likelihood
from otcluster.runs.errors import RunError
from tests.dnc.conftest import small


def drawn(n, n_classes, temperature, seed, scale=3.0):
    """Logits, and labels drawn from their shares at a temperature."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(n, n_classes))
    shares = torch.softmax(torch.from_numpy(logits) / temperature, dim=1).numpy()
    labels = (shares.cumsum(axis=1) > rng.uniform(size=(n, 1))).argmax(axis=1)
    return torch.from_numpy(logits), torch.from_numpy(labels)


def plain_nll(logits, labels, temperature):
    """By the definition, in float64; at one temperature or several."""
    rows = np.asarray(logits, dtype=np.float64) / np.asarray(temperature)[..., None, None]
    own = np.take_along_axis(rows, np.broadcast_to(np.asarray(labels)[:, None], (*rows.shape[:-1], 1)), axis=-1)[..., 0]
    return (logsumexp(rows, axis=-1) - own).mean(axis=-1)


@given(st.integers(5, 60), st.integers(2, 6), st.floats(0.3, 4.0), st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_the_temperature_is_the_best_of_a_grid_and_scales_with_the_logits(n, n_classes, temperature, seed, scale):
    logits, labels = drawn(n, n_classes, temperature, seed)
    found = fit_temperature(scale * logits, labels)
    best = plain_nll(logits, labels, np.geomspace(1e-2, 1e3, 1001)).min()
    if found.status == "fitted":
        assert plain_nll(logits, labels, found.temperature / scale) <= best + 1e-12
        assert found.nll_after == pytest.approx(plain_nll(scale * logits, labels, found.temperature), rel=1e-10)
    assert found.nll_before == pytest.approx(plain_nll(scale * logits, labels, 1.0), rel=1e-10)
    assert found.nll_after <= best + 1e-9  # at a bound too
    assert (found.status == "all right") == bool((logits.argmax(dim=1) == labels).all())
    assert found.temperature == pytest.approx(scale * fit_temperature(logits, labels).temperature, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again_and_shares_are_then_calibrated(temperature):
    logits, labels = drawn(20_000, 5, temperature, seed=1)
    found = fit_temperature(logits, labels)
    assert found.status == "fitted"
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert calibration_error(torch.softmax(logits / found.temperature, dim=1), labels) < 0.015
    if temperature != 1:
        assert calibration_error(torch.softmax(logits, dim=1), labels) > 0.03


def test_where_there_is_no_best_temperature_it_is_said():
    eye = torch.eye(3)
    right = fit_temperature(5 * eye, torch.arange(3))
    assert (right.status, right.nll_after) == ("all right", 0.0)
    assert right.temperature == pytest.approx(5e-6)
    wrong = fit_temperature(5 * eye, torch.tensor([1, 2, 0]))
    assert wrong.status == "chance"
    assert wrong.nll_after == pytest.approx(math.log(3), abs=1e-5)
    for flat in (torch.full((4, 3), 2.5), torch.randn(4, 1)):  # and one class
        found = fit_temperature(flat, torch.zeros(4, dtype=torch.int64))
        assert (found.status, found.temperature) == ("flat", 1.0)
        assert found.nll_after == found.nll_before == pytest.approx(math.log(flat.shape[1]))


def test_impossible_classes_count_for_nothing():
    logits, labels = drawn(200, 3, 2.0, seed=3)
    more = torch.cat([logits, torch.full((200, 1), -torch.inf)], dim=1)
    assert fit_temperature(more, labels) == fit_temperature(logits, labels)
    half = fit_temperature(logits.half(), labels)
    assert half.temperature == pytest.approx(fit_temperature(logits, labels).temperature, rel=1e-2)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "words"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), ValueError, "n at least 1, got"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), ValueError, "logits must have shape"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), ValueError, "labels must have shape"),
        (torch.zeros(2, 3), torch.zeros(2), TypeError, "labels must be integers"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "labels must lie in 0 to 2, got 0 to 3"),
        (torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), torch.tensor([0, 1]), ValueError, "row 1 is not"),
        (torch.tensor([[0.0, torch.inf], [1.0, 0.0]]), torch.tensor([0, 1]), ValueError, "row 0 is not"),
        (torch.tensor([[0.0, -torch.inf], [1.0, -torch.inf]]), torch.tensor([0, 1]), ValueError, "label of row 1"),
    ],
)
def test_logits_that_tell_nothing_are_refused(logits, labels, error, words):
    with pytest.raises(error, match=words):
        fit_temperature(logits, labels)


def test_the_order_of_the_classes_stays():
    logits, _ = drawn(500, 4, 1.0, seed=5)
    logits = torch.cat([logits, logits[:, :1] + 1e-6], dim=1).float()
    for temperature in (1e-3, 0.37, 3.0, 1e3):
        some = Calibration(temperature, "fitted", "share", 0.0, 0.9, 1, 1, 0, 0, 0, 0, 1, 1, 1, "")
        shares = some.shares(logits)
        assert shares.dtype == torch.float64
        rows = torch.arange(500)
        assert bool((shares[rows, logits.argmax(dim=1)] == shares.amax(dim=1)).all())


def brute_auroc(known, other):
    return ((known[:, None] > other).double() + (known[:, None] == other).double() / 2).mean().item()


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 8), st.integers(0, 10**6), st.booleans())
def test_auroc_counts_pairs_and_half_of_ties_and_fpr95_what_passes_the_line(n, m, levels, seed, rescale):
    generator = torch.Generator().manual_seed(seed)
    known = torch.randint(levels, (n,), generator=generator).double() + 1
    other = torch.randint(levels, (m,), generator=generator).double()
    if rescale:  # no scores are squeezed on the way
        known, other = 1e-9 * known + 40, 1e-9 * other + 40
    found = out_of_distribution(known, other)
    assert found["auroc"] == pytest.approx(brute_auroc(known, other), abs=1e-12)
    lines = [line for line in known.tolist() if (known >= line).double().mean() >= 0.95]
    assert found["fpr95"] == pytest.approx((other >= max(lines)).double().mean().item())


def test_scores_that_are_none_are_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"other must have shape \(n,\), n at least 1, got \(0,\)"):
        out_of_distribution(one, one[:0])
    with pytest.raises(ValueError, match="known must be finite, and number 0 is not"):
        out_of_distribution(one * torch.nan, one)
    with pytest.raises(ValueError, match="scores must have shape"):
        known_threshold(one[:0])
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\]"):
        known_threshold(one, keep=0.0)
    with pytest.raises(ValueError, match="shares must have shape"):
        calibration_error(torch.ones(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature must be positive"):
        Energy(0.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        GreatestShare(math.nan)
    with pytest.raises(ValueError, match="score must be one of cosine, share, logit, energy, got 'entropy'"):
        score_of("entropy")


@pytest.mark.parametrize(("n", "keep"), [(19, 0.95), (100, 0.9), (37, 0.8), (9, 0.9)])
def test_the_threshold_keeps_the_part_that_it_promises_of_images_drawn_alike(n, keep):
    # Each trial draws its held-out scores and one new one anew, so that hits are binomial.
    rng, trials = np.random.default_rng(0), 4000
    scores = torch.from_numpy(rng.gumbel(size=(trials, n + 1)))
    hits = sum(float(row[-1]) >= known_threshold(row[:-1], keep) for row in scores)
    exact = 1 - math.floor((n + 1) * (1 - keep) + 1e-9) / (n + 1)
    assert keep - 1e-12 <= exact < keep + 1 / (n + 1)
    low, high = stats.binom.interval(1 - 1e-6, trials, exact)
    assert low <= hits <= high


def test_the_threshold_leaves_out_none_where_there_are_too_few():
    scores = torch.arange(18.0)
    assert known_threshold(scores, 0.95) == -math.inf
    assert known_threshold(torch.arange(19.0), 0.95) == 0.0
    assert known_threshold(scores, 1.0) == -math.inf
    assert known_threshold(torch.arange(9.0), 0.9) == 0.0  # 10 * (1 - 0.9) is less than one in floats
    assert known_threshold(torch.ones(100), 0.5) == 1.0  # all tied: all are kept


@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 10**6))
def test_calibration_error_is_that_of_the_definition(n, n_classes, seed):
    logits, labels = drawn(n, n_classes, 1.0, seed)
    shares = torch.softmax(logits, dim=1)
    sure, said = shares.max(dim=1)
    place = (sure * 15).floor().clamp(max=14)
    expected = 0.0
    for each in place.unique():
        inside = place == each
        expected += float(inside.double().mean() * (sure[inside].mean() - (said == labels)[inside].double().mean()).abs())
    assert calibration_error(shares, labels) == pytest.approx(expected, abs=1e-5)
    assert calibration_error(torch.ones(n, 1), torch.zeros(n, dtype=torch.int64)) == 0


def test_scores_are_what_they_are_called():
    torch.manual_seed(0)
    head = DNCHead(6, n_classes=3, n_subcentroids=[2, 1, 2])
    labels = torch.arange(60) % 3
    head.observe(torch.randn(60, 6), labels)
    features = 7 * torch.randn(20, 6)
    logits = head(features)
    cosines = [
        max(
            float(nn.functional.cosine_similarity(row, head.subcentroids[label, at], dim=0))
            for label, k in enumerate((2, 1, 2))
            for at in range(k)
        )
        for row in features
    ]
    found = NearestCosine().score(head, features, logits)
    np.testing.assert_allclose(found, cosines, atol=1e-6)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(LargestLogit().score(head, features, logits), found / 0.1, atol=1e-5)
    np.testing.assert_allclose(
        GreatestShare(2.0).score(head, features, logits), torch.softmax(logits / 2, 1).amax(1), atol=1e-6
    )
    np.testing.assert_allclose(Energy(2.0).score(head, features, logits), 2 * torch.logsumexp(logits / 2, 1), atol=1e-5)
    means = ClassMeanCosine.of(features, torch.arange(20) % 3, 4)  # the last class has no features
    unit = nn.functional.normalize(features, dim=1)
    by_hand = [nn.functional.normalize(unit[torch.arange(20) % 3 == label].sum(0), dim=0) for label in range(3)]
    np.testing.assert_allclose(
        means.score(head, features, logits), (unit @ torch.stack(by_hand).T).amax(1).clamp(min=0), atol=1e-6
    )
    with pytest.raises(TypeError, match="where a head has sub-centroids, and this is LinearHead"):
        NearestCosine().score(LinearHead(6, 3), features, logits)
    with pytest.raises(TypeError, match="layer_norm"):
        NearestCosine().score(DNCHead(6, n_classes=3, scaling=ScoreNorm(3)), features, logits)
    with pytest.raises(ValueError, match="compares by metric='sqeuclidean': choose 'logit'"):
        NearestCosine().score(DNCHead(6, n_classes=3, metric="sqeuclidean"), features, logits)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(0, 100))
def test_halves_have_half_of_each_class_and_every_image_once(labels, seed):
    n = len(labels)
    whole = Evaluation(torch.arange(n)[:, None], torch.arange(n)[:, None], torch.tensor(labels), torch.arange(n))
    first, second = halves(whole, seed)
    assert sorted([*first.indices.tolist(), *second.indices.tolist()]) == list(range(n))
    assert 0 <= len(first.labels) - len(second.labels) <= 1
    for part in (first, second):
        assert torch.equal(part.labels, whole.labels[part.indices])
        assert torch.equal(part.features[:, 0], part.indices)
    counts = [torch.bincount(part.labels, minlength=5) for part in (first, second)]
    assert int((counts[0] - counts[1]).abs().max()) <= 1
    again = halves(whole, seed)
    assert torch.equal(again[0].indices, first.indices)


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
