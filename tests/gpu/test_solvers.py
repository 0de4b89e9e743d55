"""Every solver of the registry answers on a CUDA device as on the host, and the answer stays there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import otcluster as otc
from tests import laws
from tests.registry import ROWS, entropic_solvers, every_solver
from tests.strategies import Case, clustered_scores, to_numpy

pytestmark = pytest.mark.gpu
KINDS = ("plain", "masses", "batch", "groups", "points", "points in groups", "forbidden")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def problem_of(kind, dtype, row, there=lambda value: value):
    """A problem of some kind; ``there`` brings its arrays to where it is to be."""
    rng = np.random.default_rng(0)
    n, k, d, n_groups = 96, 6, 16, 5

    def lay(array):
        return there(torch.from_numpy(np.asarray(array)).to(DTYPES[dtype]))

    given = {}
    if row.any_mass and kind in ("masses", "groups", "points"):
        shape = (n_groups, k) if kind == "groups" else (k,)
        given["sample_mass"] = there(torch.from_numpy(rng.uniform(0.5, 2, n)).float())
        given["cluster_share"] = there(torch.from_numpy(rng.uniform(0.5, 2, shape)).float())
    if "groups" in kind:
        sizes = rng.multinomial(n, [0.4, 0.3, 0.2, 0.1, 0.0])  # the last group is empty
        groups = rng.permutation(np.repeat(np.arange(n_groups), sizes))
        given |= {"groups": there(torch.from_numpy(groups)), "n_groups": n_groups}
    if kind.startswith("points"):
        shape = (n_groups, k, d) if "groups" in kind else (k, d)
        x, centroids = rng.standard_normal((n, d)), rng.standard_normal(shape)
        return otc.Problem(otc.PointScores(lay(x), lay(centroids), metric="cosine"), **given)
    scores = np.stack([clustered_scores(n, k, d=d, seed=seed) for seed in range(3)])
    scores = scores if kind == "batch" else scores[0]
    if kind == "forbidden":
        scores[np.arange(n), rng.integers(0, k, n)] = -np.inf
    return otc.Problem(lay(scores), **given)


def compared(row, kind, dtype, one, two):
    """Plans are one, by the tolerances of the laws; of several plans of labels of equal worth any will do."""
    plans = [to_numpy(answer.plan()).astype(np.float64) for answer in (one, two)]
    assert [np.isfinite(plan).all() for plan in plans] == [True, True]
    precise = "float64" if dtype == "float64" else "float32"
    case = Case(np.ones((plans[0].shape[-2], 1)), {}, "torch", precise)  # scores are cosines
    if row.integral:
        values = [to_numpy(answer.transport_value()).sum() for answer in (one, two)]
        assert abs(values[0] - values[1]) <= laws.worth(case, case.scores)[1]
        return
    mass = float(to_numpy(two.problem.sample_mass).max())
    np.testing.assert_allclose(plans[0], plans[1], atol=mass * laws.slack(row, case))
    best = np.sort(plans[1], -1)
    clear = best[..., -1] - best[..., -2] > 4 * mass * laws.slack(row, case)
    np.testing.assert_array_equal(to_numpy(one.labels())[clear], to_numpy(two.labels())[clear])


@every_solver
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_the_answer_is_that_of_the_host(row, kind, dtype, there, stays):
    if row.integral and dtype in ("float16", "bfloat16") and kind != "plain":
        pytest.skip("solved on the host in float64, whatever the dtype was")
    solver = row.make(laws.EPSILON)
    mine = otc.solve(problem_of(kind, dtype, row, there), solver)
    theirs = otc.solve(problem_of(kind, dtype, row), solver)
    plan = mine.plan()
    assert plan.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    stays(plan, mine.labels(), mine.cluster_sizes(), mine.marginal_error, *mine.potentials, mine.transport_value())
    if mine.status is not theirs.status:  # by rounding, at the very tolerance
        assert {mine.status, theirs.status} == {otc.Status.CONVERGED, otc.Status.MAX_ITER}
        assert max(float(answer.marginal_error.max()) for answer in (mine, theirs)) <= 2 * row.tolerance
    compared(row, kind, dtype, mine, theirs)
    if "groups" not in kind:
        np.testing.assert_allclose(to_numpy(mine.cluster_sizes()), to_numpy(plan).sum(-2), atol=1e-4)


@pytest.mark.parametrize("row", [row for row in ROWS if row.balances], ids=lambda row: row.name)
@pytest.mark.parametrize("kind", ["plain", "batch", "groups", "forbidden"])
def test_labels_of_exact_sizes(row, kind, there, stays):
    plain = next(each for each in ROWS if not each.any_mass)
    answers = [otc.solve(problem_of(kind, "float64", plain, place), row.make(0.05)) for place in (there, lambda value: value)]
    labels = [answer.balanced_labels() for answer in answers]
    stays(labels[0])
    problem = answers[1].problem
    owner = np.zeros(problem.n_samples, int) if problem.groups is None else to_numpy(problem.groups)
    k = problem.n_clusters
    for one, two in zip(*(np.atleast_2d(to_numpy(each)) for each in labels), strict=True):
        sizes = [np.bincount(owner * k + each, minlength=k * (owner.max() + 1)) for each in (one, two)]
        # Between clusters that could have one sample more it is a matter of rounding which has it.
        assert np.abs(sizes[0] - sizes[1]).max() <= 1
        if problem.n_samples % k == 0 and "groups" not in kind:
            np.testing.assert_array_equal(sizes[0], problem.n_samples // k)


@entropic_solvers
@pytest.mark.parametrize("kind", ["dense", "points"])
def test_gradients_are_those_of_the_host(row, kind, there, stays):
    gradient = otc.ImplicitGradient() if row.tolerance else otc.UnrolledGradient()
    rng = np.random.default_rng(3)
    scores, weight = torch.from_numpy(clustered_scores(48, 5, d=8)), torch.from_numpy(rng.standard_normal((48, 5)))
    x, centroids = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((48, 8), (5, 8)))
    inputs = [scores] if kind == "dense" else [x, centroids]
    found = []
    for place in (there, lambda value: value):
        leaves = [place(each.clone()).requires_grad_() for each in inputs]
        source = leaves[0] if kind == "dense" else otc.PointScores(*leaves, metric="cosine")
        answer = otc.solve(otc.Problem(source), row.make(laws.EPSILON), gradient=gradient)
        ((answer.plan() * place(weight)).sum() + answer.transport_value()).backward()
        found.append([leaf.grad for leaf in leaves])
    stays(*found[0])
    for mine, theirs in zip(*found, strict=True):
        limit = (1e-10 if row.tolerance is None else 2e3 * row.tolerance) * float(theirs.abs().max())
        torch.testing.assert_close(mine.cpu(), theirs, rtol=0, atol=limit)


def test_partial_and_relaxed_problems(there, stays):
    scores = torch.from_numpy(clustered_scores(80, 5, d=8))
    for masses in ({"assigned_mass": 50.0}, {"cluster_side": 0.5}):
        mine, theirs = (otc.log_sinkhorn(place(scores), epsilon=0.1, **masses) for place in (there, lambda value: value))
        stays(mine.plan(), mine.labels())
        torch.testing.assert_close(mine.plan().cpu(), theirs.plan(), rtol=0, atol=1e-4)


def test_new_samples_and_a_start(there, stays):
    scores = torch.from_numpy(clustered_scores(96, 5, d=8))
    answer = otc.log_sinkhorn(there(scores[:64]), epsilon=0.1)
    new = answer.assign(there(scores[64:]))
    stays(new.labels(), new.plan())
    torch.testing.assert_close(new.labels().cpu(), otc.log_sinkhorn(scores[:64], epsilon=0.1).assign(scores[64:]).labels())
    again = otc.solve(answer.problem, answer.solver, start=answer)
    assert again.status is otc.Status.CONVERGED


def test_a_wrong_device_is_named(cuda):
    scores = torch.rand(8, 3, device=cuda)
    with pytest.raises(TypeError, match="of one library and device"):
        otc.PointScores(scores, torch.rand(2, 3))
    with pytest.raises(ValueError, match="start is on cpu"):
        otc.solve(otc.Problem(scores), otc.SinkhornKnopp(), start=(None, torch.zeros(3)))
    with pytest.raises(ValueError, match="must not be NaN"):
        otc.Problem(torch.full((4, 3), float("nan"), device=cuda))


def test_large_scores_in_several_tiles(there, stays, monkeypatch):
    """Rows, clusters and batches that do not fit one tile."""
    from otcluster._ops.torch import TorchOps

    original = TorchOps.__init__

    def small_tiles(self, array, argument):
        original(self, array, argument)
        self.tile_elements = 1 << 12

    scores = torch.from_numpy(clustered_scores(900, 24, d=16, dtype=np.float32))
    whole = otc.log_sinkhorn(there(scores), epsilon=0.1)
    monkeypatch.setattr(TorchOps, "__init__", small_tiles)
    tiled = otc.log_sinkhorn(there(scores), epsilon=0.1)
    stays(tiled.plan())
    torch.testing.assert_close(tiled.plan(), whole.plan(), rtol=0, atol=1e-3)
