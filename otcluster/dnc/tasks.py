"""What differs between training on images and on pixels; the loop knows nothing else of either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from otcluster.distributed import TorchReducer
from otcluster.dnc.anchoring import Anchors
from otcluster.dnc.baselines import SimCLRHead
from otcluster.dnc.classifier import Classifier, build_classifier
from otcluster.dnc.conversion import Conversion, blank, mixing
from otcluster.dnc.counts import check_counts
from otcluster.dnc.data import ImageData, Split, load_batches, load_data
from otcluster.dnc.errors import DataError
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.ranks import Ranks
from otcluster.dnc.recipe import Recipe
from otcluster.dnc.results import write_metrics, write_pictures
from otcluster.dnc.run import RunFiles
from otcluster.runs.errors import RunError


@dataclass(frozen=True)
class Learnt:
    """What a model makes of a batch, here.

    Attributes:
        loss: Summed over what counts.
        n: How much counts: images, or pixels that have a class.
        right: How much of it is predicted right.
        features: For the clustering step, (m, dim).
        labels: Class of each, (m,).
    """

    loss: Tensor
    n: int
    right: int
    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes:
        history: A row for each epoch.
        anchors: Which images sub-centroids are, if they are.
        anchored: Test accuracy before, and when they were tied.
        seconds: How long it took.
        steps: How many steps there were.
        dnc_share: What part of a step clustering took; None where it was not timed.
    """

    history: list[dict[str, Any]]
    anchors: Anchors | None
    anchored: dict[str, float] | None
    seconds: float
    steps: int
    dnc_share: float | None


