"""Exact sizes: optimal beside an oracle, proven by prices, and impossible requests explained."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import otcluster as otc
from otcluster.balancing import exact
from tests.strategies import LIBRARIES, clustered_scores, to_numpy


def oracle(scores, low, high):
    """The largest sum of scores with sizes between bounds, by ``ot.emd``; -inf is a cost that no optimum pays if it can."""
    n, k = scores.shape
    finite = scores[np.isfinite(scores)]
    dear = 10 * n * (float(np.ptp(finite)) + 1)
    cost = np.where(np.isfinite(scores), -scores, dear)
    low, more = np.asarray(low, float), np.asarray(high, float) - np.asarray(low, float)
    # Twice the columns, what must be filled and what may be; slack fills only the second.
    cost = np.vstack([np.hstack([cost, cost]), np.r_[np.full(k, 10 * dear), np.zeros(k)]])
    mass = np.r_[np.ones(n), low.sum() + more.sum() - n]
    kept, places = mass > 0, np.r_[low, more]
    plan = ot.emd(mass[kept], places[places > 0], np.ascontiguousarray(cost[kept][:, places > 0]), numItermax=10**7)
    return -float((plan * cost[kept][:, places > 0])[:n].sum())


def fair(n, k):
    return np.full(k, n // k), np.full(k, -(-n // k))


def is_optimal(scores, assignment, low, high):
    """Sizes, value beside the oracle, and prices that prove it."""
    n, k = scores.shape
    labels = to_numpy(assignment.labels())
    sizes = np.bincount(labels, minlength=k)
    assert (sizes >= low).all()
    assert (sizes <= high).all()
    span = float(np.ptp(scores[np.isfinite(scores)]))
    value = scores[np.arange(n), labels].astype(np.float64).sum()
    # 1e-9 of n times the range; where that is nothing, roundings of n scores.
    rounding = 4 * np.finfo(float).eps * float(np.abs(scores[np.isfinite(scores)]).max())
    assert abs(value - oracle(scores.astype(np.float64), low, high)) <= n * max(1e-9 * span, rounding)
    assert float(to_numpy(assignment.dual_gap)) <= 1e-12
    assert float(to_numpy(assignment.marginal_error)) == 0
    assert assignment.status is otc.Status.CONVERGED


def prices_prove_it(scores, assignment, low, high):
    """The dual value of the potentials is the value of the labels."""
    f, g = (to_numpy(each).astype(np.float64) for each in assignment.potentials)
    scale = max(float(np.abs(scores).max()), float(np.abs(g[np.isfinite(g)]).max(initial=0.0)))
    np.testing.assert_allclose(f, -(scores + g).max(1), atol=16 * np.finfo(float).eps * scale)
    price = np.where(np.isfinite(g), -g, 0.0)
    dual = -f.sum() + np.maximum(price * high, price * low).sum()
    value = scores[np.arange(len(scores)), to_numpy(assignment.labels())].sum()
    assert abs(dual - value) <= 64 * np.finfo(float).eps * scale * (len(scores) + int(high.sum()))


@st.composite
def bounded(draw):
    """Scores with ties or without, and bounds that can be met."""
    n, k = draw(st.integers(1, 40)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["uniform", "ties", "constant", "repeated"]))
    scores = {
        "uniform": lambda: rng.uniform(-1, 1, (n, k)),
        "ties": lambda: rng.integers(-2, 3, (n, k)) / 2.0,
        "constant": lambda: np.full((n, k), 0.3),
        "repeated": lambda: np.repeat(rng.uniform(-1, 1, (1, k)), n, axis=0),
    }[kind]()
    start = np.bincount(rng.integers(0, k, n), minlength=k)
    low = np.maximum(start - rng.integers(0, 4, k), 0)
    return scores, tuple(low.tolist()), tuple((start + rng.integers(0, 4, k)).tolist())


@given(bounded())
def test_bounded_sizes_are_met_with_the_best_value(case):
    scores, low, high = case
    assignment = otc.exact_balanced(scores, size_min=low, size_max=high)
    is_optimal(scores, assignment, np.array(low), np.array(high))
    prices_prove_it(scores, assignment, np.array(low), np.array(high))


@given(bounded(), st.sampled_from(list(LIBRARIES)), st.sampled_from([np.float32, np.float64]))
def test_even_sizes_are_met_with_the_best_value_on_every_library(case, library, dtype):
    scores = case[0].astype(dtype)
    assignment = otc.exact_balanced(LIBRARIES[library](scores))
    is_optimal(scores, assignment, *fair(*scores.shape))


@given(bounded(), st.integers(0, 2**32 - 1))
def test_forbidden_pairs_are_respected_or_said_to_leave_nothing(case, seed):
    scores = case[0].copy()
    n, k = scores.shape
    rng = np.random.default_rng(seed)
    kept = rng.integers(0, k, n)
    forbidden = rng.random((n, k)) < 0.5
    forbidden[np.arange(n), kept] = False
    scores[forbidden] = -np.inf
    low, high = fair(n, k)
    best = oracle(scores, low, high)
    possible = best > -5 * n * (float(np.ptp(scores[~forbidden])) + 1)
    try:
        assignment = otc.exact_balanced(scores)
    except otc.InfeasibleError:
        assert not possible or forbidden.all(0).any()
        return
    assert possible
    is_optimal(scores, assignment, low, high)


@pytest.mark.parametrize(("n", "k"), [(400, 16), (997, 30), (1500, 7), (60, 100)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", LIBRARIES)
def test_problems_that_need_warm_prices_are_solved_exactly(n, k, dtype, library):
    scores = clustered_scores(n, k, seed=3).astype(dtype)
    is_optimal(scores, otc.exact_balanced(LIBRARIES[library](scores)), *fair(n, k))


def test_wide_bounds_are_solved_exactly_at_size():
    scores = clustered_scores(900, 20, seed=4)
    low, high = np.full(20, 10), np.full(20, 80)
    assignment = otc.exact_balanced(scores, size_min=10, size_max=80)
    is_optimal(scores, assignment, low, high)
    prices_prove_it(scores, assignment, low, high)


def test_forbidden_pairs_at_size():
    scores = clustered_scores(900, 20, seed=5)
    scores[np.random.default_rng(0).random(scores.shape) < 0.5] = -np.inf
    scores[np.isneginf(scores).all(1), 0] = 0.0
    is_optimal(scores, otc.exact_balanced(scores), *fair(900, 20))


@pytest.mark.parametrize("scores", [np.full((900, 12), 0.3), np.eye(12)[np.arange(900) % 5], np.repeat(np.eye(12)[:9], 100, 0)])
def test_ties_at_size(scores):
    is_optimal(scores, otc.exact_balanced(scores), *fair(900, 12))


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_the_unit_of_the_scores_does_not_matter(scale):
    scores = clustered_scores(500, 12, seed=6)
    value = scores[np.arange(500), otc.exact_balanced(scores).labels()].sum()
    scaled = otc.exact_balanced(scores * scale)
    assert scores[np.arange(500), scaled.labels()].sum() == pytest.approx(value, abs=1e-9 * 500)
    assert scaled.dual_gap <= 1e-12


def test_half_precision_is_solved_exactly_in_what_it_holds():
    scores = torch.from_numpy(clustered_scores(300, 8)).to(torch.bfloat16)
    assignment = otc.exact_balanced(scores)
    is_optimal(scores.float().numpy(), assignment, *fair(300, 8))
    assert assignment.plan().dtype == torch.float32


@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_equal_their_scores(metric, dtype):
    rng = np.random.default_rng(7)
    x, c = rng.standard_normal((700, 6)).astype(dtype), rng.standard_normal((14, 6)).astype(dtype)
    assignment = otc.exact_balanced(otc.PointScores(x, c, metric=metric))
    wide = otc.PointScores(x.astype(np.float64), c.astype(np.float64), metric=metric)
    scores = wide.tiles(None)(slice(0, 1), slice(0, 700))[0]
    is_optimal(scores, assignment, *fair(700, 14))


def test_groups_equal_the_loop():
    rng = np.random.default_rng(8)
    groups = rng.permutation(np.repeat(np.arange(40), np.r_[0, 1, 2, 3, 40, rng.integers(0, 20, 35)]))
    scores = rng.uniform(-1, 1, (len(groups), 4))
    whole = otc.exact_balanced(scores, groups=groups, n_groups=40)
    assert whole.dual_gap.shape == whole.marginal_error.shape == (40,)
    for group in range(40):
        own = groups == group
        np.testing.assert_array_equal(whole.labels()[own], otc.exact_balanced(scores[own]).labels())


def test_batches_equal_the_loop():
    scores = np.random.default_rng(9).uniform(-1, 1, (2, 3, 30, 4))
    whole = otc.exact_balanced(scores)
    for at in np.ndindex(2, 3):
        np.testing.assert_array_equal(whole.labels()[at], otc.exact_balanced(scores[at]).labels())
        np.testing.assert_array_equal(whole.potentials[1][at], otc.exact_balanced(scores[at]).potentials[1])


@pytest.mark.parametrize("bounds", [{"size_min": 2, "size_max": 9}, {"size_max": (4, 20, 3, 20)}])
def test_bounds_and_forbidden_pairs_in_groups_and_batches_are_those_of_each_alone(bounds):
    rng = np.random.default_rng(11)
    low = np.broadcast_to(bounds.get("size_min", 0), 4)
    high = np.broadcast_to(bounds["size_max"], 4)
    groups = rng.permutation(np.repeat(np.arange(5), [12, 9, 20, 15, 8]))
    scores = rng.uniform(-1, 1, (64, 4))
    forbidden = rng.random((64, 4)) < 0.3
    forbidden[:, 1] &= ~forbidden.all(1)
    scores[forbidden] = -np.inf
    whole = otc.exact_balanced(scores, groups=groups, n_groups=5, **bounds)
    batch = otc.exact_balanced(np.stack([scores[:16], scores[16:32]]), **bounds)
    parts = [(scores[groups == group], whole.labels()[groups == group]) for group in range(5)]
    for own, labels in [*parts, (scores[:16], batch.labels()[0]), (scores[16:32], batch.labels()[1])]:
        sizes = np.bincount(labels, minlength=4)
        assert (sizes >= low).all()
        assert (sizes <= high).all()
        value = own[np.arange(len(own)), labels].sum()
        assert value == pytest.approx(oracle(own, low, high), abs=1e-9 * len(own))
    assert whole.dual_gap.max() <= 1e-12
    assert (whole.marginal_error == 0).all()


def test_points_are_read_in_tiles_and_never_formed_as_a_whole(formed):
    rng = np.random.default_rng(12)
    x, centroids = rng.standard_normal((6000, 4)), rng.standard_normal((20, 4))
    assignment = otc.exact_balanced(otc.PointScores(x, centroids))
    assert max(formed) <= 1 << 13
    np.testing.assert_array_equal(assignment.cluster_sizes(), 300)
    assert assignment.dual_gap <= 1e-12


def test_masses_ask_for_sizes():
    scores = clustered_scores(30, 3)
    sizes = np.array([20.0, 7.0, 3.0])
    assignment = otc.exact_balanced(scores, cluster_mass=sizes)
    np.testing.assert_array_equal(assignment.cluster_sizes(), sizes)
    is_optimal(scores, assignment, sizes, sizes)
    np.testing.assert_array_equal(otc.exact_balanced(scores, cluster_share=np.array([2, 1, 0])).cluster_sizes(), [20, 10, 0])


def test_a_closed_cluster_stays_empty_and_the_others_share():
    scores = clustered_scores(10, 4)
    assignment = otc.exact_balanced(scores, cluster_share=np.array([1.0, 0, 1, 1]))
    assert assignment.cluster_sizes()[1] == 0
    assert sorted(assignment.cluster_sizes()) == [0, 3, 3, 4]
    assert np.isneginf(assignment.potentials[1][1])
    bounded = otc.exact_balanced(scores, cluster_share=np.array([1.0, 0, 1, 1]), size_max=5)
    assert bounded.cluster_sizes()[1] == 0
    assert bounded.cluster_sizes().max() <= 5


def test_one_bound_alone_leaves_the_other_side_open():
    scores = np.c_[np.ones(6), np.zeros(6), np.zeros(6)]
    np.testing.assert_array_equal(np.sort(otc.exact_balanced(scores, size_min=1).cluster_sizes()), [1, 1, 4])
    np.testing.assert_array_equal(otc.exact_balanced(scores, size_max=(4, 0, 9)).cluster_sizes(), [4, 0, 2])
    np.testing.assert_array_equal(otc.exact_balanced(scores, size_max=6).labels(), 0)


def test_weightless_samples_take_no_place():
    scores = np.array([[1.0, 0.0], [1.0, 0.9], [5.0, 0.0]])
    assignment = otc.exact_balanced(scores, sample_mass=np.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(assignment.labels()[:2], [0, 1])
    np.testing.assert_array_equal(assignment.cluster_sizes(), [1, 1])
    assert np.isneginf(assignment.potentials[0][2])


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        ({"size_min": 4}, "smallest sizes sum to 12, but there are 9 samples: lower size_min"),
        ({"size_max": (2, 3, 3)}, "largest sizes sum to 8, but there are 9 samples: raise size_max"),
    ],
)
def test_sizes_that_do_not_fit_the_samples_are_said(ask, match):
    with pytest.raises(otc.InfeasibleError, match=match):
        otc.exact_balanced(np.zeros((9, 3)), **ask)


def test_too_little_room_and_too_few_candidates_are_said():
    scores = np.zeros((6, 3))
    scores[:4, 2] = scores[:3, 1] = -np.inf
    with pytest.raises(otc.InfeasibleError, match="3 samples may only join cluster 0, which may hold 2 together"):
        otc.exact_balanced(scores)
    scores = np.zeros((6, 3))
    scores[:5, 2] = -np.inf
    with pytest.raises(otc.InfeasibleError, match="cluster 2 must hold 2 samples together, but only 1 may join"):
        otc.exact_balanced(scores, size_min=2, size_max=6)
    with pytest.raises(otc.InfeasibleError, match="sample 1 may join no cluster whose size may exceed zero"):
        otc.exact_balanced(np.array([[0.0, 0.0], [0.0, -np.inf]]), size_max=(0, 2))
    with pytest.raises(otc.InfeasibleError, match="group 1"):
        otc.exact_balanced(np.zeros((4, 2)), groups=np.array([0, 0, 0, 1]), n_groups=2, size_min=1)


@pytest.mark.parametrize(
    ("ask", "error", "match"),
    [
        ({"size_min": 1.5}, TypeError, "size_min must be None, a whole number or a tuple"),
        ({"size_max": [1, 2]}, TypeError, "size_max must be None, a whole number or a tuple"),
        ({"size_min": np.array([1, 2])}, TypeError, r"size_min must be None.* got array.*: of a list or an array, give tuple"),
        ({"size_min": ((1, 2),)}, TypeError, "size_min must be None, a whole number or a tuple"),
        ({"size_max": True}, TypeError, "size_max"),
        ({"size_max": np.array([1, 2, 3])}, TypeError, "size_max must be None, a whole number or a tuple"),
        ({"size_min": -1}, ValueError, "size_min must not be negative, got -1"),
        ({"size_min": 3, "size_max": (4, 2)}, ValueError, "size_min must not exceed size_max"),
        ({"size_min": (1, 2), "size_max": (1, 2, 3)}, ValueError, "of one length, got 2 and 3"),
    ],
)
def test_wrong_bounds_are_named(ask, error, match):
    with pytest.raises(error, match=match):
        otc.ExactBalanced(**ask)


def test_bounds_are_numbers_of_python_whatever_they_came_as():
    bounds = otc.ExactBalanced(size_min=np.int64(1), size_max=(torch.tensor(2), np.uint8(3)))
    assert bounds == otc.ExactBalanced(1, (2, 3))
    assert hash(bounds) == hash(otc.ExactBalanced(1, (2, 3)))
    assert repr(bounds) == "ExactBalanced(size_min=1, size_max=(2, 3))"


@pytest.mark.parametrize("scale", [1e-300, 1e30, 1e301, 1e306])
@pytest.mark.parametrize("n", [12, 1000])  # all pairs are looked at, and those of interest
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.filterwarnings("error")
def test_scores_of_any_size_have_exact_answers(scale, n, library):
    scores = np.random.default_rng(0).uniform(-1, 1, (n, 10))
    best = otc.exact_balanced(scores)
    found = otc.exact_balanced(LIBRARIES[library](scale * scores))
    assert float((to_numpy(found.plan()) * scores).sum()) == pytest.approx(float(best.transport_value()), abs=1e-9 * n)
    assert 0 <= float(found.dual_gap) <= 1e-9
    rounded = otc.nearest(LIBRARIES[library](scale * scores)).balanced_labels()
    assert set(np.bincount(to_numpy(rounded))) <= {n // 10, n // 10 + 1}


def test_a_partial_answer_proves_itself():
    found = otc.exact_balanced(clustered_scores(60, 6), assigned_mass=30)
    assert 0 <= float(found.dual_gap) <= 1e-9
    with pytest.raises(ValueError, match=r"cluster_mass, or its part of assigned_mass, must ask for whole numbers .* got 1.25"):
        otc.exact_balanced(clustered_scores(60, 6), assigned_mass=7.5)


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        ({"size_min": (1, 2)}, "size_min must be one number or a tuple of 3, one per cluster, got 2"),
        ({"size_max": 3, "cluster_mass": np.full(3, 2.0)}, "not both"),
        ({"size_max": 3, "cluster_share": np.array([1, 2, 3])}, "cluster_share may only close clusters"),
        (
            {"cluster_mass": np.array([2.5, 2.5, 1])},
            "cluster_mass must ask for whole numbers of samples, got 2.5 for cluster 0",
        ),
        ({"cluster_share": np.array([1, 2, 1])}, "cluster_share must ask for whole numbers of samples, got 1.5 for cluster 0"),
        ({"sample_mass": np.full(6, 2.0)}, "sample_mass must be one"),
        ({"sample_mass": np.arange(6.0)}, "sample_mass must be equal"),
    ],
)
def test_masses_that_cannot_be_counted_are_named(ask, match):
    with pytest.raises(ValueError, match=match):
        otc.exact_balanced(np.zeros((6, 3)), **ask)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 5), (5, 1), (0, 4, 3), (2, 0, 3), (2, 1, 4, 3)])
def test_small_and_empty_problems_are_answered(shape):
    for laid in (np.zeros(shape), torch.zeros(shape)):
        assignment = otc.exact_balanced(laid)
        assert tuple(assignment.labels().shape) == tuple(assignment.balanced_labels().shape) == shape[:-1]
        assert tuple(assignment.plan().shape) == shape
        assert tuple(assignment.dual_gap.shape) == tuple(assignment.marginal_error.shape) == shape[:-2]


def test_a_second_reading_repairs_what_the_first_pairs_missed(monkeypatch):
    # With too few pairs at hand paths take detours; the proof must notice, and the next round mend it.
    scores = clustered_scores(800, 16, seed=10)
    monkeypatch.setattr(exact, "warm_prices", lambda scores, low, high, start: (np.zeros(16), 1e-9))
    is_optimal(scores, otc.exact_balanced(scores), *fair(800, 16))


@pytest.mark.parametrize("kind", ["own", "soft", "far off", "with bounds"])
def test_any_prices_to_start_from_end_at_the_optimum(kind):
    scores = clustered_scores(900, 20, seed=11)
    problem = otc.Problem(scores)
    solver = otc.ExactBalanced(size_min=20, size_max=70) if kind == "with bounds" else otc.ExactBalanced()
    bounds = (np.full(20, 20), np.full(20, 70)) if kind == "with bounds" else fair(900, 20)
    start = {
        "own": lambda: otc.solve(problem, solver),
        "soft": lambda: otc.log_sinkhorn(scores, epsilon=0.02),
        "far off": lambda: (None, np.random.default_rng(0).standard_normal(20) * 10),
        "with bounds": lambda: otc.exact_balanced(scores),
    }[kind]()
    is_optimal(scores, otc.solve(problem, solver, start=start), *bounds)
