"""Fixed rounds: the host never waits for the device, CUDA graphs capture them, and torch.compile makes one graph of them."""

from __future__ import annotations

import pytest
import torch

import otcluster as otc

pytestmark = pytest.mark.gpu
SOLVERS = [otc.SinkhornKnopp(), otc.LogSinkhorn(max_iter=4, tol=None), otc.Nearest()]
SOURCES = ["dense", "half", "batch", "points", "groups", "points in groups", "masses", "relaxed", "partial"]


def ask_of(source, solver, device):
    """A function of one tensor that solves, and what to give it."""
    drawn = torch.Generator().manual_seed(0)
    scores, x, centroids, grouped = (
        torch.randn(shape, generator=drawn).to(device) for shape in ((2, 64, 6), (64, 16), (6, 16), (4, 6, 16))
    )
    groups = {"groups": (torch.arange(64) % 4).to(device), "n_groups": 4}
    masses = {
        "groups": groups,
        "points in groups": groups,
        "masses": {
            "sample_mass": torch.rand(64, generator=drawn).to(device) + 0.5,
            "cluster_share": torch.rand(6, generator=drawn).to(device) + 0.5,
        },
        "relaxed": {"cluster_side": 0.5},
        "partial": {"assigned_mass": 40.0},
    }.get(source, {})
    given = scores.tanh() if source == "batch" else x if source.startswith("points") else scores[0].tanh()
    given = given.half() if source == "half" else given

    def ask(tensor):
        problem = tensor
        if source.startswith("points"):
            problem = otc.PointScores(tensor, grouped if "groups" in source else centroids, metric="cosine")
        answer = otc.solve(otc.Problem(problem, **masses, check_values=False), solver)
        return answer.plan(), answer.labels(), answer.cluster_sizes(), answer.marginal_error, *answer.potentials

    return ask, given


def each_case(test):
    cases = [
        (source, solver)
        for source in SOURCES
        for solver in SOLVERS
        if not (isinstance(solver, otc.Nearest) and source in ("relaxed", "partial"))
    ]
    names = [f"{source}, {type(solver).__name__}" for source, solver in cases]
    return pytest.mark.parametrize(("source", "solver"), cases, ids=names)(test)


@each_case
def test_the_host_never_waits(source, solver, cuda):
    ask, given = ask_of(source, solver, cuda)
    ask(given)  # what is loaded on first use may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = ask(given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for value in found:
        assert value.device == cuda


def test_values_are_looked_at_once(cuda):
    scores = torch.rand(64, 6, device=cuda)
    otc.Problem(scores)
    masses = torch.ones(64, device=cuda)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as waits:
            otc.Problem(scores, sample_mass=masses)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([each for each in waits if "synchronizing" in str(each.message)]) == 1


@each_case
def test_a_cuda_graph_captures_them(source, solver, cuda):
    ask, given = ask_of(source, solver, cuda)
    place = given.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        ask(place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ask(place)
    place.copy_(given.flip(-2))
    graph.replay()
    for mine, plain in zip(captured, ask(given.flip(-2)), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=64 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("source", ["dense", "half", "points", "groups", "masses"])
def test_they_compile_as_one_graph(source, device):
    torch.compiler.reset()
    ask, given = ask_of(source, otc.SinkhornKnopp(), device)
    # Code is generated for three of them only: it takes long.
    backend = "inductor" if device.type == "cuda" and source in ("dense", "points", "groups") else "aot_eager"
    traced, plain = torch.compile(ask, fullgraph=True, backend=backend)(given), ask(given)
    for mine, theirs in zip(traced, plain, strict=True):
        if mine.dtype == torch.int64:
            assert (mine != theirs).float().mean() < 0.05  # near ties
        else:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
