"""The simulation of modes: does every mode of a class get a sub-centroid of its own? For the tests and the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from otcluster.dnc import DNCHead

DRAWS, DIM, STEPS, PER_STEP = 20, 64, 600, 400


@dataclass(frozen=True)
class Case:
    """A class of ``k`` modes, of sizes evenly from 1 to ``largest``, that begins with ``start`` sub-centroids or else ``k``."""

    s: float
    k: int
    start: int | None = None
    largest: float = 1.0


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


def around(modes, weights, n, generator, repeats=1):
    """``n`` features of each class, near modes that are drawn by their weights; and the class of each.

    Classes are ``repeats`` times as many as draw noise of their own.
    """
    classes = len(modes)
    which = torch.multinomial(weights.expand(classes, -1), n, replacement=True, generator=generator)
    noise = torch.randn(classes // repeats * n, DIM, generator=generator).repeat(repeats, 1)
    labels = torch.arange(classes).repeat_interleave(n)
    return unit(modes[labels, which.view(-1)] + 0.05 * noise), labels


def n_found(head, modes):
    """How many modes of each class have a distinct sub-centroid, (classes,)."""
    cosines = torch.einsum("cjd,cmd->cjm", head.subcentroids, modes)
    best = cosines.masked_fill(~head.store.is_open[..., None], -1.0).max(dim=2)
    return torch.tensor([len(set(best.indices[c][best.values[c] >= 0.97].tolist())) for c in range(len(modes))])


def found(cases, *, draws=DRAWS, steps=STEPS, **options):
    """In how many draws of each case all modes have a distinct sub-centroid at the end, and in how many there are k of these.

    All draws of all cases are classes of one head, of ``options``, since what it does with a class has nothing to do with the
    others. In each step each class is shown PER_STEP features; cases differ by their modes, and not by the noise around them.
    """
    numbers = torch.tensor([case.k for case in cases]).repeat_interleave(draws)
    modes, weights = torch.zeros(len(numbers), max(numbers), DIM), torch.zeros(len(numbers), max(numbers))
    for at, case in enumerate(cases):
        its = slice(at * draws, (at + 1) * draws)
        modes[its, : case.k] = drawn_modes(case.s, case.k, draws)
        weights[its, : case.k] = torch.linspace(1, case.largest, case.k)
    starts = [case.start or case.k for case in cases for _ in range(draws)]
    head = DNCHead(DIM, len(numbers), n_subcentroids=starts, momentum=0.99, memory=0, **options)
    generator = torch.Generator().manual_seed(100)
    for _ in range(steps):
        head.observe(*around(modes, weights, PER_STEP, generator, len(cases)))
    right = head.store.is_open.sum(dim=1) == numbers
    placed = right & (n_found(head, modes) == numbers)
    return [tuple(each.view(-1, draws)[at].sum().item() for each in (placed, right)) for at in range(len(cases))]
