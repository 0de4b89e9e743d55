"""A network of pixel features with a head: what is in which pixel of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.distributed import TorchReducer
from otcluster.dnc.baselines import DeepNCMHead, LinearHead
from otcluster.dnc.head import DNCHead
from otcluster.dnc.pixels.contrast import ContrastHead
from otcluster.dnc.pixels.sampling import balanced_pixels, grid_labels, middles
from otcluster.dnc.serving import evaluating

PixelHead = DNCHead | DeepNCMHead | LinearHead

_AT_ONCE = 1 << 24  # similarities, where no gradient needs them all


class PixelLoss(NamedTuple):
    """What :meth:`Segmenter.loss` says of a batch.

    Attributes:
        loss: Mean cross-entropy of the pixels with a label, and that of the auxiliary head times its weight, and the contrast
            of a :class:`ContrastHead`; a scalar with gradient, 0 where no pixel has a label.
        features: Pixel features without gradient, (n, dim, h', w'), for :meth:`Segmenter.observe`.
        n_right: How many pixels with a label are of the class that has the largest logit; a scalar, int64.
        n_counted: How many pixels have a label; a scalar, int64.
    """

    loss: Tensor
    features: Tensor
    n_right: Tensor
    n_counted: Tensor


@dataclass(frozen=True)
class PixelPredictions:
    """What a segmenter says of ``n`` images.

    Attributes:
        labels: The predicted class of each pixel, int64, (n, h, w).
        subcentroids: Which sub-centroid of the predicted class owns each pixel, int64, (n, h, w), counted from 0: the one that
            is nearest to the pixel feature whose part of the image the pixel lies in. None for a head without.
    """

    labels: Tensor
    subcentroids: Tensor | None


class Segmenter(nn.Module):
    """A network whose pixel features go to a head, one by one: semantic segmentation.

    A training step is :meth:`loss` with its backward pass, and then :meth:`observe`. Logits are made of the features as they
    are, and brought to the size of the image bilinearly, without aligned corners. The head sees rows, (n h' w', dim), and what
    it holds of similarities is a number for each feature and sub-centroid: 4 n h' w' bytes for each sub-centroid of each
    class. With gradient that is the floor of memory; without, it is done in parts of 64 MiB. At full size there are only
    logits, (n, n_classes, h, w).

    Args:
        network: From images (n, channels, h, w) to pixel features (n, dim, h', w'), or to a pair of these and auxiliary
            features: :func:`otcluster.dnc.pixels.networks.build_network`, or any module.
        head: :class:`DNCHead` or :class:`DeepNCMHead`; or :class:`LinearHead`, which on pixels is a 1x1 convolution; or
            :class:`ContrastHead`, which is one with a further loss.
        ignore_index: The label of pixels that count for nothing; none of the classes.
        aux: Of auxiliary features, where the network gives any and the loss is to have them; predictions never do.
        aux_weight: Of the loss of ``aux``.
        per_class: At most how many pixels of each class the head observes at a step, on all ranks together; drawn evenly from
            all pixel features that have a label.
        seed: Of that draw.
        classes: Names of the classes.

    Raises:
        TypeError: The heads are of another kind, or a number is no whole number.
        ValueError: ``ignore_index`` is a class, the names are not as many as the classes, or a number is out of range.

    Example:
        >>> from otcluster.dnc.pixels.networks import build_network
        >>> model = Segmenter(build_network("fcn", "resnet18", dim=32), DNCHead(32, n_classes=2, n_subcentroids=3))
        >>> images, labels = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
        >>> labels[:, :, 32:] = 1
        >>> step = model.loss(images, labels)
        >>> step.loss.backward()
        >>> model.observe(step.features, labels)
        >>> found = model.predict(images)
        >>> found.labels.shape, found.subcentroids.shape
        (torch.Size([2, 64, 64]), torch.Size([2, 64, 64]))

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023), section 4.2.
    """

    n_observed: Tensor

    def __init__(
        self,
        network: nn.Module,
        head: PixelHead,
        *,
        ignore_index: int = 255,
        aux: LinearHead | None = None,
        aux_weight: float = 0.4,
        per_class: int = 512,
        seed: int = 0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if type(head) not in (DNCHead, DeepNCMHead) and not isinstance(head, LinearHead):
            raise TypeError(f"head must be a DNCHead, DeepNCMHead or LinearHead, got {type(head).__name__}")
        if aux is not None and (not isinstance(aux, LinearHead) or isinstance(aux, ContrastHead)):
            raise TypeError(f"aux must be a LinearHead or None, got {type(aux).__name__}")
        self.n_classes = _n_classes(head)
        if aux is not None and aux.out_features != self.n_classes:
            raise ValueError(f"aux must have the {self.n_classes} classes of the head, got {aux.out_features}")
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise TypeError(f"ignore_index must be a whole number, got {ignore_index!r}")
        if 0 <= ignore_index < self.n_classes:
            raise ValueError(f"ignore_index must be none of the {self.n_classes} classes, got {ignore_index}: take -1")
        if not aux_weight >= 0:
            raise ValueError(f"aux_weight must be at least 0, got {aux_weight}")
        if classes is not None and len(classes) != self.n_classes:
            raise ValueError(f"classes must be {self.n_classes} names, as the head has classes, got {len(classes)}")
        self.network, self.head, self.aux = network, head, aux
        self.ignore_index, self.aux_weight = ignore_index, float(aux_weight)
        self.per_class, self.seed = check_whole("per_class", per_class, 1), seed
        self.classes = None if classes is None else list(classes)
        self.register_buffer("n_observed", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}, aux_weight={self.aux_weight}, per_class={self.per_class}, seed={self.seed}"

    def features(self, images: Tensor) -> Tensor:
        """Pixel features, (n, dim, h', w'), of images (n, channels, h, w)."""
        return self._both(images)[0]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (n, n_classes, h, w), of images (n, channels, h, w); float32 at least, also under autocast."""
        return _resized(self.grid_logits(self.features(images)), images.shape)

    def grid_logits(self, features: Tensor) -> Tensor:
        """Logits, (n, n_classes, h', w'), of pixel features (n, dim, h', w').

        Raises:
            ValueError: The features have another shape.
        """
        self._check_features(features)
        return self._of_rows(self.head, features)

    def loss(self, images: Tensor, labels: Tensor, *, reducer: TorchReducer | None = None) -> PixelLoss:
        """The loss of a batch, and the features for :meth:`observe`.

        Args:
            images: (n, channels, h, w).
            labels: Class of each pixel or ``ignore_index``, integers of shape (n, h, w).
            reducer: The ranks that share the batch, each with images of its own: a :class:`ContrastHead` then draws its anchors
                among those of all. Losses weighed by ``n_counted`` have the mean that one process finds. Other heads need none.

        Raises:
            TypeError: The labels are no integers.
            ValueError: They have another shape, or one is neither a class nor ``ignore_index``; or the network gives no
                auxiliary features for ``aux``.
        """
        if images.ndim != 4 or labels.shape != (len(images), *images.shape[2:]):
            raise ValueError(
                f"images must have shape (n, channels, height, width) and labels (n, height, width), got {tuple(images.shape)} "
                f"and {tuple(labels.shape)}"
            )
        labels = self._checked(labels)
        features, middle = self._both(images)
        counted = labels != self.ignore_index
        n_counted = counted.sum()
        on_grid = self.grid_logits(features)
        logits = _resized(on_grid, images.shape)
        loss = self._mean_entropy(logits, labels, n_counted)
        if isinstance(self.head, ContrastHead):
            of_grid = grid_labels(labels, (features.shape[2], features.shape[3]))
            wrong = on_grid.detach().argmax(dim=1) != of_grid
            part = 1 if reducer is None else reducer.sum(n_counted) / n_counted.clamp(min=1)
            loss = loss + part * self.head.contrast(features, of_grid, wrong, reducer=reducer)
        if self.aux is not None:
            if middle is None:
                raise ValueError("the network gives no auxiliary features for aux: build it with aux=True, or leave aux out")
            loss = loss + self.aux_weight * self._mean_entropy(
                _resized(self._of_rows(self.aux, middle), images.shape), labels, n_counted
            )
        n_right = ((logits.detach().argmax(dim=1) == labels) & counted).sum()
        return PixelLoss(loss, features.detach(), n_right, n_counted)

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, *, reducer: TorchReducer | None = None) -> None:
        """Let the head see pixels of the batch, after the backward pass: at most ``per_class`` of each class, none ignored.

        What is drawn follows from ``seed``, from how many batches there were, which is a buffer, and from where a pixel
        stands. A batch without labels changes nothing, and a linear head has nothing to see; a :class:`ContrastHead` draws
        itself what it remembers.

        Args:
            features: Pixel features of the batch, (n, dim, h', w').
            labels: Class of each pixel of the images or ``ignore_index``, integers of shape (n, h, w); of those that a feature
                stands for, the label of the one in the middle counts.
            reducer: The ranks that share the batch, each with images of its own (there may be none). All heads are then that
                of one process with the whole batch.

        Raises:
            TypeError, ValueError: The arguments do not fit the head, or a label is neither a class nor ``ignore_index``, on any
                rank; the head is then unchanged.
        """
        if isinstance(self.head, LinearHead) and not isinstance(self.head, ContrastHead):
            return
        at_features = self._labels_of_features(features, labels, reducer)
        if isinstance(self.head, ContrastHead):
            n, _, height, width = features.shape
            self.head.observe(features, at_features.view(n, height, width), reducer=reducer)
            return
        drawn = balanced_pixels(
            at_features, self.n_classes, self.per_class, seed=self.seed, step=self.n_observed, reducer=reducer
        )
        n_drawn = drawn.sum()
        if not int(n_drawn if reducer is None else reducer.sum(n_drawn)):
            return
        self.head.observe(_rows(features)[drawn], at_features[drawn], reducer=reducer)
        self.n_observed += 1

    @torch.no_grad()
    def predict(self, images: Tensor, *, batch_size: int = 4) -> PixelPredictions:
        """Classify pixels in evaluation mode and without gradients, whatever mode the model is in; it stays in that mode.

        Args:
            images: (n, channels, h, w), n at least 1.
            batch_size: How many at once.

        Returns:
            Class maps, and for heads with sub-centroids the map of these, on the device of the model.

        Raises:
            TypeError: ``batch_size`` is no whole number.
            ValueError: The images have another shape, or ``batch_size`` is not positive.
        """
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images must have shape (n, channels, height, width), n at least 1, got {tuple(images.shape)}")
        like = next(self.network.parameters(), images)
        labels, owners = [], []
        with evaluating(self):
            for batch in torch.split(images, check_whole("batch_size", batch_size, 1)):
                features = self.features(batch.to(like))
                labels.append(_resized(self.grid_logits(features), batch.shape).argmax(dim=1))
                if isinstance(self.head, DNCHead):
                    owners.append(owners_of(self.head, features, labels[-1]))
        return PixelPredictions(torch.cat(labels), torch.cat(owners) if owners else None)

    def _both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.network(images)
        return (found[0], found[1]) if isinstance(found, tuple) else (found, None)

    def _of_rows(self, head: PixelHead, features: Tensor) -> Tensor:
        """Logits (n, n_classes, h', w') of features (n, dim, h', w')."""
        n, _, height, width = features.shape
        found = _in_parts(head, head, _rows(features))
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        return found.view(n, height, width, found.shape[1]).permute(0, 3, 1, 2)

    def _labels_of_features(self, features: Tensor, labels: Tensor, reducer: TorchReducer | None) -> Tensor:
        """The label of each row of features, (n h' w'); what is wrong on one rank is raised on all."""
        try:
            self._check_features(features)
            if labels.ndim != 3 or len(labels) != len(features):
                raise ValueError(
                    f"labels must have shape ({len(features)}, height, width), a map for each image, got {tuple(labels.shape)}"
                )
            found = grid_labels(self._checked(labels), (features.shape[2], features.shape[3])).reshape(-1)
        except (TypeError, ValueError):
            if reducer is not None:
                reducer.sum(torch.ones(1, device=self.n_observed.device))
            raise
        if reducer is not None and bool(reducer.sum(torch.zeros(1, device=self.n_observed.device))):
            raise ValueError("the features or labels of another rank do not fit: its message says how")
        return found

    def _mean_entropy(self, logits: Tensor, labels: Tensor, n_counted: Tensor) -> Tensor:
        entropy = nn.functional.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="sum")
        return entropy / n_counted.clamp(min=1)

    def _check_features(self, features: Tensor) -> None:
        dim = self.head.in_features if isinstance(self.head, LinearHead) else self.head.store.dim
        if features.ndim != 4 or features.shape[1] != dim:
            raise ValueError(f"features must have shape (n, {dim}, height, width), got {tuple(features.shape)}")

    def _checked(self, labels: Tensor) -> Tensor:
        """Labels as int64, each of which is a class or ``ignore_index``."""
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels must be integers in a tensor, got {got}")
        labels = labels.to(torch.int64)
        wrong = ((labels < 0) | (labels >= self.n_classes)) & (labels != self.ignore_index)
        if bool(wrong.any()):
            first = int(labels[wrong][0])
            raise ValueError(
                f"labels must lie in 0 to {self.n_classes - 1} or be ignore_index={self.ignore_index}, got {first}"
            )
        return labels


