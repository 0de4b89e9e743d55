"""Bad input gets a clear error, and what was passed in is left alone."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster._ops.numpy import NumpyOps
from tests.strategies import LIBRARIES

GOOD = np.zeros((4, 3))


def poisoned(value, at=(2, 1)):
    scores = np.zeros((4, 3))
    scores[at] = value
    return scores


CASES = {
    "NaN": (poisoned(np.nan), {}, ValueError, r"scores must not be NaN or \+inf, got nan at \(2, 1\)"),
    "+inf": (poisoned(np.inf), {}, ValueError, r"scores must not be NaN or \+inf, got inf at \(2, 1\)"),
    "no clusters": (np.zeros((4, 0)), {}, ValueError, "no clusters"),
    "one dimension": (np.zeros(4), {}, ValueError, r"shape \(\.\.\., n_samples, n_clusters\), got \(4,\)"),
    "integers": (
        np.zeros((4, 3), int),
        {},
        TypeError,
        "scores must be float16, bfloat16, float32 or float64, got .*int64: convert",
    ),
    "negative mass": (GOOD, {"sample_mass": [1, 1, -1, 1]}, ValueError, "sample_mass must be finite and not negative, got -1"),
    "NaN mass": (GOOD, {"sample_mass": [1, 1, np.nan, 1]}, ValueError, "sample_mass must be finite"),
    "infinite mass": (GOOD, {"cluster_mass": [1, 2, np.inf]}, ValueError, "cluster_mass must be finite"),
    "negative share": (
        GOOD,
        {"cluster_share": [1, 2, -1]},
        ValueError,
        "cluster_share must be finite and not negative, got -1",
    ),
    "totals": (GOOD, {"cluster_mass": [1, 2, 3]}, ValueError, r"same total, got 4\.0 and 6\.0: scale one"),
    "mass shape": (GOOD, {"sample_mass": np.ones(3)}, ValueError, r"sample_mass must have shape \(4,\), got \(3,\)"),
    "cluster shape": (GOOD, {"cluster_mass": np.ones(4)}, ValueError, r"cluster_mass must have shape \(3,\), got \(4,\)"),
    "single mass": (GOOD, {"sample_mass": np.ones(1)}, ValueError, r"sample_mass must have shape \(4,\), got \(1,\)"),
    "both": (GOOD, {"cluster_mass": np.ones(3), "cluster_share": np.ones(3)}, ValueError, "not both"),
    "all closed": (GOOD, {"cluster_share": np.zeros(3)}, otc.InfeasibleError, "closes every cluster"),
    "group range": (
        GOOD,
        {"groups": [0, 1, 2, 5], "n_groups": 3},
        ValueError,
        r"groups must lie in \[0, 3\), got ids from 0 to 5",
    ),
    "negative group": (GOOD, {"groups": [0, -1, 2, 2], "n_groups": 3}, ValueError, "got ids from -1 to 2"),
    "float groups": (GOOD, {"groups": np.zeros(4), "n_groups": 3}, TypeError, "groups must be integers"),
    "no n_groups": (GOOD, {"groups": [0, 0, 1, 1]}, ValueError, "groups needs n_groups"),
    "no groups": (GOOD, {"n_groups": 2}, ValueError, "n_groups is given without groups"),
    "group shape": (GOOD, {"groups": [0, 0], "n_groups": 2}, ValueError, r"groups must have shape \(4,\)"),
    "n_groups": (GOOD, {"groups": [0, 0, 1, 1], "n_groups": 2.5}, TypeError, "n_groups must be a whole number"),
    "batch and groups": (np.zeros((2, 4, 3)), {"groups": [0] * 4, "n_groups": 1}, ValueError, "do not mix"),
    "forbidden row": (poisoned(-np.inf, (2, slice(None))), {}, otc.InfeasibleError, "sample 2 may join no open cluster"),
    "forbidden column": (poisoned(-np.inf, (slice(None), 1)), {}, otc.InfeasibleError, "cluster 1 may receive no sample"),
    "row and closed": (
        poisoned(-np.inf, (2, slice(0, 2))),
        {"cluster_share": [1, 1, 0]},
        otc.InfeasibleError,
        "sample 2 may join no open cluster",
    ),
    "group totals": (
        GOOD,
        {"groups": [0, 0, 1, 1], "n_groups": 2, "cluster_mass": [[1, 1, 0], [1, 1, 1]]},
        ValueError,
        r"got 2\.0 and 3\.0 in group 1",
    ),
    "closed group": (
        GOOD,
        {"groups": [0, 0, 1, 1], "n_groups": 2, "cluster_share": [[1, 1, 0], [0, 0, 0]]},
        otc.InfeasibleError,
        "closes every cluster in group 1",
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_bad_input_is_named(library, name):
    scores, given, error, message = CASES[name]
    laid = LIBRARIES[library](scores)
    given = {key: np.asarray(value) if key != "n_groups" else value for key, value in given.items()}
    before = {key: np.array(value) for key, value in given.items()}
    with pytest.raises(error, match=message):
        otc.Problem(laid, **given)
    np.testing.assert_array_equal(np.asarray(laid), scores)
    for key, value in before.items():
        np.testing.assert_array_equal(given[key], value)


def test_masses_of_another_device_and_unknown_types_are_refused():
    with pytest.raises(TypeError, match="scores must be an array"):
        otc.Problem([[1.0, 2.0]])
    with pytest.raises(TypeError, match="masked array"):
        otc.Problem(np.ma.masked_array(GOOD, mask=GOOD > 0))
    with pytest.raises(TypeError, match=r"numpy\.matrix"):
        otc.Problem(np.matrix(GOOD))
    with pytest.raises(TypeError, match="dense tensor"):
        otc.Problem(torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="sample_mass is on meta, the scores are on cpu"):
        otc.Problem(torch.zeros(4, 3), sample_mass=torch.ones(4, device="meta"))
    with pytest.raises(TypeError, match="sample_mass must be float16"):
        otc.Problem(GOOD, sample_mass=np.ones(4, complex))


def test_scores_that_would_overflow_are_refused():
    with pytest.raises(ValueError, match="overflow float"):
        otc.Problem(np.full((2, 2), 3e38, np.float32))
    with pytest.raises(ValueError, match="overflow"):
        otc.Problem(torch.tensor([[3e38, 0.0]], dtype=torch.bfloat16))


def test_values_are_not_looked_at_when_asked_not_to():
    assert otc.Problem(poisoned(np.nan), check_values=False).n_samples == 4
    with pytest.raises(ValueError, match="no clusters"):
        otc.Problem(np.zeros((4, 0)), check_values=False)


def test_a_lost_sample_counts_as_error_when_nobody_looked():
    scores = poisoned(-np.inf, (2, slice(None)))
    assignment = otc.solve(otc.Problem(scores, check_values=False), otc.SinkhornKnopp(max_iter=50))
    assert np.isfinite(assignment.plan()).all()
    assert assignment.labels()[2] == -1
    assert assignment.marginal_error >= 0.25


def test_a_weightless_sample_may_be_forbidden_everywhere():
    problem = otc.Problem(poisoned(-np.inf, (2, slice(None))), sample_mass=np.array([1.0, 1.0, 0.0, 1.0]))
    assignment = otc.solve(problem, otc.LogSinkhorn())
    assert assignment.labels()[2] == -1
    assert assignment.status is otc.Status.CONVERGED


def test_totals_may_differ_by_rounding():
    problem = otc.Problem(GOOD, cluster_mass=np.full(3, 4 / 3) * (1 + 1e-12))
    assert problem.cluster_mass.sum() == pytest.approx(4, abs=1e-15)
    otc.Problem(np.zeros((3000, 7), np.float32), cluster_mass=np.full(7, 3000 / 7, np.float32))


def test_masses_of_float64_go_with_scores_of_float32():
    for seed in range(50):
        w = np.random.default_rng(seed).dirichlet(np.ones(10))
        scores = torch.rand(10, 4, generator=torch.Generator().manual_seed(seed))
        problem = otc.Problem(scores, sample_mass=torch.from_numpy(w), cluster_mass=torch.full((4,), 0.25, dtype=torch.float64))
        assert otc.solve(problem, otc.LogSinkhorn(epsilon=0.5)).status is otc.Status.CONVERGED
    large = np.array([2**25 + 1, 3, 5, 7])
    otc.Problem(GOOD.astype(np.float32), sample_mass=large, cluster_mass=np.array([2**25, 8, 8]))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("scale", [1e308, 1e-300, 1e-320])
def test_shares_of_any_size_are_shares(library, scale):
    share = np.array([1.0, 2.0, 1.0])
    expected = otc.log_sinkhorn(GOOD, cluster_share=share).plan()
    lay = LIBRARIES[library]
    found = otc.log_sinkhorn(lay(GOOD), cluster_share=lay(share * (scale / 2)))
    np.testing.assert_allclose(np.asarray(found.plan()), expected, atol=1e-3 if scale == 1e-320 else 1e-12)  # few digits there


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("dtype", "mass"), [("float64", 1e308), ("float64", 1e-300), ("float32", 3e38), ("float32", 1e-30)])
def test_masses_that_no_sum_can_hold_are_refused(library, dtype, mass):
    scores, w = (LIBRARIES[library](each.astype(dtype)) for each in (GOOD, np.full(4, mass)))
    with pytest.raises(ValueError, match=r"the largest sample_mass of a problem must lie between .* in .*float.*: scale"):
        otc.Problem(scores, sample_mass=w)
    groups = LIBRARIES[library](np.array([0, 0, 1, 1]))
    w = LIBRARIES[library](np.array([1, 1, mass, mass]).astype(dtype))
    with pytest.raises(ValueError, match="the largest sample_mass of a problem must lie between"):
        otc.Problem(scores, sample_mass=w, groups=groups, n_groups=2)


def test_tiny_masses_beside_others_are_taken():
    w = np.array([1, 1e-30, 0, 1], np.float32)
    assignment = otc.log_sinkhorn(GOOD.astype(np.float32), sample_mass=w)
    assert assignment.status is otc.Status.CONVERGED
    np.testing.assert_allclose(assignment.plan().sum(1), w, rtol=1e-6)


@pytest.mark.parametrize("given", [{}, {"scores": poisoned(-np.inf)}, {"cluster_share": [[1, 1, 0]] * 3}])
def test_values_are_looked_at_once(monkeypatch, given):
    """On a device that one waits for, all checks are made of one look."""
    waits = []
    monkeypatch.setattr(NumpyOps, "on_host", False)
    monkeypatch.setattr(NumpyOps, "facts", lambda self, values: waits.append(1) or [float(value) for value in values])
    share = {name: np.array(value) for name, value in given.items() if name != "scores"}
    otc.Problem(given.get("scores", GOOD), groups=np.array([0, 0, 2, 2]), n_groups=3, **share)
    assert len(waits) == 1


def test_what_a_user_does_to_what_was_given_or_handed_out_changes_no_answer():
    scores, w, groups = torch.rand(4, 3), torch.ones(4), torch.tensor([0, 0, 1, 1])
    assignment = otc.nearest(scores, sample_mass=w, groups=groups, n_groups=2)
    labels, plan, sizes = assignment.labels().clone(), assignment.plan(), assignment.cluster_sizes().clone()
    w.mul_(5)
    groups.zero_()
    for array in (assignment.labels(), *assignment.potentials, assignment.cluster_sizes(), assignment.marginal_error):
        array.fill_(99)
    assert torch.equal(assignment.labels(), labels)
    assert torch.equal(assignment.plan(), plan)
    assert torch.equal(assignment.cluster_sizes(), sizes)
    soft = otc.log_sinkhorn(scores)
    plan = soft.plan()
    for array in (*soft.potentials, soft.cluster_sizes(), soft.marginal_error, soft.n_iter):
        array.fill_(99)
    assert torch.equal(soft.plan(), plan)
    assert soft.marginal_error <= 1e-6


def test_numbers_of_other_libraries_are_numbers():
    for scores in (torch.rand(2, 4, 3), np.random.default_rng(0).random((2, 4, 3))):
        expected = otc.sinkhorn_knopp(scores, epsilon=0.05, max_iter=3)
        found = otc.sinkhorn_knopp(scores, epsilon=Fraction(1, 20), max_iter=np.int64(3))
        np.testing.assert_array_equal(np.asarray(found.plan()), np.asarray(expected.plan()))
        assert found.n_iter.tolist() == [3, 3]
    assert otc.LogSinkhorn(epsilon=np.float32(0.5)) == otc.LogSinkhorn(epsilon=0.5)


def test_groups_of_no_samples_may_be_an_empty_list():
    assert otc.nearest(np.zeros((0, 3)), groups=[], n_groups=2).cluster_sizes().tolist() == [[0] * 3] * 2


def test_masses_broadcast_over_a_batch_and_may_be_whole_numbers():
    problem = otc.Problem(np.zeros((2, 4, 3)), cluster_share=np.array([1, 1, 2]))
    np.testing.assert_allclose(problem.cluster_mass, [[1, 1, 2]] * 2)
    assert problem.sample_mass.shape == (2, 4)


@pytest.mark.parametrize("solver", [otc.SinkhornKnopp, otc.LogSinkhorn])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epsilon": 0}, ValueError, "epsilon must be positive"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be positive"),
        ({"epsilon": float("nan")}, ValueError, "epsilon must be positive"),
        ({"epsilon": float("inf")}, ValueError, "epsilon must be positive"),
        ({"epsilon": "0.05"}, TypeError, "epsilon must be a number"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"max_iter": 2.5}, TypeError, "max_iter must be a whole number"),
        ({"tol": -1e-3}, ValueError, "tol must be None or not negative"),
        ({"tol": float("nan")}, ValueError, "tol must be None or not negative"),
    ],
)
def test_bad_hyper_parameters_are_named(solver, arguments, error, message):
    with pytest.raises(error, match=message):
        solver(**arguments)


def test_solve_names_what_it_cannot_take():
    with pytest.raises(TypeError, match=r"problem must be a Problem, got ndarray"):
        otc.solve(GOOD, otc.Nearest())
    with pytest.raises(TypeError, match="solver must be a solver"):
        otc.solve(otc.Problem(GOOD), otc.SinkhornKnopp)
    with pytest.raises(TypeError, match="solver must be a solver"):
        otc.solve(otc.Problem(GOOD), "sinkhorn")
    with pytest.raises(ValueError, match="too large"):
        otc.sinkhorn_knopp(GOOD.astype(np.float32), epsilon=1e35)


def test_solvers_and_problems_are_frozen():
    with pytest.raises(AttributeError):
        otc.SinkhornKnopp().epsilon = 1
    with pytest.raises(AttributeError):
        otc.Problem(GOOD).n_groups = 1
