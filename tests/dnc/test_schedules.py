"""Learning rates against torch's own schedulers, which keep state where ours needs none."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from otcluster.dnc.recipe import OptimConfig
from otcluster.dnc.schedules import learning_rate

STEPS, EPOCHS = 7, 10
TOTAL = STEPS * EPOCHS

CASES = {
    "constant": (OptimConfig(lr=0.3, schedule="constant"), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    "step": (
        OptimConfig(lr=0.3, schedule="step", milestones=[3, 8], gamma=0.2),
        lambda o: lr_scheduler.MultiStepLR(o, [3 * STEPS, 8 * STEPS], 0.2),
    ),
    "cosine": (OptimConfig(lr=0.3, schedule="cosine"), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL)),
    "polynomial": (
        OptimConfig(lr=0.3, schedule="polynomial", power=0.9),
        lambda o: lr_scheduler.PolynomialLR(o, TOTAL, 0.9),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_schedules_are_those_of_torch(name):
    config, scheduler_of = CASES[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    scheduler = scheduler_of(optimizer)
    for step in range(TOTAL):
        assert learning_rate(config, step, STEPS, EPOCHS) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_one_cycle_rises_to_the_rate_and_falls_to_nearly_nothing():
    config = OptimConfig(lr=0.3, schedule="one-cycle")
    rates = [learning_rate(config, step, 10, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.3 / 25)
    assert max(rates) == rates[30] == pytest.approx(0.3)
    assert rates[-1] == pytest.approx(0.3e-4)
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "polynomial"])
def test_warm_up_is_linear_and_ends_at_the_rate(schedule):
    config = OptimConfig(lr=0.8, schedule=schedule, warmup_epochs=1, milestones=[5])
    rates = [learning_rate(config, step, 7, 10) for step in range(8)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
