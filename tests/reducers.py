"""Ranks as threads of one process, with a reducer that waits for all of them and never for ever."""

from __future__ import annotations

import functools
import math
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from array_api_compat import array_namespace

_PATIENCE = 60  # seconds after which a rank that waits gives up


class Exchange:
    """What the ranks of one run share.

    Attributes:
        rounds: What each rank handed over in each exchange.
        gone: The ranks that have ended, and will hand over nothing more.
    """

    def __init__(self, n_ranks):
        self.n_ranks = n_ranks
        self.rounds = defaultdict(dict)
        self.gone = set()
        self.changed = threading.Condition()

    @property
    def sizes(self):
        """How many numbers a rank handed over in each exchange."""
        return [math.prod(next(iter(here.values()))[1].shape) for here in self.rounds.values()]

    def all_of(self, at, rank, kind, array):
        """The arrays that all ranks hand over in exchange ``at``."""
        here = self.rounds[at]
        with self.changed:
            here[rank] = kind, array
            self.changed.notify_all()
            self.changed.wait_for(lambda: len(here) == self.n_ranks or self.gone - here.keys(), _PATIENCE)
        if len(here) < self.n_ranks:
            raise RuntimeError(f"rank {rank} waits for others, which have ended or wait for something else")
        kinds, arrays = zip(*(here[each] for each in range(self.n_ranks)), strict=True)
        assert len(set(kinds)) == 1, "ranks exchange different things"
        shapes = {tuple(each.shape[kind == "gather" :]) for each in arrays}
        assert len(shapes) == 1, "ranks exchange arrays of different shapes"
        assert len({str(each.dtype) for each in arrays}) == 1, "ranks exchange arrays of different dtypes"
        return arrays

    def leave(self, rank):
        with self.changed:
            self.gone.add(rank)
            self.changed.notify_all()


class ThreadReducer:
    """The :class:`otcluster.Reducer` of one of several threads."""

    def __init__(self, exchange, rank):
        self.exchange, self.rank, self.at = exchange, rank, -1

    @property
    def n_ranks(self):
        return self.exchange.n_ranks

    def gather(self, array):
        return array_namespace(array).concat(self.gathered("gather", array))

    def sum(self, array):
        return functools.reduce(lambda one, two: one + two, self.gathered("sum", array))

    def max(self, array):
        return functools.reduce(array_namespace(array).maximum, self.gathered("max", array))

    def gathered(self, kind, array):
        """The arrays of all ranks, in the same order on each."""
        self.at += 1
        return self.exchange.all_of(self.at, self.rank, kind, array)


def outcomes(n_ranks, function, make=ThreadReducer):
    """Call ``function(rank, reducer)`` on each rank: (what each returned or raised, how many numbers went round each time)."""
    exchange = Exchange(n_ranks)

    def run(rank):
        try:
            return function(rank, make(exchange, rank))
        except Exception as error:
            return error
        finally:
            exchange.leave(rank)

    with ThreadPoolExecutor(n_ranks) as pool:
        return list(pool.map(run, range(n_ranks))), exchange.sizes


def run_ranks(n_ranks, function, make=ThreadReducer):
    """What ``function(rank, reducer)`` returns on each rank."""
    found, _ = outcomes(n_ranks, function, make)
    errors = [each for each in found if isinstance(each, Exception)]
    for error in sorted(errors, key=lambda error: isinstance(error, RuntimeError)):
        raise error
    return found
