"""Every kernel compiles for a real device, of which none is needed: to a program whose numbers stay in registers."""

from __future__ import annotations

import importlib.util
import re
import subprocess

import pytest

from tests.kernels.conftest import INTERPRETED

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]
NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@pytest.fixture(scope="module")
def ptxas():
    from triton import knobs

    try:
        return knobs.nvidia.ptxas.path
    except (RuntimeError, AttributeError, FileNotFoundError):
        pytest.skip("ptxas, which comes with Triton, is not present")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Compile for the architecture of H100 and H200."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compiled(kernel, constants, types, warps, stages=3, aligned=()):
        signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
        attributes = {
            (at,): [["tt.divisibility", 16]]
            for at, name in enumerate(kernel.arg_names)
            if signature[name].startswith("*") or name in aligned
        }
        source = ASTSource(
            kernel, signature, {(kernel.arg_names.index(name),): value for name, value in constants.items()}, attributes
        )
        return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages})

    return compiled


@pytest.fixture
def spilt(ptxas, made, tmp_path):
    """Compile likewise: how many bytes of registers are spilt, and the text of the program."""

    def compiled(*given, **options):
        program = made(*given, **options)
        text = program.asm["ptx"]
        (tmp_path / "kernel.ptx").write_text(text)
        told = subprocess.run(
            [ptxas, "-v", "--gpu-name=sm_90a", str(tmp_path / "kernel.ptx"), "-o", str(tmp_path / "kernel.cubin")],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        assert program.metadata.shared <= 227 << 10
        return int(re.search(r"(\d+) bytes spill stores", told)[1]), text

    return compiled


POINTS = [("float16", 128, 1, 1), ("float16", 256, 1, 2), ("float16", 256, 2, 2), ("float32", 32, 1, 1)]


@pytest.mark.parametrize(("dtype", "d", "own", "other"), POINTS)
@pytest.mark.parametrize("name", ["rows", "columns", "nearest", "sums"])
def test_points(spilt, name, dtype, d, own, other):
    import torch

    from otcluster._kernels import points, points_loops

    blocks = points.blocks_of(getattr(torch, dtype), d, own, other, name == "nearest")
    floats = ("own_factor", "other_factor", "near", "after", "tops", "weights", "bests", "extras", "own_offset", "offset")
    types = {
        **dict.fromkeys(("own_parts", "other_parts"), f"*{NAMES[dtype]}"), **dict.fromkeys(floats, "*fp32"), "totals": "*fp64",
        "labels": "*i64", **dict.fromkeys(("n_own", "n_other", "span", "n_dims"), "i32"),
        "inverse": "fp64" if own == 1 else "fp32",  # torch.compile makes the former of a number of Python
    }  # fmt: skip
    constants = {
        "D": d, "OWN_PARTS": own, "OTHER_PARTS": other, "OWN": blocks.own, "OTHER": blocks.other, "DEPTH": blocks.depth,
        "HAS_FACTOR": own == 2, "HAS_OTHER": name != "nearest" and other == 2,
        **({"HAS_AFTER": name == "rows"} if name in ("rows", "nearest") else {}),
        **({"HAS_OFFSET": True} if name == "sums" else {}),
    }  # fmt: skip
    kernel = getattr(points_loops, f"{name}_kernel")
    lost, text = spilt(kernel, constants, types, blocks.warps, blocks.stages, ("n_own", "n_other", "span", "n_dims"))
    assert lost == 0
    # The tensor cores multiply, and as this architecture does it at its best.
    assert ("wgmma" in text) == (dtype == "float16")


def test_vectors_and_members(spilt):
    from otcluster._kernels import members_loops, sides_loops

    types = {
        "x": "*fp16", "vectors": "*fp32", "parts": "*fp16",
        **dict.fromkeys(("order", "bounds", "firsts", "labels"), "*i64"),
        **dict.fromkeys(("sums", "masses", "pieces", "shifts", "around", "sums_of", "squares_of"), "*fp64"),
        **dict.fromkeys(("D", "d", "n", "count", "width", "chunk"), "i32"),
        **dict.fromkeys(("weights", "scale", "centre", "centroids", "squares", "factors", "tops"), "*fp32"),
        "multiplier": "fp32", "halves": "fp32",
    }  # fmt: skip
    block = {"ROWS": 32, "WIDTH": 128}
    all_of_it = {"HAS_WEIGHTS": True, "HAS_CENTRE": True, "HAS_SCALE": True, **block}
    laid = {
        "HIGHEST": 14,
        "RAISED": True,
        "MOVED": True,
        "AROUND": False,
        "DIRECTION": False,
        "PARTS": 2,
        "ROWS": 16,
        "DIMS": 128,
    }
    for kernel, constants in (
        (members_loops.piece_sums_kernel, all_of_it),
        (members_loops.merged_kernel, {"ROWS": 16, "WIDTH": 128}),
        (members_loops.moments_kernel, {"HAS_WEIGHTS": True, "HAS_SCALE": True, "ROWS": 16, "WIDTH": 128}),
        (members_loops.own_squares_kernel, {"HAS_SCALE": True, **block}),
        (sides_loops.laid_kernel, laid),
        (sides_loops.laid_kernel, {**laid, "PARTS": 1, "count": 1}),
    ):
        assert spilt(kernel, constants, types, 4, aligned=("D", "d", "width"))[0] == 0


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_dense(spilt, dtype):
    from otcluster._kernels import dense, long_rows

    real = {"bf16": "fp32", "fp32": "fp64"}[dtype]  # what torch.compile makes of a number of Python
    floats = ("weights", "tops", "sums", "lost", "factors", "part_tops", "out", "near", "rest")
    types = {
        "scores": f"*{dtype}", **dict.fromkeys(floats, "*fp32"), "g": "*fp64", "masses": "*fp64", "labels": "*i64",
        "epsilon": real, **dict.fromkeys(("n", "k", "stride", "parts", "count"), "i32"),
    }  # fmt: skip
    rows = {"R": 2, "K": 4096, "WEIGHTED": False}
    span = {"bf16": 8, "fp32": 4}[dtype]
    long = {"R": 4, "G": 1024 // span, "S": span}
    for kernel, constants, warps in (
        (dense._first_part, rows, 16),
        (dense._columns_part, rows, 16),
        (dense._labels_of_rows, {"R": 2, "K": 4096}, 16),
        (dense._plan_of_rows, rows, 16),
        (long_rows.parts_of_g, {"C": 1024}, 4),
        (long_rows.long_rows, {**long, "WEIGHTED": False, "PLAN": False}, 8),
        (long_rows.long_rows, {**long, "WEIGHTED": True, "PLAN": True}, 8),
        (long_rows.long_labels, long, 8),
        (long_rows.long_columns, {"R": 8, "C": 1024, "FIRST": False, "WEIGHTED": False}, 4),
    ):
        assert spilt(kernel, constants, types, warps, aligned=("k", "stride"))[0] == 0
    merged = {**types, "sums": "*fp32", "out": "*fp64"}
    assert spilt(dense._merged, {"FIRST": True, "RAISE": True, "P": 64, "C": 32}, merged, 4, aligned=("k",))[0] == 0


def test_survey(spilt):
    from otcluster._kernels import survey

    types = {
        "scores": "*bf16", **dict.fromkeys(("weights", "parts_of_range"), "*fp32"), "out": "*fp64", "marks": "*i32",
        **dict.fromkeys(("clusters", "totals"), "*fp64"), "groups": "*i64", "limit": "fp32", "lost_counts": "fp32",
        **dict.fromkeys(("n", "k", "n_rows", "n_problems"), "i32"),
    }  # fmt: skip
    for grouped in (False, True):
        constants = {"R": 1, "G": 512, "S": 8, "PARTS": 512, "PROBLEMS": 1, "WEIGHTED": True, "GROUPED": grouped}
        assert spilt(survey._survey, constants, types, 8, aligned=("k",))[0] == 0


GROUPS = {
    "scores": "*fp32", "order": "*i64", "starts": "*i64", "weights": "*fp32", "masses": "*fp64", "begin": "*fp64",
    "g_out": "*fp64", "labels": "*i64", "errors": "*fp64", "counts": "*i64", "x": "*fp32", "centroids": "*fp32",
    **dict.fromkeys(("k", "d", "most"), "i32"), "epsilon": "fp32", "limit": "fp32",
}  # fmt: skip


def test_groups(spilt):
    from otcluster._kernels import grouped, own

    for tolerance, best in ((False, False), (True, False), (True, True)):
        constants = {"R": 32, "K": 4, "WEIGHTED": False, "STARTED": False, "TO_TOL": tolerance, "BEST": best}
        numbers = {"epsilon": "fp64", "limit": "fp64"} if tolerance else {}  # as torch.compile has them
        assert spilt(grouped._rounds, constants, {**GROUPS, **numbers}, 1)[0] == 0
    for metric in (0, 1, 2):
        assert spilt(own._own, {"R": 16, "K": 4, "D": 128, "METRIC": metric}, GROUPS, 4, aligned=("d",))[0] == 0


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(("tolerance", "best"), [(False, False), (True, False), (True, True)])
def test_rounds_of_groups_end_with_what_their_loop_made(made, tolerance, best, started):
    """A compiled loop carries names that have a new value in it, and not those that another name's old value is given to.

    The interpreter runs Python, which does not mind.
    """
    from otcluster._kernels import grouped

    constants = {"R": 32, "K": 4, "WEIGHTED": True, "STARTED": started, "TO_TOL": tolerance, "BEST": best}
    text = made(grouped._rounds, constants, GROUPS, 1).asm["ttir"]
    (stored,) = re.findall(r"tt\.store %\w+, %(\w+)(?:#\d+)?, %\w+ : tensor<4x!tt\.ptr<f64>>", text)
    loops = re.findall(r"%(\w+)(?::\d+)? = scf\.(?:for|while) ", text)
    assert stored in loops


def test_updates(spilt):
    from otcluster._kernels import updates

    floats = ("rows", "usage", "lengths", "sums", "counts", "keep", "add", "given")
    types = {
        **dict.fromkeys(floats, "*fp32"), "age": "*i64", "n_updates": "*i64", "is_open": "*i1",
        "momentum": "fp64", "rest": "fp64", "d": "i32", "k": "i32",
    }  # fmt: skip
    constants = {"D": 2048, "K": 4, "UNIT": True, "LENGTHS": False, "GIVEN": False}
    assert spilt(updates._absorb, constants, types, 4, aligned=("d",))[0] == 0
