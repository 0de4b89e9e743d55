"""The page of the documentation, from rows that were measured before: ``python -m benchmarks.page`` draws it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.plots import draw
from benchmarks.rows import megabytes, pair, small

CASES = ("grouped", "dense", "converged", "exact", "kmeans", "stores", "scaling")
GPU_CASES = ("gpu_dense", "gpu_grouped", "gpu_points")
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"

_INTRODUCTION = """\
# Benchmarks

Written by `make bench`, and so are its plots; rows of a GPU come from `python -m benchmarks.gpu`. The candidates of a row run
in turn, warm; times are medians, and a ratio is the median of the ratios of the turns (how many times faster otcluster is),
with what is aimed at in brackets. Who takes more than two seconds (a minute, of k-means) is called once. Where two figures
stand in a cell, the first is the peer's. Memory is the peak of what a call takes beyond what was there before, the answer
included. The floor is the time to read the bytes that must be read, at the speed at which a large array is copied; for k-means,
of the operations of its matrix products at the speed of a large one. What the error is, each table says. On processors passes
of otcluster are compiled (the extra `fast`). A peer that could not be run has no row.
"""


def page(results: dict[str, list[dict[str, Any]]], images: Path, root: Path) -> str:
    """The text, from the rows of each device (by the name of its file); draws the plots into ``images``.

    Links to the plots are relative to ``root``, the folder of the page.
    """
    text = [_INTRODUCTION]
    for name, rows in sorted(results.items()):
        text += [f"## {rows[0]['device']}\n", f"{_versions(rows)}.\n"]
        for case in (*CASES, *GPU_CASES):
            of_case = [row for row in rows if row["case"] == case]
            if not of_case:
                continue
            title, about = importlib.import_module(f"benchmarks.cases.{case}").ABOUT
            text += [f"### {title}\n", about + "\n"]
            if case == "scaling":
                for path, alternative in draw(of_case, images, name):
                    text.append(f"![{alternative}]({os.path.relpath(path, root)})\n")
            else:
                text += [*_table(of_case), ""]
    return "\n".join(text).rstrip() + "\n"


def write_page() -> None:
    """Write the page from the kept rows, and its plots."""
    (DOCS / "benchmarks.md").write_text(page(load(RESULTS), DOCS / "images", DOCS))


def load(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each file of results."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _versions(rows: list[dict[str, Any]]) -> str:
    dates = sorted({row["date"] for row in rows})
    found = {package: version for row in rows for package, version in row["versions"].items()}
    return ", ".join([" to ".join(dict.fromkeys((dates[0], dates[-1]))), *(f"{p} {version}" for p, version in found.items())])


def _table(rows: list[dict[str, Any]]) -> Iterable[str]:
    yield "| what | against | theirs | otcluster | ratio | floor | error | memory, MB |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {_cell(row['what'])} | {row['peer']} "
            f"| {_milliseconds(row['peer_seconds'])} | {_milliseconds(row['seconds'])} | "
            f"{row['ratio']:.1f}{_aim(row['target'])} | {_milliseconds(row['floor_seconds'])} | "
            f"{row['error_is']} {pair(row['peer_error'], row['error'], small)} | "
            f"{pair(row['peer_memory'], row['memory'], megabytes)} |"
        )


def _aim(target: float | None) -> str:
    return "" if target is None else f" ({target:g})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:,.2f} ms" if seconds < 1 else f"{seconds * 1e3:,.0f} ms"


if __name__ == "__main__":
    write_page()
