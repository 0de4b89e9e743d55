"""What is compared: mean and deviation of each variant, and paired differences with their interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

_LEVEL = 0.95


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        variant: Name of its variant.
        seed: ``train.seed``.
        split: Which way of holding out test images.
        folder: Where it lies, below the directory of the ablation.
        value: On the test images, in [0, 1]: the accuracy, or of recipes of pixels the mean IoU. None where it has not ended
            well.
        seconds: How long it trained.
        failed: Why it failed; None where it did not.
    """

    variant: str
    seed: int
    split: int
    folder: str
    value: float | None = None
    seconds: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        variant: Its name.
        n: How many of its runs are finished.
        mean: Of the values; None without runs.
        deviation: Standard deviation of the values between runs, with n - 1; None with fewer than two.
        difference: Mean of the paired differences to the first variant, over runs of the same seed and split; None without.
        low: Lower end of the 95 % interval of that mean, by Student's t; None with fewer than two pairs.
        high: Upper end.
        n_pairs: How many pairs there are.
        seconds: Mean time of a run.
        failed: How many of its runs failed.
        missing: How many have not been trained to the end yet.
    """

    variant: str
    n: int
    mean: float | None
    deviation: float | None
    difference: float | None
    low: float | None
    high: float | None
    n_pairs: int
    seconds: float | None
    failed: int
    missing: int


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`otcluster.dnc.ablate`.

    Attributes:
        rows: One for each variant, in their order; the first is what the others are compared with.
        outcomes: One for each run.
        measure: What is compared, ``"accuracy"`` or ``"mean IoU"``.
    """

    rows: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]
    measure: str = "accuracy"

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.failed is not None]

    @classmethod
    def of(cls, variants: Sequence[str], outcomes: Sequence[Outcome], measure: str = "accuracy") -> Comparison:
        """Compare the variants, given what is known of each run.

        Example:
            >>> runs = [Outcome(name, seed, 0, "", value, 1.0) for name, seed, value in
            ...         [("a", 0, 0.5), ("a", 1, 0.7), ("b", 0, 0.6), ("b", 1, 0.9)]]
            >>> row = Comparison.of(["a", "b"], runs).rows[1]
            >>> round(row.difference, 3), round(row.low, 3), row.n_pairs
            (0.15, -0.485, 2)
        """
        first = {(each.seed, each.split): each.value for each in outcomes if each.variant == variants[0]}
        rows = []
        for at, name in enumerate(variants):
            own = [each for each in outcomes if each.variant == name]
            good = [each for each in own if each.value is not None]
            pairs = [
                each.value - other
                for each in good
                if at and each.value is not None and (other := first.get((each.seed, each.split))) is not None
            ]
            mean, deviation = _mean([each.value for each in good if each.value is not None])
            difference, spread = _mean(pairs)
            half = None if spread is None else spread / math.sqrt(len(pairs)) * _student(len(pairs) - 1)
            rows.append(
                Row(
                    variant=name,
                    n=len(good),
                    mean=mean,
                    deviation=deviation,
                    difference=difference,
                    low=None if half is None or difference is None else difference - half,
                    high=None if half is None or difference is None else difference + half,
                    n_pairs=len(pairs),
                    seconds=_mean([each.seconds for each in good if each.seconds is not None])[0],
                    failed=sum(each.failed is not None for each in own),
                    missing=sum(each.failed is None and each.value is None for each in own),
                )
            )
        return cls(tuple(rows), tuple(outcomes), measure)


def _student(freedom: int) -> float:
    """How many standard errors the interval goes to either side."""
    return float(student_t.ppf((1 + _LEVEL) / 2, freedom))


def _mean(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation, as far as there are values for them."""
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None
