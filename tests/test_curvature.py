"""What Newton's method measures, against the plan itself and against differences of column sums."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster import curvature, passes
from tests.strategies import to_numpy

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy, "array-api-strict": array_api_strict.asarray}
RNG = np.random.default_rng(0)
N, K, PROBLEMS, EPSILON = 60, 4, 3, 0.3
MASS = RNG.uniform(0.5, 2, N)
MASS[5] = 0


def problem_of(kind, lay):
    if kind == "batch":
        problem = otc.Problem(lay(RNG.uniform(-1, 1, (PROBLEMS, N, K))))
    elif kind == "groups":
        groups = {"groups": lay(np.arange(N) % PROBLEMS), "n_groups": PROBLEMS}
        problem = otc.Problem(lay(RNG.uniform(-1, 1, (N, K))), sample_mass=lay(MASS), **groups)
    else:
        problem = otc.Problem(lay(RNG.uniform(-1, 1, (N, K))), sample_mass=lay(MASS))
    problem.ops.tile_elements = 50  # several tiles
    return problem, RNG.uniform(-1, 1, (problem.n_problems, K))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["one", "batch", "groups"])
def test_shared_mass_is_that_of_the_plan_and_columns_are_those_of_the_plain_pass(kind, library, monkeypatch):
    monkeypatch.setattr(curvature, "_FEW_PRODUCTS", 100)  # several parts
    lay = LIBRARIES[library]
    problem, g = problem_of(kind, lay)
    columns, lost, shared = (to_numpy(each) for each in curvature.columns_and_shared_mass(problem, lay(g), EPSILON))
    plain = passes.plan_columns(problem, lay(g), EPSILON)
    np.testing.assert_allclose(
        columns, to_numpy(plain[0]), rtol=1e-13
    )  # the plain pass may be compiled, with sums in another order
    np.testing.assert_array_equal(lost, 0)
    plan, mass = to_numpy(passes.plan(problem, lay(g), EPSILON)), to_numpy(problem.weights)
    with np.errstate(invalid="ignore"):
        products = np.nan_to_num(plan[..., :, None] * plan[..., None, :] / mass[..., None, None])
    if kind == "groups":
        expected = np.stack([products[0, np.arange(N) % PROBLEMS == group].sum(0) for group in range(PROBLEMS)])
    else:
        expected = products.sum(1)
    np.testing.assert_allclose(shared, expected, atol=1e-12)
    np.testing.assert_allclose(shared.sum(-1), columns, rtol=1e-12)


def test_shared_mass_is_the_derivative_of_the_columns():
    problem, g = problem_of("one", np.asarray)
    columns, _, shared = curvature.columns_and_shared_mass(problem, g, EPSILON)
    for cluster in range(K):
        step = 1e-6 * np.eye(K)[cluster][None, :]
        ahead, behind = (passes.plan_columns(problem, g + sign * step, EPSILON)[0] for sign in (1, -1))
        expected = (columns[0] * np.eye(K)[cluster] - shared[0, cluster]) / EPSILON
        np.testing.assert_allclose((ahead - behind)[0] / 2e-6, expected, atol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("grouped", [False, True])
def test_spread_is_the_widest_row_of_what_is_permitted(grouped, library):
    lay = LIBRARIES[library]
    scores = np.array([[0.0, 1.0, 9.0], [5.0, -np.inf, 9.0], [0.0, 100.0, 9.0], [2.0, 0.5, 9.0]])
    masses = {"groups": lay(np.array([0, 0, 0, 2])), "n_groups": 3} if grouped else {}
    share = np.array([1.0, 1.0, 0.0])
    problem = otc.Problem(
        lay(scores),
        sample_mass=lay(np.array([1.0, 1.0, 0.0, 1.0])),
        cluster_share=lay(np.stack([share] * 3) if grouped else share),
        **masses,
    )
    np.testing.assert_array_equal(to_numpy(curvature.spread(problem)), [1.0, 0.0, 1.5] if grouped else [1.5])
