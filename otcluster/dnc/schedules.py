"""The learning rate of each step, from the number of the step alone: a run that goes on needs no state of it."""

from __future__ import annotations

import math
from bisect import bisect_right

from otcluster.dnc.recipe import OptimConfig

_ONE_CYCLE_START, _ONE_CYCLE_END, _ONE_CYCLE_RISE = 1 / 25, 1e-4, 0.3


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of a step, counted from 0.

    After ``warmup_epochs`` of linear warm-up: ``constant``; ``step``, times ``gamma`` at each of ``milestones`` (epochs);
    ``cosine`` and ``polynomial`` (with exponent ``power``), from the end of the warm-up down to zero. ``one-cycle`` rises by
    half a cosine for the first three tenths of the run, from a 25th of the rate, and falls by another to its ten-thousandth; it
    has no other warm-up.

    Source: Loshchilov and Hutter, "SGDR" (ICLR 2017) for the cosine; Smith and Topin, "Super-convergence" (2019) for one cycle.

    Example:
        >>> config = OptimConfig(lr=0.1, schedule="step", milestones=[2, 4], gamma=0.1)
        >>> [round(learning_rate(config, epoch * 10, 10, 6), 4) for epoch in range(6)]
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    """
    total = epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        return config.lr * _one_cycle(step, total)
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "polynomial":
        return config.lr * (1 - done) ** config.power
    if config.schedule == "step":
        return config.lr * config.gamma ** bisect_right(config.milestones, step / steps_per_epoch)
    return config.lr


def _one_cycle(step: int, total: int) -> float:
    peak = _ONE_CYCLE_RISE * total
    if step < peak:
        start, end, done = _ONE_CYCLE_START, 1.0, step / peak
    else:
        start, end, done = 1.0, _ONE_CYCLE_END, (step - peak) / max(total - 1 - peak, 1)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
