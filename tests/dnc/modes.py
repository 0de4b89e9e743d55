"""The simulation of modes: does every mode of a class get a sub-centroid of its own? For the tests and the benchmarks."""

from __future__ import annotations

import torch
from torch import nn

from otcluster.dnc import DNCHead

DRAWS, DIM, STEPS, PER_STEP = 20, 64, 600, 400


def unit(vectors):
    return nn.functional.normalize(vectors, dim=-1)


def draws_with_all_modes_found(s, k, solver=None):
    """Of 20 draws of k modes, each a class of one head, those of which every mode has a distinct sub-centroid at the end."""
    centres = []
    for seed in range(DRAWS):
        generator = torch.Generator().manual_seed(seed)
        u, v = unit(torch.randn(DIM, generator=generator)), unit(torch.randn(k, DIM, generator=generator))
        centres.append(unit(u + s * v))
    modes = torch.stack(centres)
    head = DNCHead(DIM, DRAWS, n_subcentroids=k, momentum=0.99, memory=0, solver=solver)
    labels = torch.arange(DRAWS).repeat_interleave(PER_STEP)
    generator = torch.Generator().manual_seed(100)
    for _ in range(STEPS):
        which = torch.randint(k, (DRAWS * PER_STEP,), generator=generator)
        features = modes[labels, which] + 0.05 * torch.randn(DRAWS * PER_STEP, DIM, generator=generator)
        head.observe(unit(features), labels)
    best = torch.einsum("cjd,cmd->cjm", head.subcentroids, modes).max(dim=2)
    return sum(len(set(best.indices[c][best.values[c] >= 0.97].tolist())) == k for c in range(DRAWS))
