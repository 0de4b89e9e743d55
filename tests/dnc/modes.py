"""The simulation of modes: does every mode of a class get a sub-centroid of its own? For the tests and the benchmarks."""

from __future__ import annotations

import torch
from torch import nn

from otcluster.dnc import DNCHead

DRAWS, DIM, STEPS, PER_STEP = 20, 64, 600, 400


def unit(vectors):
    return nn.functional.normalize(vectors, dim=-1)


def drawn_modes(s, k, draws=DRAWS):
    """Modes unit(u + s v) of several draws, (draws, k, DIM)."""
    centres = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        u, v = unit(torch.randn(DIM, generator=generator)), unit(torch.randn(k, DIM, generator=generator))
        centres.append(unit(u + s * v))
    return torch.stack(centres)


def around(modes, weights, n, generator):
    """``n`` features of each draw, near modes that are drawn by their weights; and the draw of each."""
    draws = torch.arange(len(modes)).repeat_interleave(n)
    which = torch.multinomial(weights, len(draws), replacement=True, generator=generator)
    return unit(modes[draws, which] + 0.05 * torch.randn(len(draws), DIM, generator=generator)), draws


def n_found(head, modes):
    """How many modes of each draw have a distinct sub-centroid, (draws,)."""
    cosines = torch.einsum("cjd,cmd->cjm", head.subcentroids, modes)
    best = cosines.masked_fill(~head.store.is_open[..., None], -1.0).max(dim=2)
    return torch.tensor([len(set(best.indices[c][best.values[c] >= 0.97].tolist())) for c in range(len(modes))])


def draws_with_all_modes_found(s, k, solver=None):
    """Of 20 draws of k modes, each a class of one head, those of which every mode has a distinct sub-centroid at the end."""
    modes = drawn_modes(s, k)
    head = DNCHead(DIM, DRAWS, n_subcentroids=k, momentum=0.99, memory=0, solver=solver)
    observe(head, modes)
    return int((n_found(head, modes) == k).sum())


def draws_with_the_number_found(s, k, growth, *, start=1, largest=1, draws=10):
    """Of draws of k modes, those of which the head ends with k sub-centroids, and those where each of these is on a mode.

    It starts with ``start``. Modes have sizes evenly from 1 to ``largest``.
    """
    modes = drawn_modes(s, k, draws)
    head = DNCHead(DIM, draws, n_subcentroids=start, momentum=0.99, memory=0, growth=growth)
    observe(head, modes, torch.linspace(1.0, largest, k))
    right = head.n_open == k
    return int(right.sum()), int((right & (n_found(head, modes) == k)).sum())


def observe(head, modes, weights=None):
    """Show a head the features of all steps."""
    weights = torch.ones(modes.shape[1]) if weights is None else weights
    generator = torch.Generator().manual_seed(100)
    for _ in range(STEPS):
        head.observe(*around(modes, weights, PER_STEP, generator))
