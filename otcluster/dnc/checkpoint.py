"""Checkpoints that are whole or not there, and that cannot execute code."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from otcluster.runs.errors import CheckpointError
from otcluster.runs.files import sync, write_text

logger = logging.getLogger(__name__)

_KEPT = 2
_FORMAT = 1
MODEL_FILE = "model.safetensors"
_LOOP_FILE = "training.pt"
_MANIFEST = "manifest.json"
_LATEST = "latest"
# A checkpoint, or one that made room for another of the same step and was not removed yet.
_NAME = re.compile(r"step-(\d+)|\.step-(\d+)\.aside")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError)


def save_checkpoint(folder: Path, step: int, model: dict[str, Tensor], loop: dict[str, Any]) -> Path:
    """Save one checkpoint under ``folder`` and drop all but it and the one before.

    Those of later steps go too: they could not be read, or else training would not be behind them.

    Args:
        folder: ``checkpoints/`` of a run.
        step: Steps done.
        model: State of the model, centroids and memory included.
        loop: State of optimizer and loop: tensors, numbers, strings, lists and dictionaries.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: It could not be written; earlier checkpoints are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, aside = folder / f"step-{step}", folder / f".step-{step}.aside"
    for leftover in folder.glob(".step-*"):
        place = folder / leftover.stem[1:]
        if leftover in checkpoints(folder) and not place.exists():
            os.rename(leftover, place)
        else:
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder / f".step-{step}.{os.getpid()}"
    try:
        temporary.mkdir()
        weights = {name: value.detach().cpu().contiguous() for name, value in model.items()}
        (temporary / MODEL_FILE).write_bytes(save(weights))
        whole = BytesIO()  # torch tells of a disk that is full in words of its own
        torch.save(loop, whole)
        (temporary / _LOOP_FILE).write_bytes(whole.getbuffer())
        digests = {name: _digest(temporary / name) for name in (MODEL_FILE, _LOOP_FILE)}
        manifest = {"format": _FORMAT, "step": step, "sha256": digests}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for name in (*digests, _MANIFEST):
            sync(temporary / name)
        sync(temporary)
        if final.exists():
            os.rename(final, aside)  # not removed before the other is in its place
        os.rename(temporary, final)
        sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_text(folder / _LATEST, f"{final.name}\n")
    kept = [path for path in checkpoints(folder) if path != aside and _step(path) <= step][:_KEPT]
    for old in checkpoints(folder):
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest checkpoint that is whole, saying so if it is not the last one.

    Returns:
        The two states that were saved; None where nothing was.

    Raises:
        CheckpointError: There are checkpoints, but none can be read.
    """
    candidates = checkpoints(folder)
    problems = []
    if (folder / _LATEST).exists():
        try:
            named = _step(Path((folder / _LATEST).read_text(encoding="utf-8").strip()))
            candidates.sort(key=lambda path: _step(path) != named)
            if not candidates or _step(candidates[0]) != named:
                raise FileNotFoundError(f"step-{named} is not there")
        except (OSError, ValueError) as error:
            problems.append(f"{_LATEST}: {error}")
            logger.warning("the checkpoint that %s names cannot be used (%s)", folder / _LATEST, error)
    for candidate in candidates:
        try:
            state = _read(candidate)
        except _UNREADABLE as error:
            problems.append(f"{candidate.name}: {error}")
            logger.warning("checkpoint %s cannot be used (%s); trying the one before", candidate.name, error)
            continue
        if problems:
            logger.warning("going on from checkpoint %s", candidate.name)
        return state
    if problems:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(problems)}. Remove the folder to start again")
    return None


def _read(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is {manifest['format']}, this version reads {_FORMAT}")
    for name in (MODEL_FILE, _LOOP_FILE):
        if _digest(checkpoint / name) != manifest["sha256"][name]:
            raise ValueError(f"{name} is not as it was written")
    loop: dict[str, Any] = torch.load(checkpoint / _LOOP_FILE, map_location="cpu", weights_only=True)
    return load_file(checkpoint / MODEL_FILE), loop


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints, newest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (-_step(path), path.name.startswith(".")))


def _step(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint.name!r} is no checkpoint")
    return int(match[1] or match[2])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
