"""A checkpoint is whole or not there, the newest whole one is used, and none can execute code."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
import torch

from otcluster.dnc import checkpoint
from otcluster.dnc.checkpoint import load_checkpoint, save_checkpoint
from otcluster.runs.errors import CheckpointError
from otcluster.runs.files import write_text
from tests.dnc.conftest import listing


def save(folder, step):
    return save_checkpoint(folder, step, {"w": torch.full((3,), float(step))}, {"step": step, "rows": [{"a": 0.5}]})


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path, 7)
    weights, loop = load_checkpoint(tmp_path)
    assert weights["w"].tolist() == [7, 7, 7]
    assert loop == {"step": 7, "rows": [{"a": 0.5}]}


def test_two_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-10", "step-11"]
    assert (tmp_path / "latest").read_text() == "step-11\n"


def test_nothing_saved_is_nothing_loaded(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_harmed_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, name, harm):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if harm == "cut" else bytes([data[0] ^ 1]) + data[1:])
    _, loop = load_checkpoint(tmp_path)
    assert loop["step"] == 1
    assert "step-2 cannot be used" in caplog.text
    assert "going on from checkpoint step-1" in caplog.text


def test_only_harmed_checkpoints_are_an_error(tmp_path):
    (save(tmp_path, 1) / "model.safetensors").write_bytes(b"")
    before = listing(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read: step-1: model.safetensors is not as"):
        load_checkpoint(tmp_path)
    assert listing(tmp_path) == before


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    path = save(tmp_path, 1)
    (path / "training.pt").write_bytes(pickle.dumps(Bomb()))
    manifest = (path / "manifest.json").read_text()
    old = checkpoint._digest(path / "model.safetensors")
    assert old in manifest
    digests = {name: checkpoint._digest(path / name) for name in ("model.safetensors", "training.pt")}
    (path / "manifest.json").write_text(f'{{"format": 1, "step": 1, "sha256": {digests}}}'.replace("'", '"'))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("call", ["fsync", "rename", "replace"])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, call):
    save(tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 2)
    assert load_checkpoint(tmp_path)[1]["step"] in (1, 2)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    save(tmp_path, 3)
    assert load_checkpoint(tmp_path)[1]["step"] == 3


@pytest.mark.parametrize("which", ["weights", "loop"])
def test_a_disk_that_is_full_in_the_middle_of_a_file_is_said_as_such(tmp_path, which):
    resource = pytest.importorskip("resource", reason="this system has no limits of a process")
    save(tmp_path, 1)
    state = {"weights": {"w": torch.zeros(3)}, "loop": {"step": 2}}
    state[which]["large"] = torch.zeros(100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # writes end as they do on a full disk, half done
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tmp_path, 2, state["weights"], state["loop"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-1"]


def test_saving_a_step_again_never_leaves_it_without_a_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)
    rename = os.rename

    def full(source, target):
        if target == tmp_path / "step-1":
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 1)
    assert load_checkpoint(tmp_path)[1]["step"] == 1
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-1", "step-2"]
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-1", "step-2"]


def test_what_training_went_back_behind_takes_no_place(tmp_path):
    save(tmp_path, 10)
    (save(tmp_path, 20) / "model.safetensors").write_bytes(b"")
    for step in (12, 14):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-12", "step-14"]


@pytest.mark.parametrize(
    ("latest", "message"), [(b"step-9", "step-9 is not there"), (b"\xff\xfe", "utf-8"), (b"?", "'\\?' is no checkpoint")]
)
def test_a_latest_that_names_no_checkpoint_is_said(tmp_path, caplog, latest, message):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (tmp_path / "latest").write_bytes(latest)
    assert load_checkpoint(tmp_path)[1]["step"] == 2
    assert "going on from checkpoint step-2" in caplog.text
    for each in (path, tmp_path / "step-1"):
        each.rename(tmp_path / f"away-{each.name}")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
