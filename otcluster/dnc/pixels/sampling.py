"""Labels for pixel features, and as many pixels of a rare class as of a frequent one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.distributed import TorchReducer
from otcluster.stores.lots import uniform


def grid_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels of a grid of features: each has that of the pixel in the middle of what it stands for.

    This is the geometry of bilinear upsampling without aligned corners, by which logits come to the size of the image.

    Args:
        labels: (n, h, w).
        size: Of the grid, (h', w').

    Returns:
        (n, h', w').

    Raises:
        ValueError: The labels have another shape.

    Example:
        >>> labels = torch.arange(16).view(1, 4, 4)
        >>> grid_labels(labels, (2, 2))
        tensor([[[ 5,  7],
                 [13, 15]]])
    """
    if labels.ndim != 3:
        raise ValueError(f"labels must have shape (n, height, width), got {tuple(labels.shape)}")
    rows, columns = (middles(to, of, labels.device) for of, to in zip(labels.shape[1:], size, strict=True))
    return labels[:, rows[:, None], columns]


def middles(n: int, length: int, device: torch.device | None = None) -> Tensor:
    """Of ``length`` things divided into ``n`` runs, the one in the middle of each, (n,); also for n > length."""
    return (2 * torch.arange(n, device=device) + 1) * length // (2 * n)


def balanced_pixels(
    labels: Tensor,
    n_classes: int,
    per_class: int | Tensor,
    *,
    seed: int = 0,
    step: int | Tensor = 0,
    reducer: TorchReducer | None = None,
) -> Tensor:
    """Which pixels to look at: at most ``per_class`` of each class, drawn evenly from all of its pixels.

    The draw follows from ``seed``, ``step`` and where a pixel stands. There is no loop over classes, and no shape that depends
    on the labels (but by ``reducer``, where ranks tell each other how many they have).

    Args:
        labels: Integers of any shape; what is not in 0 to ``n_classes - 1`` is never drawn.
        n_classes: Number of classes.
        per_class: How many at most; or a number for each class, integers of shape (n_classes,), which are not looked at.
        seed: Of the draw.
        step: Of training; another draw for each. A tensor is not waited for.
        reducer: The ranks that share the pixels, each with labels of its own (there may be none): ``per_class`` is then for
            all of them, and the draw is that of one process that has the pixels of all, in the order of the ranks.

    Returns:
        Booleans in the shape of ``labels``.

    Raises:
        TypeError: A number is no whole number.
        ValueError: A number is not positive, or there are not as many as classes.

    Example:
        >>> labels = torch.tensor([[0, 0, 0, 0], [0, 1, 255, 255]])
        >>> drawn = balanced_pixels(labels, n_classes=3, per_class=2)
        >>> labels[drawn].bincount()
        tensor([2, 1])
    """
    n_classes = check_whole("n_classes", n_classes, 1)
    if not isinstance(per_class, Tensor):
        per_class = torch.tensor(check_whole("per_class", per_class, 1), device=labels.device).expand(n_classes)
    elif per_class.shape != (n_classes,):
        raise ValueError(f"per_class must be a number or have shape ({n_classes},), got shape {tuple(per_class.shape)}")
    own = labels.reshape(-1).to(torch.int64)
    before = 0
    if reducer is not None:
        counts = reducer.gather(torch.tensor([len(own)], device=own.device))
        before = int(counts[: reducer.rank].sum())
        lots = uniform((int(counts.sum()),), own.device, seed, step)[before : before + len(own)]
    else:
        lots = uniform((len(own),), own.device, seed, step)
    drawn = _first(own, lots, n_classes, per_class)
    if reducer is not None:
        mine = drawn.nonzero()[:, 0]
        candidates = reducer.gather(own[mine]), reducer.gather(lots[mine]), reducer.gather(mine + before)
        places = candidates[2][_first(candidates[0], candidates[1], n_classes, per_class)] - before
        drawn = torch.zeros_like(drawn)
        drawn[places[(places >= 0) & (places < len(own))]] = True
    return drawn.view(labels.shape)


def _first(labels: Tensor, lots: Tensor, n_classes: int, most: Tensor) -> Tensor:
    """Which have one of the ``most`` (n_classes,) lowest lots of their class; of equal ones the first."""
    known = (labels >= 0) & (labels < n_classes)
    classes = torch.where(known, labels, n_classes)
    order = torch.argsort(lots, stable=True)
    order = order[torch.argsort(classes[order], stable=True)]
    ordered = classes[order]
    starts = torch.searchsorted(ordered, torch.arange(n_classes + 1, device=labels.device))
    turn = torch.arange(len(labels), device=labels.device) - starts[ordered]
    drawn = torch.empty_like(known)
    drawn[order] = turn < nn.functional.pad(most, (0, 1))[ordered]
    return drawn
