"""The training loop: a gradient step on the backbone, then a clustering step on the sub-centroids, and so on."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from otcluster.dnc.anchoring import Anchors, choose_anchors, tie
from otcluster.dnc.averaging import WeightAverage
from otcluster.dnc.checkpoint import load_checkpoint, save_checkpoint
from otcluster.dnc.classifier import Classifier
from otcluster.dnc.counts import warn_of_late_classes
from otcluster.dnc.data import epoch_batches, seed_of
from otcluster.dnc.distinctness import numbers_found, of_usage
from otcluster.dnc.head import DNCHead
from otcluster.dnc.optimizers import build_optimizer
from otcluster.dnc.progress import Progress, Silent
from otcluster.dnc.ranks import Ranks, connected, quick_convolutions
from otcluster.dnc.recipe import Recipe, at_folder, init_from_run
from otcluster.dnc.run import RunFiles, restore
from otcluster.dnc.schedules import learning_rate
from otcluster.dnc.stopwatch import StepWatch, Times
from otcluster.dnc.tasks import Ended, ImageTask, Task
from otcluster.dnc.transfer import begin_with, starting_point
from otcluster.runs.errors import RunError
from otcluster.runs.files import write_table
from otcluster.runs.interruption import Interrupted, caught_signals

_State = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Of the model, and of optimizer and loop."""


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
    step_seconds: float = 0.0
    observe_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    anchors: Anchors | None = None
    anchored: dict[str, float] | None = None


