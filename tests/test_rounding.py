"""Plans rounded to labels of exact sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

import otcluster as otc
from otcluster.balancing.sizes import rounded_masses
from tests.strategies import cases, clustered_scores, grouped_cases, to_numpy


def value(scores, labels):
    return scores[np.arange(len(scores)), labels].sum()


def loss(scores, labels):
    """What the labels lack to the optimum, relative to what random labels of the same sizes lack."""
    sizes = np.bincount(labels, minlength=scores.shape[1])
    best = value(scores, otc.exact_balanced(scores, cluster_mass=sizes.astype(np.float64)).labels())
    random = (scores.mean(0) * sizes).sum()
    return (best - value(scores, labels)) / (best - random)


@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.002])
def test_rounding_a_converged_plan_loses_less_than_a_hundredth(epsilon):
    scores = clustered_scores(2000, 40)
    assignment = otc.log_sinkhorn(scores, epsilon=epsilon, tol=1e-2, max_iter=3000)
    labels = assignment.balanced_labels()
    np.testing.assert_array_equal(np.bincount(labels, minlength=40), 50)
    assert 0 <= loss(scores, labels) <= 0.01


@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.002])
def test_rounding_a_well_converged_plan_of_uneven_clusters_loses_less_than_a_hundredth(epsilon):
    scores = clustered_scores(2999, 30, seed=5)
    assignment = otc.log_sinkhorn(scores, epsilon=epsilon)
    assert assignment.status is otc.Status.CONVERGED
    labels = assignment.balanced_labels()
    assert np.ptp(np.bincount(labels, minlength=30)) == 1
    assert 0 <= loss(scores, labels) <= 0.01


@pytest.mark.parametrize("solver", [otc.Nearest(), otc.SinkhornKnopp()], ids=repr)
def test_rounding_any_answer_loses_less_than_a_hundredth(solver):
    scores = clustered_scores(3000, 40, seed=1)
    labels = otc.solve(otc.Problem(torch.from_numpy(scores)), solver).balanced_labels().numpy()
    np.testing.assert_array_equal(np.bincount(labels, minlength=40), 75)
    assert 0 <= loss(scores, labels) <= 0.01


@given(cases())
def test_sizes_are_the_masses_rounded_by_largest_remainder(case):
    case.masses.pop("sample_mass", None)
    laid, given_masses = case.laid()
    problem = otc.Problem(laid, **given_masses)
    labels = otc.solve(problem, otc.SinkhornKnopp(epsilon=0.4)).balanced_labels()
    assert type(labels) is type(laid)
    n, k = case.scores.shape
    sizes = np.bincount(to_numpy(labels), minlength=k)
    assert sizes.sum() == n
    assert np.abs(sizes - to_numpy(problem.cluster_mass)).max() < 1 + 1e-4
    np.testing.assert_array_equal(sizes, rounded_masses(problem, np.array([n]))[0])


@given(grouped_cases(masses=False))
def test_groups_are_rounded_each_on_its_own(case):
    laid, masses = case.laid()
    assignment = otc.solve(otc.Problem(laid, **masses), otc.SinkhornKnopp(epsilon=0.4))
    labels, k = to_numpy(assignment.balanced_labels()), case.scores.shape[1]
    for group in range(case.masses["n_groups"]):
        own = case.masses["groups"] == group
        sizes = np.bincount(labels[own], minlength=k)
        assert np.ptp(sizes) <= 1
        best = otc.exact_balanced(to_numpy(laid)[own], cluster_mass=sizes.astype(np.float64)).labels()
        limit = 32 * case.eps * max(own.sum(), 1)
        assert value(case.scores[own], labels[own]) == pytest.approx(value(case.scores[own], best), abs=limit)


def test_largest_remainders_get_what_is_left_and_ties_go_to_the_lowest():
    problem = otc.Problem(np.zeros((10, 4)), cluster_share=np.array([0.31, 0.29, 0.25, 0.15]))
    np.testing.assert_array_equal(rounded_masses(problem, np.array([10])), [[3, 3, 3, 1]])
    np.testing.assert_array_equal(rounded_masses(otc.Problem(np.zeros((10, 4))), np.array([10])), [[3, 3, 2, 2]])
    thirds = np.array([4.0, 1.0, 0.0, 1.0]) / 3  # of which floats hold the fractions more exactly the smaller the number
    assert thirds[0] - 1 < thirds[1]
    np.testing.assert_array_equal(
        rounded_masses(otc.Problem(np.zeros((2, 4)), cluster_mass=thirds), np.array([2])), [[2, 0, 0, 0]]
    )


def test_batches_are_rounded_each_on_its_own():
    scores = np.random.default_rng(0).uniform(-1, 1, (2, 3, 20, 4))
    labels = otc.log_sinkhorn(scores).balanced_labels()
    assert labels.shape == (2, 3, 20)
    assert labels.dtype == np.int64
    for at in np.ndindex(2, 3):
        np.testing.assert_array_equal(np.bincount(labels[at]), 5)


@pytest.mark.parametrize(("n", "k"), [(60, 4), (4000, 20)])
def test_forbidden_pairs_are_respected(n, k):
    scores = clustered_scores(n, k, seed=2)
    rng = np.random.default_rng(1)
    forbidden = rng.random((n, k)) < 0.7
    forbidden[np.arange(n), np.arange(n) % k] = False
    scores[forbidden] = -np.inf
    labels = otc.log_sinkhorn(scores, max_iter=50).balanced_labels()
    np.testing.assert_array_equal(np.bincount(labels, minlength=k), n // k)
    assert not forbidden[np.arange(n), labels].any()


def test_forbidden_pairs_that_leave_nothing_are_said():
    scores = np.zeros((6, 3))
    scores[:3, 1:] = -np.inf
    with pytest.raises(otc.InfeasibleError, match="3 samples may only join cluster 0"):
        otc.log_sinkhorn(scores, max_iter=20).balanced_labels()


def test_closed_clusters_stay_empty_and_weightless_samples_take_no_place():
    scores = np.array([[1.0, 0.0, 5.0], [1.0, 0.9, 5.0], [2.0, 0.0, 5.0], [-np.inf, -np.inf, 5.0]])
    given_masses = {"sample_mass": np.array([2.0, 2.0, 0.0, 0.0]), "cluster_share": np.array([1.0, 1.0, 0.0])}
    for assignment in (otc.log_sinkhorn(scores, **given_masses), otc.nearest(scores, **given_masses)):
        np.testing.assert_array_equal(assignment.balanced_labels()[[0, 1, 3]], [0, 1, -1])
        assert assignment.balanced_labels()[2] in (0, 1)


def test_samples_of_different_mass_cannot_be_counted():
    assignment = otc.sinkhorn_knopp(np.zeros((4, 2)), sample_mass=np.array([1.0, 2.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"sample_mass must be equal for all samples that have any, got 1.0 to 2.0"):
        assignment.balanced_labels()


def test_exact_labels_are_balanced_as_they_are():
    assignment = otc.exact_balanced(clustered_scores(50, 4), size_min=0, size_max=20)
    np.testing.assert_array_equal(assignment.balanced_labels(), assignment.labels())


def test_a_change_in_place_raises():
    scores = torch.rand(8, 2)
    for assignment in (otc.sinkhorn_knopp(scores), otc.nearest(scores)):
        scores.mul_(0.5)
        with pytest.raises(RuntimeError, match="scores was changed in place"):
            assignment.balanced_labels()
