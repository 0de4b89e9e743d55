"""What can go wrong around a run that is the user's to mend; the command line prints it and exits with 2."""

from __future__ import annotations


class RunError(ValueError):
    """Settings, a directory or its data do not allow what was asked; nothing was changed."""


class CheckpointError(RunError):
    """No checkpoint can be read, or it does not fit."""


class LostRankError(RunError):
    """Another process of the launch has ended, or does not answer: this one cannot go on."""
