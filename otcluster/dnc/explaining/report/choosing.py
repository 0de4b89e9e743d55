"""Which test images are worth a look: all kinds of failures, the closest calls and the surest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.head import DNCHead

_ROWS = 1024
_FEWER = 4  # a quarter as many images of the other two kinds


@dataclass(frozen=True)
class Chosen:
    """Rows of an evaluation.

    Attributes:
        failures: Misclassified, kind by kind.
        close: Right, and nearly not.
        sure: Right, and no other class came near.
        n_failures: How many there are in all.
        n_kinds: How many kinds of failure, pairs of a true and a predicted class, there are in all.
    """

    failures: tuple[int, ...]
    close: tuple[int, ...]
    sure: tuple[int, ...]
    n_failures: int
    n_kinds: int


def choose(found: Evaluation, head: DNCHead, n: int) -> Chosen:
    """Choose images of an evaluation.

    Of failures each kind has one before any has two; the frequent kinds come first, and of a kind those that the model was
    surest of. Of the right ones each class has one before any has two.

    Args:
        found: Features, logits and labels.
        head: Which made the logits.
        n: How many failures, at most; of closest calls and of the surest a quarter as many each.
    """
    if not len(found.labels):
        return Chosen((), (), (), 0, 0)
    won_by, labels, said = margins(found.features, head), found.labels.tolist(), found.predictions.tolist()
    surest = torch.argsort(won_by, descending=True, stable=True).tolist()
    kinds: dict[tuple[int, int], list[int]] = {}
    right: dict[int, list[int]] = {}
    for row in surest:
        if labels[row] == said[row]:
            right.setdefault(said[row], []).append(row)
        else:
            kinds.setdefault((labels[row], said[row]), []).append(row)
    frequent = sorted(kinds.values(), key=lambda rows: -len(rows))
    taken = set(_in_turn(frequent)[:n])
    few = -(-n // _FEWER)
    close = _in_turn([rows[::-1] for rows in right.values()], key=lambda row: float(won_by[row]))[:few]
    sure = [row for row in _in_turn(list(right.values()), key=lambda row: -float(won_by[row])) if row not in close][:few]
    return Chosen(
        tuple(row for rows in frequent for row in rows if row in taken),
        tuple(close),
        tuple(sure),
        sum(len(rows) for rows in frequent),
        len(frequent),
    )


@torch.no_grad()
def margins(features: Tensor, head: DNCHead) -> Tensor:
    """By how much the nearest sub-centroid is more similar than the nearest one of any other class, (n,); 0 for one class."""
    device = head.subcentroids.device
    found = []
    for rows in torch.split(features, _ROWS):
        best = head.similarities(rows.to(device)).max(dim=2).values.cpu()
        top = torch.topk(best, min(2, best.shape[1]), dim=1).values
        found.append(top[:, 0] - top[:, -1])
    return torch.cat(found)


def _in_turn(groups: list[list[int]], key: object = None) -> list[int]:
    """The first of each group, then the second of each, and so on; each turn in the order of ``key``."""
    turns = [[rows[at] for rows in groups if at < len(rows)] for at in range(max(map(len, groups), default=0))]
    return [row for turn in turns for row in (sorted(turn, key=key) if callable(key) else turn)]
