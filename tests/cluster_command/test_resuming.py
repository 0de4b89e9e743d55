"""``otcluster cluster`` stopped: by signals, by being killed, by a full disk; and what the same command then goes on from."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest

import otcluster as otc
from otcluster.cluster_command.progress import Silent
from otcluster.cluster_command.settings import Settings
from otcluster.cluster_command.work import cluster
from tests.cluster_command.ranks import K
from tests.cluster_command.runs import assert_same_end, invoke, refused, succeed
from tests.disk import full_disk
from tests.dnc.conftest import listing


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_run_that_ends_as_if_nothing_had_been(file, tmp_path, monkeypatch, signum, code):
    options = [file, "-k", K, "--n-init", 3, "--seed", 1]
    succeed(*options, "--out", tmp_path / "whole")
    handler = signal.getsignal(signum)
    rounds = []

    def round_told(terminal, told, settings):
        rounds.append((told.turn, told.n_iter))
        if rounds[-1] in ((0, 2), (2, 3)):
            os.kill(os.getpid(), signum)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("otcluster.cluster_command.progress.Terminal.round", round_told)
        for start, done in ((1, 2), (3, 3)):
            result = invoke(*options, "--out", out)
            assert result.exit_code == code, result.output
            assert (
                f"stopped by {signal.Signals(signum).name} after round {done} of start {start}; the same command"
                in result.stderr
            )
            assert not (out / "labels.npy").exists()
    assert signal.getsignal(signum) is handler
    assert rounds.count((0, 2)) == rounds.count((1, 1)) == 1
    result = succeed(*options, "--out", out)
    assert "going on after round 3 of start 3" in result.stdout
    assert_same_end(out, tmp_path / "whole")


class _Stop(Silent):
    """Raises after a round, as a process that is killed would not go on."""

    def __init__(self, n_iter):
        self.n_iter = n_iter

    def round(self, told, settings):
        if told.n_iter == self.n_iter:
            raise _Killed


class _Killed(Exception):
    pass


def test_from_each_round_a_killed_run_goes_on_to_the_same_end(file, tmp_path, always_saved):
    settings = Settings(K)
    rounds = cluster([file], settings, tmp_path / "whole")["iterations"]
    assert rounds > 5
    for n_iter in (0, 1, 4, rounds):
        out = tmp_path / f"{n_iter}"
        with pytest.raises(_Killed):
            cluster([file], settings, out, progress=_Stop(n_iter))
        assert not (out / "report.json").exists()
        (out / "checkpoint" / ".state.safetensors.1.part.safetensors").write_bytes(b"half")
        cluster([file], settings, out)
        assert not list(out.rglob("*.part*"))
        assert_same_end(out, tmp_path / "whole")


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(file, tmp_path, caplog, always_saved):
    out, settings = tmp_path / "out", Settings(K)
    cluster([file], settings, tmp_path / "whole")
    with pytest.raises(_Killed):
        cluster([file], settings, out, progress=_Stop(5))
    last, before = (out / "checkpoint" / name for name in ("state.safetensors", "state-before.safetensors"))
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes(content)
    kept = shutil.copytree(out, tmp_path / "kept")
    heard = []

    class Ear(Silent):
        def note(self, text):
            heard.append(text)

    cluster([file], settings, out, progress=Ear())
    assert "going on after round 4" in heard
    assert "it is not as it was written" in caplog.text
    assert_same_end(out, tmp_path / "whole")
    for path in (last, before):
        (kept / "checkpoint" / path.name).write_bytes(content[:200])
    refused(invoke(file, "-k", K, "--out", kept), "can be read")


def test_a_run_that_could_not_start_leaves_the_directory_to_another(file, x, tmp_path):
    out = tmp_path / "out"
    broken = x.copy()
    broken[700, 2] = np.nan
    np.save(tmp_path / "bad.npy", broken)
    refused(invoke(tmp_path / "bad.npy", "-k", K, "--out", out), f"NaN or infinity in row 700 of {tmp_path / 'bad.npy'}")
    assert not out.exists()
    succeed(file, "-k", K, "--out", out)


def test_a_full_disk_leaves_what_was_written_before(file, tmp_path, monkeypatch, always_saved):
    out = tmp_path / "out"
    succeed(file, "-k", K, "--out", out)
    (out / "report.json").unlink()  # so that all is written again
    before = listing(out)
    for n_writes in (0, 1, 2, 4):
        with monkeypatch.context() as patch:
            full_disk(patch, n_writes)
            refused(invoke(file, "-k", K, "--out", out), "error: No space left on device; what was written before is whole")
        after = listing(out)
        assert not any(".part" in name for name in after)
        assert {name: content for name, content in after.items() if name != "report.png"} == {
            name: content for name, content in before.items() if name != "report.png"
        }
    succeed(file, "-k", K, "--out", out)
    for n_writes in (3, 8, 11):
        with monkeypatch.context() as patch:
            full_disk(patch, n_writes)
            refused(invoke(file, "-k", K, "--out", tmp_path / "new"), "No space left on device")
        assert not (tmp_path / "new" / "labels.npy").exists()
    succeed(file, "-k", K, "--out", tmp_path / "new")
    assert_same_end(tmp_path / "new", out)


def test_a_signal_before_the_first_round_leaves_nothing(file, tmp_path, monkeypatch):
    monkeypatch.setattr(otc.KMeansPlusPlus, "draw", lambda *given: os.kill(os.getpid(), signal.SIGTERM))
    result = invoke(file, "-k", K, "--out", tmp_path / "out")
    assert result.exit_code == 143
    assert result.stderr == "stopped by SIGTERM before the first round; the same command begins again\n"
    assert not (tmp_path / "out").exists()
