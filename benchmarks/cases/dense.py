"""One large problem, against the recipe: labels and plans after three rounds."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import otcluster as otc
from benchmarks.errors import largest_difference
from benchmarks.peers import recipe
from benchmarks.recipe import three_rounds
from benchmarks.rows import Row, compared

ABOUT = (
    "Three rounds on one problem",
    """\
`SinkhornKnopp` at epsilon 0.05 beside the rounds that SwAV and DINOv2 paste (the same lines in both). Error: the largest
difference of a plan entry to the recipe in float64. Floor: the scores read once a round and once for the answer.""",
)


def rows() -> Iterator[Row]:
    """Two sizes, labels and plans."""
    for n, k, repeats, target in ((4096, 3000, 9, 2), (2048, 65_536, 5, 3)):
        scores = torch.rand(n, k, generator=torch.Generator().manual_seed(0)) * 2 - 1
        exact = three_rounds(scores.double())
        errors = tuple(largest_difference(plan, exact) for plan in (three_rounds(scores), otc.sinkhorn_knopp(scores).plan()))
        del exact
        for what, theirs, ours, aim in (
            ("labels", lambda s=scores: three_rounds(s).argmax(dim=1), lambda s=scores: otc.sinkhorn_knopp(s).labels(), target),
            ("plan", lambda s=scores: three_rounds(s), lambda s=scores: otc.sinkhorn_knopp(s).plan(), 1.5),
        ):
            yield from compared(
                "dense",
                f"{n} x {k} float32, 3 rounds, {what}",
                recipe(theirs),
                ours,
                error_is="plan",
                errors=lambda _, __, errors=errors: errors,
                floor_bytes=4 * scores.nbytes,
                repeats=repeats,
                target=aim,
            )
