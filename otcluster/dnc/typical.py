"""The training images that stand for a model: those nearest to each sub-centroid, kept with the run to be shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.data import Split
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.head import DNCHead
from otcluster.dnc.run import RunFiles
from otcluster.runs.errors import RunError
from otcluster.runs.files import replaced, write_text


@dataclass(frozen=True)
class TypicalImages:
    """Training images with their features, nearest to the sub-centroid that owns them first.

    Attributes:
        features: Unit vectors, (m, dim).
        classes: Class of each, (m,).
        subcentroids: Which sub-centroid of its class each is nearest to, (m,).
        indices: Which training image each is, (m,).
        names: Their names.
        sizes: How many training images each sub-centroid owns, (n_classes, n_subcentroids).
        anchors: Which sub-centroid of its class each image is itself, (m,); -1 for those that are none.
    """

    features: Tensor
    classes: Tensor
    subcentroids: Tensor
    indices: Tensor
    names: list[str]
    sizes: Tensor
    anchors: Tensor

    def of(self, label: int, subcentroid: int) -> Tensor:
        """Positions of the images of one sub-centroid, the nearest first."""
        return torch.nonzero((self.classes == label) & (self.subcentroids == subcentroid)).flatten()

    def pictures(self, split: Split) -> Callable[[int, int, int], list[Image.Image]]:
        """What reads, of the images of a class and a sub-centroid, the nearest ones, at most so many."""

        def nearest(label: int, subcentroid: int, most: int) -> list[Image.Image]:
            return [split.read(int(self.indices[position])) for position in self.of(label, subcentroid)[:most].tolist()]

        return nearest

    def anchor(self, label: int, subcentroid: int) -> int | None:
        """Position of the image that a sub-centroid is; None where it is none."""
        found = torch.nonzero((self.classes == label) & (self.anchors == subcentroid)).flatten()
        return int(found[0]) if len(found) else None

    def save(self, files: RunFiles) -> None:
        """Write the images to the run, whole or not at all."""
        tensors = {
            "features": self.features.float(),
            "classes": self.classes,
            "subcentroids": self.subcentroids,
            "indices": self.indices,
            "sizes": self.sizes,
            "anchors": self.anchors,
        }
        with replaced(files.index) as temporary:
            temporary.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))
        write_text(files.index_names, json.dumps(self.names, ensure_ascii=False, indent=0) + "\n")

    @classmethod
    def load(cls, files: RunFiles) -> TypicalImages:
        """Read the images of a run.

        Raises:
            RunError: Its training has not ended, or what it left cannot be read.
        """
        try:
            found = cls(**load_file(files.index), names=json.loads(files.index_names.read_text(encoding="utf-8")))
            if not len(found.features) == len(found.classes) == len(found.subcentroids) == len(found.names):
                raise ValueError(f"{len(found.features)} features and {len(found.names)} names")
            return found
        except FileNotFoundError:
            raise RunError(f"{files.root} has no training images to compare with yet: train it to the end first") from None
        except (ValueError, TypeError, SafetensorError) as error:
            raise RunError(
                f"{files.index} and {files.index_names.name} cannot be read ({error}): remove {files.metrics}, and the same "
                "training command writes them again"
            ) from None


def find_typical(
    model: Classifier, train: Evaluation, split: Split, n_classes: int, each: int, anchors: Sequence[Sequence[int]] = ()
) -> TypicalImages:
    """Keep, of each sub-centroid, the ``each`` training images of its class that are nearest to it and no other.

    Where the head has no sub-centroids, the mean direction of each class stands for it. ``anchors`` are the images that
    sub-centroids are, class by class, -1 where they are none; all of them are kept.
    """
    unit = nn.functional.normalize(train.features.float(), dim=-1)
    own = own_similarities(model, train, n_classes)
    k = own.shape[1]
    similarity, nearest = own.max(dim=1)
    owner = train.labels * k + nearest
    order = torch.argsort(similarity, descending=True, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    sizes = torch.bincount(owner, minlength=n_classes * k)
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[owner[order]]
    itself = torch.full((len(train.indices),), -1)
    for label, images in enumerate(anchors):
        for subcentroid, image in enumerate(images):
            itself[(train.indices == image) & (train.labels == label)] = subcentroid
    kept = order[(rank < each) | (itself[order] >= 0)]
    indices = train.indices[kept]
    return TypicalImages(
        unit[kept],
        train.labels[kept],
        nearest[kept],
        indices,
        [split.names[index] for index in indices.tolist()],
        sizes.view(n_classes, k),
        itself[kept],
    )


@torch.no_grad()
def own_similarities(model: Classifier, train: Evaluation, n_classes: int) -> Tensor:
    """How similar each image is to each of what stands for its class, (n, k): sub-centroids, or else the mean direction."""
    head, chunks = model.head, zip(torch.split(train.features, 4096), torch.split(train.labels, 4096), strict=True)
    if isinstance(head, DNCHead):
        device = head.subcentroids.device
        found = [head.own_similarities(rows.to(device), labels.to(device)).cpu() for rows, labels in chunks]
    else:
        unit = nn.functional.normalize(train.features, dim=-1)
        sums = torch.zeros(n_classes, unit.shape[1], dtype=unit.dtype).index_add_(0, train.labels, unit)
        means = nn.functional.normalize(sums, dim=-1)
        found = [nn.functional.cosine_similarity(rows, means[labels])[:, None] for rows, labels in chunks]
    return torch.cat(found)
