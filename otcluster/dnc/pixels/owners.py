"""Which sub-centroid owns which pixel: of a picture, as maps, and of many pictures, as counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from otcluster.dnc.classes import need_cosines
from otcluster.dnc.errors import DataError
from otcluster.dnc.pixels.evaluation import PixelEvaluation
from otcluster.dnc.pixels.labels import IGNORE, LabelMap
from otcluster.dnc.pixels.layouts import PixelSplit
from otcluster.dnc.pixels.runs import PixelRun, conversion_of, inference_of
from otcluster.dnc.pixels.sampling import grid_labels
from otcluster.dnc.pixels.segmenter import owners_of
from otcluster.dnc.serving import evaluating

_ROWS = 4096  # features that are compared in float64 at once


@dataclass(frozen=True)
class Owners:
    """The owner of every pixel of a picture.

    Attributes:
        labels: The predicted class of each pixel, as ``otcluster dnc predict`` writes it, uint8 (height, width).
        subcentroids: Which sub-centroid of that class owns the pixel, int64 (height, width), counted from 0: the nearest one of
            the class to the feature of the whole picture whose part the pixel lies in.
        n_features: How many features there are.
        n_faithful: Of how many of them the nearest of all sub-centroids, found anew in float64 with NumPy from features and
            sub-centroids alone, is of the class that the model predicts for the feature. All, or something is broken.
        nearest_share: Of which part of the pixels the owner is the nearest of all sub-centroids, not of its class alone. At
            borders classes are decided between features, whose logits are interpolated, and so it need not be 1.
    """

    labels: LabelMap
    subcentroids: npt.NDArray[np.int64]
    n_features: int
    n_faithful: int
    nearest_share: float

    def counts(self, n_classes: int, k: int) -> npt.NDArray[np.int64]:
        """How many pixels each sub-centroid owns, (n_classes, k).

        Example:
            >>> labels, subcentroids = np.array([[0, 1, 1]], np.uint8), np.array([[1, 0, 0]])
            >>> Owners(labels, subcentroids, 3, 3, 1.0).counts(2, 2).tolist()
            [[0, 1], [2, 0]]
        """
        code = self.labels.astype(np.int64) * k + self.subcentroids
        return np.bincount(code.ravel(), minlength=n_classes * k).reshape(n_classes, k)


@dataclass(frozen=True)
class Ownership:
    """Who owns the labelled pixels of many images.

    Attributes:
        counts: How many pixels each sub-centroid owns, by their true class, int64 (n_classes, k, n_classes): predicted class,
            sub-centroid, true class.
        indices: Which images were read.
        accuracies: Of each of these, the part of the labelled pixels that is predicted rightly; nan where none is labelled.
    """

    counts: Tensor
    indices: list[int]
    accuracies: list[float]

    @property
    def evaluation(self) -> PixelEvaluation:
        """The same without the owners."""
        return PixelEvaluation(self.counts.sum(dim=1).T.contiguous(), len(self.indices))


@torch.no_grad()
def owners(run: PixelRun, picture: Image.Image, *, name: str = "the picture") -> Owners:
    """Find the owner of every pixel of a picture.

    Args:
        run: From :func:`otcluster.dnc.pixels.runs.load_pixel_run`; its head is one of sub-centroids, compared by cosine.
        picture: Of any size that the network takes.
        name: Of the picture, for errors.

    Returns:
        Maps of the size of the picture.

    Raises:
        TypeError: The head has no sub-centroids, or scales the classes by weights of their own.
        ValueError: The head compares by distance, or the features are not finite.
        DataError: The picture is too small for the network.

    Example:
        >>> from pathlib import Path
        >>> from otcluster.dnc import load_recipe
        >>> from otcluster.dnc.pixels.layouts import palette
        >>> from otcluster.dnc.pixels.runs import build_segmenter
        >>> from otcluster.dnc.run import RunFiles
        >>> recipe, classes = load_recipe("camvid-fcn-resnet18", ["pixels.resize=null"]), ["road", "sky"]
        >>> model = build_segmenter(recipe, classes).eval()  # load_pixel_run gives trained ones
        >>> run = PixelRun(RunFiles(Path("run")), recipe, classes, palette(2), model)
        >>> found = owners(run, Image.new("RGB", (70, 50), "grey"))
        >>> found.subcentroids.shape, found.n_faithful == found.n_features
        ((50, 70), True)
    """
    head = need_cosines(run.model.head, "owners of pixels are found")
    labels, owner, features = _looked_at(run, picture, name)
    grid = run.model.grid_logits(features).argmax(dim=1)
    again = grid_labels(grid, (picture.height, picture.width)) == labels
    rows = features[0].flatten(1).T.double().cpu().numpy()
    found = nearest_classes(rows, head.subcentroids.double().cpu().numpy(), head.store.is_open.cpu().numpy())
    return Owners(
        labels[0].to(torch.uint8).cpu().numpy(),
        owner[0].cpu().numpy(),
        len(rows),
        int((found == grid.flatten().cpu().numpy()).sum()),
        float(again.double().mean()),
    )


def nearest_classes(
    features: npt.NDArray[np.float64], subcentroids: npt.NDArray[np.float64], is_open: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """The class of the nearest sub-centroid, by nothing but cosines in float64.

    Args:
        features: (n, dim).
        subcentroids: (n_classes, k, dim).
        is_open: Which of them there are, (n_classes, k).

    Example:
        >>> centroids = np.array([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> nearest_classes(np.array([[3.0, 1.0], [0.1, 0.2]]), centroids, np.ones((2, 1), bool)).tolist()
        [0, 1]
    """
    classes = np.repeat(np.arange(len(subcentroids)), is_open.sum(axis=1))
    there = subcentroids[is_open]
    there = there / np.linalg.norm(there, axis=1, keepdims=True)
    # The length of a feature changes no order.
    return np.concatenate(
        [classes[(features[at : at + _ROWS] @ there.T).argmax(axis=1)] for at in range(0, len(features), _ROWS)]
    )


@torch.no_grad()
def ownership(run: PixelRun, split: PixelSplit, *, after_image: Callable[[], None] | None = None) -> Ownership:
    """Count who owns the labelled pixels of images, one image after the other; what is held does not grow with them.

    Args:
        run: As for :func:`owners`.
        split: The images, such as ``run.load_data().test``. What cannot be read is left out where the recipe has
            ``data.broken=skip``.
        after_image: Called after each.

    Raises:
        TypeError, ValueError: As for :func:`owners`.
        DataError: An image or map cannot be read, or is too small for the network, and is not skipped; or none can be read.
    """
    head = need_cosines(run.model.head, "owners of pixels are found")
    n, k = head.n_classes, head.subcentroids.shape[1]
    counts = torch.zeros(n * k * n, dtype=torch.int64)
    indices: list[int] = []
    accuracies: list[float] = []
    for index, picture, true in readable(run, split):
        labels, owner, _ = _looked_at(run, picture, split.names[index])
        said, owned, truth = labels[0].cpu(), owner[0].cpu(), torch.from_numpy(true).to(torch.int64)
        known = truth != IGNORE
        counts += torch.bincount(((said * k + owned) * n + truth)[known], minlength=n * k * n)
        indices.append(index)
        accuracies.append(float((said == truth)[known].double().mean()) if bool(known.any()) else float("nan"))
        if after_image is not None:
            after_image()
    return Ownership(counts.view(n, k, n), indices, accuracies)


def readable(
    run: PixelRun, split: PixelSplit, indices: Sequence[int] | None = None
) -> Iterator[tuple[int, Image.Image, LabelMap]]:
    """The images of a split, each with its index and its map; what cannot be read is left out where the recipe skips it.

    Args:
        run: Whose.
        split: Its images.
        indices: Which of them. Default: all.

    Raises:
        DataError: One cannot be read, and is not skipped; or none of several can.
    """
    n_read = 0
    for index in range(len(split)) if indices is None else indices:
        try:
            picture, labels = split.read(index)
        except DataError:
            if run.recipe.data.broken != "skip":
                raise
            continue
        n_read += 1
        yield index, picture, labels
    if len(split) and not n_read:
        raise DataError(f"none of {len(split)} images can be read, from {split.names[0]} on")


@torch.no_grad()
def features_of(run: PixelRun, picture: Image.Image, name: str) -> Tensor:
    """Pixel features of a whole picture, (1, dim, h', w'), as the network gives them.

    Raises:
        DataError: The picture is too small for the network.
        ValueError: They are not finite.
    """
    with evaluating(run.model):
        return _checked(run.model.features, _tensor(run, picture), name)


def _tensor(run: PixelRun, picture: Image.Image) -> Tensor:
    parameter = next(run.model.network.parameters())
    return conversion_of(run.recipe).image(picture).to(parameter.device, parameter.dtype)[None]


def _checked(function: Callable[[Tensor], Tensor], image: Tensor, name: str) -> Tensor:
    try:
        found = function(image)
    except ValueError as error:  # too small for the network, say
        raise DataError(f"{name} cannot be classified: {error}") from None
    if not bool(found.isfinite().all()):
        raise ValueError(f"the features of {name} are not finite: there is no nearest sub-centroid to explain")
    return found


def _looked_at(run: PixelRun, picture: Image.Image, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted classes and their owners, (1, height, width) at the size of the picture, and the features of the whole."""
    model, inference, image = run.model, inference_of(run.recipe), _tensor(run, picture)
    with evaluating(model):
        features = _checked(model.features, image, name)
        whole = image.shape

        def logits(images: Tensor) -> Tensor:
            """Of the model; what was looked at already is not looked at again."""
            if images.shape != whole or not torch.equal(images, image):
                return model(images)
            size = (whole[2], whole[3])
            return nn.functional.interpolate(model.grid_logits(features), size, mode="bilinear", align_corners=False)

        labels = inference.shares(logits, image[0], (picture.height, picture.width)).argmax(dim=0)[None]
        return labels, owners_of(need_cosines(model.head, "owners of pixels are found"), features, labels), features
