"""The rules of the house."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import otcluster
import otcluster.dnc

PACKAGE = Path(otcluster.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TORCH_ROOMS = ("_ops/torch.py", "_ops/torch_gradients.py", "_kernels/", "distributed.py", "stores/", "runs/ranks.py", "dnc/")
# A room may import those of its own floor and of the floors below.
FLOORS = [
    ("_kernels",),
    ("_ops",),
    ("scores", "checks", "group_ids", "masses", "problem", "distributed", "sharding", "new_samples"),
    ("fused", "ranges", "on_device", "on_device_points", "passes", "half_rounds", "labelling", "curvature", "feasibility"),
    ("balancing",),
    ("plans", "adjoint", "prices", "gradients", "assignment", "priced", "partial"),
    ("solvers",),
    ("solve",),
    ("clustering", "metrics"),
    ("stores",),
    ("estimators",),
    ("runs",),
    ("cluster_command",),
    ("dnc",),
    ("cli",),
    ("__init__", "__main__"),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(path):
    """Modules that a file imports when it runs (not for types alone)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "otcluster":
                yield from (f"otcluster.{name.name}" for name in node.names)
            else:
                yield node.module


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_torch_is_imported_only_where_it_may_be():
    for path in FILES:
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(TORCH_ROOMS):
            assert not [name for name in imports(path) if name.split(".")[0] == "torch"], place


def test_dependencies_point_one_way():
    for path in FILES:
        if room(path) in ("__init__", "__main__", "cli"):
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "otcluster" and len(parts) > 1:
                assert FLOOR[parts[1]] <= FLOOR[room(path)], f"{path.name} imports {name}"


def test_numpy_problems_are_solved_without_torch():
    code = (
        "import sys, numpy as np, otcluster as otc\n"
        "for solver in (otc.SinkhornKnopp(), otc.LogSinkhorn(), otc.Nearest()):\n"
        "    otc.solve(otc.Problem(np.eye(3)), solver).plan()\n"
        "assert 'torch' not in sys.modules\n"
        "otc.CentroidStore\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_the_head_needs_no_extra():
    code = "import sys; from otcluster.dnc import DNCHead; assert not {'timm', 'torchvision', 'omegaconf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rooms_are_small_and_say_what_they_are_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert not text.strip() or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("package", [otcluster, otcluster.dnc], ids=lambda package: package.__name__)
def test_public_names_are_documented_and_typed(package):
    stub = Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    for name in package.__all__:
        value = getattr(package, name)
        assert f"as {name}\n" in stub
        assert inspect.getdoc(value), name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
