"""Signals that stop a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """A run was stopped by a signal; it can be resumed."""

    def __init__(self, signum: int, when: str, *, saved: bool = True) -> None:
        then = "goes on from there" if saved else "begins again"
        super().__init__(f"stopped by {signal.Signals(signum).name} {when}; the same command {then}")
        self.exit_code = 128 + signum


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one does what it always does."""
    with _handled(lambda: None) as caught:
        yield caught


@contextmanager
def raised_signals() -> Iterator[list[int]]:
    """Let SIGTERM raise KeyboardInterrupt as SIGINT does, at once; which it was is in the list. A second one does as always."""

    def stop() -> None:
        raise KeyboardInterrupt

    with _handled(stop) as caught:
        yield caught


@contextmanager
def _handled(then: Callable[[], None]) -> Iterator[list[int]]:
    caught: list[int] = []
    before: dict[int, Any] = {}

    def catch(signum: int, frame: object) -> None:
        caught.append(signum)
        for each, handler in before.items():
            signal.signal(each, handler)
        then()

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
