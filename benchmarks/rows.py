"""A row of a table, a point of a plot, and how a row comes of a peer and of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import Peer
from benchmarks.timing import copy_speed, measure, product_speed, ratio, versions


@dataclass(frozen=True)
class Row:
    """One question, and how a peer and otcluster answer it. ``error_is`` is a word that the page explains."""

    case: str
    what: str
    peer: str
    peer_seconds: float
    seconds: float
    ratio: float
    error_is: str
    peer_error: float | None
    error: float | None
    peer_memory: int | None
    memory: int | None
    floor_seconds: float
    target: float | None = None
    versions: dict[str, str] = field(default_factory=versions)

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.peer} {self.peer_seconds * 1e3:.2f} ms, otcluster {self.seconds * 1e3:.2f} ms, "
            f"ratio {self.ratio:.1f}; error ({self.error_is}) {pair(self.peer_error, self.error, small)}; "
            f"memory {pair(self.peer_memory, self.memory, megabytes)} MB"
        )


@dataclass(frozen=True)
class Point:
    """One candidate at one place of an axis of a plot; no error where the answer is not finite."""

    case: str
    axis: str
    n: int
    k: int
    epsilon: float
    candidate: str
    seconds: float
    error: float | None
    memory: int | None
    floor_seconds: float
    versions: dict[str, str] = field(default_factory=versions)

    def __str__(self) -> str:
        error = "no finite answer" if self.error is None else f"L1 error {small(self.error)}"
        return (
            f"{self.n} x {self.k}, epsilon {self.epsilon:g}: {self.candidate} {self.seconds * 1e3:.2f} ms, {error}, "
            f"memory {megabytes(self.memory)} MB"
        )


def compared(
    case: str,
    what: str,
    peer: Peer,
    ours: Callable[[], Any],
    *,
    error_is: str,
    errors: Callable[[Any, Any], tuple[float | None, float]],
    floor_bytes: float = 0.0,
    floor_flops: float = 0.0,
    repeats: int = 9,
    slow: float | None = None,
    target: float | None = None,
) -> Iterator[Row]:
    """The row of a peer, or none where it is missing or cannot do the job (it is named then).

    ``errors`` gives that of the peer and ours from the two answers. The floor is the time for the bytes, or that for the flops
    if it is longer. Who takes more than ``slow`` seconds (two) is called once.
    """
    theirs = peer.ready(what)
    if theirs is None:
        return
    ours()  # compiles
    measured = measure({"theirs": theirs, "ours": ours}, repeats, slow)
    them, us = measured["theirs"], measured["ours"]
    peer_error, error = errors(them.answer, us.answer)
    yield Row(
        case=case,
        what=what,
        peer=peer.name,
        peer_seconds=them.median,
        seconds=us.median,
        ratio=ratio(them.seconds, us.seconds),
        error_is=error_is,
        peer_error=peer_error,
        error=error,
        peer_memory=them.memory,
        memory=us.memory,
        floor_seconds=max(floor_bytes / copy_speed(), floor_flops / product_speed() if floor_flops else 0.0),
        target=target,
        versions=versions(*peer.packages),
    )


def within(
    case: str, what: str, limit: str, seconds: float, memory: int | None, measured: dict[str, float], *, floor_seconds: float
) -> Row:
    """The row of what has a limit to keep instead of a peer; ``measured`` has its seconds and memory, and the gap if any."""
    return Row(
        case=case,
        what=what,
        peer=limit,
        peer_seconds=seconds,
        seconds=measured["seconds"],
        ratio=seconds / measured["seconds"],
        error_is="gap",
        peer_error=None,
        error=measured.get("gap"),
        peer_memory=memory,
        memory=measured["memory"],
        floor_seconds=floor_seconds,
    )


def pair(theirs: float | None, ours: float | None, form: Callable[[float | None], str]) -> str:
    """Two figures, theirs first."""
    return f"{form(theirs)} / {form(ours)}"


def small(value: float | None) -> str:
    """An error."""
    return "–" if value is None else "0" if value == 0 else f"{value:.0e}"


def megabytes(value: float | None) -> str:
    """Bytes, in millions."""
    return "–" if value is None else f"{value / 1e6:.1f}"
