"""One number that logits are divided with, so that shares are as often right as they say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

Status = Literal["fitted", "all right", "chance", "flat"]
_FAR = 1e6  # how many times the spread of the logits a temperature may be, or be below it


@dataclass(frozen=True)
class FittedTemperature:
    """The outcome of :func:`fit_temperature`.

    Attributes:
        temperature: What to divide logits with.
        nll_before: Mean negative log-likelihood of the labels, in nats, of the logits as they are.
        nll_after: The same, of the logits over the temperature.
        status: ``"fitted"``; or why there is no best temperature: ``"all right"`` where every label has the largest logit, so
            that a lower temperature is always likelier, and the lowest is given; ``"chance"`` where the labels are no likelier
            than equal shares would make them, and the highest is given; ``"flat"`` where all logits of a row are equal, every
            temperature gives the same shares, and 1 is given.
    """

    temperature: float
    nll_before: float
    nll_after: float
    status: Status


def fit_temperature(logits: Tensor, labels: Tensor) -> FittedTemperature:
    """Find the temperature under which labels are likeliest.

    The mean negative log-likelihood is convex in 1 / temperature, so that its slope has one zero at most; that is looked for,
    in float64, between a millionth and a million times the spread of the logits. The temperature scales with the logits. It is
    one positive number for all classes, and so the order of the classes stays.

    Args:
        logits: (n, n_classes), at least one row; -inf for what is impossible. Not of images that the model was trained on:
            those are nearly all right, and say nothing of how often others are.
        labels: Classes, integers of shape (n,).

    Raises:
        TypeError: The labels are no integers.
        ValueError: The shapes do not fit, there are no rows, a label is out of range, a logit is NaN or +inf, or that of a
            label is -inf.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)  # sure of the first class, which is right three times of four
        >>> found = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
        >>> round(found.temperature, 3), torch.softmax(logits[0] / found.temperature, 0)
        (3.641, tensor([0.7500, 0.2500]))

    Source: Guo et al., "On calibration of modern neural networks" (ICML 2017).
    """
    check_logits(logits, labels)
    rows = logits.detach().double()
    rows = rows - rows.amax(dim=1, keepdim=True)
    possible = rows.isfinite()
    finite = rows.masked_fill(~possible, 0.0)
    own = rows.gather(1, labels[:, None].to(torch.int64))[:, 0]
    before = negative_log_likelihood(logits, labels)
    spread = float(-finite.amin())
    if spread == 0:
        return FittedTemperature(1.0, before, before, "flat")

    def slope(log_inverse: float) -> float:
        shares = torch.softmax((math.exp(log_inverse) * finite).masked_fill(~possible, -torch.inf), dim=1)
        return float(((shares * finite).sum(dim=1) - own).mean())

    low, high = -math.log(_FAR * spread), math.log(_FAR / spread)
    status: Status
    if slope(low) >= 0:
        found, status = low, "chance"
    elif bool((own == 0).all()) or slope(high) <= 0:
        found, status = high, "all right"
    else:
        found, status = float(brentq(slope, low, high, xtol=1e-13)), "fitted"
    temperature = math.exp(-found)
    return FittedTemperature(temperature, before, negative_log_likelihood(logits, labels, temperature), status)


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Mean negative logarithm of the share of the true class, in nats, in float64.

    Args:
        logits: (n, n_classes).
        labels: Classes, integers of shape (n,).
        temperature: What logits are divided with, positive.

    Example:
        >>> round(negative_log_likelihood(torch.zeros(2, 4), torch.tensor([0, 3])), 4)  # log 4
        1.3863
    """
    rows = logits.detach().double()
    rows = (rows - rows.amax(dim=1, keepdim=True)) / temperature
    return float((torch.logsumexp(rows, dim=1) - rows.gather(1, labels[:, None].to(torch.int64))[:, 0]).mean())


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """See that there are logits (n, n_classes) and labels (n,) of them, as :func:`fit_temperature` needs them.

    Raises:
        TypeError, ValueError: There are not.
    """
    if logits.ndim != 2 or not logits.shape[0] or not logits.shape[1]:
        raise ValueError(f"logits must have shape (n, n_classes), n at least 1, got {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must have shape ({len(logits)},), one for each row of logits, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(f"labels must lie in 0 to {logits.shape[1] - 1}, got {int(labels.min())} to {int(labels.max())}")
    wrong = (logits.isnan() | (logits == torch.inf)).any(dim=1)
    if bool(wrong.any()):
        raise ValueError(f"logits must be finite, or -inf for what is impossible; row {int(wrong.int().argmax())} is not")
    impossible = logits.gather(1, labels[:, None].to(torch.int64))[:, 0] == -torch.inf
    if bool(impossible.any()):
        raise ValueError(
            f"the label of row {int(impossible.int().argmax())} has the logit -inf: no temperature makes it possible"
        )
