"""How well shares tell the truth, how well a score tells the known from the rest, and where the line between them lies."""

from __future__ import annotations

import math

import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

_N_BINS = 15
_KEPT = 0.95


def calibration_error(shares: Tensor, labels: Tensor) -> float:
    """The expected calibration error: how far, on average, the greatest share is from how often the predicted class is right.

    By torchmetrics, over 15 bins of equal width. It is never negative and noisy where there are few images: with some hundred,
    a model that is calibrated has one or two per cent.

    Args:
        shares: (n, n_classes), at least one row; rows add up to 1.
        labels: True classes, integers of shape (n,).

    Raises:
        ValueError: There are no rows, or the shapes do not fit.

    Example:
        >>> shares = torch.tensor([[0.8, 0.2]] * 10)
        >>> round(calibration_error(shares, torch.tensor([0] * 6 + [1] * 4)), 3)  # 0.8 is said, 0.6 is so
        0.2

    Source: Guo et al., "On calibration of modern neural networks" (ICML 2017).
    """
    if shares.ndim != 2 or not len(shares) or labels.shape != shares.shape[:1]:
        raise ValueError(
            f"shares must have shape (n, n_classes), n at least 1, and labels (n,), got {tuple(shares.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if shares.shape[1] == 1:  # the only class is always right, and has the share 1; torchmetrics asks for two
        return 0.0
    return float(multiclass_calibration_error(shares, labels, shares.shape[1], n_bins=_N_BINS, norm="l1"))


def out_of_distribution(known: Tensor, other: Tensor) -> dict[str, float]:
    """How well a score tells images of known classes from others.

    By scikit-learn, in float64: torchmetrics brings scores that are no shares into [0, 1] by a sigmoid first, which makes ties.

    Args:
        known: Scores of images of known classes, (n,); larger is better known.
        other: Scores of others, (m,).

    Returns:
        ``auroc``, how often a known image has the larger score of a pair, ties counted half; ``fpr95``, the part of the others
        that is taken for known where the line is drawn so that at least 95 % of the known are.

    Raises:
        ValueError: One of them is empty or has another shape, or a score is not finite.

    Example:
        >>> out_of_distribution(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 2.0]))
        {'auroc': 0.875, 'fpr95': 0.5}
    """
    _check_scores("known", known)
    _check_scores("other", other)
    scores = torch.cat([known.double(), other.double()]).numpy(force=True)
    is_known = [1] * len(known) + [0] * len(other)
    taken, kept, _ = roc_curve(is_known, scores, drop_intermediate=False)
    return {"auroc": float(roc_auc_score(is_known, scores)), "fpr95": float(taken[(kept >= _KEPT).argmax()])}


def known_threshold(scores: Tensor, keep: float = 0.95) -> float:
    """The score from which on an image is taken for known.

    It is the k-th smallest of the n held-out scores, k = floor((n + 1) (1 - keep)), the quantile of split conformal prediction
    with its correction for n. An image that was drawn as they were has each of n + 1 ranks among them with the same
    chance. So it is kept with a chance of at least ``keep``, and, where scores do not tie, of at most ``keep`` + 1 / (n + 1).
    This is a promise about images like those held out, on average over what was held out; of others nothing is promised.

    Args:
        scores: Of held-out images, (n,), at least one.
        keep: The part of images to keep, in (0, 1].

    Returns:
        The threshold; -inf where there are too few held-out images to leave out any (n < keep / (1 - keep)).

    Raises:
        ValueError: There are none, one is not finite, or ``keep`` is out of range.

    Example:
        >>> known_threshold(torch.arange(1.0, 100.0), keep=0.9)  # of 99, the tenth
        10.0

    Source: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world" (2005); Papadopoulos et al., "Inductive
    confidence machines for regression" (ECML 2002).
    """
    _check_scores("scores", scores)
    check_keep(keep)
    k = math.floor((len(scores) + 1) * (1 - keep) + 1e-9)  # 10 * (1 - 0.9) is one, and comes out below
    return float(scores.double().sort().values[k - 1]) if k else -math.inf


def check_keep(keep: float) -> None:
    """See that ``keep`` is a part.

    Raises:
        ValueError: It is not.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], the part of images to keep, got {keep}")


def _check_scores(name: str, scores: Tensor) -> None:
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"{name} must have shape (n,), n at least 1, got {tuple(scores.shape)}")
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{name} must be finite, and number {int((~scores.isfinite()).int().argmax())} is not")
