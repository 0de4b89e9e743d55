"""ContrastiveSeg: a softmax whose pixel features are also to be like those of their class, in this image and in others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.distributed import TorchReducer
from otcluster.dnc.baselines.linear import LinearHead
from otcluster.dnc.pixels.sampling import balanced_pixels
from otcluster.dnc.scaling import check_temperature
from otcluster.stores.class_queue import ClassQueue
from otcluster.stores.sums import place_sums


class _Found(NamedTuple):
    """Unit embeddings, (n, projection_dim), and the class of each, (n,)."""

    embeddings: Tensor
    labels: Tensor


class _Bank(NamedTuple):
    """What is remembered by class: unit embeddings, (n_classes, n, projection_dim), and which there are, (n_classes, n)."""

    embeddings: Tensor
    is_there: Tensor


class ContrastHead(LinearHead):
    """ContrastiveSeg: the softmax layer, and a loss by which pixels of one class are alike and unlike those of others.

    :meth:`forward` is that of :class:`LinearHead`. For :meth:`contrast` a small network, the projector, makes unit embeddings
    of pixel features, and a memory has two queues for each class: embeddings of single pixels, and regions, the mean embedding
    of all pixels of a class in an image. Anchors are drawn from each class of the batch, half of them from pixels that the
    softmax gets wrong. With s the cosines of an anchor over the temperature, P what is remembered of its class and N what is
    of others, its loss is the mean over p in P of ``-log(exp(s_p) / (exp(s_p) + sum of exp(s_n) over n in N))``. The loss is
    the mean over anchors whose class is remembered; there is none until something is, nor in the first ``warmup`` steps.

    All of the memory counts for each anchor, where the paper draws the harder positives and negatives from it. Nothing is
    remembered by :meth:`contrast`, all by :meth:`observe`, which comes after the step: embeddings are of the projector as it is
    then. What is drawn follows from ``seed`` and from the number of steps, which is a buffer.

    Args:
        dim: Length of a feature vector.
        n_classes: Number of classes.
        projection_dim: Length of an embedding; the hidden layer is as long as a feature.
        temperature: What cosines are divided with.
        weight: Of the contrast beside cross-entropy.
        warmup: For how many steps there is none. The memory is filled meanwhile.
        anchors: How many are drawn of each class, at most, on all ranks together; where fewer than half are wrong (or right),
            others take their place.
        per_image: How many pixels of each class in each image are remembered.
        pixels: For how many pixels of each class there is room.
        regions: For how many regions of each class there is room.
        seed: Of the draws.

    Raises:
        TypeError: A whole number is none.
        ValueError: A number is out of range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> head = ContrastHead(3, n_classes=2, projection_dim=8)
        >>> features, labels = torch.randn(2, 3, 4, 4), torch.arange(2).repeat_interleave(16).view(2, 4, 4)
        >>> head.observe(features, labels)
        >>> len(head.pixels), len(head.regions)
        (20, 2)
        >>> wrong = torch.zeros(2, 4, 4, dtype=torch.bool)
        >>> bool(head.contrast(features, labels, wrong) > 0)
        True

    Source: Wang et al., "Exploring cross-image pixel contrast for semantic segmentation" (ICCV 2021).
    """

    n_steps: Tensor

    def __init__(
        self,
        dim: int,
        n_classes: int,
        *,
        projection_dim: int = 256,
        temperature: float = 0.1,
        weight: float = 0.1,
        warmup: int = 0,
        anchors: int = 50,
        per_image: int = 10,
        pixels: int = 1024,
        regions: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, n_classes)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be at least 0 and finite, got {weight}")
        width = check_whole("projection_dim", projection_dim, 1)
        self.temperature, self.contrast_weight = check_temperature(temperature), float(weight)
        self.warmup, self.anchors = check_whole("warmup", warmup, 0), check_whole("anchors", anchors, 2)
        self.per_image, self.seed = check_whole("per_image", per_image, 1), seed
        self.projector = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, width))  # 1x1 convolutions
        self.pixels = ClassQueue(check_whole("pixels", pixels, 1) * n_classes, width, n_classes=n_classes)
        self.regions = ClassQueue(check_whole("regions", regions, 1) * n_classes, width, n_classes=n_classes)
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, temperature={self.temperature}, weight={self.contrast_weight}, warmup={self.warmup}, "
            f"anchors={self.anchors}, per_image={self.per_image}, seed={self.seed}"
        )

    def contrast(self, features: Tensor, labels: Tensor, wrong: Tensor, *, reducer: TorchReducer | None = None) -> Tensor:
        """The contrast of the pixels of a batch with what is remembered, times its weight; a scalar, never in half precision.

        Args:
            features: Pixel features, (n, dim, h, w).
            labels: Class of each, integers of shape (n, h, w); who has none of the classes is no anchor.
            wrong: Which are predicted wrongly, booleans of shape (n, h, w).
            reducer: The ranks that share the batch, each with features of its own. Anchors are then drawn among those of all,
                and the numbers add up to that of one process, as do the gradients.

        Returns:
            A scalar with gradient; 0 where there is no anchor, nothing is remembered of its class, or it is too early.

        Raises:
            ValueError: The arguments have other shapes.
        """
        self._check(features, labels)
        if wrong.shape != labels.shape:
            raise ValueError(f"wrong must have the shape of labels, {tuple(labels.shape)}, got {tuple(wrong.shape)}")
        rows = features.permute(0, 2, 3, 1).flatten(0, 2)
        with torch.autocast(features.device.type, enabled=False):
            if int(self.n_steps) < self.warmup:
                return self._embedded(rows[:0]).sum()  # zero, through which gradients come to all parameters
            drawn = self._anchors(labels.reshape(-1), wrong.reshape(-1), reducer)
            of_anchors = labels.reshape(-1)[drawn]
            losses, counts = _info_nce(_Found(self._embedded(rows[drawn]), of_anchors), self._bank(), self.temperature)
            n = counts.sum()
            n = n if reducer is None else reducer.sum(n)
            return self.contrast_weight * losses.sum() / n.clamp(min=1)

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, *, reducer: TorchReducer | None = None) -> None:
        """Remember pixels and regions of a batch, forgetting the oldest of their class.

        Args:
            features: Pixel features, (n, dim, h, w).
            labels: Class of each, integers of shape (n, h, w); what is none of the classes is passed over.
            reducer: The ranks that share the batch, each with images of its own (there may be none). All then remember what one
                process with the whole batch does.

        Raises:
            ValueError: The arguments have other shapes.
        """
        self._check(features, labels)
        with torch.autocast(features.device.type, enabled=False):
            embeddings = self._embedded(features.permute(0, 2, 3, 1).flatten(0, 2))
            singles, regions = self._singles(embeddings, labels, reducer), self._regions(embeddings, labels)
            if reducer is not None:
                singles, regions = (_Found(*(reducer.gather(each) for each in found)) for found in (singles, regions))
            if len(singles.labels):
                self.pixels.push(*singles, check_values=False)
                self.regions.push(*regions, check_values=False)
                self.n_steps += 1

    def _bank(self) -> _Bank:
        """All that is remembered."""
        embeddings, is_there = zip(self.pixels.by_class(), self.regions.by_class(), strict=True)
        return _Bank(torch.cat(embeddings, dim=1), torch.cat(is_there, dim=1))

    def _embedded(self, rows: Tensor) -> Tensor:
        return nn.functional.normalize(self.projector(rows.to(self.weight.dtype)), dim=1)

    def _anchors(self, labels: Tensor, wrong: Tensor, reducer: TorchReducer | None) -> Tensor:
        """Which pixels are anchors: for each class, as many that are wrong as right, and who there is where one kind lacks."""
        c, known = self.out_features, self._known(labels)
        kinds = torch.where(known, labels + c * wrong, 2 * c)
        counts = torch.zeros(2 * c + 1, dtype=torch.int64, device=labels.device).scatter_add_(0, kinds, torch.ones_like(kinds))
        right, false = (counts if reducer is None else reducer.sum(counts))[: 2 * c].split(c)
        of_false = torch.minimum(false, (self.anchors - right).clamp(min=self.anchors // 2))
        most = torch.cat([self.anchors - of_false, of_false])
        return balanced_pixels(kinds, 2 * c, most, seed=self.seed, step=2 * self.n_steps, reducer=reducer)

    def _singles(self, embeddings: Tensor, labels: Tensor, reducer: TorchReducer | None) -> _Found:
        """At most ``per_image`` pixels of each class in each image."""
        n = n_all = len(labels)
        before = 0
        if reducer is not None:
            sizes = reducer.gather(torch.tensor([n], device=labels.device))
            n_all, before = int(sizes.sum()), int(sizes[: reducer.rank].sum())
        drawn = balanced_pixels(
            self._by_image(labels, before, n_all), max(1, n_all) * self.out_features, self.per_image, seed=self.seed,
            step=2 * self.n_steps + 1, reducer=reducer,
        )  # fmt: skip
        return _Found(embeddings[drawn], labels.reshape(-1)[drawn].to(torch.int64))

    def _regions(self, embeddings: Tensor, labels: Tensor) -> _Found:
        """The mean of each class in each image, where it is there."""
        n_places = len(labels) * self.out_features
        sums, counts = place_sums(embeddings, self._by_image(labels, 0, len(labels)), n_places)
        present = (counts > 0).nonzero()[:, 0]
        return _Found(nn.functional.normalize(sums[present], dim=1), present % self.out_features)

    def _by_image(self, labels: Tensor, before: int, n_all: int) -> Tensor:
        """A number for each class of each image, of which ``before`` come first and ``n_all`` are; the last for no class."""
        image = torch.arange(before, before + len(labels), device=labels.device)[:, None, None]
        return torch.where(self._known(labels), image * self.out_features + labels, n_all * self.out_features).reshape(-1)

    def _known(self, labels: Tensor) -> Tensor:
        return (labels >= 0) & (labels < self.out_features)

    def _check(self, features: Tensor, labels: Tensor) -> None:
        if features.ndim != 4 or features.shape[1] != self.in_features:
            raise ValueError(
                f"features must be of pixels, of shape (n, {self.in_features}, height, width), got {tuple(features.shape)}"
            )
        if labels.shape != (len(features), *features.shape[2:]):
            raise ValueError(
                f"labels must have shape {(len(features), *features.shape[2:])}, as features say, got {tuple(labels.shape)}"
            )


def _info_nce(anchors: _Found, bank: _Bank, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of each anchor, 0 for those whose class is not in the bank, and for which it is, booleans; (n,) each."""
    n, (n_classes, room, _) = len(anchors.labels), bank.embeddings.shape
    rows = bank.embeddings.flatten(0, 1).to(anchors.embeddings.dtype)
    scores = ((anchors.embeddings / temperature) @ rows.T).view(n, n_classes, room)
    is_own = anchors.labels[:, None] == torch.arange(n_classes, device=rows.device)
    # Not -inf, which has no gradient where an anchor has no negative: its loss is then 0.
    lowest = torch.finfo(scores.dtype).min
    of_others = scores.masked_fill(is_own[:, :, None] | ~bank.is_there, lowest).flatten(1).logsumexp(dim=1, keepdim=True)
    own = anchors.labels[:, None, None].expand(n, 1, room)
    losses = nn.functional.softplus(of_others - scores.gather(1, own)[:, 0])
    is_positive = bank.is_there[anchors.labels]
    n_positives = is_positive.sum(dim=1)
    return losses.masked_fill(~is_positive, 0).sum(dim=1) / n_positives.clamp(min=1), n_positives > 0