def train(
    recipe: Recipe, out: str | Path, *, init_from: str | Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Train the model of a recipe, or go on where an earlier call left off.

    Under ``torchrun`` all processes call it, and each takes its part of every batch. The first writes.

    Args:
        recipe: What to train, from :func:`otcluster.dnc.load_recipe`.
        out: Directory of the run: new, empty, or of the same recipe. Keys that do not decide what is learnt may differ
            (``data.dir``, ``data.workers``, ``data.broken``, ``train.checkpoint_steps``, ``train.timeout``, ``train.shares``,
            ``explain.images_per_subcentroid``), and so may the number of processes.
        init_from: Directory of a run of images with whose weights the backbone (of a recipe of pixels: the encoder) begins,
            all of them; kept as ``backbone.init_from``, with their digest. Default: as the recipe says.
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
    if init_from is not None:
        recipe = init_from_run(recipe, str(init_from))
    with connected(recipe.train) as ranks:
        speaks = progress if progress is not None and ranks.is_first else Silent()
        return _train(recipe, RunFiles(Path(out)), speaks, ranks)


def _train(given: Recipe, files: RunFiles, progress: Progress, ranks: Ranks) -> dict[str, Any]:
    recipe, first = ranks.together(lambda: starting_point(given))
    ranks.check_same("recipes", replace(recipe, data=replace(recipe.data, dir=None)).to_yaml())
    task: Task = ranks.together(lambda: _task(recipe))
    ranks.check_same("images", task.data.fingerprint)
    metrics, state = ranks.from_first(lambda: _found(recipe, files, task.data.fingerprint))
    if metrics is not None:
        progress.note(f"{files.root} is finished: nothing to train")
        return metrics
    with torch.random.fork_rng():
        model = ranks.together(task.build)
        if state is None and recipe.backbone.init_from is not None:
            progress.note(ranks.together(lambda: _begun(model, recipe, first)))
        training = _Training(recipe, files, task, progress, ranks, model)
        if state is not None:
            ranks.together(lambda: training.restore(*state))
        ranks.from_first(lambda: files.claim(recipe))  # only now: what cannot start leaves the directory to another recipe
        return training.run()


def _task(recipe: Recipe) -> Task:
    if not recipe.of_pixels:
        return ImageTask(recipe)
    from otcluster.dnc.pixels.task import PixelTask

    return PixelTask(recipe)


def _begun(model: Any, recipe: Recipe, weights: dict[str, torch.Tensor] | None) -> str:
    """Let a model begin with the weights of a run; what was done, in words."""
    if not recipe.of_pixels:
        begin_with(model, recipe, weights)
        return f"the backbone begins with all {len(weights or ())} tensors of {recipe.backbone.init_from}"
    from otcluster.dnc.pixels.transfer import begin_encoder

    return begin_encoder(model, recipe, weights)


def _found(recipe: Recipe, files: RunFiles, fingerprint: str) -> tuple[dict[str, Any] | None, _State | None]:
    """What an earlier call left: the result, if it came to an end, and the last checkpoint."""
    files.check(recipe)
    state = load_checkpoint(files.checkpoints)
    if state is not None and state[1]["images"] != fingerprint:
        raise RunError(f"{files.root} was trained on other images than these, or was changed since: choose another --out")
    return (files.read_metrics(), None) if files.metrics.is_file() else (None, state)


class _Training:
    def __init__(self, recipe: Recipe, files: RunFiles, task: Task, progress: Progress, ranks: Ranks, model: Any) -> None:
        self.recipe, self.files, self.task, self.progress, self.ranks = recipe, files, task, progress, ranks
        self.fabric, self.model, self.data = ranks.fabric, model, task.data
        layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
        self.task.backbone(self.model).to(memory_format=layout)
        self.optimizer = build_optimizer(recipe.optim, self.model)
        self.loop = _Loop()
        self.batches_per_epoch = len(self._batches(0))
        self.caught: list[int] = []
        self.unreadable: set[int] = set()
        if any(parameter.requires_grad for parameter in model.parameters()):
            self.module, self.setup_optimizer = self.fabric.setup(self.model, self.optimizer)
            self.module.mark_forward_method(task.forward)
        else:  # there are no gradients for ranks to average, and what averages them would refuse
            double = recipe.train.precision == "64-true"
            self.module = self.fabric.to_device(self.model.double() if double else self.model)
        self.average = WeightAverage(self.task.backbone(self.model), recipe.train.ema) if recipe.train.ema else None
        self.watch = StepWatch(self.fabric.device, Times())
        self.started = time.perf_counter()

    def restore(self, weights: dict[str, torch.Tensor], saved: dict[str, Any]) -> None:
        """Go back to a checkpoint; only now that the model has the dtype that was saved."""
        restore(self.model, weights, self.files.checkpoints)
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        if saved.get("precision"):  # what gradients of float16 are scaled by
            self.fabric.strategy.precision.load_state_dict(saved["precision"])
        self.loop = _Loop(**saved["loop"])
        self.watch.times = Times(self.loop.step_seconds, self.loop.observe_seconds)

    def run(self) -> dict[str, Any]:
        if self.loop.step:
            self._write_history()
            self.progress.note(f"going on from step {self.loop.step}, epoch {self.loop.epoch + 1}")
        with caught_signals() as self.caught, quick_convolutions(self.fabric.device):
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
        self.ranks.share_buffers(self.task.backbone(self.model))
        self.ranks.from_first(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        self.loop.seconds += time.perf_counter() - self.started
        self.started = time.perf_counter()
        self.loop.step_seconds, self.loop.observe_seconds = self.watch.times.whole, self.watch.times.part
        state = {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "loop": vars(self.loop),
            **self.task.notes,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        save_checkpoint(self.files.checkpoints, self.loop.step, self.model.state_dict(), state)

    def _batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(len(self.data.train), self.recipe.data.batch_size, self.recipe.train.seed, epoch)

    def _epoch(self) -> None:
        loop, recipe = self.loop, self.recipe
        if (is_anchored := loop.epoch >= recipe.train.epochs - recipe.anchor_epochs) and not loop.batch:
            self._anchor()
        self.task.learn_mode(self.model)
        todo = self._batches(loop.epoch)[loop.batch :]
        own = [self.ranks.part(batch) for batch in todo]
        batches = self.task.batches(own, loop.epoch)
        for whole, asked, (images, labels, indices) in zip(todo, own, self.ranks.each(batches), strict=True):
            n = int(self.ranks.total(len(labels))[0])
            if n < len(whole):
                self._note_unreadable(set(asked) - set(indices.tolist()))
            if n > 1:  # statistics of a batch need two; fewer are left of it only where images are broken
                with self.watch.whole(loop.step):
                    self._step(self.fabric.to_device(images), self.fabric.to_device(labels))
            loop.batch += 1
            loop.step += 1
            self.progress.step(
                loop.step, recipe.train.epochs * self.batches_per_epoch, loop.epoch + 1, recipe.train.epochs,
                loss=loop.loss_sum / max(loop.seen, 1), accuracy=loop.right / max(loop.seen, 1),
            )  # fmt: skip
            if is_anchored and loop.batch == self.batches_per_epoch:
                self._tie(self.judged)  # before anything is saved that could be the last
            due = loop.step % recipe.train.checkpoint_steps == 0 and loop.batch < self.batches_per_epoch
            signum = self._signal()  # looked at once: a signal that comes while we save is for the next step
            if due or signum:
                self._save()
            if signum:
                raise Interrupted(signum, f"after step {loop.step}")
        if todo:  # before the evaluation, which a broken image or a signal may end and which is repeated from here
            self._save()
        if loop.epoch in (0, recipe.train.epochs - 1) and self.ranks.is_first:
            what = "labelled pixels" if self.recipe.of_pixels else "images"
            warn_of_late_classes(self.model.head, self.data.classes, what)
        last = loop.epoch == recipe.train.epochs - 1
        due = last or (loop.epoch + 1) % recipe.train.test_every == 0
        test = self._test() if due else None
        row = {
            "epoch": loop.epoch + 1,
            "step": loop.step,
            "learning_rate": self._rate(loop.step - 1),
            "train_loss": loop.loss_sum / max(loop.seen, 1),
            "train_accuracy": loop.right / max(loop.seen, 1),
            f"test_{self.task.measure}": test,
            **({} if (n_open := numbers_found(self.model.head)) is None else {"subcentroids": sum(n_open) / len(n_open)}),
        }
        if isinstance(self.model.head, DNCHead):
            row |= of_usage(self.model.head)
        loop.history.append(row)
        loop.epoch, loop.batch, loop.loss_sum, loop.right, loop.seen = loop.epoch + 1, 0, 0.0, 0, 0
        self._write_history()
        self.progress.epoch(row, recipe.train.epochs)

    def _anchor(self) -> None:
        """Let sub-centroids be images from here on, and no longer move by themselves."""
        loop = self.loop
        if loop.anchors is None:
            before = self._test()
            judged, data = self.judged, self.recipe.data
            loop.anchors = choose_anchors(judged, self.data.train, data, self.ranks, self._heed_signals)
            self._tie(judged)
            loop.anchored = {"before": before, "tied": self._test()}
            self.progress.note(
                f"each sub-centroid is a training image from epoch {loop.epoch + 1} on: test accuracy {before:.4f} before, "
                f"{loop.anchored['tied']:.4f} then"
            )
        if self.average is not None:  # what is trained sees images otherwise than what is judged
            self._tie(self.model)

    def _tie(self, model: Classifier) -> None:
        self.ranks.share_buffers(model.backbone)
        tie(model, self.loop.anchors or [], self.data.train, self.recipe.data, self.ranks)

    def _test(self) -> float:
        self.ranks.share_buffers(self.task.backbone(self.model))
        return self.task.test(self.judged, self.ranks, self._heed_signals)

    @property
    def judged(self) -> Any:
        """The model that is evaluated and kept: with the average of the weights, where one is kept."""
        if self.average is None:
            return self.model
        self.ranks.share_buffers(self.average.backbone)
        return self.task.with_backbone(self.model, self.average.backbone)

    def _rate(self, step: int) -> float:
        return learning_rate(self.recipe.optim, step, self.batches_per_epoch, self.recipe.train.epochs)

    def _note_unreadable(self, indices: set[int]) -> None:
        self.unreadable.update(*self.ranks.gathered(indices))
        rest = torch.ones(len(self.data.train), dtype=torch.bool)
        rest[sorted(self.unreadable)] = False
        self.task.check(rest, "training images that can be read")

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn from a batch, of which these images are here."""
        loop, ranks = self.loop, self.ranks
        torch.manual_seed(seed_of(self.recipe.train.seed, 1, loop.step, ranks.rank))
        rate = self._rate(loop.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        learnt = self.task.learn(self.module, self.model, images, labels, ranks)
        total, right, n = ranks.total(float(learnt.loss.detach()), learnt.right, learnt.n)
        if not math.isfinite(total):
            raise RunError(f"the loss is {total} at step {loop.step + 1}: train with a lower optim.lr, into a new --out")
        if learnt.loss.requires_grad:
            self.setup_optimizer.zero_grad()
            self.fabric.backward(
                learnt.loss * (ranks.n / max(n, 1))
            )  # gradients are averaged over the ranks, the loss over all
            self.setup_optimizer.step()
        if loop.anchors is None:
            with self.watch.part(loop.step):
                self.task.observe(self.model, learnt, ranks.reducer)
        if self.average is not None:
            self.average.update(self.task.backbone(self.model))
        loop.loss_sum += total
        loop.right += int(right)
        loop.seen += int(n)

    def _write_history(self) -> None:
        if not self.loop.history or not self.ranks.is_first:
            return
        write_table(self.files.history, self.loop.history)

    def _finish(self) -> dict[str, Any]:
        self.ranks.share_buffers(self.task.backbone(self.model))
        return self.task.finish(self.judged, self.files, self.ranks, self._heed_signals, self._ended)

    def _ended(self) -> Ended:
        loop, share = self.loop, self.watch.times.share
        seconds = loop.seconds + time.perf_counter() - self.started
        return Ended(loop.history, loop.anchors, loop.anchored, seconds, loop.step, share)
