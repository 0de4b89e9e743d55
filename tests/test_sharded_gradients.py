"""Gradients of samples that several ranks share are those of one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster import prices
from tests.reducers import ThreadReducer, outcomes, run_ranks

EPSILON = 0.3
IMPLICIT = (otc.LogSinkhorn(EPSILON, tol=1e-11), otc.ImplicitGradient())
UNROLLED = (otc.SinkhornKnopp(EPSILON, 3), otc.UnrolledGradient())
KINDS = pytest.mark.parametrize(("solver", "gradient"), [IMPLICIT, UNROLLED], ids=["implicit", "unrolled"])
N, K, EDGES = 17, 4, [0, 5, 5, 6, 17]
GROUPS = torch.tensor([0, 2] * 8 + [1])
MASSES = {
    "plain": {},
    "sample mass": {"sample_mass": torch.linspace(0.5, 2, N, dtype=torch.float64)},
    "groups": {"groups": GROUPS, "n_groups": 4},
    "relaxed": {"cluster_side": 0.4},
    "partial": {"assigned_mass": 11.0},
    "relaxed partial groups": {
        "cluster_side": 0.4, "assigned_mass": torch.tensor([5.0, 0.5, 6.0, 0.0]), "groups": GROUPS, "n_groups": 4,
    },
}  # fmt: skip
OF_SAMPLES = ("sample_mass", "groups")


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape))


def rows(rank):
    return slice(EDGES[rank], EDGES[rank + 1])


def own(masses, rank):
    return {name: value[rows(rank)] if name in OF_SAMPLES else value for name, value in masses.items()}


def loss(source, solver, gradient, weights, masses, part, reducer=None):
    """What a rank differentiates: something of its own rows, and its part of what all have."""
    problem = otc.Problem(source, sharded=reducer is not None, **masses)
    answer = otc.solve(problem, solver, gradient=gradient, reducer=reducer)
    value = answer.transport_value()
    return (answer.plan() * weights).sum() + part * (value * torch.arange(1, value.numel() + 1).reshape(value.shape)).sum()


def sharded_is_whole(solver, gradient, masses, make=ThreadReducer):
    scores, weights = draw(N, K).requires_grad_(), draw(N, K, seed=1)
    loss(scores, solver, gradient, weights, masses, 1.0).backward()

    def differentiate(rank, reducer):
        mine = scores.detach()[rows(rank)].clone().requires_grad_()
        total = loss(mine, solver, gradient, weights[rows(rank)], own(masses, rank), [0.5, 0.0, 0.2, 0.3][rank], reducer)
        reducer.backward = True
        total.backward()
        return mine.grad

    found = torch.cat(run_ranks(len(EDGES) - 1, differentiate, make))
    torch.testing.assert_close(found, scores.grad, atol=1e-8, rtol=1e-8)  # converged to 1e-11, over the strength


@KINDS
@pytest.mark.parametrize("masses", MASSES.values(), ids=MASSES)
def test_law_sharded_is_whole_of_gradients(solver, gradient, masses):
    sharded_is_whole(solver, gradient, masses)


@pytest.mark.parametrize("masses", MASSES.values(), ids=MASSES)
def test_law_sharded_is_whole_of_gradients_found_by_conjugate_gradients(masses, monkeypatch):
    monkeypatch.setattr(prices, "_MOST_CLUSTERS", 0)
    sharded_is_whole(*IMPLICIT, masses)


class _Forgets(ThreadReducer):
    """Knows of the other ranks until the backward pass."""

    backward = False

    def sum(self, array):
        total = super().sum(array)
        return array if self.backward else total


@KINDS
def test_law_sharded_is_whole_of_gradients_is_red_for_a_reducer_that_forgets_the_others(solver, gradient):
    with pytest.raises(AssertionError):
        sharded_is_whole(solver, gradient, {}, _Forgets)


@KINDS
@pytest.mark.parametrize("masses", [{}, {"assigned_mass": 11.0}], ids=["plain", "partial"])
def test_gradients_at_centroids_are_parts_that_sum_over_the_ranks(solver, gradient, masses):
    x, centroids = draw(N, 3).requires_grad_(), draw(K, 3, seed=2).requires_grad_()
    weights = draw(N, K, seed=1)
    loss(otc.PointScores(x, centroids), solver, gradient, weights, masses, 1.0).backward()

    def differentiate(rank, reducer):
        mine, near = (each.detach().clone().requires_grad_() for each in (x[rows(rank)], centroids))
        loss(otc.PointScores(mine, near), solver, gradient, weights[rows(rank)], masses, 0.25, reducer).backward()
        return mine.grad, near.grad

    found = run_ranks(len(EDGES) - 1, differentiate)
    torch.testing.assert_close(torch.cat([each[0] for each in found]), x.grad, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(sum(each[1] for each in found), centroids.grad, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("way", ["the object", "what requires one"])
def test_ranks_that_differentiate_different_things_raise(way):
    def solve(rank, reducer):
        scores = draw(6, 2).requires_grad_(way == "the object" or rank == 0)
        gradient = otc.UnrolledGradient() if way != "the object" or rank == 0 else None
        return otc.solve(otc.Problem(scores, sharded=True), UNROLLED[0], gradient=gradient, reducer=reducer)

    for error in outcomes(2, solve)[0]:
        assert isinstance(error, ValueError)
        assert "ranks must agree on the gradient, and whether scores, points or centroids require one" in str(error)
