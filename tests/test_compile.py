"""Fixed rounds under torch.compile."""

from __future__ import annotations

import pytest
import torch

import otcluster as otc


@pytest.mark.parametrize(
    ("kind", "solver"),
    [
        ("dense", otc.SinkhornKnopp()),
        ("points", otc.SinkhornKnopp()),
        ("masses", otc.SinkhornKnopp()),
        ("groups", otc.SinkhornKnopp()),
        ("half", otc.SinkhornKnopp()),
        ("relaxed, partial", otc.SinkhornKnopp()),
        ("groups", otc.LogSinkhorn(max_iter=4, tol=None)),
        ("masses", otc.Nearest()),
    ],
)
@pytest.mark.filterwarnings("error:Dynamo detected")
def test_fixed_rounds_compile_as_one_graph(kind, solver):
    drawn = torch.Generator().manual_seed(0)
    x, centroids = torch.randn(12, 5, generator=drawn), torch.randn(3, 5, generator=drawn)
    inputs = torch.rand(12, 3, generator=drawn)
    inputs = inputs.half() if kind == "half" else inputs
    masses = {
        "masses": {
            "sample_mass": torch.rand(12, generator=drawn) + 0.5,
            "cluster_share": torch.rand(3, generator=drawn) + 0.5,
        },
        "relaxed, partial": {"cluster_side": 0.5, "assigned_mass": 8.0},
        "groups": {"groups": torch.arange(12) % 2, "n_groups": 2},
    }.get(kind, {})

    def ask(scores):
        source = otc.PointScores(x, centroids, metric="cosine") if kind == "points" else scores
        assignment = otc.solve(otc.Problem(source, **masses, check_values=False), solver)
        return (
            assignment.plan(), assignment.labels(), assignment.cluster_sizes(), assignment.marginal_error,
            *assignment.potentials,
        )  # fmt: skip

    torch.compiler.reset()
    for traced, plain in zip(torch.compile(ask, fullgraph=True, backend="aot_eager")(inputs), ask(inputs), strict=True):
        torch.testing.assert_close(traced, plain, rtol=0, atol=16 * torch.finfo(torch.float32).eps)
