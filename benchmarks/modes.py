"""Which solver finds every mode of a class: ``python -m benchmarks.modes`` prints the table of the documentation."""

from __future__ import annotations

import otcluster as otc
from otcluster.dnc.head import DEFAULT_SOLVER
from tests.dnc.modes import DRAWS, draws_with_all_modes_found

CASES = ((0.5, 4), (1.5, 4), (0.5, 10), (1.5, 10))
SOLVERS = {
    "the default": DEFAULT_SOLVER,
    "three rounds": otc.SinkhornKnopp(epsilon=0.05, max_iter=3),
    "nearest": otc.Nearest(),
}


def main() -> None:
    print("| solver |" + "".join(f" s {s}, K {k} |" for s, k in CASES))
    print("|---|" + "---|" * len(CASES))
    for name, solver in SOLVERS.items():
        found = [f" {draws_with_all_modes_found(s, k, solver)} of {DRAWS} |" for s, k in CASES]
        print(f"| {name} |" + "".join(found), flush=True)


if __name__ == "__main__":
    main()
