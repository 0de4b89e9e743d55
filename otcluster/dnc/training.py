"""The training loop: a gradient step on the backbone, then a clustering step on the sub-centroids, and so on."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from otcluster.dnc.baselines import LinearHead
from otcluster.dnc.checkpoint import load_checkpoint, save_checkpoint, write_text
from otcluster.dnc.classifier import Classifier, build_classifier
from otcluster.dnc.data import Conversion, ImageData, epoch_batches, load_batches, load_data, seed_of
from otcluster.dnc.errors import DataError, RunError
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.figures import draw_curves, draw_subcentroids
from otcluster.dnc.progress import Progress, Silent
from otcluster.dnc.recipe import OptimConfig, Recipe
from otcluster.dnc.run import RunFiles, restore
from otcluster.dnc.typical import find_typical

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """Training was stopped by a signal, after the step in hand; the run can be resumed."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; the same command goes on from there")
        self.exit_code = 128 + signum


@dataclass
class _Loop:
    """Everything the next step depends on besides the model and the optimizer."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    right: int = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(recipe: Recipe, out: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train the model of a recipe, or go on where an earlier call left off.

    Args:
        recipe: What to train, from :func:`otcluster.dnc.load_recipe`.
        out: Directory of the run: new, empty, or of the same recipe.
        progress: What to tell, and whom. Default: nobody.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        RunError: The directory holds something else, or more than one process was launched; nothing was changed.
        DataError: The images are not as they should be.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     metrics = train(load_recipe("digits", ["train.epochs=1"]), folder + "/run")
        >>> sorted(metrics["test"])
        ['accuracy', 'images', 'per_class']

    Source: Wang et al., "Visual recognition with deep nearest centroids" (ICLR 2023).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("training on more than one process is not supported yet: start one")
    progress = progress or Silent()
    data = load_data(recipe.data)
    _check_data(recipe, data)
    files = RunFiles(Path(out))
    files.claim(recipe)
    if files.metrics.is_file():
        progress.note(f"{files.root} is finished: nothing to train")
        return files.read_metrics()
    with torch.random.fork_rng():
        return _Training(recipe, files, data, progress).run()


def _check_data(recipe: Recipe, data: ImageData) -> None:
    counts = torch.bincount(data.train.labels, minlength=len(data.classes)).tolist()
    needed = recipe.head.n_subcentroids if recipe.head.kind == "dnc" else 1
    for name, count in zip(data.classes, counts, strict=True):
        if count < needed:
            raise DataError(
                f"class {name} has {count} training images, fewer than its {needed} sub-centroids: "
                f"add images or pass head.n_subcentroids={max(count, 1)}"
            )
    if not len(data.test):
        raise DataError("there are no test images: add some to test/, or more to each class")


class _Training:
    def __init__(self, recipe: Recipe, files: RunFiles, data: ImageData, progress: Progress) -> None:
        self.recipe, self.files, self.data, self.progress = recipe, files, data, progress
        self.fabric = Fabric(accelerator=recipe.train.accelerator, devices=1, precision=recipe.train.precision)  # type: ignore[arg-type]
        self.model = build_classifier(recipe, len(data.classes))
        self.optimizer = _optimizer(recipe.optim, self.model)
        self.loop = _Loop()
        self.batches_per_epoch = len(self._batches(0))
        self._resume()
        self.module, self.setup_optimizer = self.fabric.setup(self.model, self.optimizer)
        self.module.mark_forward_method("features")
        self.started = time.perf_counter()

    def run(self) -> dict[str, Any]:
        with _signals() as caught:
            while self.loop.epoch < self.recipe.train.epochs:
                self._epoch(caught)
        return self._finish()

    def _resume(self) -> None:
        state = load_checkpoint(self.files.checkpoints)
        if state is None:
            return
        weights, saved = state
        if saved["images"] != self.data.fingerprint:
            raise RunError(f"{self.files.root} was trained on other images than these: choose another --out")
        restore(self.model, weights, self.files.checkpoints)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.loop = _Loop(**saved["loop"])
        self._write_history()
        if self.loop.step:
            self.progress.note(f"going on from step {self.loop.step}, epoch {self.loop.epoch + 1}")

    def _save(self) -> None:
        self.loop.seconds += time.perf_counter() - self.started
        self.started = time.perf_counter()
        state = {
            "optimizer": self.optimizer.state_dict(),
            "loop": vars(self.loop),
            "classes": self.data.classes,
            "images": self.data.fingerprint,
        }
        save_checkpoint(self.files.checkpoints, self.loop.step, self.model.state_dict(), state)

    def _batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(len(self.data.train), self.recipe.data.batch_size, self.recipe.train.seed, epoch)

    def _epoch(self, caught: list[int]) -> None:
        loop, recipe = self.loop, self.recipe
        self.model.train()
        todo = self._batches(loop.epoch)[loop.batch :]
        convert = Conversion(recipe.data, augment=True)
        batches = load_batches(self.data.train, convert, recipe.data, todo, seed=recipe.train.seed, epoch=loop.epoch)
        for images, labels, _ in batches:
            if len(labels) > 1:  # statistics of a batch need two; fewer are left of it only where images are broken
                self._step(self.fabric.to_device(images), self.fabric.to_device(labels))
            loop.batch += 1
            loop.step += 1
            self.progress.step(
                loop.step, recipe.train.epochs * self.batches_per_epoch, loop.epoch + 1, recipe.train.epochs,
                loss=loop.loss_sum / max(loop.seen, 1), accuracy=loop.right / max(loop.seen, 1),
            )  # fmt: skip
            if caught:
                self._save()
                raise Interrupted(caught[0], loop.step)
            if loop.step % recipe.train.checkpoint_steps == 0 and loop.batch < self.batches_per_epoch:
                self._save()
        test = evaluate(self.model, self.data.test, recipe.data).metrics(self.data.classes)
        row = {
            "epoch": loop.epoch + 1,
            "step": loop.step,
            "learning_rate": _rate(recipe, loop.step - 1, self.batches_per_epoch),
            "train_loss": loop.loss_sum / max(loop.seen, 1),
            "train_accuracy": loop.right / max(loop.seen, 1),
            "test_accuracy": test["accuracy"],
        }
        loop.history.append(row)
        loop.epoch, loop.batch, loop.loss_sum, loop.right, loop.seen = loop.epoch + 1, 0, 0.0, 0, 0
        self._save()
        self._write_history()
        self.progress.epoch(row, recipe.train.epochs)

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        loop = self.loop
        torch.manual_seed(seed_of(self.recipe.train.seed, 1, loop.step))
        rate = _rate(self.recipe, loop.step, self.batches_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        features = self.module.features(images.to(next(self.model.parameters()).dtype))
        with self.fabric.autocast():
            logits = self.model.head(features)
        loss = nn.functional.cross_entropy(logits, labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RunError(
                f"the loss is {value} at step {loop.step + 1}: lower optim.lr; {self.files.root} keeps its last checkpoint"
            )
        self.setup_optimizer.zero_grad()
        self.fabric.backward(loss)
        self.setup_optimizer.step()
        self.model.head.observe(features.detach(), labels)
        loop.loss_sum += value * len(labels)
        loop.right += int((logits.argmax(dim=1) == labels).sum())
        loop.seen += len(labels)

    def _write_history(self) -> None:
        if not self.loop.history:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.loop.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.loop.history)
        write_text(self.files.history, text.getvalue())

    def _finish(self) -> dict[str, Any]:
        """Everything that follows from the trained model: results and pictures. ``metrics.json`` comes last, as the mark."""
        recipe, data = self.recipe, self.data
        test = evaluate(self.model, data.test, recipe.data).metrics(data.classes)
        train: Evaluation = evaluate(self.model, data.train, recipe.data)
        typical = find_typical(self.model, train, data.train, len(data.classes), recipe.explain.images_per_subcentroid)
        typical.save(self.files)
        draw_curves(self.loop.history, self.files.curves, recipe.name)
        if not isinstance(self.model.head, LinearHead):
            draw_subcentroids(typical, data.train, data.classes, self.files.subcentroids)
        metrics = {
            "test": test,
            "seconds": round(self.loop.seconds + time.perf_counter() - self.started, 3),
            "recipe": recipe.name,
            "head": recipe.head.kind,
            "epochs": recipe.train.epochs,
            "steps": self.loop.step,
        }
        write_text(self.files.metrics, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        return metrics


def _optimizer(config: OptimConfig, model: Classifier) -> torch.optim.Optimizer:
    # Scales and offsets are not shrunk: decay is for matrices.
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def _rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step: linear warm-up, then constant or a half cosine down to zero."""
    config = recipe.optim
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    total = recipe.train.epochs * steps_per_epoch
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one does what it always does."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def catch(signum: int, frame: object) -> None:
        caught.append(signum)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            before[signum] = signal.signal(signum, catch)
    except ValueError:  # not the main thread: whoever owns it handles signals
        before.clear()
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
