"""Compiled passes against those made of primitives."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import otcluster as otc
from otcluster import passes
from otcluster._ops import compiled
from tests.strategies import to_numpy

pytest.importorskip("numba", reason="compiled passes need numba, which is not installed")


def answers(scores, solver, masses):
    assignment = otc.solve(otc.Problem(scores, **masses), solver)
    assert (passes.fused_passes(assignment.problem) is None) == (os.environ.get("OTCLUSTER_COMPILED") == "0")
    return [to_numpy(each) for each in (assignment.plan(), assignment.labels(), assignment.cluster_sizes(),
            assignment.marginal_error, *assignment.potentials)]  # fmt: skip


@st.composite
def problems(draw):
    """Scores of any size, far from zero or not, with forbidden pairs, masses, batches and groups, in any memory layout."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(1, 70)), draw(st.sampled_from([1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 300, 515]))
    batch = draw(st.sampled_from([(), (3,), (2, 2)]))
    scores = rng.uniform(-1, 1, (*batch, n, k)) * draw(st.sampled_from([1, 100])) + draw(st.sampled_from([0, 0, 50]))
    if draw(st.booleans()):
        scores[rng.random(scores.shape) < 0.2] = -np.inf
        scores[..., 0] = scores[..., 0].clip(-1)
    masses = {"cluster_share": np.r_[1.0, rng.uniform(0, 2, k - 1).round(1)]} if draw(st.booleans()) else {}
    if not batch and draw(st.booleans()):
        masses = {"groups": rng.integers(0, 4, n), "n_groups": 5}
    if draw(st.booleans()):
        masses["sample_mass"] = rng.uniform(0, 2, n).round(1) + (np.arange(n) == 0)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = scores.astype(dtype)
    layout = draw(st.sampled_from(["C", "F", "strided"]))
    if layout == "F":
        scores = np.asfortranarray(scores)
    elif layout == "strided":
        scores = np.repeat(scores, 2, axis=-1)[..., ::2]
    return scores, masses


@settings(max_examples=300)
@given(problem=problems(), epsilon=st.sampled_from([1.0, 0.05, 0.001]), in_torch=st.booleans(), rounds=st.integers(1, 3))
def test_compiled_passes_answer_as_the_primitives(problem, epsilon, in_torch, rounds):
    scores, masses = problem
    if in_torch:
        masses = {name: torch.from_numpy(value) if name != "n_groups" else value for name, value in masses.items()}
        scores = torch.from_numpy(scores)
    finite = to_numpy(scores)[np.isfinite(to_numpy(scores))]
    eps = np.finfo(to_numpy(scores).dtype).eps
    limit = 16 * eps * max(1, float(np.ptp(finite)) / epsilon) * rounds
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setenv("OTCLUSTER_COMPILED", "0")
            expected = answers(scores, otc.SinkhornKnopp(epsilon, rounds), masses)
        except otc.InfeasibleError:
            return
        patch.setenv("OTCLUSTER_COMPILED", "1")
        found = answers(scores, otc.SinkhornKnopp(epsilon, rounds), masses)
    scale = float(expected[0].sum(-1).max())
    np.testing.assert_allclose(found[0], expected[0], atol=scale * limit)
    has_mass = found[0].sum(-1) > 0
    np.testing.assert_array_equal(found[1][has_mass], found[0].argmax(-1)[has_mass])
    np.testing.assert_array_equal(found[1] < 0, expected[1] < 0)
    np.testing.assert_allclose(found[2], expected[2], atol=scale * limit * scores.shape[-2])
    np.testing.assert_allclose(found[3], expected[3], atol=limit * scores.shape[-1])
    for one, two in zip(found[4:], expected[4:], strict=True):
        np.testing.assert_array_equal(np.isneginf(one), np.isneginf(two))


def test_rows_are_shared_among_threads_without_a_difference_in_rows(monkeypatch):
    scores = torch.rand(1000, 37, dtype=torch.float64)
    groups = torch.randint(0, 5, (1000,))
    calls = []
    over_rows = compiled.over_rows
    monkeypatch.setattr(compiled, "over_rows", lambda n, k, threads, work: calls.append(threads) or over_rows(n, k, 3, work))
    monkeypatch.setattr("otcluster._ops.torch.torch.get_num_threads", lambda: 3)
    one = [otc.sinkhorn_knopp(scores), otc.sinkhorn_knopp(scores, groups=groups, n_groups=5)]
    before = [(each.plan(), each.labels(), each.cluster_sizes()) for each in one]
    monkeypatch.setattr(compiled, "_WORTH_A_THREAD", 1)
    two = [otc.sinkhorn_knopp(scores), otc.sinkhorn_knopp(scores, groups=groups, n_groups=5)]
    for (plan, labels, sizes), each in zip(before, two, strict=True):
        torch.testing.assert_close(each.plan(), plan, rtol=0, atol=1e-13)
        assert torch.equal(each.labels(), labels)
        torch.testing.assert_close(each.cluster_sizes(), sizes, rtol=1e-13, atol=0)
    assert set(calls) == {3}


def test_every_row_is_worked_on_once():
    for n, threads in ((0, 3), (1, 3), (2, 3), (1000, 7)):
        seen = np.zeros(n, int)

        def work(thread, start, stop, seen=seen):
            seen[start:stop] += 1

        compiled.over_rows(n, 1 << 20, threads, work)
        assert (seen == 1).all()


def test_an_error_in_a_thread_is_raised():
    def work(thread, start, stop):
        if thread:
            raise ValueError("in a thread")

    with pytest.raises(ValueError, match="in a thread"):
        compiled.over_rows(1000, 1 << 20, 2, work)


def _solve_in_child(queue):
    compiled.over_rows(1000, 1 << 20, 2, lambda thread, start, stop: None)
    queue.put(float(otc.sinkhorn_knopp(np.eye(3)).plan().sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform does not fork")
def test_a_forked_process_solves_too():
    compiled.over_rows(1000, 1 << 20, 2, lambda thread, start, stop: None)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_solve_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == pytest.approx(3)
    child.join()


def test_without_numba_the_primitives_serve_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    compiled._numba_is_there.cache_clear()
    with caplog.at_level("DEBUG", logger="otcluster"):
        assert otc.sinkhorn_knopp(np.eye(3)).labels().tolist() == [0, 1, 2]
    assert "pip install 'otcluster[fast]'" in caplog.text
    monkeypatch.undo()
    compiled._numba_is_there.cache_clear()


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("2,1", 2)])
def test_the_environment_says_how_many_threads(monkeypatch, asked, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert compiled.available_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert compiled.available_threads() >= 1


def test_another_process_finds_what_was_compiled(tmp_path):
    # Of files, not of seconds: numba would add some for what it compiles anew.
    code = "import numpy, otcluster; otcluster.sinkhorn_knopp(numpy.ones((3, 2), numpy.float32)).labels()"
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)})
        kept.append(sorted(path.name for path in tmp_path.rglob("*.nb?")))
    assert len(kept[0]) >= 5
    assert kept[0] == kept[1]


def test_threads_that_come_first_at_once_load_one_module():
    code = """
import sys, threading
import numpy, otcluster
from otcluster._ops import compiled
found, start = [], threading.Barrier(4)
def use():
    start.wait()
    found.append(compiled.kernels("float32"))
    otcluster.sinkhorn_knopp(numpy.ones((3, 2), numpy.float32)).labels()
threads = [threading.Thread(target=use) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
sys.exit(len(found) != 4 or len({id(each) for each in found}) != 1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
