"""What an ablation compares: variants of a recipe, from ``--vary``, ``--variant`` and YAML files."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from otcluster.dnc.errors import RecipeError
from otcluster.dnc.recipe import nearest_name

_PACKAGE = "otcluster.dnc.ablations"
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "'\""
_LONGEST_NAME = 100
# What the runs of a variant differ in, and the option that gives it.
_REPEATS = {"train.seed": "--seeds", "data.split_seed": "--splits", "data.fold": "--splits"}


@dataclass(frozen=True)
class Variant:
    """Changes of a recipe that go together.

    Attributes:
        name: What it is called in tables.
        changes: ``key=value`` each.
    """

    name: str
    changes: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """What it changes."""
        return [change.split("=", 1)[0] for change in self.changes]

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        name = re.sub(r"[^\w=.,+\-\[\]]", "_", self.name).lstrip(".") or "_"
        if len(name) <= _LONGEST_NAME and name == self.name:
            return name
        return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Axis:
    """Variants of which each run has one; those of several axes are combined.

    Attributes:
        variants: At least one.
        key: The key that is varied, where it is one.
        values: Its values where all are numbers, in the order of the variants.
    """

    variants: tuple[Variant, ...]
    key: str | None = None
    values: tuple[float, ...] | None = None


def vary(text: str) -> Axis:
    """Read ``key=a,b,c``: one variant for each value. Commas inside brackets or quotation marks do not separate.

    Raises:
        RecipeError: It is written otherwise, or a value is given twice.

    Example:
        >>> [variant.name for variant in vary("head.kind=dnc,linear").variants]
        ['head.kind=dnc', 'head.kind=linear']
        >>> len(vary("train.shares=[1,2],null").variants)
        2
    """
    key, _, values = text.partition("=")
    parts = _separated(values)
    if not re.fullmatch(r"\w+(\.\w+)+", key) or not all(parts):
        raise RecipeError(f"{text!r} does not say what to vary: write --vary key=a,b,c, head.n_subcentroids=1,2,4 for example")
    return _axis_of(key, [(part, part) for part in parts])


def variant(text: str) -> Variant:
    """Read ``NAME: key=value key=value ...``: a variant of several changes.

    Raises:
        RecipeError: It is written otherwise.

    Example:
        >>> variant("k-means: solver.kind=nearest head.momentum=0.9").changes
        ('solver.kind=nearest', 'head.momentum=0.9')
    """
    name, colon, rest = text.partition(":")
    changes = tuple(rest.split())
    if not colon or not name.strip() or not all("=" in change[1:] for change in changes):
        raise RecipeError(f"{text!r} is no variant: write --variant 'NAME: key=value key=value', 'NAME:' alone for no change")
    return Variant(name.strip(), changes)


def set_names() -> list[str]:
    """The sets inside the package."""
    return sorted(entry.name[: -len(".yaml")] for entry in resources.files(_PACKAGE).iterdir() if entry.name.endswith(".yaml"))


def load_set(name: str) -> tuple[str, list[Axis]]:
    """Read a set of variants: its description, and what is varied.

    Args:
        name: A set of the package, or the path of a YAML file with a ``description`` and ``vary`` (a list of values for each
            key, all combined), or ``variants`` (by name, the values of several keys), or both.

    Raises:
        RecipeError: There is no such set, or it is written otherwise.

    Example:
        >>> description, (axis,) = load_set("head")
        >>> axis.key, len(axis.variants)
        ('head.kind', 2)
    """
    if name in set_names():
        text = resources.files(_PACKAGE).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    elif name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read set {name}: {getattr(error, 'strerror', None) or error}") from None
    else:
        raise RecipeError(f"there is no set {name!r}{nearest_name(name, set_names())}: choose one of {', '.join(set_names())}")
    try:
        values = OmegaConf.to_container(OmegaConf.create(text))
    except Exception as error:  # whatever YAML's reader raises
        raise RecipeError(f"set {name} cannot be read: {error}") from None
    return _parse_set(values, name)


def _parse_set(values: Any, name: str) -> tuple[str, list[Axis]]:
    if not isinstance(values, dict) or not set(values) <= {"description", "vary", "variants"}:
        raise RecipeError(f"set {name} must have the keys description and vary or variants, and no others")
    axes = []
    for key, many in (values.get("vary") or {}).items():
        if not isinstance(many, list) or not many:
            raise RecipeError(f"set {name}: vary.{key} must be a list of values, got {many!r}")
        axes.append(_axis_of(str(key), [(_label(value), _text(value)) for value in many]))
    named = values.get("variants") or {}
    if not all(isinstance(changes, dict | None) for changes in named.values()):
        raise RecipeError(f"set {name}: each of variants must have keys and values, such as head.kind: linear")
    if named:
        changes = {each: tuple(f"{key}={_text(value)}" for key, value in (own or {}).items()) for each, own in named.items()}
        axes.append(axis(Variant(str(each), own) for each, own in changes.items()))
    if not axes:
        raise RecipeError(f"set {name} varies nothing")
    return str(values.get("description", "")), axes


def axis(variants: Iterable[Variant]) -> Axis:
    """Named variants side by side.

    Raises:
        RecipeError: Two have the same name.
    """
    variants = tuple(variants)
    names = [each.name for each in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"{twice[0]} is there twice: each variant needs a name of its own")
    return Axis(variants)


def combined(axes: Sequence[Axis]) -> list[Variant]:
    """Every combination of one variant of each axis, the first axis slowest.

    Raises:
        RecipeError: Two axes change the same key, or one changes what ``--seeds`` and ``--splits`` do; or there is no axis.
    """
    if not axes:
        raise RecipeError("nothing is varied: pass --vary key=a,b,c, --variant or --set")
    taken: set[str] = set()
    for each in axes:
        own = {key for one in each.variants for key in one.keys}
        if both := own & taken:
            raise RecipeError(f"{min(both)} is varied twice: leave one out")
        if repeated := own & _REPEATS.keys():
            key = min(repeated)
            raise RecipeError(f"{key} is not varied, it is what runs are repeated with: pass {_REPEATS[key]} N")
        taken |= own
    found = []
    for parts in itertools.product(*(each.variants for each in axes)):
        found.append(Variant(", ".join(part.name for part in parts), tuple(c for part in parts for c in part.changes)))
    return found


def _axis_of(key: str, values: list[tuple[str, str]]) -> Axis:
    """One variant for each value, given as (label, text)."""
    variants = axis(Variant(f"{key}={label}", (f"{key}={text}",)) for label, text in values).variants
    return Axis(variants, key, _numbers([text for _, text in values]))


def _numbers(texts: list[str]) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: Any) -> str:
    """A value as it is written after ``key=``: text in quotation marks is not read as anything else."""
    return json.dumps(value, ensure_ascii=False)


def _separated(text: str) -> list[str]:
    """The parts between commas that are outside of brackets and quotation marks."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        else:
            depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
