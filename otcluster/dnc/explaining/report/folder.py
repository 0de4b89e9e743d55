"""The directory of a report: whether it may be one, and how its files come into it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from otcluster.dnc.explaining.report.content import FORMAT
from otcluster.runs.errors import RunError
from otcluster.runs.files import partial_files, replaced, write_text

PAGE, DATA = "index.html", "report.json"
_OURS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.png")
_LONGEST = 40


def file_name(at: int, name: str, kind: str = "explained") -> str:
    """The name of a PNG file, such as that of an explained image: plain letters, whatever the image is called.

    Example:
        >>> file_name(3, "../<b>my photo</b>.jpeg")
        'explained-003-b-my-photo-b-.jpeg.png'
    """
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")
    return f"{kind}-{at:03}-{plain[-_LONGEST:].lstrip('-.') or 'image'}.png"


def check_folder(root: Path) -> None:
    """See that this is, or may become, the directory of a report.

    Raises:
        RunError: It holds something else, or cannot be made.
    """
    if root.exists():
        if not root.is_dir() or (not _is_report(root) and set(root.iterdir()) - {*partial_files(root)}):
            raise RunError(f"{root} exists and is no report: choose another --out")
        return
    above = next(each for each in root.absolute().parents if each.exists())
    if not above.is_dir():
        raise RunError(f"--out {root} cannot be made: {above} is no folder")


def write(root: Path, page: str, said: dict[str, Any], pictures: dict[str, bytes]) -> Path:
    """Write a report, after :func:`check_folder`; what an earlier one left goes.

    The data come first, for they mark the folder as a report, and the page last.

    Returns:
        The page.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in partial_files(root):
        leftover.unlink(missing_ok=True)
    earlier = _files_of(root)
    write_text(root / DATA, json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")
    for name, picture in pictures.items():
        with replaced(root / name) as temporary:
            temporary.write_bytes(picture)
    for name in earlier - set(pictures):
        (root / name).unlink(missing_ok=True)
    write_text(root / PAGE, page)
    return root / PAGE


def _read(root: Path) -> dict[str, Any]:
    try:
        found = json.loads((root / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_report(root: Path) -> bool:
    return _read(root).get("format") == FORMAT


def _files_of(root: Path) -> set[str]:
    """The pictures of an earlier report; no other names, whatever its data say."""
    said = _read(root)
    names = said.get("files") if said.get("format") == FORMAT else None
    return {name for name in names if isinstance(name, str) and _OURS.fullmatch(name)} if isinstance(names, list) else set()
