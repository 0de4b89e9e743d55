"""Edits from a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from otcluster.dnc.picking.edits import Drop, Edit, Merge, Rename, Replace, Which
from otcluster.dnc.recipe import nearest_name
from otcluster.runs.errors import RunError

_KEYS = {
    "rename": ("subcentroid", "name"),
    "drop": ("subcentroid",),
    "merge": ("subcentroids",),
    "replace": ("subcentroid", "image"),
}


def load_edits(path: str | Path) -> list[Edit]:
    """Read the edits of a JSON file: a list of objects, each with ``do`` and what that needs.

    ``rename`` needs ``subcentroid`` and ``name``, ``drop`` needs ``subcentroid``, ``merge`` needs ``subcentroids``, and
    ``replace`` needs ``subcentroid`` and ``image``. A sub-centroid is the name that is shown, or ``[class, number]``.

    Args:
        path: The file, in UTF-8.

    Raises:
        RunError: It cannot be read, or an entry is no edit; the message names the file and the number of the entry, counted
            from 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "changes.json"
        ...     _ = path.write_text('[{"do": "drop", "subcentroid": "goose #3"}]')
        ...     load_edits(path)
        [Drop(place='goose #3')]
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise RunError(f'{path} must hold a list of edits, such as [{{"do": "drop", "subcentroid": "goose #3"}}]')
    return [_edit(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, 1)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"the key {twice[0]!r} stands twice in one object")
    return dict(pairs)


def _edit(entry: Any, where: str) -> Edit:
    if not isinstance(entry, dict):
        raise RunError(f"{where}: an edit is an object with the key do, got {entry!r}")
    do = entry.get("do")
    if not isinstance(do, str) or do not in _KEYS:
        said = "the key do is missing" if "do" not in entry else f"do is {do!r}{nearest_name(str(do), list(_KEYS))}"
        raise RunError(f"{where}: {said}: it is one of {', '.join(_KEYS)}")
    keys = _KEYS[do]
    for key in entry:
        if key not in ("do", *keys):
            raise RunError(f"{where}: {do} knows no key {key!r}{nearest_name(key, list(keys))}: it needs {' and '.join(keys)}")
    for key in keys:
        if key not in entry:
            raise RunError(f"{where}: {do} needs the key {key}")
    given = {key: entry[key] for key in keys}
    try:
        if do == "rename":
            return Rename(_which(given["subcentroid"]), given["name"])
        if do == "drop":
            return Drop(_which(given["subcentroid"]))
        if do == "merge":
            several = given["subcentroids"]
            return Merge([_which(each) for each in several] if isinstance(several, list) else several)
        return Replace(_which(given["subcentroid"]), given["image"])
    except (TypeError, ValueError) as error:
        raise RunError(f"{where}: {do}: {error}") from None


def _which(value: Any) -> Which:
    """A sub-centroid as edits take it: JSON has lists for pairs."""
    return tuple(value) if isinstance(value, list) else value
