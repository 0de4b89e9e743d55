"""What an ablation tells while it runs."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from otcluster.dnc.ablations.comparison import Outcome
from otcluster.dnc.ablations.plan import Run
from otcluster.runs.display import BarDisplay


class Watcher(Protocol):
    """Who is told how an ablation goes."""

    def begin(self, n_runs: int, n_finished: int) -> None:
        """It begins; some runs were finished before."""
        ...

    def moved(self, run: Run, share: float) -> None:
        """A run has come this far, from 0 to 1."""
        ...

    def ended(self, run: Run, outcome: Outcome) -> None:
        """A run has ended, well or not."""
        ...


class Unwatched:
    """Tells nothing."""

    def begin(self, n_runs: int, n_finished: int) -> None:
        """Told to nobody."""

    def moved(self, run: Run, share: float) -> None:
        """Told to nobody."""

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Told to nobody."""


class RunsTerminal(BarDisplay):
    """A line for each run that ends, and on a terminal a bar over all of them with the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console,
            TextColumn("run {task.fields[at]}"),
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._n_runs, self._n_ended = 0, 0
        self._shares: dict[str, float] = {}

    def begin(self, n_runs: int, n_finished: int) -> None:
        """Say what there is to do, and show the bar."""
        self._n_runs, self._n_ended = n_runs, n_finished
        if n_finished:
            self.note(f"{n_finished} of {n_runs} runs are finished")
        self._task = self._bar.add_task("", total=n_runs, completed=n_finished, at=self._at(), what="")

    def moved(self, run: Run, share: float) -> None:
        """Move the bar."""
        self._shares[run.folder] = share
        self._bar.update(self._task, completed=self._n_ended + sum(self._shares.values()), at=self._at(), what=run.folder)

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Print the line of a run."""
        self._shares.pop(run.folder, None)
        self._n_ended += 1
        self._bar.update(self._task, completed=self._n_ended + sum(self._shares.values()), at=self._at())
        found = f"test {outcome.value:.4f}, {outcome.seconds:.0f} s" if outcome.failed is None else f"failed: {outcome.failed}"
        self.note(f"{self._at()}  {run.folder}  {found}")

    def _at(self) -> str:
        return f"{self._n_ended}/{self._n_runs}"
