"""A bar on a terminal with lines above it, as the commands show how they get on."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn


class BarDisplay:
    """A bar that is there while it is entered, on a terminal alone; lines are printed anywhere.

    Args:
        console: Where to.
        columns: Of the bar.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.console = console
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: Any = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
