"""On a GPU, scores that exist: three rounds against the recipe, eager and compiled, and rounds to a tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import otcluster as otc
from benchmarks.cuda import Place
from benchmarks.peers import Peer, plain_log_rounds, recipe
from benchmarks.recipe import three_rounds
from benchmarks.rows import Row
from tests.strategies import clustered_scores

ABOUT = (
    "Three rounds, and rounds to a tolerance, on a GPU",
    """\
Times are between events on the device, medians of turns after a warm-up, and memory is that of torch's allocator.
`SinkhornKnopp` at epsilon 0.05 beside the rounds that SwAV and DINOv2 paste, on float32 as those have it (bfloat16 scores
are lifted first); `torch.compile` makes one graph of either. *As CUDA graphs* the host does nothing but to start them: that is
what the kernels cost, and the rest is what Python costs. *Unchecked* is with `check_values=False`: nothing is known of
the scores then, and rounds are those of the log form. `LogSinkhorn` goes to a tolerance beside plain rounds in the log
domain, which look at their error every ten rounds. Error *plan*: the largest difference of a plan entry to the recipe in
float64; *L1*: that of the plan, both sides together, as a share of the mass. Floor: the scores read once a round and once
for the answer (for a tolerance, `n_iter` times and once), at the bytes a second that a large copy reads and writes.""",
)
_EPSILON = 0.05
Call = Callable[[], Any]


def rows(place: Place) -> Iterator[Row]:
    """Two sizes in two dtypes, in four forms; then a tolerance."""
    n = place.size(4096, 64)
    for k, usual in ((place.size(3000, 30), torch.float32), (place.size(65_536, 96), torch.bfloat16)):
        for dtype in (torch.bfloat16, torch.float32):
            scores = torch.rand(n, k, device=place.device, generator=torch.Generator(place.device).manual_seed(0)) * 2 - 1
            # Compiling takes long: once for each size, in the dtype that is usual there.
            yield from _three_rounds(place, scores.to(dtype), 5, compiled=dtype == usual)
    yield from _to_a_tolerance(place)


def _three_rounds(place: Place, scores: Tensor, target: float, *, compiled: bool) -> Iterator[Row]:
    (n, k), kind = scores.shape, str(scores.dtype).removeprefix("torch.")
    errors = _plan_errors(scores)

    def theirs(values: Tensor) -> Tensor:
        return three_rounds(values.float(), _EPSILON).argmax(dim=1)

    def unchecked(values: Tensor) -> Tensor:
        return otc.sinkhorn_knopp(values, epsilon=_EPSILON, check_values=False).labels()

    forms: list[tuple[str, Call, Call, float | None]] = [
        ("labels", lambda: theirs(scores), lambda: otc.sinkhorn_knopp(scores, epsilon=_EPSILON).labels(), target),
        ("labels, unchecked", lambda: theirs(scores), lambda: unchecked(scores), target),
        (
            "plan",
            lambda: three_rounds(scores.float(), _EPSILON),
            lambda: otc.sinkhorn_knopp(scores, epsilon=_EPSILON).plan(),
            None,
        ),
        (
            "labels, unchecked, both as CUDA graphs",
            place.replayed(lambda: theirs(scores)),
            place.replayed(lambda: unchecked(scores)),
            target,
        ),
    ]
    if compiled:
        torch.compiler.reset()
        options: dict[str, Any] = {"fullgraph": True, "dynamic": False, **({"backend": "aot_eager"} if place.quick else {})}
        graphs = [torch.compile(each, **options) for each in (theirs, unchecked)]
        forms.append(("labels, unchecked, both compiled", lambda: graphs[0](scores), lambda: graphs[1](scores), 2))
    for what, peer, ours, aim in forms:
        yield from place.compared(
            "gpu_dense",
            f"{n} x {k} {kind}, 3 rounds, {what}",
            recipe(peer),
            ours,
            error_is="plan",
            errors=lambda _, __: errors,
            floor_bytes=4 * scores.nbytes + (4 * n * k if what == "plan" else 8 * n),
            target=aim,
        )


def _plan_errors(scores: Tensor) -> tuple[float, float]:
    """The largest difference to the recipe in float64, of the recipe and of ours."""
    exact = three_rounds(scores.double(), _EPSILON)
    plans = (three_rounds(scores.float(), _EPSILON), otc.sinkhorn_knopp(scores, epsilon=_EPSILON).plan())
    return float((plans[0] - exact).abs().max()), float((plans[1] - exact).abs().max())


def _to_a_tolerance(place: Place) -> Iterator[Row]:
    for n, k, dtype, tol in ((4096, 1000, torch.float32, 1e-4), (65_536, 256, torch.float64, 1e-6)):
        n, k = place.size(n, 200), place.size(k, 10)
        scores = torch.from_numpy(clustered_scores(n, k)).to(place.device, dtype)
        answer = otc.log_sinkhorn(scores, epsilon=_EPSILON, tol=tol)
        kind = str(dtype).removeprefix("torch.")

        def theirs(scores: Tensor = scores, tol: float = tol) -> Tensor:
            return plain_log_rounds(scores, _EPSILON, tol)

        yield from place.compared(
            "gpu_dense",
            f"{n} x {k} {kind}, epsilon {_EPSILON}, to {tol:g}, plan, {int(answer.n_iter)} rounds of ours",
            Peer("plain rounds in the log domain", (), lambda theirs=theirs: (theirs(), theirs)[1]),
            lambda scores=scores, tol=tol: otc.log_sinkhorn(scores, epsilon=_EPSILON, tol=tol).plan(),
            error_is="L1",
            errors=lambda one, two: (_l1(one), _l1(two)),
            floor_bytes=(int(answer.n_iter) + 2) * scores.nbytes,
        )


def _l1(plan: Tensor) -> float:
    """The share of the mass in the wrong place, where samples have mass one and clusters share equally."""
    n, k = plan.shape
    wide = plan.double()
    return float(((wide.sum(0) - n / k).abs().sum() + (wide.sum(1) - 1).abs().sum()) / n)
