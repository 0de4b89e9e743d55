"""Measure: ``python -m benchmarks.run [CASE ...] [--write]``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.page import CASES, RESULTS, write_page
from benchmarks.timing import device, one_heap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--write", action="store_true", help="keep the rows in benchmarks/results, and draw page and plots")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    one_heap()
    stamp = {"device": device(), "date": datetime.date.today().isoformat()}
    rows = []
    for case in arguments.cases or CASES:
        for row in importlib.import_module(f"benchmarks.cases.{case}").rows():
            print(row, flush=True)
            rows.append({**dataclasses.asdict(row), **stamp})
    if arguments.write and rows:
        keep(rows, RESULTS)
        write_page()


def keep(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Put rows of one device in the place of earlier ones of the same cases, each on a line of its file."""
    path = folder / (re.sub(r"[^a-z0-9]+", "-", rows[0]["device"].lower()).strip("-") + ".json")
    measured = {row["case"] for row in rows}
    kept = [row for row in json.loads(path.read_text()) if row["case"] not in measured] if path.exists() else []
    write(kept + rows, path)
    return path


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Each row on a line of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
