"""What can go wrong with a recipe or its images."""

from __future__ import annotations

from otcluster.runs.errors import RunError


class RecipeError(RunError):
    """A recipe or one of its keys is not as it should be."""


class DataError(RunError):
    """The images are not as they should be."""