class Task(Protocol):
    """What is trained on.

    Attributes:
        data: The images, with ``train``, ``test``, ``classes``, ``class_sizes`` and ``fingerprint``.
        measure: By what a test is judged, as a column of the history: ``"accuracy"`` for images.
        forward: The method of the model through which gradients come.
        notes: What a checkpoint says of the images.
    """

    data: Any
    measure: str
    forward: str

    @property
    def notes(self) -> dict[str, Any]: ...

    def backbone(self, model: Any) -> nn.Module:
        """What learns, without the head."""
        ...

    def learn_mode(self, model: Any) -> None:
        """Make a model ready for a step; what is frozen stays in evaluation mode."""
        ...

    def build(self) -> Any:
        """The model, with ``backbone``, ``head`` and ``features``.

        Raises:
            RecipeError: It cannot be built.
        """
        ...

    def with_backbone(self, model: Any, backbone: nn.Module) -> Any:
        """The same model with another backbone."""
        ...

    def check(self, rows: Tensor, what: str) -> None:
        """See that there are enough training images.

        Args:
            rows: Which there are, booleans.
            what: What to call them.

        Raises:
            DataError: There are too few.
        """
        ...

    def batches(self, own: list[list[int]], epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels and indices of batches, augmented as (seed, epoch, index) say, without what cannot be read."""
        ...

    def learn(self, module: Any, model: Any, images: Tensor, labels: Tensor, ranks: Ranks) -> Learnt:
        """One forward pass. ``module`` is the model as it was set up for gradients; ``images`` may be none at all."""
        ...

    def observe(self, model: Any, learnt: Learnt, reducer: TorchReducer | None) -> None:
        """The clustering step."""
        ...

    def test(self, model: Any, ranks: Ranks, after_batch: Callable[[], None]) -> float:
        """By ``measure``, on the test images; the same on all ranks."""
        ...

    def finish(
        self, model: Any, files: RunFiles, ranks: Ranks, after_batch: Callable[[], None], ended: Callable[[], Ended]
    ) -> Any:
        """Everything that follows from a trained model. ``metrics.json`` comes last, as the mark; what it holds."""
        ...


class ImageTask:
    """Images that have a class each.

    Args:
        recipe: Whose.

    Raises:
        DataError: There are too few images.
    """

    measure = "accuracy"
    forward = "features"

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.data: ImageData = load_data(recipe.data)
        self.check(torch.ones(len(self.data.train), dtype=torch.bool), "training images")
        if not len(self.data.test):
            raise DataError("there are no test images: add some to test/, or more to each class")
        self.mix = mixing(recipe.data, len(self.data.classes))
        self.views = 2 if recipe.head.kind == "simclr" else 1

    @property
    def notes(self) -> dict[str, Any]:
        """What a checkpoint says of the images."""
        data = self.data
        return {"classes": data.classes, "class_sizes": data.class_sizes, "images": data.fingerprint}

    def backbone(self, model: Classifier) -> nn.Module:
        """The backbone."""
        return model.backbone

    def learn_mode(self, model: Classifier) -> None:
        """For a step; a frozen backbone keeps its statistics."""
        model.train().backbone.train(not self.recipe.backbone.frozen)

    def build(self) -> Classifier:
        """A backbone with a head."""
        return build_classifier(self.recipe, len(self.data.classes), self.data.class_sizes)

    def with_backbone(self, model: Classifier, backbone: nn.Module) -> Classifier:
        """The head of the model on another backbone."""
        return Classifier(backbone, model.head)

    def check(self, rows: Tensor, what: str) -> None:
        """See that each class has images for its sub-centroids."""
        check_counts(self.recipe, self.data, rows, what)

    def batches(self, own: list[list[int]], epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images (n, channels, height, width), or two views of each, and their classes (n,)."""
        convert, seed = Conversion(self.recipe.data, augment=True), self.recipe.train.seed
        return load_batches(self.data.train, convert, self.recipe.data, own, seed=seed, epoch=epoch, views=self.views)

    def learn(self, module: Any, model: Classifier, images: Tensor, labels: Tensor, ranks: Ranks) -> Learnt:
        """Cross-entropy of the logits, or the loss of SimCLR."""
        if self.mix is not None and len(labels):
            images, labels = self.mix(images, labels)
        if self.views > 1 and len(labels):  # all first views, and then all second ones
            images = images.transpose(0, 1).flatten(0, 1)
        layout = torch.channels_last if self.recipe.train.channels_last else torch.contiguous_format
        images = self._two(images, labels.device).to(next(model.parameters()).dtype).contiguous(memory_format=layout)
        with ranks.fabric.autocast():
            views = module.features(images)[: self.views * len(labels)]
            features = views[: len(labels)]
            logits = model.head(features)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if isinstance(model.head, SimCLRHead):
            loss = model.head.loss(views, reducer=ranks.reducer)
        else:
            smoothing = self.recipe.optim.label_smoothing
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        hard = labels if labels.ndim == 1 else labels.argmax(dim=1)
        return Learnt(loss, len(labels), int((logits.argmax(dim=1) == hard).sum()), features.detach(), hard)

    def _two(self, images: Tensor, device: torch.device) -> Tensor:
        """At least two images, for statistics; those that a rank has too few of are repeated, or black."""
        if len(images) > 1:
            return images
        return torch.cat([images] * 2) if len(images) else blank(self.recipe.data).to(device).expand(2, -1, -1, -1)

    def observe(self, model: Classifier, learnt: Learnt, reducer: TorchReducer | None) -> None:
        """Cluster the features of each class."""
        model.head.observe(learnt.features, learnt.labels, reducer=reducer)

    def test(self, model: Classifier, ranks: Ranks, after_batch: Callable[[], None]) -> float:
        """Accuracy."""
        found = self._evaluate(model, self.data.test, ranks, after_batch)  # of all images on the first rank alone

        def accuracy() -> float:
            if bool(found.logits.isnan().any()):  # the last step may spoil what the loss of that step did not tell
                raise RunError("the logits of test images are NaN: train with a lower optim.lr, into a new --out")
            return float(found.metrics(self.data.classes)["accuracy"])

        return ranks.from_first(accuracy)

    def _evaluate(self, model: Classifier, split: Split, ranks: Ranks, after_batch: Callable[[], None]) -> Evaluation:
        return evaluate(model, split, self.recipe.data, after_batch=after_batch, ranks=ranks)

    def finish(
        self, model: Classifier, files: RunFiles, ranks: Ranks, after_batch: Callable[[], None], ended: Callable[[], Ended]
    ) -> dict[str, Any]:
        """Results, curves, and the images that stand for the model."""
        recipe, data = self.recipe, self.data
        test = self._evaluate(model, data.test, ranks, after_batch)
        train = self._evaluate(model, data.train, ranks, after_batch)
        done = ended()
        shared = ranks.from_first(lambda: write_pictures(recipe, files, data, model, train, done.history, done.anchors))
        after_batch()
        done = ended()
        return ranks.from_first(
            lambda: write_metrics(
                recipe, files, data, model, train, test, subcentroids=shared, anchored=done.anchored, seconds=done.seconds,
                steps=done.steps, dnc_share=done.dnc_share,
            )
        )  # fmt: skip
