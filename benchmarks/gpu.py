"""Measure on a CUDA device: ``python -m benchmarks.gpu [CASE ...] [--quick] [--out FILE]``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import time
from pathlib import Path

import torch

from benchmarks.cuda import Place
from benchmarks.page import GPU_CASES, RESULTS
from benchmarks.run import keep, write


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(GPU_CASES)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes on the host, to try the script; keeps nothing unless told"
    )
    parser.add_argument("--out", type=Path, help="where to write the rows; default: benchmarks/results, by the device's name")
    given = parser.parse_args(arguments)
    unknown = set(given.cases) - set(GPU_CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}: choose from {', '.join(GPU_CASES)}")
    if not given.quick and not torch.cuda.is_available():
        parser.error("no CUDA device is present: try the script with --quick")
    place = Place(torch.device("cpu" if given.quick else "cuda"), given.quick)
    print(f"{place.name}: {', '.join(f'{name} {value}' for name, value in place.versions.items())}", flush=True)
    stamp = {"device": place.name, "date": datetime.date.today().isoformat()}
    rows, began = [], time.perf_counter()
    for case in given.cases or GPU_CASES:
        for row in importlib.import_module(f"benchmarks.cases.{case}").rows(place):
            print(f"{row}; floor {row.floor_seconds * 1e3:.3f} ms ({time.perf_counter() - began:.0f} s)", flush=True)
            rows.append({**dataclasses.asdict(row), **stamp})
            if given.out is not None:  # row by row, for what comes after may fail
                write(rows, given.out)
    if given.out is None and rows and not given.quick:
        print(keep(rows, RESULTS))


if __name__ == "__main__":
    main()
