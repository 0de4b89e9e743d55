"""What an answer says, and that it stays true."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import otcluster as otc
from otcluster import passes
from tests.registry import every_solver
from tests.strategies import LIBRARIES, clustered_scores, to_numpy


@pytest.mark.parametrize("changed", ["scores", "sample_mass"])
def test_a_change_in_place_raises_rather_than_misleads(changed):
    given = {"scores": torch.rand(6, 3), "sample_mass": torch.ones(6)}
    assignment = otc.solve(otc.Problem(given["scores"], sample_mass=given["sample_mass"]), otc.SinkhornKnopp())
    before = assignment.plan()
    given[changed].mul_(2)
    for ask in (assignment.plan, assignment.labels, assignment.cluster_sizes, lambda: assignment.potentials):
        with pytest.raises(RuntimeError, match=f"{changed} was changed in place"):
            ask()
    assert before.isfinite().all()


def test_an_assignment_to_centroids_that_moved_raises():
    store = otc.CentroidStore(n_centroids=3, dim=4, momentum=0.5)
    x = torch.randn(10, 4)
    assignment = otc.solve(otc.Problem(otc.PointScores(x, store.centroids, metric="cosine")), otc.SinkhornKnopp())
    store.update(x, None, assignment)
    with pytest.raises(RuntimeError, match="centroids was changed in place"):
        assignment.plan()


def test_hard_answers_hold_their_labels_and_stay_true():
    scores = torch.rand(6, 3)
    assignment = otc.nearest(scores)
    labels = assignment.labels().clone()
    scores.zero_()
    assert torch.equal(assignment.labels(), labels)


def test_half_precision_inputs_answer_in_float32():
    for dtype in (torch.float16, torch.bfloat16):
        assignment = otc.sinkhorn_knopp(torch.rand(6, 3).to(dtype))
        assert assignment.plan().dtype == torch.float32
        assert all(each.dtype == torch.float32 for each in assignment.potentials)
    assert otc.sinkhorn_knopp(np.zeros((4, 2), np.float16)).plan().dtype == np.float32


def test_nearest_has_no_prices_and_is_converged_after_no_rounds():
    scores = clustered_scores(20, 4)
    assignment = otc.nearest(scores)
    f, g = assignment.potentials
    np.testing.assert_array_equal(g, 0)
    np.testing.assert_allclose(f, -scores.max(1))
    assert assignment.status is otc.Status.CONVERGED
    assert int(assignment.n_iter) == 0
    assert assignment.marginal_error == 0
    np.testing.assert_array_equal(assignment.cluster_sizes(), np.bincount(scores.argmax(1), minlength=4))


def test_nearest_leaves_closed_clusters_empty():
    scores = np.array([[1.0, 0.0, 0.5], [0.2, 0.9, 0.1]])
    assignment = otc.nearest(scores, cluster_share=np.array([0, 1, 1]))
    np.testing.assert_array_equal(assignment.labels(), [2, 1])
    assert np.isneginf(assignment.potentials[1][0])


@pytest.mark.parametrize("assigned", [None, 1200])
def test_new_samples_are_assigned_from_the_potential(assigned):
    scores = clustered_scores(4000, 5)
    known = otc.log_sinkhorn(scores[:2000], assigned_mass=assigned)
    values = scores + known.potentials[1]
    outside = 0.0 if assigned else -np.inf  # of a partial problem the outside stands at zero
    labels = np.where(values.max(1) > outside, values.argmax(1), -1)
    np.testing.assert_array_equal(labels[:2000], known.labels())
    # Rows that the solve has not seen fill the clusters about as those that it was made for.
    kernel = np.exp(values / 0.05)
    new = (kernel / (kernel.sum(1, keepdims=True) + np.exp(outside / 0.05)))[2000:].sum(0)
    np.testing.assert_allclose(new, known.cluster_sizes(), rtol=0.15)


@pytest.mark.parametrize("library", LIBRARIES)
def test_labels_and_sizes_form_no_plan(library, monkeypatch):
    def plan(*args):
        raise AssertionError("a plan was formed")

    monkeypatch.setattr(passes, "plan", plan)
    for solver in (otc.SinkhornKnopp(), otc.LogSinkhorn(), otc.Nearest()):
        assignment = otc.solve(otc.Problem(LIBRARIES[library](clustered_scores(100, 5))), solver)
        assert to_numpy(assignment.cluster_sizes()).shape == (5,)  # a tile of the plan at a time, at most
        with monkeypatch.context() as patch:
            patch.setattr(passes, "tile_plan", plan)
            assert to_numpy(assignment.labels()).shape == (100,)
    with pytest.raises(AssertionError, match="a plan was formed"):
        otc.sinkhorn_knopp(np.eye(3)).plan()


def test_labels_of_a_balanced_plan_need_not_be_balanced():
    assignment = otc.log_sinkhorn(clustered_scores(512, 32), epsilon=0.05)
    counts = np.bincount(assignment.labels(), minlength=32)
    assert counts.max() > 16
    np.testing.assert_allclose(assignment.cluster_sizes(), 16, rtol=1e-3)


def test_statuses_are_ordered_from_best_to_worst():
    assert [status.name for status in otc.Status] == ["CONVERGED", "FIXED_ROUNDS", "MAX_ITER", "INFEASIBLE"]


def test_inference_tensors_are_solved():
    with torch.inference_mode():
        scores = torch.rand(5, 2)
        assignment = otc.sinkhorn_knopp(scores)
        assert assignment.plan().shape == (5, 2)


def test_read_only_and_non_contiguous_arrays_are_solved():
    scores = clustered_scores(40, 6)
    expected = otc.sinkhorn_knopp(scores).plan()
    transposed = np.asfortranarray(scores)
    transposed.setflags(write=False)
    np.testing.assert_allclose(otc.sinkhorn_knopp(transposed).plan(), expected, atol=1e-14)
    strided = torch.from_numpy(np.repeat(scores, 2, axis=1))[:, ::2]
    np.testing.assert_allclose(otc.sinkhorn_knopp(strided).plan(), expected, atol=1e-14)


@every_solver
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_transport_value_is_the_plan_times_the_scores(row, library):
    rng = np.random.default_rng(0)
    lay, groups = LIBRARIES[library], rng.integers(0, 4, 12)
    scores, batch = rng.uniform(-1, 1, (12, 3)), rng.uniform(-1, 1, (2, 5, 3))
    scores[0, 0] = scores[5, 1] = -np.inf
    problems = [
        otc.Problem(lay(scores), sample_mass=lay(rng.uniform(0.5, 2, 12) if row.any_mass else np.ones(12))),
        otc.Problem(lay(batch)),
        otc.Problem(lay(np.where(np.isfinite(scores), scores, 0)), groups=lay(groups), n_groups=5),
    ]
    for problem in problems:
        assignment = otc.solve(problem, row.make(0.1))
        value, plan = to_numpy(assignment.transport_value()), to_numpy(assignment.plan())
        given = to_numpy(problem.given["scores"])
        worth = np.where(plan > 0, plan * np.where(np.isfinite(given), given, 0), 0).sum(-1)
        expected = np.bincount(groups, worth, minlength=5) if problem.n_groups else worth.sum(-1)
        assert value.shape == problem.problem_shape
        np.testing.assert_allclose(value, expected, atol=1e-13)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize(
    "masses",
    [
        {},
        {"groups": np.arange(12) % 3, "n_groups": 3},
        {"assigned_mass": 7.0, "cluster_side": 0.5},
        {"sample_mass": np.ones(12)},
    ],
    ids=lambda masses: ", ".join(masses),
)
def test_problems_and_answers_can_be_copied_and_pickled(library, again, masses):
    scores = LIBRARIES[library](clustered_scores(12, 3))
    given = {name: LIBRARIES[library](value) if isinstance(value, np.ndarray) else value for name, value in masses.items()}
    assignment = otc.solve(otc.Problem(scores, **given), otc.LogSinkhorn())
    for other in (again(assignment), otc.solve(again(assignment.problem), again(assignment.solver))):
        assert other.status is assignment.status
        np.testing.assert_array_equal(to_numpy(other.plan()), to_numpy(assignment.plan()))
        np.testing.assert_array_equal(to_numpy(other.balanced_labels()), to_numpy(assignment.balanced_labels()))


def test_a_copy_stands_for_the_copied_inputs():
    scores = torch.rand(6, 3).add_(1)  # was changed before, which counts for nothing
    points = otc.PointScores(scores, scores[:2].clone(), metric="cosine")
    for problem in (otc.Problem(scores), otc.Problem(points)):
        assignment = otc.sinkhorn_knopp(problem.scores)
        other = copy.deepcopy(assignment)
        plan = assignment.plan()
        scores.mul_(2)
        torch.testing.assert_close(other.plan(), plan, rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="was changed in place"):
            copy.deepcopy(assignment)


def test_what_an_answer_gives_out_is_the_callers():
    for assignment in (otc.log_sinkhorn(np.eye(4)[None]), otc.exact_balanced(np.eye(4)[None]), otc.nearest(np.eye(4)[None])):
        for ask in (
            assignment.plan, assignment.labels, assignment.balanced_labels, assignment.cluster_sizes,
            lambda: assignment.n_iter, lambda: assignment.marginal_error, lambda: assignment.potentials[1],
        ):  # fmt: skip
            given = ask()
            kept = given.copy()
            given[...] = 77
            np.testing.assert_array_equal(ask(), kept)
