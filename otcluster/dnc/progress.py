"""What a training run tells while it runs."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from otcluster.runs.display import BarDisplay


class Progress(Protocol):
    """Who is told how training goes."""

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def step(self, step: int, steps: int, epoch: int, epochs: int, *, loss: float, accuracy: float) -> None:
        """A step is done."""
        ...

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """An epoch is done; ``row`` is its line of the history."""
        ...


class Silent:
    """Tells nothing."""

    def note(self, text: str) -> None:
        """Told to nobody."""

    def step(self, step: int, steps: int, epoch: int, epochs: int, *, loss: float, accuracy: float) -> None:
        """Told to nobody."""

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Told to nobody."""


class Terminal(BarDisplay):
    """A line for each epoch, and on a terminal a bar with loss, accuracy and the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console,
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.3f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )

    def step(self, step: int, steps: int, epoch: int, epochs: int, *, loss: float, accuracy: float) -> None:
        """Move the bar."""
        state: dict[str, Any] = {"epoch": f"{epoch}/{epochs}", "loss": loss, "accuracy": accuracy}
        if self._task is None:
            self._task = self._bar.add_task("", total=steps, completed=step - 1, **state)
        self._bar.update(self._task, completed=step, **state)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Print the line of an epoch."""
        [tested] = [value for name, value in row.items() if name.startswith("test_")]
        test = "" if tested is None else f"  test {tested:.4f}"
        self.note(f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}{test}")
