"""One update of a store, against a loop over the classes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import otcluster as otc
from benchmarks.peers import Peer
from benchmarks.rows import Row, compared

ABOUT = (
    "Stores",
    """\
An update of a `CentroidStore` beside a loop over the classes that does the same momentum step; labels and assignments are
given to both. Error: the largest difference of a coordinate between the two. Floor: features and centroids read once.""",
)

_CLASSES, _K, _DIM, _SAMPLES, _MOMENTUM = 1000, 4, 512, 16_384, 0.999


def rows() -> Iterator[Row]:
    """The same labels and assignments are given to both; the floor reads the features and writes the centroids once."""
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(_SAMPLES, _DIM, generator=generator), dim=1)
    labels = torch.randint(_CLASSES, (_SAMPLES,), generator=generator)
    assigned = torch.randint(_K, (_SAMPLES,), generator=generator)

    def store() -> otc.CentroidStore:
        return otc.CentroidStore(n_classes=_CLASSES, n_centroids=_K, dim=_DIM, momentum=_MOMENTUM)

    looped, ours, one = store().centroids, store(), store()
    one.update(features, labels, assigned)
    error = float((one.centroids - loop_over_classes(store().centroids, features, labels, assigned)).abs().max())
    return compared(
        "stores",
        f"update of {_CLASSES} x {_K} centroids, d {_DIM}, by {_SAMPLES} samples, float32",
        Peer("loop over classes", (), lambda: lambda: loop_over_classes(looped, features, labels, assigned)),
        lambda: ours.update(features, labels, assigned),
        error_is="centroids",
        errors=lambda _, __: (None, error),
        floor_bytes=features.nbytes + looped.nbytes,
        target=10,
    )


def loop_over_classes(
    centroids: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, assigned: torch.Tensor
) -> torch.Tensor:
    """The momentum step as training codes write it: of each class the samples, and of each of its centroids the mean."""
    for label in labels.unique().tolist():
        own = labels == label
        points, which = features[own], assigned[own]
        for k in range(centroids.shape[1]):
            mine = points[which == k]
            if len(mine):
                moved = _MOMENTUM * centroids[label, k] + (1 - _MOMENTUM) * mine.mean(dim=0)
                centroids[label, k] = torch.nn.functional.normalize(moved, dim=0)
    return centroids
