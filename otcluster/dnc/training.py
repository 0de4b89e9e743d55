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
from otcluster.dnc.data import Conversion, ImageData, Split, epoch_batches, load_batches, load_data, seed_of
from otcluster.dnc.errors import DataError, RecipeError, RunError
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.figures import draw_curves, draw_subcentroids
from otcluster.dnc.head import DNCHead
from otcluster.dnc.progress import Progress, Silent
from otcluster.dnc.recipe import OptimConfig, Recipe, TrainConfig, at_folder
from otcluster.dnc.run import RunFiles, restore
from otcluster.dnc.typical import find_typical

logger = logging.getLogger(__name__)

_State = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Of the model, and of optimizer and loop."""


class Interrupted(Exception):
    """Training was stopped by a signal, after the step in hand; the run can be resumed."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; the same command goes on from there")
        self.exit_code = 128 + signum


def _check_counts(recipe: Recipe, data: ImageData, rows: torch.Tensor, what: str) -> None:
    """See that each class has images for its sub-centroids among ``rows``."""
    needed = recipe.head.n_subcentroids if recipe.head.kind == "dnc" else 1
    counts = torch.bincount(data.train.labels[rows], minlength=len(data.classes)).tolist()
    for name, count in zip(data.classes, counts, strict=True):
        if count < needed:
            fewer = f"fewer than its {needed} sub-centroids" if recipe.head.kind == "dnc" else "at least 1 is needed"
            less = f", or pass head.n_subcentroids={count}" if count else ""
            raise DataError(
                f"class {name} has {count} {what}, {fewer}: add images{less} (a run that has begun then needs a new --out)"
            )


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
        out: Directory of the run: new, empty, or of the same recipe. Keys that do not decide what is learnt may differ
            (``data.dir``, ``data.workers``, ``data.broken``, ``train.checkpoint_steps``, ``explain.*``).
        progress: What to tell, and whom. Default: nobody.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        RunError: The directory holds something else, or more than one process was launched; nothing was changed. Or the loss
            is no longer a number.
        RecipeError: This machine or the backbone cannot do what the recipe asks; nothing was changed.
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
    if (world := os.environ.get("WORLD_SIZE") or "1") != "1":
        raise RunError(f"training on more than one process is not supported yet, and WORLD_SIZE is {world}: start one")
    progress = progress or Silent()
    if recipe.data.dir is not None:
        recipe = at_folder(recipe, recipe.data.dir)
    data = load_data(recipe.data)
    _check_data(recipe, data)
    files = RunFiles(Path(out))
    files.check(recipe)
    state = load_checkpoint(files.checkpoints)
    if state is not None and state[1]["images"] != data.fingerprint:
        raise RunError(f"{files.root} was trained on other images than these: choose another --out")
    if files.metrics.is_file():
        metrics = files.read_metrics()
        progress.note(f"{files.root} is finished: nothing to train")
        return metrics
    with torch.random.fork_rng():
        training = _Training(recipe, files, data, progress, state)
        files.claim(recipe)  # only now: what cannot start leaves the directory to another recipe
        return training.run()


def _check_data(recipe: Recipe, data: ImageData) -> None:
    _check_counts(recipe, data, torch.ones(len(data.train), dtype=torch.bool), "training images")
    if not len(data.test):
        raise DataError("there are no test images: add some to test/, or more to each class")


