"""The training loop: a gradient step on the backbone, then a clustering step on the sub-centroids, and so on."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from otcluster.dnc.baselines import LinearHead
from otcluster.dnc.checkpoint import load_checkpoint, save_checkpoint
from otcluster.dnc.classifier import Classifier, build_classifier
from otcluster.dnc.data import Conversion, ImageData, Split, blank, epoch_batches, load_batches, load_data, seed_of
from otcluster.dnc.errors import DataError
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.figures import draw_curves, draw_subcentroids
from otcluster.dnc.head import DNCHead
from otcluster.dnc.progress import Progress, Silent
from otcluster.dnc.ranks import Ranks, connected
from otcluster.dnc.recipe import OptimConfig, Recipe, at_folder
from otcluster.dnc.run import RunFiles, restore
from otcluster.dnc.typical import find_typical
from otcluster.runs.errors import RunError
from otcluster.runs.files import write_text
from otcluster.runs.interruption import Interrupted, caught_signals

logger = logging.getLogger(__name__)

_State = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Of the model, and of optimizer and loop."""


def _check_counts(recipe: Recipe, data: ImageData, rows: torch.Tensor, what: str) -> None:
    """See that each class has images for its sub-centroids among ``rows``."""
    needed = recipe.head.n_subcentroids if recipe.head.kind == "dnc" else 1
    needed = needed if recipe.growth.kind == "none" else recipe.growth.k_min
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

    Under ``torchrun`` all processes call it, and each takes its part of every batch. The first writes.

    Args:
        recipe: What to train, from :func:`otcluster.dnc.load_recipe`.
        out: Directory of the run: new, empty, or of the same recipe. Keys that do not decide what is learnt may differ
            (``data.dir``, ``data.workers``, ``data.broken``, ``train.checkpoint_steps``, ``train.timeout``, ``train.shares``,
            ``explain.*``), and so may the number of processes.
        progress: What to tell, and whom. Default: nobody.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        RunError: The directory holds something else, or the launcher does not say which processes there are; nothing was
            changed. Or the loss is no longer a number, or another process has ended.
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
    if recipe.data.dir is not None:
        recipe = at_folder(recipe, recipe.data.dir)
    with connected(recipe.train) as ranks:
        speaks = progress if progress is not None and ranks.is_first else Silent()
        return _train(recipe, RunFiles(Path(out)), speaks, ranks)


def _train(recipe: Recipe, files: RunFiles, progress: Progress, ranks: Ranks) -> dict[str, Any]:
    ranks.check_same("recipes", replace(recipe, data=replace(recipe.data, dir=None)).to_yaml())
    data = ranks.together(lambda: _data(recipe))
    ranks.check_same("images", data.fingerprint)
    metrics, state = ranks.from_first(lambda: _found(recipe, files, data))
    if metrics is not None:
        progress.note(f"{files.root} is finished: nothing to train")
        return metrics
    with torch.random.fork_rng():
        model = ranks.together(lambda: build_classifier(recipe, len(data.classes)))
        training = _Training(recipe, files, data, progress, ranks, model)
        if state is not None:
            ranks.together(lambda: training.restore(*state))
        ranks.from_first(lambda: files.claim(recipe))  # only now: what cannot start leaves the directory to another recipe
        return training.run()


def _data(recipe: Recipe) -> ImageData:
    """The images of a recipe.

    Raises:
        DataError: There are too few.
    """
    data = load_data(recipe.data)
    _check_counts(recipe, data, torch.ones(len(data.train), dtype=torch.bool), "training images")
    if not len(data.test):
        raise DataError("there are no test images: add some to test/, or more to each class")
    return data


def _found(recipe: Recipe, files: RunFiles, data: ImageData) -> tuple[dict[str, Any] | None, _State | None]:
    """What an earlier call left: the result, if it came to an end, and the last checkpoint."""
    files.check(recipe)
    state = load_checkpoint(files.checkpoints)
    if state is not None and state[1]["images"] != data.fingerprint:
        raise RunError(f"{files.root} was trained on other images than these: choose another --out")
    return (files.read_metrics(), None) if files.metrics.is_file() else (None, state)


