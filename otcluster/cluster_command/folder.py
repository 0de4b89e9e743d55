"""The directory of a run of ``otcluster cluster``: what lies in it, and whose it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otcluster.cluster_command.checkpoint import State, load_state
from otcluster.cluster_command.data import Data
from otcluster.cluster_command.settings import Settings, flag
from otcluster.runs.errors import RunError
from otcluster.runs.files import partial_files, replaced, write_text


@dataclass(frozen=True)
class Folder:
    """Where the files of a run lie."""

    root: Path

    @property
    def settings(self) -> Path:
        """What the run was asked for, and of which files."""
        return self.root / "settings.json"

    @property
    def labels(self) -> Path:
        return self.root / "labels.npy"

    @property
    def centroids(self) -> Path:
        return self.root / "centroids.npy"

    @property
    def report(self) -> Path:
        """Written last: the mark of a run that is finished."""
        return self.root / "report.json"

    @property
    def picture(self) -> Path:
        return self.root / "report.png"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    def found(self, settings: Settings, data: Data) -> tuple[dict[str, Any] | None, State | None]:
        """What an earlier call left of this run: the report, if it came to an end, or where it stands.

        Raises:
            RunError: The directory holds something else, or cannot be read; it is as it was.
        """
        self._check_place()
        if not self.settings.is_file():
            return None, None
        theirs, ours = self._read(self.settings), _asked(settings, data)
        state = load_state(self.checkpoint)
        if theirs != ours:
            if state is None and not self.report.exists():
                return None, None
            raise RunError(
                f"{self.root} holds a run of other settings ({_difference(theirs, ours)}): choose another --out, or remove the "
                "folder"
            )
        if self.report.is_file() and self.labels.is_file() and self.centroids.is_file():
            return self._read(self.report), None
        return None, state

    def _check_place(self) -> None:
        root = self.root
        if root.exists():
            if not root.is_dir() or (not self.settings.is_file() and set(root.iterdir()) - {*partial_files(root)}):
                raise RunError(f"{root} exists and holds no clusters of ours: choose another --out")
            return
        above = next(each for each in root.absolute().parents if each.exists())
        if not above.is_dir():
            raise RunError(f"--out {root} cannot be made: {above} is no folder")

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            raise RunError(f"{path} cannot be read ({error}): remove the folder to start again") from None
        return content

    def claim(self, settings: Settings, data: Data) -> None:
        """Make this the directory of the run, after :meth:`found`."""
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self.checkpoint):
            for leftover in partial_files(folder):
                leftover.unlink(missing_ok=True)
        text = json.dumps(_asked(settings, data), indent=2, ensure_ascii=False) + "\n"
        if not self.settings.is_file() or self.settings.read_text(encoding="utf-8") != text:
            write_text(self.settings, text)

    def save_array(self, path: Path, array: npt.NDArray[Any]) -> None:
        """Write an array, whole or not at all."""
        with replaced(path) as temporary:
            np.save(temporary, array)

    def save_report(self, report: dict[str, Any]) -> None:
        """Write the report, whole or not at all."""
        write_text(self.report, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _asked(settings: Settings, data: Data) -> dict[str, Any]:
    return {"format": 1, "settings": settings.as_dict(), "files": data.mark}


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    there = theirs.get("settings") or {}
    for name, value in ours["settings"].items():
        if there.get(name) != value:
            return f"{flag(name)} is {there.get(name)} there and {value} here"
    return "it is of other files, or they were changed since"