def _n_classes(head: PixelHead) -> int:
    return head.out_features if isinstance(head, LinearHead) else head.n_classes


def _rows(features: Tensor) -> Tensor:
    """Features (n, dim, h', w') one below the other, (n h' w', dim)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def _resized(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Logits of the size of images of ``shape``."""
    return nn.functional.interpolate(logits, size=(shape[-2], shape[-1]), mode="bilinear", align_corners=False)


def _in_parts(head: PixelHead, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``function(rows)``, in parts where no gradient needs all similarities of a head at once."""
    if torch.is_grad_enabled() or isinstance(head, LinearHead):
        return function(rows)
    most = max(1, _AT_ONCE // head.subcentroids[..., 0].numel())
    return torch.cat([function(part) for part in torch.split(rows, most)])


def owners_of(head: DNCHead, features: Tensor, labels: Tensor) -> Tensor:
    """Which sub-centroid of its class ``labels`` (n, h, w) is nearest to the feature whose part each pixel lies in."""
    n, _, *size = features.shape
    nearest = _in_parts(head, lambda rows: head.similarities(rows).argmax(dim=2), _rows(features)).view(
        n, *size, head.n_classes
    )
    rows, columns = (middles(of, to, labels.device) for of, to in zip(labels.shape[1:], size, strict=True))
    images = torch.arange(n, device=labels.device)
    return nearest[images[:, None, None], rows[:, None], columns, labels]
