"""PointScores: what a pass may use of memory, and clusters by the hundred thousand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import otcluster as otc

N, K, D = 12_000, 1_500, 8
BUDGET = 16 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc, which is Linux's")

# Each question in turn, of points made anew; printed is by how much the process grew at most, in bytes.
SCRIPT = """
import gc, json, sys
import numpy as np, torch
import otcluster as otc
from benchmarks.timing import peak_memory

gc.freeze()  # what was imported is not looked through before each question
torch.set_num_threads(1)
library, n, k, d, memory = sys.argv[1], *map(int, sys.argv[2:])
lay = torch.from_numpy if library == "torch" else np.asarray
rng = np.random.default_rng(0)
x, c = rng.standard_normal((n, d)).astype(np.float32), rng.standard_normal((k, d)).astype(np.float32)
epsilons = {"cosine": 0.5, "dot": 5.0, "sqeuclidean": 0.2}
found = {}

def points(metric, rows=n, grad=False):
    arrays = [lay(x[:rows].copy()), lay(c.copy())]
    if grad:
        arrays = [each.requires_grad_() for each in arrays]
    return otc.Problem(otc.PointScores(*arrays, metric=metric, memory=memory))

def backward(metric, solver, gradient, rows=n):
    otc.solve(points(metric, rows, True), solver, gradient=gradient).transport_value().backward()

def note(name, call):
    if name in found:
        found[name] = peak_memory(call)
    else:  # the first time, when things are loaded and compiled on the way
        call()
        found[name] = None

for metric, epsilon in epsilons.items():
    rounds, nearest = otc.SinkhornKnopp(epsilon, 2), otc.Nearest()
    for rows in (100, n):
        problem, kept = points(metric, rows), []
        note(f"{metric}, solve", lambda: kept.append(otc.solve(problem, rounds)))
        answer = kept[0]
        note(f"{metric}, labels", answer.labels)
        note(f"{metric}, value", answer.transport_value)
        note(f"{metric}, nearest", lambda: kept.append(otc.solve(problem, nearest)))
        if metric == "cosine":
            note("converged", lambda: otc.solve(problem, otc.LogSinkhorn(epsilon, 2, 1e-3)))
            note("error", lambda: answer.marginal_error)
            note("sizes", answer.cluster_sizes)
            note("potentials", lambda: answer.potentials)
            note("assign", lambda: answer.assign(points(metric, rows).scores).labels())
            note("value of labels", kept[1].transport_value)
        if library == "torch" and metric == "sqeuclidean":
            note(f"{metric}, unrolled", lambda: backward(metric, rounds, otc.UnrolledGradient(), rows))
    if library == "torch" and metric == "cosine":
        solver = otc.LogSinkhorn(2.0, 100, 0.2, acceleration=otc.PlainRounds())
        for rows in (3000, n):  # the matrix of the first is formed, that of the second is not
            note("implicit", lambda: backward(metric, solver, otc.ImplicitGradient(), rows))
print(json.dumps(found))
"""


@LINUX
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_no_question_but_the_plan_takes_more_than_the_budget(library):
    command = [sys.executable, "-c", SCRIPT, library, *map(str, (N, K, D, BUDGET))]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent, env=alone)
    # Points in float32 and in float64, their gradients, and some numbers for each sample and cluster.
    bound = BUDGET + 4 * 8 * (N + K) * (D + 4)
    assert bound < N * K * 4 / 3
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 18
    assert {name: peak for name, peak in found.items() if peak > bound} == {}


def test_a_budget_changes_no_answer():
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((40, 4)), rng.standard_normal((6, 4))
    for metric in ("dot", "cosine", "sqeuclidean"):
        whole, small = (
            otc.log_sinkhorn(otc.PointScores(x, c, metric=metric, memory=memory), epsilon=0.5) for memory in (None, 1)
        )
        assert otc.PointScores(x, c, memory=1).tile_shape(None) == (1, 1)
        np.testing.assert_allclose(small.plan(), whole.plan(), atol=1e-9)
        assert small.balanced_labels().tolist() == whole.balanced_labels().tolist()


def test_a_budget_is_a_number_of_bytes():
    with pytest.raises(TypeError, match="memory must be None or a whole number of bytes"):
        otc.PointScores(np.ones((2, 3)), np.ones((2, 3)), memory=1.5)
    with pytest.raises(ValueError, match="memory must be positive, got 0"):
        otc.PointScores(np.ones((2, 3)), np.ones((2, 3)), memory=0)


MANY = 131_072


@pytest.mark.parametrize("kind", ["points", "dense"])
def test_131072_clusters_are_solved(kind):
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((64, 3)).astype(np.float32), rng.standard_normal((MANY, 3)).astype(np.float32)
    scores = otc.PointScores(x, c) if kind == "points" else x @ c.T
    reference = x.astype(np.float64) @ c.astype(np.float64).T
    for solver in (otc.SinkhornKnopp(epsilon=1.0), otc.LogSinkhorn(epsilon=1.0, max_iter=4), otc.Nearest()):
        answer = otc.solve(otc.Problem(scores), solver)
        f, g = answer.potentials
        worth = reference + g
        labels = answer.labels()
        # Scores of up to 20 are rounded to some 1e-6 of float32.
        np.testing.assert_allclose(np.take_along_axis(worth, labels[:, None], 1)[:, 0], worth.max(1), atol=1e-4)
        np.testing.assert_allclose(answer.cluster_sizes().sum(dtype=np.float64), 64, rtol=1e-5)
        assert np.isfinite(f).all()
        assert np.isfinite(g).all()
    assert answer.cluster_sizes().max() >= 1
