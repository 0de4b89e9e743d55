"""Problems for the laws, some with an answer that is known without solving them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

try:
    import array_api_strict as STRICT
except ImportError:  # machines that only measure, or run the tests of a GPU, have not everything
    STRICT = None

MAX_N, MAX_K = 64, 16


def clustered_vectors(n, *, d, n_true, spread=0.3, seed=0):
    """The unit vectors of :func:`clustered_scores`, (n, d) in float64."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, n_true + 1)
    centres = rng.standard_normal((n_true, d))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    x = centres[rng.choice(n_true, size=n, p=share / share.sum())] + spread / np.sqrt(d) * rng.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clustered_scores(n, k, *, d=64, n_true=None, spread=0.3, seed=0, dtype=np.float64):
    """*The* clustered scores of tests and benchmarks: cosines of clustered unit vectors to k random members.

    ``n`` unit vectors in ``d`` dimensions lie around ``n_true`` (default 2 k) random directions, with Gaussian noise of
    norm about ``spread``. Direction r is drawn with a probability proportional to 1 / (r + 1), as Zipf's law has it. The
    clusters are ``k`` of the vectors, drawn without repetition where there are enough. In another ``dtype`` than float64 the
    cosines are those of the rounded vectors, formed a few rows at a time.
    """
    rng = np.random.default_rng(seed)
    x = clustered_vectors(n, d=d, n_true=n_true or 2 * k, spread=spread, seed=rng)
    clusters = x[rng.choice(n, size=k, replace=n < k)].T
    if dtype == np.float64:
        return x @ clusters
    x, clusters = x.astype(dtype), clusters.astype(dtype)
    scores = np.empty((n, k), dtype=dtype)
    for start in range(0, n, 10_000):
        np.matmul(x[start : start + 10_000], clusters, out=scores[start : start + 10_000])
    return scores


def _read_only(array):
    array = np.array(array)
    array.setflags(write=False)
    return array


LIBRARIES = {
    "numpy": np.asarray,
    "read-only numpy": _read_only,
    **({} if STRICT is None else {"array-api-strict": lambda array: STRICT.asarray(np.array(array))}),
    "torch": lambda array: torch.from_numpy(np.array(array)),
}
DTYPES = {"float32": np.float32, "float64": np.float64}


def to_numpy(array):
    """Any library's array as NumPy."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


@dataclass(frozen=True)
class Case:
    """Scores and masses in NumPy, and the library and dtype to hand them over in."""

    scores: np.ndarray
    masses: dict[str, Any]
    library: str
    dtype: str

    @property
    def eps(self):
        return float(np.finfo(DTYPES[self.dtype]).eps)

    @property
    def spread(self):
        """The range of the scores, the scale that rounding works on."""
        return float(np.ptp(self.scores)) if self.scores.size else 0.0

    def lay(self, array):
        return LIBRARIES[self.library](np.asarray(array, dtype=DTYPES[self.dtype]))

    def laid(self, scores=None, **masses):
        """Scores and masses in the library of the case."""
        given = {**self.masses, **masses}
        laid = {
            name: value
            if np.ndim(value) == 0
            else LIBRARIES[self.library](np.asarray(value))
            if name == "groups"
            else self.lay(value)
            for name, value in given.items()
            if value is not None
        }
        return self.lay(self.scores if scores is None else scores), laid


@st.composite
def cases(draw, *, max_n=MAX_N, max_k=MAX_K, min_n=1, masses=True, dtypes=tuple(DTYPES), libraries=tuple(LIBRARIES)):
    """Any problem: random, clustered, constant or tied scores, with or without masses."""
    n = draw(st.integers(min_n, max_n))
    k = draw(st.integers(1, max_k))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["uniform", "clustered", "constant", "ties", "one-hot"]))
    scores = {
        "uniform": lambda: rng.uniform(-1, 1, (n, k)),
        "clustered": lambda: clustered_scores(n, k, d=8, seed=int(rng.integers(2**31))) if n else np.zeros((0, k)),
        "constant": lambda: np.full((n, k), rng.uniform(-1, 1)),
        "ties": lambda: rng.integers(-2, 3, (n, k)) / 2.0,
        "one-hot": lambda: np.eye(k)[rng.integers(0, k, n)],
    }[kind]()
    given = {}
    if masses and draw(st.booleans()):
        given["sample_mass"] = rng.uniform(0.5, 2, n)
    if masses and draw(st.booleans()):
        given["cluster_share"] = rng.uniform(0.5, 2, k)
    return Case(scores, given, draw(st.sampled_from(libraries)), draw(st.sampled_from(dtypes)))


@st.composite
def grouped_cases(draw, masses=True):
    """Grouped problems with empty groups and groups of one sample."""
    n_groups = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(0, 10), min_size=n_groups, max_size=n_groups))
    k = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = rng.permutation(np.repeat(np.arange(n_groups), sizes))
    scores = rng.uniform(-1, 1, (len(groups), k))
    given = {"groups": groups, "n_groups": n_groups}
    if masses and draw(st.booleans()):
        given["sample_mass"] = rng.uniform(0.5, 2, len(groups))
    if masses and draw(st.booleans()):
        given["cluster_share"] = rng.uniform(0.5, 2, (n_groups, k))
    return Case(scores, given, draw(st.sampled_from(list(LIBRARIES))), draw(st.sampled_from(list(DTYPES))))


@st.composite
def planted(draw):
    """Balanced blocks with a margin: (case, labels), every balanced solver finds ``labels`` as epsilon goes to zero."""
    k = draw(st.integers(2, 6))
    each = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.permutation(np.repeat(np.arange(k), each))
    scores = rng.uniform(-0.2, 0.2, (k * each, k)) + np.eye(k)[labels]
    scores = scores + rng.uniform(-1, 1, (k * each, 1)) + rng.uniform(-1, 1, (1, k))
    return Case(scores, {}, draw(st.sampled_from(list(LIBRARIES))), draw(st.sampled_from(list(DTYPES)))), labels
