"""What training does where every pixel has a class."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from otcluster.distributed import TorchReducer
from otcluster.dnc.classes import shows_cosines
from otcluster.dnc.distinctness import numbers_found, of_usage
from otcluster.dnc.errors import DataError
from otcluster.dnc.figures import draw_curves, draw_subcentroids
from otcluster.dnc.head import DNCHead
from otcluster.dnc.pixels.conversion import pixel_batches
from otcluster.dnc.pixels.evaluation import PixelEvaluation, evaluate_pixels
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import PixelData
from otcluster.dnc.pixels.patches import typical_patches
from otcluster.dnc.pixels.prediction import draw_examples
from otcluster.dnc.pixels.runs import PixelRun, build_segmenter, conversion_of, inference_of, load_images
from otcluster.dnc.pixels.segmenter import Segmenter
from otcluster.dnc.ranks import Ranks
from otcluster.dnc.recipe import Recipe
from otcluster.dnc.run import RunFiles
from otcluster.dnc.tasks import Ended, Learnt
from otcluster.runs.files import write_text

_PATCHES, _LOOKED_AT = 6, 200  # for the picture of sub-centroids: places of each, and training images


class PixelTask:
    """Images with a class for every pixel.

    Args:
        recipe: Whose.

    Raises:
        DataError: There are fewer than two images to learn from.
    """

    measure = "mean_iou"
    forward = "loss"

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.data: PixelData = load_images(recipe)
        self.convert, self.inference = conversion_of(recipe), inference_of(recipe)
        self.check(torch.ones(len(self.data.train), dtype=torch.bool), "training images")

    @property
    def notes(self) -> dict[str, Any]:
        """What a checkpoint says of the images."""
        return {
            "classes": self.data.classes,
            "palette": [list(colour) for colour in self.data.palette],
            "images": self.data.fingerprint,
        }

    def build(self) -> Segmenter:
        """A network with a head."""
        return build_segmenter(self.recipe, self.data.classes)

    def backbone(self, model: Segmenter) -> nn.Module:
        """The network."""
        return model.network

    def with_backbone(self, model: Segmenter, backbone: nn.Module) -> Segmenter:
        """The heads of the model on another network."""
        return Segmenter(
            backbone, model.head, ignore_index=model.ignore_index, aux=model.aux, aux_weight=model.aux_weight,
            per_class=model.per_class, seed=model.seed, classes=model.classes,
        )  # fmt: skip

    def learn_mode(self, model: Segmenter) -> None:
        """For a step; a frozen encoder keeps its statistics."""
        model.train()
        model.network.encoder.train(not self.recipe.backbone.frozen)  # type: ignore[union-attr]

    def check(self, rows: Tensor, what: str) -> None:
        """See that there are two images, for statistics."""
        if int(rows.sum()) < 2:
            raise DataError(f"there are {int(rows.sum())} {what}, and at least 2 are needed")

    def batches(self, own: list[list[int]], epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Crops (n, 3, height, width) and their labels (n, height, width)."""
        data = self.recipe.data
        return pixel_batches(
            self.data.train, self.convert, own, seed=self.recipe.train.seed, epoch=epoch, workers=data.workers,
            broken=data.broken,
        )  # fmt: skip

    def learn(self, module: Any, model: Segmenter, images: Tensor, labels: Tensor, ranks: Ranks) -> Learnt:
        """The loss of the pixels that have a label."""
        n = len(labels)
        if n < 2:  # statistics need two: the only one again, or black, of which nothing counts
            height, width = self.recipe.pixels.crop
            images = torch.cat([images] * 2) if n else torch.zeros(2, 3, height, width, device=labels.device)
            none = torch.full((2 - n, height, width), IGNORE, dtype=torch.int64, device=labels.device)
            labels = torch.cat([labels, none]) if n else none
        with ranks.fabric.autocast():
            found = module.loss(images.to(next(model.network.parameters()).dtype), labels, reducer=ranks.reducer)
        n_counted = int(found.n_counted)
        return Learnt(found.loss * max(n_counted, 1), n_counted, int(found.n_right), found.features[:n], labels[:n])

    def observe(self, model: Segmenter, learnt: Learnt, reducer: TorchReducer | None) -> None:
        """Cluster pixels, as many of each class."""
        model.observe(learnt.features, learnt.labels, reducer=reducer)

    def test(self, model: Segmenter, ranks: Ranks, after_batch: Callable[[], None]) -> float:
        """Mean intersection over union."""
        found = self._evaluate(model, ranks, after_batch)
        return ranks.from_first(lambda: found.metrics(self.data.classes)["mean_iou"])

    def _evaluate(self, model: Segmenter, ranks: Ranks, after_batch: Callable[[], None]) -> PixelEvaluation:
        """Each rank a part of the images; all get the whole outcome."""
        was_training, parameter = model.training, next(model.network.parameters())
        own = ranks.part(list(range(len(self.data.test))))
        model.eval()
        try:
            found = ranks.together(
                lambda: evaluate_pixels(
                    model, self.data.test, len(self.data.classes), self.convert, inference=self.inference,
                    device=parameter.device, dtype=parameter.dtype, broken=self.recipe.data.broken, indices=own,
                    after_batch=after_batch if ranks.n == 1 else None,
                )
            )  # fmt: skip
        finally:
            model.train(was_training)
        after_batch()
        if ranks.n == 1:
            return found.need_labels("test images")
        every = ranks.gathered((found.confusion, found.n_images))
        confusion, n_images = sum((each[0] for each in every), torch.zeros_like(found.confusion)), sum(e[1] for e in every)
        return PixelEvaluation(confusion, n_images).need_labels("test images")

    def finish(
        self, model: Segmenter, files: RunFiles, ranks: Ranks, after_batch: Callable[[], None], ended: Callable[[], Ended]
    ) -> dict[str, Any]:
        """Results, curves, and some test images with what the model says of them."""
        recipe, data = self.recipe, self.data
        test = self._evaluate(model, ranks, after_batch)

        def write() -> dict[str, Any]:
            done = ended()
            draw_curves(done.history, files.curves, recipe.name, self.measure)
            if shows_cosines(model.head):
                run = PixelRun(files, recipe, data.classes, data.palette, model)
                found = typical_patches(run, n=_PATCHES, n_images=_LOOKED_AT)
                pictures = found.pictures(data.train)
                draw_subcentroids(pictures, found.sizes, data.classes, files.subcentroids, "Training pixels")
            draw_examples(model, data, self.convert, self.inference, files.root / "predictions.png")
            metrics: dict[str, Any] = {
                "test": test.metrics(data.classes),
                "seconds": round(done.seconds, 3),
                "recipe": recipe.name,
                "head": recipe.head.kind,
                "epochs": recipe.train.epochs,
                "steps": done.steps,
            }
            if isinstance(model.head, DNCHead):
                share = done.dnc_share
                metrics |= {"subcentroids": of_usage(model.head), "dnc_share": None if share is None else round(share, 4)}
            if (n_open := numbers_found(model.head)) is not None:
                metrics["n_subcentroids"] = dict(zip(data.classes, n_open, strict=True))
            write_text(files.metrics, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
            return metrics

        return ranks.from_first(write)
