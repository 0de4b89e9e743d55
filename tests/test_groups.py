"""Many problems in one solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster import half_rounds, passes
from tests.strategies import to_numpy


def uneven(n_groups=1000, k=4, seed=0):
    """Groups of uneven sizes, 0, 1 and 2 among them, in random order."""
    rng = np.random.default_rng(seed)
    sizes = np.r_[0, 1, 2, 3, 40, rng.integers(0, 20, n_groups - 5)]
    groups = rng.permutation(np.repeat(np.arange(n_groups), sizes))
    return rng.uniform(-1, 1, (len(groups), k)), groups


@pytest.mark.parametrize(
    "solver", [otc.SinkhornKnopp(), otc.LogSinkhorn(max_iter=200), otc.Nearest(), otc.ExactBalanced()], ids=repr
)
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_one_solve_of_a_thousand_groups_equals_the_loop(library, solver):
    scores, groups = uneven()
    plan = to_numpy(otc.solve(otc.Problem(library(scores), groups=library(groups), n_groups=1000), solver).plan())
    for group in range(1000):
        own = groups == group
        alone = otc.solve(otc.Problem(library(scores[own])), solver).plan()
        np.testing.assert_allclose(plan[own], to_numpy(alone), atol=1e-6)


def test_groups_may_own_different_numbers_of_clusters():
    scores, groups = uneven(50, 4)
    share = np.ones((50, 4))
    share[::2, 2:] = 0
    plan = otc.log_sinkhorn(scores, epsilon=0.2, groups=groups, n_groups=50, cluster_share=share).plan()
    assert (plan[groups % 2 == 0][:, 2:] == 0).all()
    sizes = np.bincount(groups, minlength=50)
    sums = np.zeros((50, 4))
    np.add.at(sums, groups, plan)
    np.testing.assert_allclose(sums, sizes[:, None] * share / share.sum(1, keepdims=True), atol=1e-4)


def test_group_masses_may_be_absolute():
    scores, groups = np.zeros((4, 2)), np.array([0, 0, 0, 1])
    assignment = otc.log_sinkhorn(scores, groups=groups, n_groups=2, cluster_mass=[[2.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(assignment.cluster_sizes(), [[2, 1], [0, 1]], atol=1e-5)


def test_each_group_has_its_own_rounds_and_error():
    scores, groups = uneven(20, 3)
    assignment = otc.log_sinkhorn(scores, epsilon=0.2, groups=groups, n_groups=20)
    assert assignment.n_iter.shape == assignment.marginal_error.shape == (20,)
    assert len(set(assignment.n_iter.tolist())) > 1
    assert (assignment.marginal_error <= 1e-6).all()


def test_empty_groups_are_converged_and_their_clusters_without_mass():
    assignment = otc.log_sinkhorn(np.zeros((2, 3)), groups=np.array([1, 1]), n_groups=3)
    assert assignment.marginal_error.tolist()[0] == 0
    assert np.isneginf(assignment.potentials[1][[0, 2]]).all()


def test_grouped_points_are_grouped_scores():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 7, 100)
    x, centroids = rng.standard_normal((100, 5)), rng.standard_normal((7, 3, 5))
    dense = otc.sinkhorn_knopp(np.einsum("nd,nkd->nk", x, centroids[groups]), groups=groups, n_groups=7)
    points = otc.sinkhorn_knopp(otc.PointScores(x, centroids), groups=groups, n_groups=7)
    np.testing.assert_allclose(points.plan(), dense.plan(), atol=1e-12)


def test_no_pass_loops_over_groups(monkeypatch):
    scores, groups = uneven()
    calls = []
    original = passes.tiles
    for module in (passes, half_rounds):
        monkeypatch.setattr(module, "tiles", lambda problem, **how: calls.append(1) or original(problem, **how))
    otc.sinkhorn_knopp(scores, groups=groups, n_groups=1000).labels()
    assert len(calls) == 4  # three rounds and the labels, whatever the number of groups
