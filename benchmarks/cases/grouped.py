"""A thousand problems in one solve, against the recipe in a loop over the groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import otcluster as otc
from benchmarks.errors import largest_difference
from benchmarks.peers import recipe
from benchmarks.recipe import three_rounds
from benchmarks.rows import Row, compared

ABOUT = (
    "Many problems in one",
    """\
`SinkhornKnopp` with groups beside the recipe in a loop over them, presorted; labels after three rounds, float32, epsilon
0.05. Error: the largest difference of a plan entry to the recipe in float64. Floor: scores and groups read once a round and
once for the answer.""",
)
_K = 4


def rows() -> Iterator[Row]:
    """Group sizes drawn from 0 to 16 and from 0 to 200; then one group of 200,000 and 9,999 of one, for the memory."""
    rng = np.random.default_rng(0)
    for largest, target in ((16, 20), (200, 3)):
        sizes = rng.integers(0, largest + 1, 1000)
        yield from _row(f"1000 groups of 0 to {largest}, k {_K}, {sizes.sum()} samples, labels", sizes, 31, target)
    sizes = np.r_[200_000, np.ones(9_999, np.int64)]
    yield from _row(f"one group of 200000 and 9999 of one, k {_K}, labels", sizes, 9)


def _row(what: str, sizes: np.ndarray, repeats: int, target: float | None = None) -> Iterator[Row]:
    n_groups = len(sizes)
    groups = torch.from_numpy(np.repeat(np.arange(n_groups), sizes))
    scores = torch.rand(len(groups), _K, generator=torch.Generator().manual_seed(0)) * 2 - 1
    parts = [part for part in torch.split(scores, sizes.tolist()) if len(part)]
    exact = torch.cat([three_rounds(part.double()) for part in parts])
    errors = (
        largest_difference(torch.cat([three_rounds(part) for part in parts]), exact),
        largest_difference(otc.sinkhorn_knopp(scores, groups=groups, n_groups=n_groups).plan(), exact),
    )
    return compared(
        "grouped",
        what,
        recipe(lambda: torch.cat([three_rounds(part).argmax(dim=1) for part in parts]), "SwAV/DINO recipe, loop over groups"),
        lambda: otc.sinkhorn_knopp(scores, groups=groups, n_groups=n_groups).labels(),
        error_is="plan",
        errors=lambda _, __: errors,
        floor_bytes=4 * (scores.nbytes + groups.nbytes),
        repeats=repeats,
        target=target,
    )
