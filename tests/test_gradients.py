"""Gradients agree with finite differences, cost no memory that grows with the rounds, and are refused where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import otcluster as otc
from otcluster import prices
from otcluster.adjoint import Chain
from tests.strategies import clustered_scores

EPSILON = 0.3
IMPLICIT = (otc.LogSinkhorn(epsilon=EPSILON, tol=1e-11), otc.ImplicitGradient())
UNROLLED = (otc.SinkhornKnopp(epsilon=EPSILON, max_iter=3), otc.UnrolledGradient())
KINDS = pytest.mark.parametrize(("solver", "gradient"), [IMPLICIT, UNROLLED], ids=["implicit", "unrolled"])
# Central differences of step 1e-6 leave about 1e-9 of plans that are right to 1e-11 or better over the step: 1e-5.
TOLERANCES = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-5}

ANY = torch.zeros(6, 4, dtype=torch.bool)
FORBIDDEN = ANY.clone()
FORBIDDEN[0, 1] = FORBIDDEN[2, 3] = FORBIDDEN[5, 0] = True
APART = torch.ones(6, 4, dtype=torch.bool)  # two problems that do not know of each other
APART[:3, :2] = APART[3:, 2:] = False
MASSES = {
    "plain": {},
    "sample mass": {"sample_mass": torch.tensor([1.0, 2.0, 0.5, 0.0, 1.5, 1.0], dtype=torch.float64)},
    "cluster share": {"cluster_share": torch.tensor([1.0, 2.0, 0.0, 0.5])},
    "groups": {"groups": torch.tensor([0, 2, 0, 2, 2, 3]), "n_groups": 5},
}
SHARES = torch.tensor([1.5, 0.0, 2.0, 0.5, 0.0])  # of the groups above
MASSES |= {
    "relaxed": {"cluster_side": 0.4, **MASSES["cluster share"]},
    "free": {"cluster_side": 0.0},
    "relaxed groups": {"cluster_side": 0.4, **MASSES["groups"]},
    "partial": {"assigned_mass": 4.0, **MASSES["sample mass"]},
    "partial, all assigned": {"assigned_mass": 6.0, **MASSES["cluster share"]},
    "partial groups": {"assigned_mass": SHARES, **MASSES["groups"]},
    "relaxed partial": {"cluster_side": 0.4, "assigned_mass": 4.0, **MASSES["cluster share"]},
    "free partial": {"cluster_side": 0.0, "assigned_mass": 4.0},
    "relaxed partial groups": {
        "cluster_side": 0.4,
        "assigned_mass": SHARES,
        **MASSES["groups"],
    },
}


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape)).requires_grad_()


def both(scores, solver, gradient, **masses):
    """The plan and the value, in one, as functions of what the scores were made of."""
    answer = otc.solve(otc.Problem(scores, **masses), solver, gradient=gradient)
    return answer.plan(), answer.transport_value()


@KINDS
@pytest.mark.parametrize("masses", MASSES.values(), ids=MASSES)
def test_gradients_at_scores_are_finite_differences(solver, gradient, masses):
    assert gradcheck(lambda scores: both(scores, solver, gradient, **masses), draw(6, 4), **TOLERANCES)


@KINDS
@pytest.mark.parametrize("forbidden", [FORBIDDEN, APART], ids=["some", "apart"])
def test_forbidden_pairs_have_no_gradient_and_the_others_their_own(solver, gradient, forbidden):
    scores = draw(6, 4)
    assert gradcheck(lambda scores: both(scores.masked_fill(forbidden, -np.inf), solver, gradient), scores, **TOLERANCES)
    shut = scores.detach().masked_fill(forbidden, -np.inf).requires_grad_()
    plan, value = both(shut, solver, gradient)
    (plan.square().sum() + value).backward()
    assert (shut.grad[forbidden] == 0).all()
    assert (shut.grad[~forbidden] != 0).any()


LOOSE = {"relaxed": {"cluster_side": 0.2}, "partial": {"assigned_mass": 3.5}}
LOOSE["relaxed partial"] = LOOSE["relaxed"] | LOOSE["partial"]
loose_masses = pytest.mark.parametrize("masses", LOOSE.values(), ids=LOOSE)


@KINDS
@loose_masses
def test_forbidden_pairs_of_relaxed_and_partial_problems_have_no_gradient_and_the_others_their_own(solver, gradient, masses):
    forbidden = FORBIDDEN.clone()
    forbidden[1] = "assigned_mass" in masses  # who may join no cluster stays outside
    forbidden[:, 2] = "cluster_side" in masses and "assigned_mass" not in masses  # and a relaxed cluster may stay empty
    assert gradcheck(
        lambda scores: both(scores.masked_fill(forbidden, -np.inf), solver, gradient, **masses), draw(6, 4), **TOLERANCES
    )


@KINDS
@loose_masses
@pytest.mark.parametrize("metric", ["dot", "sqeuclidean"])
def test_gradients_at_points_of_relaxed_and_partial_problems_are_finite_differences(solver, gradient, masses, metric):
    def of_points(x, centroids):
        return both(otc.PointScores(x, centroids, metric=metric), solver, gradient, **masses)

    assert gradcheck(of_points, (draw(6, 3), draw(4, 3, seed=1)), fast_mode=True, **TOLERANCES)


@KINDS
def test_endless_strength_and_all_mass_have_the_strict_gradient(solver, gradient):
    weights, found = draw(30, 5, seed=1).detach(), []
    strong = {"cluster_side": 1e9}
    for masses in ({}, strong, {"assigned_mass": 30.0}, strong | {"assigned_mass": 30.0}, {"assigned_mass": 30.0 - 1e-6}):
        scores = draw(30, 5)
        plan, value = both(scores, solver, gradient, **masses)
        ((plan * weights).sum() + value).backward()
        found.append(scores.grad)
    for other in found[1:]:  # what stays outside, and the range of the potentials over the strength, are as small
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)


@loose_masses
def test_many_rounds_of_relaxed_and_partial_problems_have_the_implicit_gradient(masses):
    scores, weights = draw(30, 6), draw(30, 6, seed=1).detach()
    found = []
    for solver, gradient in (IMPLICIT, (otc.LogSinkhorn(epsilon=EPSILON, max_iter=300, tol=None), otc.UnrolledGradient())):
        plan, value = both(scores, solver, gradient, **masses)
        found.append(torch.autograd.grad((plan * weights).sum() + value, scores)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-8, rtol=0)


@loose_masses
@pytest.mark.parametrize("epsilon", [1e-1, 1e-2])
def test_the_implicit_gradient_of_relaxed_and_partial_problems_is_right_where_plans_are_nearly_hard(masses, epsilon):
    scores = torch.from_numpy(clustered_scores(60, 6, d=8)).requires_grad_()
    weights, way = draw(60, 6, seed=1).detach(), draw(60, 6, seed=2).detach()
    masses = masses | ({"assigned_mass": 45} if "assigned_mass" in masses else {})
    solver = otc.LogSinkhorn(epsilon=epsilon, tol=1e-12)

    def loss(scores):
        return (both(scores, solver, otc.ImplicitGradient(), **masses)[0] * weights).sum()

    (gradient,) = torch.autograd.grad(loss(scores), scores)
    step = 1e-3 * epsilon
    with torch.no_grad():
        slope = (loss(scores + step * way) - loss(scores - step * way)) / (2 * step)
    torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-4, atol=1e-5)


@KINDS
def test_gradients_of_a_batch_are_those_of_its_problems(solver, gradient):
    scores = draw(2, 3, 5, 3)
    weights = draw(2, 3, 5, 3, seed=1).detach()
    plan, value = both(scores, solver, gradient)
    ((plan * weights).sum() + value.square().sum()).backward()
    for at in np.ndindex(2, 3):
        alone = scores.detach()[at].requires_grad_()
        plan, value = both(alone, solver, gradient)
        ((plan * weights[at]).sum() + value.square()).backward()
        torch.testing.assert_close(scores.grad[at], alone.grad, atol=1e-9, rtol=1e-9)  # converged to 1e-11
    assert gradcheck(lambda scores: both(scores, solver, gradient), draw(2, 4, 3), **TOLERANCES)


@KINDS
@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
@pytest.mark.parametrize("shapes", [((6, 3), (4, 3)), ((2, 5, 3), (4, 3)), ((2, 5, 3), (2, 4, 3))])
def test_gradients_at_points_and_centroids_are_finite_differences(solver, gradient, metric, shapes):
    def of_points(x, centroids):
        return both(otc.PointScores(x, centroids, metric=metric), solver, gradient)

    x, centroids = draw(*shapes[0]), draw(*shapes[1], seed=1)
    assert gradcheck(of_points, (x, centroids), fast_mode=x.ndim > 2, **TOLERANCES)


@KINDS
@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
def test_gradients_at_points_of_groups_are_finite_differences(solver, gradient, metric):
    def of_points(x, centroids):
        return both(otc.PointScores(x, centroids, metric=metric), solver, gradient, **MASSES["groups"])

    assert gradcheck(of_points, (draw(6, 2), draw(5, 3, 2, seed=1)), **TOLERANCES)


@KINDS
@pytest.mark.parametrize("metric", ["dot", "cosine", "sqeuclidean"])
def test_gradients_at_points_are_those_at_their_scores_through_many_tiles(solver, gradient, metric, monkeypatch):
    x, centroids = draw(37, 3), draw(4, 3, seed=1)
    points = otc.PointScores(x, centroids, metric=metric)
    monkeypatch.setattr(otc.PointScores, "tile_shape", lambda self, groups: (1, 5))
    plan, value = both(points, solver, gradient)
    weights = draw(37, 4, seed=2).detach()
    got = torch.autograd.grad((plan * weights).sum() + value, (x, centroids))
    scores = x @ centroids.T
    if metric == "cosine":
        scores = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(centroids).T
    elif metric == "sqeuclidean":
        scores = -(x[:, None] - centroids).square().sum(-1)
    plan, value = both(scores, solver, gradient)
    expected = torch.autograd.grad((plan * weights).sum() + value, (x, centroids))
    for one, two in zip(got, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)


def test_the_unrolled_gradient_is_that_of_recorded_rounds():
    scores, weights = draw(12, 5), draw(12, 5, seed=1).detach()
    plan = torch.exp(scores / 0.05)
    for _ in range(4):
        plan = plan / plan.sum(0) * (12 / 5)
        plan = plan / plan.sum(1, keepdim=True)
    solver = otc.SinkhornKnopp(epsilon=0.05, max_iter=4)
    answer = otc.solve(otc.Problem(scores), solver, gradient=otc.UnrolledGradient())
    torch.testing.assert_close(answer.plan(), plan, atol=1e-12, rtol=0)
    (expected,) = torch.autograd.grad((plan * weights).sum(), scores)
    (got,) = torch.autograd.grad((answer.plan() * weights).sum(), scores)
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


def test_many_rounds_have_the_implicit_gradient():
    scores, weights = draw(30, 6), draw(30, 6, seed=1).detach()
    found = []
    for solver, gradient in (IMPLICIT, (otc.LogSinkhorn(epsilon=EPSILON, max_iter=200, tol=None), otc.UnrolledGradient())):
        answer = otc.solve(otc.Problem(scores), solver, gradient=gradient)
        found.append(torch.autograd.grad((answer.plan() * weights).sum(), scores)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-8, rtol=0)


@pytest.mark.parametrize("masses", [{}, *LOOSE.values()], ids=["strict", *LOOSE])
def test_nothing_flows_to_a_start(masses):
    solver, start = otc.SinkhornKnopp(epsilon=EPSILON, max_iter=2), (None, torch.tensor([0.3, 0.0, -0.2, 0.1]))

    def of_scores(scores):
        answer = otc.solve(
            otc.Problem(scores, **masses), solver, start=(None, start[1].to(scores.dtype)), gradient=otc.UnrolledGradient()
        )
        return answer.plan(), answer.transport_value()

    assert gradcheck(of_scores, draw(6, 4), **TOLERANCES)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes_have_nearly_the_gradient_of_wide_ones(solver, gradient, dtype):
    if gradient == IMPLICIT[1]:
        solver = otc.LogSinkhorn(epsilon=EPSILON, tol=1e-5)
    narrow = draw(200, 6).detach().to(dtype).requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    weights = draw(200, 6, seed=1).detach()
    for scores in (narrow, wide):
        plan, value = both(scores, solver, gradient)
        ((plan * weights.to(plan.dtype)).sum() + value).backward()
    assert narrow.grad.dtype == dtype
    # Plans converged to 1e-5 differ by it, over epsilon; gradients come back in the dtype of the scores.
    torch.testing.assert_close(narrow.grad.double(), wide.grad, atol=1e-4 + torch.finfo(dtype).eps, rtol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("epsilon", [1e-1, 1e-2, 1e-3])
def test_the_implicit_gradient_is_right_where_plans_are_nearly_hard(epsilon):
    scores = torch.from_numpy(clustered_scores(60, 6, d=8)).requires_grad_()
    weights, way = draw(60, 6, seed=1).detach(), draw(60, 6, seed=2).detach()
    solver = otc.LogSinkhorn(epsilon=epsilon, tol=1e-12)

    def loss(scores):
        return (otc.solve(otc.Problem(scores), solver, gradient=otc.ImplicitGradient()).plan() * weights).sum()

    (gradient,) = torch.autograd.grad(loss(scores), scores)
    step = 1e-3 * epsilon
    with torch.no_grad():
        slope = (loss(scores + step * way) - loss(scores - step * way)) / (2 * step)
    # The error of the quotient: (step / epsilon)^2 = 1e-6 of the slope, and 1e-12 of the mass of 60 over the step.
    torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("masses", "forbidden"), [(masses, ANY) for masses in MASSES.values()] + [({}, FORBIDDEN), ({}, APART)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_conjugate_gradients_find_the_same_prices(masses, forbidden, dtype, tolerance, monkeypatch):
    scores = draw(6, 4).detach().to(dtype).masked_fill(forbidden, -np.inf).requires_grad_()
    weights = draw(6, 4, seed=1).detach().to(dtype)
    answer = otc.solve(
        otc.Problem(scores, **masses), otc.LogSinkhorn(epsilon=EPSILON, tol=1e-5), gradient=otc.ImplicitGradient()
    )
    plan = answer.plan()
    (direct,) = torch.autograd.grad((plan * weights).sum(), scores, retain_graph=True)
    monkeypatch.setattr(prices, "_MOST_CLUSTERS", 0)
    (iterative,) = torch.autograd.grad((plan * weights).sum(), scores, retain_graph=True)
    torch.testing.assert_close(iterative, direct, atol=tolerance, rtol=tolerance)
    if masses.get("cluster_side") == 0 and "assigned_mass" not in masses:
        return  # free clusters have no prices, and nothing is left to solve
    monkeypatch.setattr(prices, "_MOST_STEPS", 1)
    with pytest.warns(RuntimeWarning, match="1 steps of conjugate gradients left"):
        torch.autograd.grad((plan * weights).sum(), scores)


@pytest.mark.parametrize(("solver", "gradient"), [IMPLICIT, UNROLLED])
def test_nothing_of_the_rounds_is_saved(solver, gradient):
    saved = []
    scores = draw(50, 4)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        both(scores, solver, gradient)
    assert saved == []


def test_memory_of_the_implicit_gradient_does_not_depend_on_the_rounds(monkeypatch):
    chains = []
    plain = otc.ImplicitGradient.chain
    monkeypatch.setattr(otc.ImplicitGradient, "chain", lambda *args: chains.append(plain(*args)) or chains[-1])
    scores = draw(50, 4)
    for tol in (1e-2, 1e-12):
        solver = otc.LogSinkhorn(epsilon=0.05, tol=tol, acceleration=otc.PlainRounds())
        answer = otc.solve(otc.Problem(scores), solver, gradient=otc.ImplicitGradient())
        answer.transport_value().backward()
    assert answer.n_iter > 10
    assert len(chains) == 2
    assert all(isinstance(chain, Chain) and not chain.rounds and chain.first is None for chain in chains)


@KINDS
def test_points_of_no_length_and_empty_problems_have_finite_gradients(solver, gradient):
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    centroids = torch.eye(2, dtype=torch.float64, requires_grad=True)
    for metric in ("dot", "cosine", "sqeuclidean"):
        plan, value = both(otc.PointScores(x, centroids, metric=metric), solver, gradient)
        for found in torch.autograd.grad(plan.square().sum() + value, (x, centroids)):
            assert torch.isfinite(found).all()
    for shape in ((0, 3), (0, 4, 3), (2, 0, 3)):
        scores = torch.zeros(shape, requires_grad=True)
        plan, value = both(scores, solver, gradient)
        (plan.sum() + value.sum()).backward()
        assert scores.grad.shape == shape


@KINDS
def test_only_what_requires_a_gradient_gets_one(solver, gradient):
    x, centroids = draw(6, 3), draw(4, 3, seed=1)
    plan, _ = both(otc.PointScores(x, centroids.detach()), solver, gradient)
    plan[:, 0].sum().backward()
    assert x.grad is not None
    assert centroids.grad is None
    assert not both(x.detach(), solver, gradient)[0].requires_grad
    with torch.no_grad():
        assert not both(x, solver, gradient)[0].requires_grad
    answer = otc.solve(otc.Problem(x), solver, gradient=gradient)
    assert not answer.cluster_sizes().requires_grad
    assert not answer.potentials[0].requires_grad
    assert torch.equal(answer.plan(), otc.solve(otc.Problem(x), solver).plan())


@KINDS
def test_scores_changed_in_place_before_the_backward_pass_raise(solver, gradient):
    scores = draw(6, 4)
    plan, _ = both(scores, solver, gradient)
    with torch.no_grad():
        scores += 1
    with pytest.raises(RuntimeError, match="scores was changed in place"):
        plan.square().sum().backward()


def test_what_has_no_gradient_says_so():
    scores = draw(6, 4)
    problem = otc.Problem(scores)
    implicit, unrolled = otc.ImplicitGradient(), otc.UnrolledGradient()
    with pytest.raises(TypeError, match=r"gradient must be None, ImplicitGradient\(\) or UnrolledGradient\(\), got 'implicit'"):
        otc.solve(problem, otc.SinkhornKnopp(), gradient="implicit")
    with pytest.raises(TypeError, match=r"gradients need torch tensors, got scores of numpy\.ndarray"):
        otc.solve(otc.Problem(np.eye(3)), otc.SinkhornKnopp(), gradient=unrolled)
    with pytest.raises(ValueError, match="has no tolerance"):
        otc.solve(problem, otc.SinkhornKnopp(), gradient=implicit)
    with pytest.raises(ValueError, match="stops at a tolerance"):
        otc.solve(problem, otc.LogSinkhorn(), gradient=unrolled)
    with pytest.raises(ValueError, match=r"marginal_error is .* and tol is 1e-09: max_iter rounds were used up"):
        otc.solve(problem, otc.LogSinkhorn(epsilon=0.01, max_iter=2, tol=1e-9), gradient=implicit)
    for solver in (otc.Nearest(), otc.ExactBalanced()):
        with pytest.raises(ValueError, match="needs a soft plan"):
            otc.solve(problem, solver, gradient=implicit)
    mass = torch.ones(6, requires_grad=True)
    with pytest.raises(ValueError, match=r"sample_mass requires a gradient.*pass sample_mass.detach\(\)"):
        otc.solve(otc.Problem(scores, sample_mass=mass), otc.SinkhornKnopp(), gradient=unrolled)
