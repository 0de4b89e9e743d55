"""What becomes of a decision when places of an image are hidden, or shown, in the order that a heat map gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.explaining.decision import explain
from otcluster.dnc.serving import Images, as_batches, evaluating

_BATCH = 256
_RANDOM = 3  # orders for each image


@dataclass(frozen=True)
class Fading:
    """Softmax shares of the predicted class, averaged over all steps from the whole image to nothing, and over images.

    Attributes:
        n_images: How many.
        deletion: Places are painted with the mean colour of training (0 after conversion), the most important first: lower is
            better.
        deletion_against: The same, in the order of the map of the winner less that of the next class.
        deletion_random: The same, in random order.
        insertion: A blurred image gets its places back, the most important first: higher is better.
        insertion_against: As for deletion.
        insertion_random: As for deletion.

    Source: Petsiuk, Das & Saenko, "RISE: randomized input sampling for explanation of black-box models" (BMVC 2018).
    """

    n_images: int
    deletion: float
    deletion_against: float
    deletion_random: float
    insertion: float
    insertion_against: float
    insertion_random: float


@torch.no_grad()
def fading(model: Classifier, images: Images, *, seed: int = 0) -> Fading | None:
    """Try heat maps on images.

    Args:
        model: Whose head is one of sub-centroids, compared by cosine.
        images: As for :meth:`otcluster.dnc.Classifier.predict`.
        seed: Of the random orders, three for each image.

    Returns:
        None where the model has no heat maps, or of one place.

    Example:
        >>> import timm
        >>> from otcluster.dnc import DNCHead
        >>> backbone = timm.create_model("test_resnet", num_classes=0)
        >>> model = Classifier(backbone, DNCHead(backbone.num_features, n_classes=2))
        >>> fading(model, torch.rand(2, 3, 64, 64)).n_images
        2
    """
    explained = explain(model, images, n_nearest=0)
    heats = [each.heat for each in explained if each.heat is not None]
    against = [each.heat_against for each in explained if each.heat_against is not None]
    if len(against) < len(explained) or heats[0].numel() == 1:
        return None
    generator = torch.Generator().manual_seed(seed)
    random = [torch.stack([torch.rand(heat.shape, generator=generator) for heat in heats]) for _ in range(_RANDOM)]
    with evaluating(model):
        whole = torch.cat(list(as_batches(model, images, _BATCH)))
        labels = torch.tensor([each.label for each in explained], device=whole.device)
        side = max(3, whole.shape[-1] // 4) | 1  # an odd number of pixels
        nothing, blurred = torch.zeros_like(whole), gaussian_blur(whole, [side, side])

        def area(maps: Tensor, start: Tensor, end: Tensor) -> float:
            return _area(model, labels, maps.to(whole), start, end)

        stacked, less = torch.stack(heats), torch.stack(against)
        return Fading(
            len(explained),
            area(stacked, whole, nothing),
            area(less, whole, nothing),
            sum(area(maps, whole, nothing) for maps in random) / _RANDOM,
            area(stacked, blurred, whole),
            area(less, blurred, whole),
            sum(area(maps, blurred, whole) for maps in random) / _RANDOM,
        )


def _area(model: Classifier, labels: Tensor, maps: Tensor, start: Tensor, end: Tensor) -> float:
    """The mean share of the labels while places go from ``start`` to ``end``, the greatest of ``maps`` first."""
    n, height, width = maps.shape
    rank = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view(n, 1, height, width)
    rank = nn.functional.interpolate(rank.to(start.dtype), size=start.shape[-2:], mode="nearest")
    shares = []
    for step in range(height * width + 1):
        mixed = torch.where(rank < step, end, start)
        logits = torch.cat([model(part) for part in torch.split(mixed, _BATCH)])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        shares.append(torch.softmax(logits, dim=1).gather(1, labels[:, None]).mean())
    return float(torch.trapezoid(torch.stack(shares).double()) / (len(shares) - 1))
