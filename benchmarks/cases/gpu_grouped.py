"""On a GPU, many classes at once: grouped rounds, the step of centroids, and what the head of Deep Nearest Centroids does."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

import otcluster as otc
from benchmarks.cuda import Place
from benchmarks.peers import Peer, recipe, step_of_classes
from benchmarks.recipe import three_rounds
from benchmarks.rows import Row

ABOUT = (
    "Many classes at once on a GPU",
    """\
`SinkhornKnopp` with groups beside the recipe in a loop over them, presorted. Then the clustering step of Deep Nearest
Centroids: cosines to the centroids of the own class, three rounds, and a momentum step of a `CentroidStore`, without checks,
beside a loop over the classes; and `DNCHead.observe` in training, which remembers features too and goes to its tolerance,
beside the same loop over what is remembered, with three rounds. Error *plan*: the largest difference
of an entry to the recipe in float64; *centroids*: the largest difference of a coordinate between the two, where a label near a
tie may differ. Floor: scores and groups read once a round and once for the answer; of steps, the features read twice and the
centroids read and written, or the products of features and centroids where that is more.""",
)
_MOMENTUM = 0.999


def rows(place: Place) -> Iterator[Row]:
    """Groups of two kinds of sizes, then two steps of classes."""
    for largest in (16, 200):
        yield from _groups(place, largest)
    yield from _step(place)
    yield from _observe(place)


def _groups(place: Place, largest: int) -> Iterator[Row]:
    n_groups, k = place.size(1000, 12), 4
    sizes = np.random.default_rng(0).integers(0, largest + 1, n_groups)
    groups = torch.from_numpy(np.repeat(np.arange(n_groups), sizes)).to(place.device)
    scores = (torch.rand(len(groups), k, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(place.device)
    parts = [part for part in torch.split(scores, sizes.tolist()) if len(part)]
    exact = torch.cat([three_rounds(part.double()) for part in parts])
    errors = (
        float((torch.cat([three_rounds(part) for part in parts]) - exact).abs().max()),
        float((otc.sinkhorn_knopp(scores, groups=groups, n_groups=n_groups).plan() - exact).abs().max()),
    )

    def theirs() -> Tensor:
        return torch.cat([three_rounds(part).argmax(dim=1) for part in parts])

    for what, options in (("labels", {}), ("labels, unchecked", {"check_values": False})):
        yield from place.compared(
            "gpu_grouped",
            f"{n_groups} groups of 0 to {largest}, k {k}, {len(groups)} samples, {what}",
            recipe(theirs, "SwAV/DINO recipe, loop over groups"),
            lambda options=options: otc.sinkhorn_knopp(scores, groups=groups, n_groups=n_groups, **options).labels(),
            error_is="plan",
            errors=lambda _, __: errors,
            floor_bytes=4 * (scores.nbytes + groups.nbytes),
            repeats=5,
        )


def _step(place: Place) -> Iterator[Row]:
    n_classes, k, d, n = place.size(1000, 6), 4, place.size(2048, 8), place.size(16_384, 120)
    features, labels = _features(place, n_classes, k, d, n)
    first = otc.CentroidStore(n_classes=n_classes, n_centroids=k, dim=d, momentum=_MOMENTUM).to(place.device)

    def ours_of(store: otc.CentroidStore) -> Tensor:
        points = otc.PointScores(features, store.centroids, metric="cosine")
        problem = otc.Problem(points, groups=labels, n_groups=n_classes, check_values=False)
        store.update(features, labels, otc.solve(problem, otc.SinkhornKnopp()), check_values=False)
        return store.centroids

    theirs = first.centroids.clone()
    one = step_of_classes(theirs.clone(), features, labels, _MOMENTUM)
    error = float((one - ours_of(copy.deepcopy(first))).abs().max())
    store = copy.deepcopy(first)
    yield from place.compared(
        "gpu_grouped",
        f"step of {n_classes} x {k} centroids, d {d}, by {n} samples, 3 rounds, float32",
        Peer("loop over classes", (), lambda: lambda: step_of_classes(theirs, features, labels, _MOMENTUM)),
        lambda: ours_of(store),
        error_is="centroids",
        errors=lambda _, __: (None, error),
        floor_bytes=2 * features.nbytes + 2 * theirs.nbytes,
        floor_flops=2.0 * n * k * d,
        repeats=5,
        target=100,
        launches=True,
    )
    assigned = otc.solve(
        otc.Problem(otc.PointScores(features, store.centroids, metric="cosine"), groups=labels, n_groups=n_classes),
        otc.SinkhornKnopp(),
    ).labels()
    for what, checked in (("update alone", True), ("update alone, unchecked", False)):
        yield from place.compared(
            "gpu_grouped",
            f"{what} of {n_classes} x {k} centroids, d {d}, by {n} samples, float32",
            Peer("loop over classes", (), lambda: lambda: step_of_classes(theirs, features, labels, _MOMENTUM, assigned)),
            lambda checked=checked: store.update(features, labels, assigned, check_values=checked),
            error_is="centroids",
            errors=lambda _, __: (None, error),
            floor_bytes=features.nbytes + 2 * theirs.nbytes,
            repeats=5,
        )


def _observe(place: Place) -> Iterator[Row]:
    from otcluster.dnc.head import DNCHead

    n_classes, k, d, n, memory = 10, 4, place.size(512, 8), place.size(128, 40), place.size(4096, 80)
    for solver, kind in ((None, "its solver"), (otc.SinkhornKnopp(), "3 rounds")):
        head = DNCHead(d, n_classes, n_subcentroids=k, momentum=_MOMENTUM, memory=memory, solver=solver).to(place.device)
        batches = [_features(place, n_classes, k, d, n, seed) for seed in range(2 + memory // n)]
        for features, labels in batches:
            head.observe(features, labels)
        features, labels = batches[0]
        state = [head.subcentroids.clone(), head.memory.features, head.memory.labels]

        def theirs(state: list[Tensor] = state, features: Tensor = features, labels: Tensor = labels) -> Tensor:
            unit = nn.functional.normalize(features, dim=1)
            state[1:] = torch.cat([state[1], unit])[-memory:], torch.cat([state[2], labels])[-memory:]
            return step_of_classes(state[0], state[1], state[2], _MOMENTUM)

        trial = copy.deepcopy(head)
        trial.observe(features, labels)
        error = float((trial.subcentroids - theirs([each.clone() for each in state])).abs().max())
        yield from place.compared(
            "gpu_grouped",
            f"DNCHead.observe, {kind}: {n_classes} x {k} sub-centroids, d {d}, batch {n}, memory {memory}, float32",
            Peer("loop over classes, 3 rounds", (), lambda theirs=theirs: theirs),
            lambda head=head, features=features, labels=labels: head.observe(features, labels),
            error_is="centroids",
            errors=lambda _, __, error=error: (None, error),
            floor_bytes=2.0 * memory * d * 4,
            floor_flops=2.0 * memory * k * d,
            launches=True,
        )


def _features(place: Place, n_classes: int, k: int, d: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors around k directions of their class, and the classes."""
    drawn = torch.Generator().manual_seed(seed)
    modes = torch.randn(n_classes, k, d, generator=torch.Generator().manual_seed(99))
    labels, own = torch.randint(n_classes, (n,), generator=drawn), torch.randint(k, (n,), generator=drawn)
    features = nn.functional.normalize(modes[labels, own] + torch.randn(n, d, generator=drawn), dim=1)
    return features.to(place.device), labels.to(place.device)
