"""Samples that several processes share: what a solve asks of them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from otcluster._ops.generic import Array


@runtime_checkable
class Reducer(Protocol):
    """What :func:`otcluster.solve` takes as ``reducer``: sums and maxima over the ranks that share the samples.

    Every rank calls the same methods in the same order, with arrays of the same shape in the library and on the device of its
    scores. What comes back is of that kind too, and must be the same *to the bit* on every rank: loops end by it. Where a rank
    may die, its methods should raise after a while rather than wait for ever.

    Example:
        The reducer of one rank alone, to show the form. Between threads or processes each method waits for all ranks.

        >>> import numpy as np
        >>> import otcluster as otc
        >>> class Alone:
        ...     def sum(self, array):
        ...         return array
        ...     def max(self, array):
        ...         return array
        >>> problem = otc.Problem(np.array([[1.0, 0.0], [0.9, 0.8]]), sharded=True)
        >>> otc.solve(problem, otc.SinkhornKnopp(), reducer=Alone()).labels()
        array([0, 1])
    """

    def sum(self, array: Array) -> Array:
        """The sum over the ranks, entry by entry."""
        ...

    def max(self, array: Array) -> Array:
        """The maximum over the ranks, entry by entry."""
        ...