class _Training:
    def __init__(
        self, recipe: Recipe, files: RunFiles, data: ImageData, progress: Progress, ranks: Ranks, model: Classifier
    ) -> None:
        self.recipe, self.files, self.data, self.progress, self.ranks = recipe, files, data, progress, ranks
        self.fabric, self.model = ranks.fabric, model
        self.optimizer = _optimizer(recipe.optim, self.model)
        self.loop = _Loop()
        self.batches_per_epoch = len(self._batches(0))
        self.caught: list[int] = []
        self.unreadable: set[int] = set()
        self.module, self.setup_optimizer = self.fabric.setup(self.model, self.optimizer)
        self.module.mark_forward_method("features")
        self.started = time.perf_counter()

    def restore(self, weights: dict[str, torch.Tensor], saved: dict[str, Any]) -> None:
        """Go back to a checkpoint; only now that the model has the dtype that was saved."""
        restore(self.model, weights, self.files.checkpoints)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.loop = _Loop(**saved["loop"])

    def run(self) -> dict[str, Any]:
        if self.loop.step:
            self._write_history()
            self.progress.note(f"going on from step {self.loop.step}, epoch {self.loop.epoch + 1}")
        with caught_signals() as self.caught:
            while self.loop.epoch < self.recipe.train.epochs:
                self._epoch()
            return self._finish()

    def _signal(self) -> int:
        """A signal that came to some rank, or 0."""
        return self.ranks.greatest(self.caught[0] if self.caught else 0)

    def _heed_signals(self) -> None:
        """Stop if a signal came; for where the checkpoint of the last step is written."""
        if signum := self._signal():
            raise Interrupted(signum, f"after step {self.loop.step}")

    def _save(self) -> None:
        self.ranks.share_buffers(self.model.backbone)
        self.ranks.from_first(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
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
        own = [self.ranks.part(batch) for batch in todo]
        batches = load_batches(self.data.train, convert, recipe.data, own, seed=recipe.train.seed, epoch=loop.epoch)
        for whole, asked, (images, labels, indices) in zip(todo, own, self.ranks.each(batches), strict=True):
            n = int(self.ranks.total(len(labels))[0])
            if n < len(whole):
                self._note_unreadable(set(asked) - set(indices.tolist()))
            if n > 1:  # statistics of a batch need two; fewer are left of it only where images are broken
                self._step(self.fabric.to_device(images), self.fabric.to_device(labels), n)
            loop.batch += 1
            loop.step += 1
            self.progress.step(
                loop.step, recipe.train.epochs * self.batches_per_epoch, loop.epoch + 1, recipe.train.epochs,
                loss=loop.loss_sum / max(loop.seen, 1), accuracy=loop.right / max(loop.seen, 1),
            )  # fmt: skip
            due = loop.step % recipe.train.checkpoint_steps == 0 and loop.batch < self.batches_per_epoch
            signum = self._signal()  # looked at once: a signal that comes while we save is for the next step
            if due or signum:
                self._save()
            if signum:
                raise Interrupted(signum, f"after step {loop.step}")
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
            **({} if (n_open := self._n_open()) is None else {"subcentroids": sum(n_open) / len(n_open)}),
        }
        loop.history.append(row)
        loop.epoch, loop.batch, loop.loss_sum, loop.right, loop.seen = loop.epoch + 1, 0, 0.0, 0, 0
        self._write_history()
        self.progress.epoch(row, recipe.train.epochs)

    def _n_open(self) -> list[int] | None:
        """How many sub-centroids each class has now, where classes find it by themselves."""
        head = self.model.head
        return head.n_open.tolist() if isinstance(head, DNCHead) and head.growing is not None else None

    def _evaluate(self, split: Split) -> Evaluation:
        self.ranks.share_buffers(self.model.backbone)
        return evaluate(self.model, split, self.recipe.data, after_batch=self._heed_signals, ranks=self.ranks)

    def _note_unreadable(self, indices: set[int]) -> None:
        self.unreadable.update(*self.ranks.gathered(indices))
        rest = torch.ones(len(self.data.train), dtype=torch.bool)
        rest[sorted(self.unreadable)] = False
        _check_counts(self.recipe, self.data, rest, "training images that can be read")

    def _warn_of_late_classes(self) -> None:
        head = self.model.head
        if self.ranks.is_first and isinstance(head, DNCHead) and not bool(head.store.started.all()):
            names = [name for name, started in zip(self.data.classes, head.store.started.tolist(), strict=True) if not started]
            logger.warning(
                "%d of %d classes have no sub-centroids from data yet (%s): never were %d images of one at hand at once; raise "
                "memory.capacity or data.batch_size, or lower head.n_subcentroids",
                len(names), len(self.data.classes), ", ".join(names[:5]), self.recipe.head.n_subcentroids,
            )  # fmt: skip

    def _step(self, images: torch.Tensor, labels: torch.Tensor, n: int) -> None:
        """Learn from a batch of ``n`` images, of which these are here."""
        loop, ranks = self.loop, self.ranks
        torch.manual_seed(seed_of(self.recipe.train.seed, 1, loop.step, ranks.rank))
        rate = _rate(self.recipe, loop.step, self.batches_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.fabric.autocast():
            features = self.module.features(self._two(images).to(next(self.model.parameters()).dtype))[: len(labels)]
            logits = self.model.head(features)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        right = int((logits.argmax(dim=1) == labels).sum())
        total, n_right = ranks.total(float(loss.detach()), right)
        value = total / n
        if not math.isfinite(value):
            raise RunError(f"the loss is {value} at step {loop.step + 1}: train with a lower optim.lr, into a new --out")
        self.setup_optimizer.zero_grad()
        self.fabric.backward(loss * (ranks.n / n))  # gradients are averaged over the ranks, and the loss over the images
        self.setup_optimizer.step()
        self.model.head.observe(features.detach(), labels, reducer=ranks.reducer)
        loop.loss_sum += total
        loop.right += int(n_right)
        loop.seen += n

    def _two(self, images: torch.Tensor) -> torch.Tensor:
        """At least two images, for statistics; those that a rank has too few of are repeated, or black."""
        if len(images) > 1:
            return images
        config = self.recipe.data
        return torch.cat([images] * 2) if len(images) else self.fabric.to_device(blank(config)).expand(2, -1, -1, -1)

    def _write_history(self) -> None:
        if not self.loop.history or not self.ranks.is_first:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.loop.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.loop.history)
        write_text(self.files.history, text.getvalue())

    def _finish(self) -> dict[str, Any]:
        """Everything that follows from the trained model: results and pictures. ``metrics.json`` comes last, as the mark."""
        data = self.data
        test = self._evaluate(data.test).metrics(data.classes)
        train = self._evaluate(data.train)
        self.ranks.from_first(lambda: self._write_pictures(train))
        self._heed_signals()
        return self.ranks.from_first(lambda: self._write_metrics(test))

    def _write_pictures(self, train: Evaluation) -> None:
        recipe, data = self.recipe, self.data
        typical = find_typical(self.model, train, data.train, len(data.classes), recipe.explain.images_per_subcentroid)
        typical.save(self.files)
        draw_curves(self.loop.history, self.files.curves, recipe.name)
        if not isinstance(self.model.head, LinearHead):
            draw_subcentroids(typical, data.train, data.classes, self.files.subcentroids)

    def _write_metrics(self, test: dict[str, Any]) -> dict[str, Any]:
        recipe = self.recipe
        metrics = {
            "test": test,
            "seconds": round(self.loop.seconds + time.perf_counter() - self.started, 3),
            "recipe": recipe.name,
            "head": recipe.head.kind,
            "epochs": recipe.train.epochs,
            "steps": self.loop.step,
        }
        if (n_open := self._n_open()) is not None:
            metrics["subcentroids"] = dict(zip(self.data.classes, n_open, strict=True))
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
