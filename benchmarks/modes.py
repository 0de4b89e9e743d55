"""Which solver finds every mode of a class: ``python -m benchmarks.modes`` prints the table of the documentation."""

from __future__ import annotations

import otcluster as otc
from otcluster.dnc.head import DEFAULT_SOLVER
from tests.dnc.modes import DRAWS, Case, found

CASES = [Case(0.5, 4), Case(1.5, 4), Case(0.5, 10), Case(1.5, 10)]
SOLVERS = {
    "the default": DEFAULT_SOLVER,
    "three rounds": otc.SinkhornKnopp(epsilon=0.05, max_iter=3),
    "nearest": otc.Nearest(),
}


def main() -> None:
    print("| solver |" + "".join(f" s {case.s}, K {case.k} |" for case in CASES))
    print("|---|" + "---|" * len(CASES))
    for name, solver in SOLVERS.items():
        counts = [f" {placed} of {DRAWS} |" for placed, _ in found(CASES, solver=solver)]
        print(f"| {name} |" + "".join(counts), flush=True)


if __name__ == "__main__":
    main()
