"""Sinkhorn's rounds as plain formulas, problem by problem: in float64 the answer, in float32 what a kernel's error is held to.

Scores of one problem are (n, k), masses of its samples (n,), masses and the potential of its clusters (k,).
"""

from __future__ import annotations

import math

import torch

INF = math.inf
EPS = torch.finfo(torch.float32).eps
TINY = torch.finfo(torch.float32).tiny
F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
DTYPES = [F16, BF16, F32]


def first(scores, weights, masses, epsilon, dtype=torch.float64):
    """The first half-round of the clusters."""
    logs = scores.to(dtype) / epsilon + weights.to(dtype).log()[:, None]
    return raised(torch.zeros_like(masses), torch.logsumexp(logs, 0).double(), masses, epsilon)


def raised(g, log_columns, masses, epsilon):
    """The potential under which columns of these logarithms would have been ``masses``; closed clusters are at -inf."""
    there = torch.where(masses > 0, g, 0.0) + epsilon * (masses.clamp(min=1e-300).log() - log_columns.clamp(min=math.log(TINY)))
    return torch.where(masses > 0, there, -INF)


def plan(scores, weights, g, epsilon, dtype=torch.float64):
    """The plan with exact rows, and the mass of the rows that no cluster may take."""
    shifted = (scores.to(dtype) + g.to(dtype)) / epsilon
    lost = (shifted == -INF).all(1)
    found = torch.where(lost[:, None], 0.0, torch.softmax(torch.where(lost[:, None], 0.0, shifted), 1))
    return found * weights.to(dtype)[:, None], (weights.double() * lost).sum()


def error_of(scores, weights, masses, g, epsilon):
    """Share of the mass in the wrong place."""
    found, lost = plan(scores, weights, g, epsilon)
    total = weights.double().sum()
    return ((found.sum(0) - masses).abs().sum() + lost) / total if total > 0 else total


def rounds(scores, weights, masses, epsilon, count, start=None):
    """The potentials of ``count`` rounds, the first included, and the error of each."""
    g = first(scores, weights, masses, epsilon) if start is None else start
    found = []
    for _ in range(count):
        found.append((g, float(error_of(scores, weights, masses, g, epsilon))))
        g = raised(g, plan(scores, weights, g, epsilon)[0].sum(0).log(), masses, epsilon)
    return found


def are_best(labels, scores, g, epsilon):
    """Labels are where rows of the plan are largest, to rounding; -1 where no cluster is open."""
    shifted = (scores.double() + g) / epsilon
    top = shifted.amax(-1)
    assert labels.dtype == torch.int64
    assert torch.equal(labels == -1, top == -INF)
    there = shifted.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    missed = torch.where(top > -INF, top - there, 0.0)
    assert missed.max() <= 4 * unit(scores, g, epsilon), missed.max()


def unit(scores, g, epsilon):
    """What a rounding in float32 of scores and potential moves an exponent by, in nats."""
    sizes = [each.double()[each > -INF].abs() for each in (scores, g)]
    return EPS * (4 + sum(float(size.max()) if size.numel() else 0.0 for size in sizes) / epsilon)


def closer(got, exact, plain, floor):
    """An error is at most twice that of the plain formula, or what roundings explain."""
    assert got.isfinite().all()
    error, allowed = (got.double() - exact).abs().max(), 2 * (plain.double() - exact).abs().max()
    assert error <= allowed + floor, (float(error), float(allowed), float(floor))


def agree(one, two, atol):
    """Potentials, -inf at the same places."""
    assert torch.equal(one == -INF, two == -INF)
    torch.testing.assert_close(one[one > -INF], two[two > -INF], rtol=0, atol=atol)
