"""Files that are whole or not there."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = re.compile(r"\..+\.\d+\.part(\.\w+)?")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name to write to; what was written takes the place of ``path`` at once, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # which is the name that somebody knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def partial_files(folder: Path) -> list[Path]:
    """What writers that were killed left in ``folder``."""
    return [path for path in folder.iterdir() if _PARTIAL.fullmatch(path.name)] if folder.is_dir() else []


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``rows`` to ``path`` as CSV, whole or not at all; what a row does not have stays empty."""
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sync(path: Path) -> None:
    """See a file or a folder onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
