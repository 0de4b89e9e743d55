"""What sub-centroids are called: by their number, until somebody names them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_FORBIDDEN = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, breaks of lines and paragraphs


def subcentroid_names(classes: Sequence[str], k: int) -> list[list[str]]:
    """What sub-centroids are called until somebody names them.

    Example:
        >>> subcentroid_names(["cat", "dog"], 2)
        [['cat #1', 'cat #2'], ['dog #1', 'dog #2']]
    """
    return [[f"{name} #{at + 1}" for at in range(k)] for name in classes]


def check_name(name: str) -> None:
    r"""See that a sub-centroid can be called so.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, begins or ends with a blank, or is not one line of characters that can be shown.

    Example:
        >>> check_name("goose in flight")
        >>> check_name("goose\nin flight")
        Traceback (most recent call last):
        ...
        ValueError: a name must be one line without control characters, got 'goose\nin flight'
    """
    if not isinstance(name, str):
        raise TypeError(f"a name must be text, got {name!r}")
    if any(unicodedata.category(each) in _FORBIDDEN for each in name):
        raise ValueError(f"a name must be one line without control characters, got {name!a}")
    if not name or name != name.strip():
        raise ValueError(f"a name must not be empty, nor begin or end with a blank, got {name!r}")
