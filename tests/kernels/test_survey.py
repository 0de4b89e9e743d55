"""What a problem finds wrong with its scores: by the kernel as without it, word for word."""

from __future__ import annotations

import pytest
import torch

import otcluster as otc
from otcluster._kernels import survey
from tests.kernels.conftest import INTERPRETED
from tests.kernels.public import both, device_like
from tests.kernels.reference import DTYPES, F16, F32, INF

__all__ = ["both", "device_like"]

pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of NumPy, for which a device has no word


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(survey, "_TILE", 64)


@pytest.fixture
def told(both):
    """What is said of a problem: the error, or what is known of its scores."""

    def ask(make):
        def say():
            scores, given = make()
            try:
                problem = otc.Problem(scores, **given)
                answer = otc.solve(problem, otc.SinkhornKnopp(epsilon=0.5, tol=1e-3, max_iter=50))
            except (ValueError, otc.InfeasibleError) as error:
                return type(error), str(error)
            return problem.has_forbidden, problem.bounds, answer.status

        with_kernels, without = both(say)
        assert with_kernels == without
        return with_kernels

    return ask


def drawn(place, shape, dtype=F32):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) * 2 - 1).to(place, dtype)


def grouped(place, n):
    ids = torch.arange(n) * 7 % 3
    return {"groups": ids.to(place), "n_groups": 4}  # the last is empty


KINDS = ["plain", "batch", "groups", "weighted", "weighted groups"]


def of_kind(place, kind, dtype=F32, n=21, k=5):
    """Scores, of which sample 4 may be made heavy or not, and the rest of a problem."""
    scores = drawn(place, (2, n, k) if kind == "batch" else (n, k), dtype)
    given = grouped(place, n) if "groups" in kind else {}
    if "weighted" in kind:
        given["sample_mass"] = torch.rand(n, generator=torch.Generator().manual_seed(0)).to(place) + 0.5
    return scores, given


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wrong(place, told, kind, dtype):
    forbidden, bounds, status = told(lambda: of_kind(place, kind, dtype))
    assert forbidden is False
    assert -1 <= bounds[0] < bounds[1] <= 1
    assert status is otc.Status.CONVERGED


@pytest.mark.parametrize("value", [float("nan"), INF])
@pytest.mark.parametrize(("kind", "dtype"), [*zip(["plain", "batch", "groups"], DTYPES, strict=True)], ids=str)
def test_a_bad_score(place, told, kind, value, dtype):
    for at in (0, 11, 20):

        def make(at=at):
            scores, given = of_kind(place, kind, dtype)
            scores[..., at, 3] = value
            scores[..., 7, 1] = -INF
            return scores, given

        error, text = told(make)
        assert error is ValueError
        assert "must not be NaN or +inf" in text
        assert f"{at}, 3)" in text


@pytest.mark.parametrize("kind", KINDS)
def test_forbidden_pairs(place, told, kind):
    def make():
        scores, given = of_kind(place, kind)
        scores[..., ::4, 2] = -INF
        return scores, given

    forbidden, bounds, status = told(make)
    assert forbidden is True
    assert bounds is None
    assert status is otc.Status.CONVERGED


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_a_pair(place, told, kind):
    def make(weight=None, **more):
        scores, given = of_kind(place, kind)
        scores[..., 4, :] = -INF
        if weight is not None:
            given["sample_mass"][4] = weight
        return scores, given | more

    error, text = told(make)
    assert error is otc.InfeasibleError
    assert "may join no open cluster" in text
    if "weighted" in kind:  # a sample of no mass need not join any
        assert told(lambda: make(0.0))[0] is True
    if "groups" not in kind:  # and of a partial problem it stays outside
        assert told(lambda: make(assigned_mass=8.0))[0] is True


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_that_only_closed_clusters_would_take(place, told, kind):
    def make():
        scores, given = of_kind(place, kind)
        scores[..., 4, 1:] = -INF
        share = torch.ones((4, 5) if "groups" in kind else 5, device=place)
        share[..., 0] = 0
        return scores, given | {"cluster_share": share}

    error, text = told(make)
    assert error is otc.InfeasibleError
    assert "sample" in text
    assert "closed cluster" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_cluster_without_a_pair(place, told, kind):
    def make(closed=False, **more):
        scores, given = of_kind(place, kind)
        scores[..., 2] = -INF
        if "groups" in kind:
            scores[given["groups"] != 1, 2] = 0.5
        if closed:
            given["cluster_share"] = torch.ones((4, 5) if "groups" in kind else 5, device=place)
            given["cluster_share"][..., 2] = 0
        return scores, given | more

    error, text = told(make)
    assert error is otc.InfeasibleError
    assert "cluster 2" in text
    assert "may receive no sample" in text
    assert told(lambda: make(closed=True))[0] is True
    assert told(lambda: make(cluster_side=0.5))[0] is True


def test_a_cluster_that_only_samples_of_no_mass_would_join(place, told):
    def make():
        scores, given = of_kind(place, "weighted")
        scores[1:, 2] = -INF
        given["sample_mass"][0] = 0
        return scores, given

    error, text = told(make)
    assert error is otc.InfeasibleError
    assert "cluster 2" in text


@pytest.mark.parametrize("forbidden", [False, True])
def test_scores_that_are_too_large(place, told, forbidden):
    def make(size=3e38):
        scores, given = of_kind(place, "plain")
        scores[13, 1] = -size
        if forbidden:
            scores[2, 2] = -INF
        return scores, given

    found = told(make)
    assert found[0] is ValueError
    found = told(lambda: make(1e30))
    assert found[0] is forbidden


@pytest.mark.parametrize("id_", [-1, 4, 2**40])
@pytest.mark.parametrize("forbidden", [False, True])
def test_groups_that_there_are_not(place, told, id_, forbidden):
    def make():
        scores, given = of_kind(place, "groups")
        given["groups"][5] = id_
        if forbidden:
            scores[5] = scores[2, 2] = -INF
        return scores, given

    error, text = told(make)
    assert error is ValueError
    assert "groups must lie in [0, 4)" in text


def test_no_groups_for_some_samples(place, told):
    scores = drawn(place, (3, 2))
    scores[0] = -INF
    error, text = told(lambda: (scores, {"groups": torch.zeros(3, dtype=torch.int64, device=place), "n_groups": 0}))
    assert error is ValueError
    assert "groups must lie in [0, 0)" in text


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 1, 2)], ids=str)
def test_small_problems(place, told, shape):
    for value in (0.0, -INF, float("nan")):

        def make(value=value):
            scores = drawn(place, shape)
            scores[..., -1, -1] = value
            return scores, {}

        told(make)


def test_more_clusters_than_a_tile(place, told):
    for at, row, value in ((99, 2, float("nan")), (70, slice(None), -INF), (3, 2, -INF)):

        def make(at=at, row=row, value=value):
            scores = drawn(place, (5, 100))
            scores[row, at] = value
            return scores, {}

        told(make)


def test_a_look_leaves_the_scores_as_they_were(place, both):
    scores, given = of_kind(place, "weighted groups", F16)
    scores[3, 1] = -INF
    before = scores.clone()
    both(lambda: otc.Problem(scores, **given))
    assert torch.equal(scores, before)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(100_003, 40), (300, 65_536), (30, 1000, 64)], ids=str)
def test_large(cuda, told, shape):
    for value in (0.5, -INF, float("nan")):

        def make(value=value):
            scores = drawn(cuda, shape)
            scores[..., -7, -3] = value
            return scores, {}

        told(make)
