"""What can go wrong around a run that is the user's to mend; the command line prints it and exits with 2."""

from __future__ import annotations


class RunError(ValueError):
    """A recipe, a run directory or its data do not allow what was asked; nothing was changed."""


class RecipeError(RunError):
    """A recipe or one of its keys is not as it should be."""


class DataError(RunError):
    """The images are not as they should be."""


class CheckpointError(RunError):
    """No checkpoint can be read, or it does not fit the model."""
