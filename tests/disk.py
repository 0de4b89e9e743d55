"""A disk that is full after a while."""

from __future__ import annotations

import errno
import os


def full_disk(monkeypatch, n_writes):
    """``n_writes`` files and folders reach the disk before it is full."""
    sync, left = os.fsync, [n_writes]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
