"""What a model does not know, as numbers: temperatures, scores, thresholds, AUROC and calibration error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp
from torch import nn

from otcluster.dnc import Calibration, DNCHead, LinearHead, ScoreNorm, out_of_distribution
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.unknown.calibration import halves
from otcluster.dnc.unknown.measures import calibration_error, known_threshold
from otcluster.dnc.unknown.scores import ClassMeanCosine, Energy, GreatestShare, LargestLogit, NearestCosine, score_of
from otcluster.dnc.unknown.temperature import fit_temperature
from tests.oracles import brute_auroc


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
