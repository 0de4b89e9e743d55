"""Measure: ``python -m benchmarks.run [CASE ...] [--write]``."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.timing import device, versions

ROOT = Path(__file__).parent
CASES = ("grouped", "dense", "converged", "exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--write", action="store_true", help="keep the rows in benchmarks/results and docs/benchmarks.md")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    stamp = {"device": device(), "date": datetime.date.today().isoformat(), **versions()}
    rows = []
    for case in arguments.cases or CASES:
        for row in importlib.import_module(f"benchmarks.cases.{case}").rows():
            print(line(row), flush=True)
            rows.append({**row, **stamp})
    if arguments.write:
        write(rows, stamp["device"])


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    if "memory_ratio" in row:
        return f"{row['what']}: {row['memory_ratio']:.1f}"
    return (
        f"{row['what']}: {row['peer']} {row['peer_seconds'] * 1e3:.2f} ms, otcluster {row['seconds'] * 1e3:.2f} ms, "
        f"ratio {row['ratio']:.1f}, error {row['error']:.1e}"
    )


def write(rows: list[dict[str, Any]], where: str) -> None:
    """Put the rows in the place of earlier ones of the same cases and device, and draw the table anew from all."""
    path = ROOT / "results" / (re.sub(r"[^a-z0-9]+", "-", where.lower()).strip("-") + ".json")
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else []
    measured = {row["case"] for row in rows}
    path.write_text(json.dumps([row for row in kept if row["case"] not in measured] + rows, indent=1) + "\n")
    (ROOT.parent / "docs" / "benchmarks.md").write_text(page())


def page() -> str:
    """The page of the documentation, from all results."""
    text = [
        "# Benchmarks",
        "",
        "Written by `make bench`. The candidates of a row run in turn; times are medians, a ratio is the median of the ratios",
        "of the turns (how many times faster otcluster is). The error is the largest difference of any plan entry to that of",
        "the recipe in float64; where both sides converge to a tolerance, the L1 error of our plan, recomputed; of exact",
        "sizes, how far the sum of scores lies from the peer's (or the dual gap), as a share of n times their range; else as",
        "the row says. Passes of otcluster are compiled (the extra `fast`).",
        "The floor is the time to read the scores once a round and once for the answer, at the measured speed of a copy.",
        "",
    ]
    for path in sorted((ROOT / "results").glob("*.json")):
        rows = json.loads(path.read_text())
        first = rows[0]
        text += [
            f"## {first['device']}",
            "",
            f"{first['date']}, torch {first['torch']}, NumPy {first['numpy']}.",
            "",
            "| what | against | theirs | otcluster | ratio | floor | error |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if "memory_ratio" in row:
                continue
            floor = f"{row['floor_seconds'] * 1e3:.1f} ms" if "floor_seconds" in row else ""
            text.append(
                f"| {row['what']} | {row['peer']} | {row['peer_seconds'] * 1e3:.2f} ms | {row['seconds'] * 1e3:.2f} ms | "
                f"{row['ratio']:.1f} | {floor} | {row['error']:.0e} |"
            )
        text += ["", *[f"{row['what']}: {row['memory_ratio']:.1f}." for row in rows if "memory_ratio" in row], ""]
    return "\n".join(text).rstrip() + "\n"


if __name__ == "__main__":
    main()
