"""New samples are assigned from the potential that an answer holds, and nothing of it changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from tests.oracles import error_of
from tests.reducers import run_ranks
from tests.registry import entropic_solvers, every_solver
from tests.strategies import LIBRARIES, clustered_scores, to_numpy

EPSILON = 0.1


def softmax(exponents):
    kernel = np.exp(exponents - exponents.max(-1, keepdims=True))
    return kernel / kernel.sum(-1, keepdims=True)


@every_solver
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_same_samples_have_the_same_answer(row, library):
    lay = LIBRARIES[library]
    scores, mass = lay(clustered_scores(40, 5)), lay(np.linspace(0.5, 2, 40) if row.any_mass else np.ones(40))
    before = otc.solve(otc.Problem(scores, sample_mass=mass), row.make(EPSILON))
    after = before.assign(scores, sample_mass=mass)
    assert int(after.n_iter) == 0
    assert after.solver is before.solver
    for one, two in zip(after.potentials, before.potentials, strict=True):
        assert type(one) is type(two)
        np.testing.assert_allclose(to_numpy(one), to_numpy(two), atol=1e-13)
    if row.integral:  # those that two clusters are equally good for went where there was room
        worth = np.sort(to_numpy(scores) + to_numpy(before.potentials[1]), 1)
        clear = worth[:, -1] - worth[:, -2] > 1e-12
        assert clear.sum() >= 30
        np.testing.assert_array_equal(to_numpy(after.labels())[clear], to_numpy(before.labels())[clear])
        return
    np.testing.assert_allclose(to_numpy(after.plan()), to_numpy(before.plan()), atol=1e-13)
    np.testing.assert_array_equal(to_numpy(after.labels()), to_numpy(before.labels()))
    np.testing.assert_allclose(to_numpy(after.cluster_sizes()), to_numpy(before.cluster_sizes()), atol=1e-12)
    np.testing.assert_allclose(to_numpy(after.marginal_error), to_numpy(before.marginal_error), atol=1e-13)


@entropic_solvers
def test_rows_of_new_samples_are_the_softmax_under_the_stored_potential(row):
    scores, mass = clustered_scores(70, 5, seed=1), np.linspace(0.5, 2, 30)
    before = otc.solve(otc.Problem(scores[:40]), row.make(EPSILON))
    after = before.assign(scores[40:], sample_mass=mass)
    g = before.potentials[1]
    expected = mass[:, None] * softmax((scores[40:] + g) / EPSILON)
    np.testing.assert_allclose(after.plan(), expected, atol=1e-13)
    np.testing.assert_array_equal(after.labels(), (scores[40:] + g).argmax(1))
    np.testing.assert_array_equal(after.potentials[1], g)
    np.testing.assert_allclose(np.exp((scores[40:] + after.potentials[0][:, None] + g) / EPSILON), expected, atol=1e-12)
    alone = np.concatenate([before.assign(each[None]).plan() for each in scores[40:]])
    np.testing.assert_allclose(mass[:, None] * alone, expected, atol=1e-13)


@every_solver
def test_what_is_right_is_the_old_share_of_the_new_mass(row):
    scores, share = clustered_scores(96, 4, seed=2), np.array([1.0, 2.0, 3.0, 2.0])
    before = otc.solve(otc.Problem(scores[:64], cluster_share=share), row.make(EPSILON))
    after = before.assign(scores[64:])
    np.testing.assert_allclose(after.problem.cluster_mass, 4 * share, rtol=1e-12)
    if row.entropic or row.integral:
        assert after.status is otc.Status.FIXED_ROUNDS
        wrong = error_of(after.plan(), np.ones(32), 4 * share)
        np.testing.assert_allclose(after.marginal_error, wrong, atol=1e-13)
        assert wrong > 0.02  # they are not balanced, and that is said
    else:
        assert after.status is otc.Status.CONVERGED
    assert np.bincount(after.balanced_labels(), minlength=4).tolist() == [4, 8, 12, 8]


@every_solver
def test_each_problem_of_a_batch_and_each_group_has_its_own_potential(row):
    rng = np.random.default_rng(3)
    scores, new = rng.uniform(-1, 1, (3, 20, 4)), rng.uniform(-1, 1, (3, 6, 4))
    batch = otc.solve(otc.Problem(scores), row.make(EPSILON))
    groups, later = np.repeat(np.arange(3), 20), rng.permutation(np.repeat(np.arange(3), 6))
    grouped = otc.solve(otc.Problem(scores.reshape(-1, 4), groups=groups, n_groups=3), row.make(EPSILON))
    in_batch, in_groups = batch.assign(new), grouped.assign(new.reshape(-1, 4), groups=later)
    assert in_batch.marginal_error.shape == in_groups.marginal_error.shape == (3,)
    for at in range(3):
        alone = otc.solve(otc.Problem(scores[at]), row.make(EPSILON))
        atol = 1e-12 if row.tolerance is None else 40 * row.tolerance
        np.testing.assert_allclose(in_batch.plan()[at], alone.assign(new[at]).plan(), atol=atol)
        own = new.reshape(-1, 4)[later == at]
        np.testing.assert_allclose(in_groups.plan()[later == at], alone.assign(own).plan(), atol=atol)
        np.testing.assert_allclose(in_groups.marginal_error[at], alone.assign(own).marginal_error, atol=atol)


@every_solver
def test_a_group_that_had_no_samples_goes_by_scores_alone(row):
    rng = np.random.default_rng(4)
    scores, new = rng.uniform(-1, 1, (20, 3)), rng.uniform(-1, 1, (5, 3))
    answer = otc.solve(otc.Problem(scores, groups=np.zeros(20, int), n_groups=2), row.make(EPSILON))
    after = answer.assign(new, groups=np.ones(5, int))
    np.testing.assert_array_equal(after.labels(), new.argmax(1))
    assert np.isfinite(after.plan()).all()
    np.testing.assert_allclose(after.plan().sum(1), 1, rtol=1e-12)
    assert np.isfinite(after.marginal_error).all()


@every_solver
def test_closed_clusters_stay_closed_and_forbidden_pairs_forbidden(row):
    scores = clustered_scores(30, 4, seed=5)
    answer = otc.solve(otc.Problem(scores, cluster_share=np.array([1.0, 0.0, 1.0, 1.0])), row.make(EPSILON))
    new = np.array([[0.0, 9.0, -np.inf, 0.1], [0.2, 9.0, -np.inf, 0.1]])  # cluster 2 is open to neither: no error
    after = answer.assign(new)
    assert (after.plan()[:, 1:3] == 0).all()
    assert np.isneginf(after.potentials[1][1])
    assert after.status in (otc.Status.FIXED_ROUNDS, otc.Status.CONVERGED)
    with pytest.raises(otc.InfeasibleError, match="sample 1 may join no open cluster"):
        answer.assign(np.array([[0.0, 9.0, 0.0, 0.1], [-np.inf, 9.0, -np.inf, -np.inf]]))


def test_a_size_of_zero_stays_one():
    answer = otc.exact_balanced(clustered_scores(30, 4, seed=5), size_min=0, size_max=(30, 0, 30, 30))
    assert 1 not in answer.assign(np.array([[0.0, 9.0, 0.0, 0.1]])).labels()


def test_bounds_of_sizes_are_scaled_to_the_new_samples():
    answer = otc.exact_balanced(clustered_scores(30, 3), size_min=5, size_max=15)
    new = np.eye(3)[[0] * 40 + [1] * 18 + [2] * 2] * 100
    # 10 to 30 of 60 would be right.
    assert float(answer.assign(new).marginal_error) == pytest.approx((10 + 8) / 60)


@entropic_solvers
def test_relaxed_sides_stay_relaxed(row):
    scores = clustered_scores(70, 5, seed=6)
    answer = otc.solve(otc.Problem(scores[:40], cluster_side=0.3), row.make(EPSILON))
    after = answer.assign(scores[40:])
    expected = softmax((scores[40:] + answer.potentials[1]) / EPSILON)
    np.testing.assert_allclose(after.plan(), expected, atol=1e-13)
    assert after.problem.cluster_side == otc.RelaxedKL(0.3)
    g, columns, mass = answer.potentials[1], expected.sum(0), 30 / 5
    pull = 0.3 / (0.3 + EPSILON)
    asked = columns ** (1 - pull) * np.exp(-(1 - pull) * g / EPSILON) * mass**pull
    asked *= columns.sum() / asked.sum()
    np.testing.assert_allclose(after.marginal_error, np.abs(columns - asked).sum() / 30, atol=1e-12)


@entropic_solvers
@pytest.mark.parametrize("side", [None, 0.3])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_what_likes_no_cluster_enough_stays_outside(row, side, shift):
    scores = clustered_scores(70, 5, seed=7)
    problem = otc.Problem(scores[:40], assigned_mass=30.0, cluster_side=side)
    answer = otc.solve(problem, row.make(EPSILON))
    new = scores[40:].copy()
    new[0] -= 5.0
    new[1] = -np.inf
    new[2] += shift  # other bounds of the scores move nothing
    after = answer.assign(new)
    g = answer.potentials[1]
    kernel = np.exp((new + g) / EPSILON)
    expected = kernel / (1 + kernel.sum(1, keepdims=True))  # the outside counts 1
    np.testing.assert_allclose(after.plan(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(after.potentials[1], g, atol=1e-12)
    assert after.labels()[:2].tolist() == [-1, -1]
    assert after.status is otc.Status.FIXED_ROUNDS
    np.testing.assert_allclose(after.problem.assigned_mass, 30 * 30 / 40)
    again = answer.assign(scores[:40])
    np.testing.assert_allclose(again.plan(), answer.plan(), atol=1e-12)
    np.testing.assert_allclose(again.marginal_error, answer.marginal_error, atol=1e-12)


def test_exact_prices_leave_outside_what_is_worth_less_than_the_outside():
    scores = clustered_scores(40, 4, seed=8)
    answer = otc.exact_balanced(scores, assigned_mass=32.0)
    clear = np.abs(np.sort(np.c_[scores + answer.potentials[1], np.zeros(40)], 1) @ np.r_[0, 0, 0, -1, 1]) > 1e-9
    np.testing.assert_array_equal(answer.assign(scores).labels()[clear], answer.labels()[clear])
    assert answer.assign(np.full((3, 4), -9.0)).labels().tolist() == [-1, -1, -1]


@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
def test_new_points_are_assigned(metric):
    rng = np.random.default_rng(9)
    x, centroids = rng.standard_normal((50, 3)), rng.standard_normal((4, 3))
    answer = otc.log_sinkhorn(otc.PointScores(x[:30], centroids, metric=metric), epsilon=0.5)
    new = otc.PointScores(x[30:], centroids, metric=metric)
    scores = new.tiles(None)(slice(0, 1), slice(0, 20))[0]
    np.testing.assert_allclose(answer.assign(new).plan(), softmax((scores + answer.potentials[1]) / 0.5), atol=1e-12)


def test_new_samples_outlive_the_old_ones():
    scores = torch.rand(10, 3)
    answer = otc.sinkhorn_knopp(scores)
    expected = answer.assign(scores.clone()).plan()
    new = scores.clone()
    scores.zero_()
    after = answer.assign(new)
    torch.testing.assert_close(after.plan(), expected, rtol=0, atol=0)
    new.zero_()
    with pytest.raises(RuntimeError, match="scores was changed in place"):
        after.plan()
    assert answer.assign(torch.rand(0, 3)).labels().shape == (0,)
    assert answer.assign(torch.rand(4, 3).half()).plan().dtype == torch.float32


def test_a_rank_assigns_new_samples_of_its_own():
    scores, new = clustered_scores(40, 4), clustered_scores(6, 4, seed=1)
    expected = otc.sinkhorn_knopp(scores).assign(new)

    def solve(rank, reducer):
        own = otc.Problem(scores[20 * rank : 20 * rank + 20], sharded=True)
        return otc.solve(own, otc.SinkhornKnopp(), reducer=reducer)

    for answer in run_ranks(2, solve):
        after = answer.assign(new)
        np.testing.assert_allclose(after.plan(), expected.plan(), atol=1e-13)
        np.testing.assert_allclose(after.marginal_error, expected.marginal_error, atol=1e-13)
        assert len(after.balanced_labels()) == 6


def test_what_does_not_fit_the_answer_is_named():
    answer = otc.sinkhorn_knopp(np.zeros((6, 3)))
    grouped = otc.sinkhorn_knopp(np.zeros((6, 3)), groups=np.arange(6) % 2, n_groups=2)
    batch = otc.sinkhorn_knopp(np.zeros((2, 6, 3)))
    for error, match, call in (
        (ValueError, "for the 3 clusters of the answer, got 4", lambda: answer.assign(np.zeros((2, 4)))),
        (ValueError, r"leading dimensions of the answer, \(2,\), got \(\)", lambda: batch.assign(np.zeros((2, 3)))),
        (ValueError, r"leading dimensions of the answer, \(\), got \(2,\)", lambda: answer.assign(np.zeros((2, 2, 3)))),
        (TypeError, "library of the answer, got Tensor", lambda: answer.assign(torch.zeros(2, 3))),
        (TypeError, "computed in .*float32.*, the answer in .*float64", lambda: answer.assign(np.zeros((2, 3), np.float32))),
        (TypeError, "scores must be float16", lambda: answer.assign(np.zeros((2, 3), int))),
        (ValueError, "not of a grouped problem", lambda: answer.assign(np.zeros((2, 3)), groups=np.zeros(2, int))),
        (ValueError, "which of the 2 groups", lambda: grouped.assign(np.zeros((2, 3)))),
        (ValueError, r"groups must lie in \[0, 2\)", lambda: grouped.assign(np.zeros((2, 3)), groups=np.array([0, 2]))),
        (ValueError, "NaN or \\+inf", lambda: answer.assign(np.full((2, 3), np.nan))),
        (ValueError, "sample_mass must be finite", lambda: answer.assign(np.zeros((2, 3)), sample_mass=np.array([1.0, -1]))),
    ):
        with pytest.raises(error, match=match):
            call()
