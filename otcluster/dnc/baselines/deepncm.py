"""One running mean for each class."""

from __future__ import annotations

from otcluster.dnc.head import DNCHead
from otcluster.solvers import Nearest
from otcluster.stores.averaging import Averaging
from otcluster.stores.centroids import StoreMetric


class DeepNCMHead(DNCHead):
    """DeepNCM: an image is of the class whose running mean is nearest, and the backbone learns by it.

    It is :class:`otcluster.dnc.DNCHead` with one centroid for each class, without a memory and without clustering. It compares
    by the squared distance of features as they are, as its authors do: logits are minus half of it, whose softmax is the
    posterior of Gaussians of one shape. (``metric="cosine"`` compares directions, as DNC does.) Means follow what they
    observe; the gradient does not go through them. They forget, since the features move on while the backbone learns: of the
    ways of the authors (all samples alike, a start anew now and then, decay) this is decay, and ``momentum`` is its factor.

    Args:
        dim: Length of a feature vector.
        n_classes: Number of classes.
        momentum: How much of a mean stays at a step with samples of its class, in [0, 1].
        metric: ``"sqeuclidean"`` or ``"cosine"``.
        averaging: Default: :class:`otcluster.MomentumMean`, of the means of batches; :class:`otcluster.SumsAndCounts` weighs
            all samples alike but for their age.
        temperature: What similarities are divided with. Default: 1 for distances, 0.1 for cosines.
        seed: Seed of the start, a sample of each class.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range, or the metric is unknown.

    Example:
        >>> import torch
        >>> head = DeepNCMHead(1, n_classes=2, momentum=0.0)
        >>> head.observe(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1]))
        >>> head.subcentroids[:, 0, 0]
        tensor([1., 9.])
        >>> head(torch.tensor([[3.0]]))
        tensor([[ -2., -18.]])

    Source: Guerriero, Caputo & Mensink, "DeepNCM: deep nearest class mean classifiers" (ICLR workshop 2018).
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        *,
        momentum: float = 0.9,
        metric: StoreMetric = "sqeuclidean",
        averaging: Averaging | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dim, n_classes, n_subcentroids=1, momentum=momentum, metric=metric, averaging=averaging, temperature=temperature,
            memory=0, solver=Nearest(), seed=seed,
        )  # fmt: skip
