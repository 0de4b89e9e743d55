"""From images to what a model says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from otcluster.dnc.head import DNCHead

if TYPE_CHECKING:
    from otcluster.dnc.classifier import Classifier

Images = Tensor | Image.Image | Sequence[Tensor | Image.Image]
"""A batch (n, channels, height, width), one image (channels, height, width) or picture, or a sequence of them."""


@dataclass(frozen=True)
class Predictions:
    """What a model says of ``n`` images.

    Attributes:
        labels: The predicted class of each, int64, (n,).
        shares: Softmax shares of the classes, (n, n_classes).
        subcentroids: Which sub-centroid of its class won, int64, (n,), counted from 0; None for a head without.
        features: What the head was given, (n, dim).
    """

    labels: Tensor
    shares: Tensor
    subcentroids: Tensor | None
    features: Tensor


@torch.no_grad()
def predict_images(model: Classifier, images: Images, batch_size: int) -> Predictions:
    """What :meth:`Classifier.predict` does."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
    with evaluating(model):
        found = [_predicted(model, batch) for batch in as_batches(model, images, batch_size)]
    labels, shares, subcentroids, features = zip(*found, strict=True)
    known = [some for some in subcentroids if some is not None]
    return Predictions(torch.cat(labels), torch.cat(shares), torch.cat(known) if known else None, torch.cat(features))


def winning_subcentroids(head: nn.Module, features: Tensor, labels: Tensor) -> Tensor | None:
    """Which sub-centroid of the class ``labels`` is nearest to each feature, (n,); None for a head without."""
    if not isinstance(head, DNCHead):
        return None
    similarities = head.similarities(features)
    own = labels[:, None, None].expand(-1, 1, similarities.shape[2])
    return similarities.gather(1, own)[:, 0].argmax(dim=1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards each module is in the mode that it was in, for some may be frozen."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _predicted(model: Classifier, batch: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    features = model.features(batch)
    logits = model.head(features)
    labels = logits.argmax(dim=1)
    shares = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
    return labels, shares, winning_subcentroids(model.head, features, labels), features


def as_batches(model: Classifier, images: Images, batch_size: int) -> Iterator[Tensor]:
    """Images as a model takes them, (b, channels, height, width), on its device and in its dtype."""
    like = next(model.backbone.parameters(), None)
    for batch in _batches(model, images, batch_size):
        yield batch if like is None else batch.to(like)


def _batches(model: Classifier, images: Images, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        if images.ndim not in (3, 4):
            raise ValueError(
                "images must have shape (n, channels, height, width), or (channels, height, width) for one, "
                f"got {tuple(images.shape)}"
            )
        yield from torch.split(images if images.ndim == 4 else images[None], batch_size)
        return
    several = [images] if isinstance(images, Image.Image) else images
    if not isinstance(several, Sequence) or not len(several):
        got = "none" if isinstance(several, Sequence) else type(images).__name__
        raise TypeError(f"images must be a tensor, a picture of PIL or a sequence of them, at least one, got {got}")
    for start in range(0, len(several), batch_size):
        batch = [_converted(each, model.convert) for each in several[start : start + batch_size]]
        other = next((at for at, each in enumerate(batch) if each.shape != batch[0].shape), None)
        if other is not None:
            raise ValueError(
                f"images in a sequence must be of one shape, got {tuple(batch[0].shape)} at {start} and "
                f"{tuple(batch[other].shape)} at {start + other}"
            )
        yield torch.stack(batch)


def _converted(image: Tensor | Image.Image, convert: Callable[[Image.Image], Tensor] | None) -> Tensor:
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ValueError(f"images in a sequence must have shape (channels, height, width), got {tuple(image.shape)}")
        return image
    if not isinstance(image, Image.Image):
        raise TypeError(f"images must be tensors or pictures of PIL, got {type(image).__name__}")
    if convert is None:
        raise TypeError("this model does not know how pictures become tensors: pass tensors, or make it with convert=...")
    return convert(image)
