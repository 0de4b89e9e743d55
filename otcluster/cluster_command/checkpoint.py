"""Where a run of k-means stands, in one file that is whole or not there and cannot execute code."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from otcluster.runs.errors import CheckpointError
from otcluster.runs.files import replaced

logger = logging.getLogger(__name__)

_FORMAT = 1
_LAST, _BEFORE = "state.safetensors", "state-before.safetensors"
_KEY = "otcluster"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)
Centroids = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Found:
    """What a start came to."""

    turn: int
    n_iter: int
    inertia: float
    converged: bool
    centroids: Centroids = field(repr=False)


@dataclass(frozen=True, eq=False)
class State:
    """Everything that the next round depends on, beside settings and vectors.

    Attributes:
        turn, n_iter, converged: The start in hand, how many rounds of it are done, and whether they were all.
        seconds: What it took so far.
        centroids: After these rounds, float64.
        best: What the best of the starts before came to.
    """

    turn: int
    n_iter: int
    converged: bool
    seconds: float
    centroids: Centroids = field(repr=False)
    best: Found | None = None


def save_state(folder: Path, state: State) -> None:
    """Write a checkpoint, and keep the one before.

    Raises:
        OSError: It could not be written; a checkpoint that was there is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = asdict(state)
    tensors = {"centroids": numbers.pop("centroids")}
    if state.best is not None:
        tensors["best"] = numbers["best"].pop("centroids")
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    text = json.dumps({"format": _FORMAT, **numbers})
    metadata = {_KEY: text, "sha256": _digest(text, tensors)}
    last = folder / _LAST
    with replaced(last) as temporary:
        temporary.write_bytes(save(tensors, metadata))
        if last.exists():
            os.replace(last, folder / _BEFORE)


def load_state(folder: Path) -> State | None:
    """Read the newest checkpoint that is whole, saying so if it is not the last one; None where there is none.

    Raises:
        CheckpointError: There are checkpoints, but none can be read.
    """
    problems = []
    for name in (_LAST, _BEFORE):
        if not (folder / name).exists():
            continue
        try:
            state = _read(folder / name)
        except _UNREADABLE as error:
            problems.append(f"{name}: {error}")
            logger.warning("checkpoint %s cannot be used (%s)", folder / name, error)
            continue
        return state
    if problems:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(problems)}. Remove the folder to start again")
    return None


def _read(path: Path) -> State:
    content = path.read_bytes()
    tensors = load(content)
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    if _digest(metadata[_KEY], tensors) != metadata["sha256"]:
        raise ValueError("it is not as it was written")
    numbers = json.loads(metadata[_KEY])
    if (version := numbers.pop("format")) != _FORMAT:
        raise ValueError(f"its format is {version}, this version reads {_FORMAT}")
    if numbers["best"] is not None:
        numbers["best"] = Found(**numbers["best"], centroids=tensors["best"])
    return State(**numbers, centroids=tensors["centroids"])


def _digest(text: str, tensors: dict[str, Centroids]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