class _Training:
    def __init__(self, recipe: Recipe, files: RunFiles, data: ImageData, progress: Progress, state: _State | None) -> None:
        self.recipe, self.files, self.data, self.progress = recipe, files, data, progress
        self.fabric = _fabric(recipe.train)
        self.model = build_classifier(recipe, len(data.classes))
        self.optimizer = _optimizer(recipe.optim, self.model)
        self.loop = _Loop()
        self.batches_per_epoch = len(self._batches(0))
        self.caught: list[int] = []
        self.unreadable: set[int] = set()
        if state is not None:
            weights, saved = state
            restore(self.model, weights, files.checkpoints)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.loop = _Loop(**saved["loop"])
        self.module, self.setup_optimizer = self.fabric.setup(self.model, self.optimizer)
        self.module.mark_forward_method("features")
        self.started = time.perf_counter()

    def run(self) -> dict[str, Any]:
        if self.loop.step:
            self._write_history()
            self.progress.note(f"going on from step {self.loop.step}, epoch {self.loop.epoch + 1}")
        with _signals() as self.caught:
            while self.loop.epoch < self.recipe.train.epochs:
                self._epoch()
            return self._finish()

    def _heed_signals(self) -> None:
        """Stop if a signal came; for where the checkpoint of the last step is written."""
        if self.caught:
            raise Interrupted(self.caught[0], self.loop.step)

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

    def _epoch(self) -> None:
        loop, recipe = self.loop, self.recipe
        self.model.train()
        todo = self._batches(loop.epoch)[loop.batch :]
        convert = Conversion(recipe.data, augment=True)
        batches = load_batches(self.data.train, convert, recipe.data, todo, seed=recipe.train.seed, epoch=loop.epoch)
        for asked, (images, labels, indices) in zip(todo, batches, strict=True):
            self._note_unreadable(set(asked) - set(indices.tolist()))
            if len(labels) > 1:  # statistics of a batch need two; fewer are left of it only where images are broken
                self._step(self.fabric.to_device(images), self.fabric.to_device(labels))
            loop.batch += 1
            loop.step += 1
            self.progress.step(
                loop.step, recipe.train.epochs * self.batches_per_epoch, loop.epoch + 1, recipe.train.epochs,
                loss=loop.loss_sum / max(loop.seen, 1), accuracy=loop.right / max(loop.seen, 1),
            )  # fmt: skip
            due = loop.step % recipe.train.checkpoint_steps == 0 and loop.batch < self.batches_per_epoch
            stop = bool(self.caught)  # looked at once: a signal that comes while we save is for the next step
            if due or stop:
                self._save()
            if stop:
                self._heed_signals()
        if todo:  # before the evaluation, which a broken image or a signal may end and which is repeated from here
            self._save()
        if loop.epoch in (0, recipe.train.epochs - 1):
            self._warn_of_late_classes()
        test = self._evaluate(self.data.test).metrics(self.data.classes)
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
        self._write_history()
        self.progress.epoch(row, recipe.train.epochs)

    def _evaluate(self, split: Split) -> Evaluation:
        return evaluate(self.model, split, self.recipe.data, after_batch=self._heed_signals)

    def _note_unreadable(self, indices: set[int]) -> None:
        if indices:
            self.unreadable |= indices
            rest = torch.ones(len(self.data.train), dtype=torch.bool)
            rest[sorted(self.unreadable)] = False
            _check_counts(self.recipe, self.data, rest, "training images that can be read")

    def _warn_of_late_classes(self) -> None:
        head = self.model.head
        if isinstance(head, DNCHead) and not bool(head.store.started.all()):
            names = [name for name, started in zip(self.data.classes, head.store.started.tolist(), strict=True) if not started]
            logger.warning(
                "%d of %d classes have no sub-centroids from data yet (%s): never were %d images of one at hand at once; raise "
                "memory.capacity or data.batch_size, or lower head.n_subcentroids",
                len(names), len(self.data.classes), ", ".join(names[:5]), self.recipe.head.n_subcentroids,
            )  # fmt: skip

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
            raise RunError(f"the loss is {value} at step {loop.step + 1}: train with a lower optim.lr, into a new --out")
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
        test = self._evaluate(data.test).metrics(data.classes)
        train = self._evaluate(data.train)
        typical = find_typical(self.model, train, data.train, len(data.classes), recipe.explain.images_per_subcentroid)
        typical.save(self.files)
        draw_curves(self.loop.history, self.files.curves, recipe.name)
        if not isinstance(self.model.head, LinearHead):
            draw_subcentroids(typical, data.train, data.classes, self.files.subcentroids)
        self._heed_signals()
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


def _fabric(config: TrainConfig) -> Fabric:
    """Device and precision.

    Raises:
        RecipeError: This machine has not what the recipe asks for.
    """
    try:
        fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)  # type: ignore[arg-type]
    except Exception as error:  # whatever Fabric raises
        raise RecipeError(
            f"train.accelerator={config.accelerator} and train.precision={config.precision} cannot be had here: {error}"
        ) from error
    if config.precision == "16-mixed" and fabric.device.type == "cpu":
        raise RecipeError("train.precision=16-mixed needs a GPU, and this would run on the CPU: pass bf16-mixed or 32-true")
    return fabric


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
