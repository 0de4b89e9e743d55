"""What ``otcluster cluster`` tells while it runs."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from otcluster.cluster_command.settings import Settings
from otcluster.clustering.progress import KMeansProgress
from otcluster.runs.display import BarDisplay

_LINES_APART = 10.0  # seconds
_LOOKED_BACK = 6  # rounds


class Progress(Protocol):
    """Who is told how it goes."""

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def round(self, told: KMeansProgress, settings: Settings) -> None:
        """A round is done, or a start has been drawn."""
        ...


class Silent:
    """Tells nothing."""

    def note(self, text: str) -> None:
        """Told to nobody."""

    def round(self, told: KMeansProgress, settings: Settings) -> None:
        """Told to nobody."""


class Terminal(BarDisplay):
    """A bar on a terminal; elsewhere a line for the first round, the last and some between. Both say what time is left."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console,
            TextColumn("{task.description}"),
            BarColumn(20),
            TextColumn("{task.fields[text]}"),
            TextColumn("{task.fields[left]}"),
        )
        self._said = -math.inf
        self._left = TimeLeft()

    def round(self, told: KMeansProgress, settings: Settings) -> None:
        """Move the bar, or print a line."""
        rounds = self._left.rounds(told, settings)
        most = "at most" if rounds == settings.max_iter - told.n_iter else "about"
        left = f"{most} {duration(rounds * self._left.seconds)} left" if told.n_iter and rounds else ""
        which = f"start {told.turn + 1}/{settings.n_init}  " if settings.n_init > 1 else ""
        name = f"{which}round {told.n_iter}"
        text = f"changed {told.changed:.2%}  shift {told.shift:.1e}" if told.n_iter else ""
        if self._task is None:
            self._task = self._bar.add_task("", text="", left="")
        total = told.n_iter + rounds
        self._bar.update(self._task, description=name, completed=told.n_iter, total=total, text=text, left=left)
        ends = told.converged or told.n_iter == settings.max_iter
        if not told.n_iter or not (ends or told.n_iter == 1 or time.monotonic() - self._said > _LINES_APART):
            return
        if ends or not self.console.is_terminal:
            self._said = time.monotonic()
            self.note(f"{name}  {text} (ends at {settings.tol:.1e})  {left or duration(told.seconds)}".rstrip())


class TimeLeft:
    """Guesses how many rounds are left from how fast the shift has fallen in the last ones."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_LOOKED_BACK)
        self.seconds = 0.0

    def rounds(self, told: KMeansProgress, settings: Settings) -> int:
        """At most as many as are allowed; they are often fewer."""
        most = max(0, settings.max_iter - told.n_iter)
        if told.n_iter == 0:
            self._seen.clear()
            return most
        self._seen.append((told.shift, told.seconds))
        (first, begun), (last, now) = self._seen[0], self._seen[-1]
        steps = len(self._seen) - 1
        self.seconds = (now - begun) / steps if steps else now
        if told.converged or most == 0:
            return 0
        if steps and math.isfinite(first) and 0 < settings.tol < last < first:
            return max(1, min(most, math.ceil(steps * math.log(last / settings.tol) / math.log(first / last))))
        return most


def duration(seconds: float) -> str:
    """Some seconds as people say it.

    Example:
        >>> duration(0.4), duration(75), duration(7260)
        ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
