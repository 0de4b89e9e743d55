"""A thousand problems in one solve, against the recipe in a loop over the groups."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import otcluster as otc
from benchmarks.recipe import three_rounds
from benchmarks.timing import ratio, side_by_side

_GROUPS, _K = 1000, 4

_MEMORY = """
import numpy as np, torch, otcluster as otc
from benchmarks.timing import peak_memory
groups = torch.from_numpy(np.r_[np.zeros(200_000, np.int64), np.arange(1, 10_000)])
scores = torch.rand(len(groups), 4)
otc.sinkhorn_knopp(scores[:1000], groups=groups[:1000], n_groups=10_000).labels()
print(peak_memory(lambda: otc.sinkhorn_knopp(scores, groups=groups, n_groups=10_000).labels()) / scores.nbytes)
"""


def rows() -> Iterator[dict[str, Any]]:
    """Group sizes drawn from 0 to 16 and from 0 to 200; then one group of 200,000 and 9,999 of one, for the memory."""
    for largest in (16, 200):
        rng = np.random.default_rng(0)
        sizes = rng.integers(0, largest + 1, _GROUPS)
        groups = torch.from_numpy(np.repeat(np.arange(_GROUPS), sizes))
        scores = torch.from_numpy(rng.uniform(-1, 1, (len(groups), _K)).astype(np.float32))
        parts = torch.split(scores, sizes.tolist())

        def loop(parts: Any = parts) -> torch.Tensor:
            return torch.cat([three_rounds(part).argmax(dim=1) for part in parts if len(part)])

        def ours(scores: Any = scores, groups: Any = groups) -> torch.Tensor:
            return otc.sinkhorn_knopp(scores, groups=groups, n_groups=_GROUPS).labels()

        seconds = side_by_side({"recipe": loop, "otcluster": ours}, 31)
        exact = torch.cat([three_rounds(part.double()) for part in parts if len(part)])
        plan = otc.sinkhorn_knopp(scores, groups=groups, n_groups=_GROUPS).plan()
        yield {
            "case": "grouped",
            "what": f"{_GROUPS} groups of 0 to {largest}, k {_K}, {len(groups)} samples, labels",
            "peer": "SwAV recipe, loop over groups",
            "peer_seconds": statistics.median(seconds["recipe"]),
            "seconds": statistics.median(seconds["otcluster"]),
            "ratio": ratio(seconds["recipe"], seconds["otcluster"]),
            "target": 20 if largest == 16 else 3,
            "error": float((plan - exact).abs().max()),
            "agreement": float((loop() == ours()).double().mean()),
        }
    result = subprocess.run([sys.executable, "-c", _MEMORY], check=True, capture_output=True, text=True)
    yield {
        "case": "grouped",
        "what": "one group of 200,000 and 9,999 of one, k 4: peak memory, as a multiple of the scores",
        "memory_ratio": float(result.stdout),
    }
