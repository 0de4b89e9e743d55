"""One large problem, against the recipe: labels and plans after three rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import torch

import otcluster as otc
from benchmarks.recipe import three_rounds
from benchmarks.timing import copy_speed, ratio, side_by_side


def rows() -> Iterator[dict[str, Any]]:
    """The two sizes, with the floor: the scores read once a round and once for the answer, at the speed of a copy."""
    speed = copy_speed()
    for n, k in ((4096, 3000), (2048, 65_536)):
        scores = torch.rand(n, k, generator=torch.Generator().manual_seed(0)) * 2 - 1
        seconds = side_by_side(
            {
                "recipe": lambda scores=scores: three_rounds(scores).argmax(dim=1),
                "labels": lambda scores=scores: otc.sinkhorn_knopp(scores).labels(),
                "recipe plan": lambda scores=scores: three_rounds(scores),
                "plan": lambda scores=scores: otc.sinkhorn_knopp(scores).plan(),
            },
            9 if n * k < 1 << 25 else 5,
        )
        error = float((otc.sinkhorn_knopp(scores).plan() - three_rounds(scores.double())).abs().max())
        for what, peer in (("labels", "recipe"), ("plan", "recipe plan")):
            yield {
                "case": "dense",
                "what": f"{n} x {k} float32, 3 rounds, {what}",
                "peer": "SwAV recipe",
                "peer_seconds": statistics.median(seconds[peer]),
                "seconds": statistics.median(seconds[what]),
                "ratio": ratio(seconds[peer], seconds[what]),
                "error": error,
                "floor_seconds": 4 * scores.nbytes / speed,
            }
