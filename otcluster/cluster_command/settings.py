"""What ``otcluster cluster`` is asked for: everything that decides the answer, beside the vectors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from otcluster.clustering.samples import Geometry
from otcluster.clustering.starts import KMeansParallel, KMeansPlusPlus, Start
from otcluster.runs.errors import RunError
from otcluster.solvers import ExactBalanced, Nearest, Solver

STARTS: dict[str, type[Start]] = {"k-means++": KMeansPlusPlus, "k-means||": KMeansParallel}


@dataclass(frozen=True)
class Settings:
    """The options of the command, by the names they have there.

    Raises:
        RunError: A value is impossible, or two of them do not go together.
    """

    n_clusters: int
    balanced: bool = False
    size_min: int | None = None
    size_max: int | None = None
    metric: Geometry = "sqeuclidean"
    init: str = "k-means++"
    n_init: int = 1
    max_iter: int = 300
    tol: float = 1e-4
    seed: int = 0
    column: str | None = None
    tensor: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("n_clusters", 1), ("n_init", 1), ("max_iter", 1), ("seed", 0), ("tol", 0)):
            if not getattr(self, name) >= least:
                raise RunError(f"{flag(name)} must be at least {least}, got {getattr(self, name)}")
        if not math.isfinite(self.tol):
            raise RunError(f"--tol must be finite, got {self.tol}")
        for name in ("size_min", "size_max"):
            if (size := getattr(self, name)) is not None and size < 0:
                raise RunError(f"{flag(name)} must not be negative, got {size}")
        if self.balanced and self.sized:
            raise RunError("--balanced asks for equal sizes, and --size-min and --size-max for others: give one or the other")
        if self.size_min is not None and self.size_max is not None and self.size_min > self.size_max:
            raise RunError(f"--size-min must not exceed --size-max, got {self.size_min} and {self.size_max}")
        if self.init not in STARTS:
            raise RunError(f"--init must be {' or '.join(STARTS)}, got {self.init}")

    @property
    def sized(self) -> bool:
        """Whether sizes are to lie between bounds."""
        return self.size_min is not None or self.size_max is not None

    @property
    def solver(self) -> Solver:
        """What assigns the vectors."""
        return ExactBalanced(self.size_min, self.size_max) if self.balanced or self.sized else Nearest()

    @property
    def start(self) -> Start:
        """Where the centroids begin."""
        return STARTS[self.init]()

    def check(self, n: int) -> None:
        """See that ``n`` vectors can be clustered so.

        Raises:
            RunError: There are too few, or they cannot have such sizes.
        """
        k = self.n_clusters
        if k > n:
            raise RunError(f"-k must be at most the number of vectors, got {k} for {n}")
        if self.size_min is not None and self.size_min * k > n:
            raise RunError(
                f"--size-min {self.size_min} is impossible: {k} clusters of as many take {self.size_min * k} vectors, "
                f"and there are {n}. It can be {n // k} at most"
            )
        if self.size_max is not None and self.size_max * k < n:
            raise RunError(
                f"--size-max {self.size_max} is impossible: {k} clusters of as many hold {self.size_max * k} vectors, "
                f"and there are {n}. It must be {-(-n // k)} at least"
            )

    def as_dict(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)


def flag(name: str) -> str:
    """How a setting is called on the command line."""
    return "-k" if name == "n_clusters" else f"--{name.replace('_', '-')}"
