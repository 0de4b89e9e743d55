"""Sets of separated Gaussians whose number is known."""

from __future__ import annotations

import numpy as np


def gaussian_blobs(seed, *, n=600, separation=3.0, uneven_sizes=False, uneven_spreads=False, k=None, dim=None):
    """Round Gaussians of which no two come close.

    The distance of any two centres is at least ``separation`` times the sum of their standard deviations, and for one pair it
    is that: seen along the line between them, at 3, one sample in 700 lies on the other side of the middle.

    Args:
        seed: Of everything; it also chooses ``k`` from 2 to 12 and ``dim`` from 2 to 20 where they are not given.
        n: Samples.
        separation: See above.
        uneven_sizes: Whether sizes differ, by a factor of up to 6; otherwise they are equal.
        uneven_spreads: Whether standard deviations differ, from 0.5 to 2; otherwise they are 1.
        k: Blobs.
        dim: Coordinates.

    Returns:
        Samples (n, dim), float64, and k.
    """
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 13)) if k is None else k
    dim = int(rng.integers(2, 21)) if dim is None else dim
    share = rng.uniform(1, 6, k) if uneven_sizes else np.ones(k)
    spread = rng.uniform(0.5, 2, k) if uneven_spreads else np.ones(k)
    centres = rng.standard_normal((k, dim))
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1) / (spread[:, None] + spread)
    centres *= separation / apart[np.triu_indices(k, 1)].min()
    sizes = np.diff(np.round(n * np.cumsum([0, *(share / share.sum())])).astype(int))
    which = np.repeat(np.arange(k), sizes)
    return centres[which] + spread[which, None] * rng.standard_normal((n, dim)), k
