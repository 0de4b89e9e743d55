"""What each of several processes does in the tests of ``otcluster cluster``: a module of its own, since all import it."""

from __future__ import annotations

import errno
import json
import os
import signal
import time

import numpy as np
import pytest

from otcluster.cluster_command import data as data_room
from otcluster.cluster_command import work as work_room
from otcluster.cluster_command.settings import Settings
from otcluster.cluster_command.work import cluster
from otcluster.runs.errors import RunError

N, K = 1201, 12


def slow(n=N, seed=3):
    """Vectors whose clusters overlap, so that there are some rounds."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((30, 6))
    return (centres[rng.integers(30, size=n)] + 3 * rng.standard_normal((n, 6))).astype(np.float32)


SCENARIOS = {
    "shards": (["shards"], Settings(K, init="k-means++"), None),
    "cosine": (["shards"], Settings(K, metric="cosine", init="k-means||", n_init=2), "w.npy"),
    "few": (["few.npy"], Settings(2, init="k-means++"), None),  # fewer vectors than there are processes
}


def shared(folder):
    """What a launch finds."""
    x = slow()
    (folder / "shards").mkdir()
    for name, part in zip("abc", np.split(x, [100, 1000]), strict=True):
        np.save(folder / "shards" / f"{name}.npy", part)
    np.save(folder / "w.npy", np.random.default_rng(0).uniform(0, 2, N))
    np.save(folder / "few.npy", x[:3])
    x[900, 1] = np.inf
    np.save(folder / "bad.npy", x)


def work(folder):
    """What each of some processes does; the tests below look at what they leave."""
    rank, n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    data_room._HELD = 10_000  # some are held and some are read anew
    found = {}
    for name, (paths, settings, weights) in SCENARIOS.items():
        given = [folder / path for path in paths]
        cluster(given, settings, folder / f"{name}-{n}", weights=weights and folder / weights, timeout=60)
    for name, arguments in (
        ("nan", ([folder / "bad.npy"], Settings(K), folder / "nan")),
        ("absent", ([folder / ("few.npy" if rank else "absent.npy")], Settings(2), folder / "absent")),
        ("sized", ([folder / "few.npy"], Settings(2, balanced=True), folder / "sized")),
    ):
        with pytest.raises(RunError) as refused:
            cluster(*arguments, timeout=60)
        found[name] = str(refused.value)
    sync = os.fsync
    if rank == 0:

        def full(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        os.fsync = full
    with pytest.raises(OSError if rank == 0 else RunError, match="No space left on device"):
        cluster([folder / "shards"], Settings(K), folder / f"full-{n}", timeout=60)
    os.fsync = sync

    # The last process leaves after some rounds; the others hear of it when they next exchange something.
    before = time.perf_counter()
    if rank == n - 1:
        watch = work_room._Work._watch

        def leaving(run, told):
            watch(run, told)
            if told.n_iter == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        work_room._Work._watch = leaving
    with pytest.raises(RunError) as lost:
        cluster([folder / "shards"], Settings(K, init="k-means++"), folder / f"lost-{n}", timeout=60)
    found["lost"], found["seconds"] = str(lost.value), time.perf_counter() - before
    (folder / f"{n}-{rank}.json").write_text(json.dumps(found))
