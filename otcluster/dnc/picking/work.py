"""A run whose sub-centroids a person has changed, written as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from otcluster.dnc.classes import need_subcentroids
from otcluster.dnc.classifier import Classifier
from otcluster.dnc.derived import new_run, typical_of, write_run
from otcluster.dnc.picking.edits import Edit
from otcluster.dnc.picking.images import RunImages
from otcluster.dnc.picking.placing import merged, placed, with_places
from otcluster.dnc.picking.plan import Plan, make_plan
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError


@torch.no_grad()
def edit(run: LoadedRun, edits: Sequence[Edit], out: str | Path, *, invert: bool = False) -> LoadedRun:
    """Rename, drop, merge and replace sub-centroids of a trained run, without training, and write the result as a run.

    Names and numbers are of the sub-centroids as ``run`` has them, and the edits are done together. What stays keeps its
    number. How many training images each sub-centroid of the classes that change has, and which are typical, is found
    anew, from what the run keeps of them where this is all, or else from the images.

    Args:
        run: Trained to the end, from :func:`otcluster.dnc.load_run`; left as it is.
        edits: :class:`Rename`, :class:`Drop`, :class:`Merge` and :class:`Replace`, at least one.
        out: Directory of the new run, which must not exist. It is evaluated, explained, predicts and is exported as any other;
            it is not trained on.
        invert: Swap dark and light of picture files first, as for prediction; training images are taken as they are.

    Returns:
        The new run. Its model shares the backbone with that of ``run``.

    Raises:
        DataError: An image cannot be read.
        RunError: The directory exists, the run has not been trained to the end or has no sub-centroids; there is no such
            sub-centroid or image; edits contradict each other, a class would keep no sub-centroid, or two would be
            called the same; or training images are needed that are not at hand. Nothing is written then.
        TypeError: One of them is no edit.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> from otcluster.dnc.picking import Drop, Rename
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     mended = edit(load_run(folder + "/run"), [Rename("7 #1", "7 with a bar"), Drop("7 #3")], folder + "/mended")
        >>> mended.names[7], mended.model.head.n_open[7]
        (['7 with a bar', '7 #2', '7 #3', '7 #4'], tensor(3))
    """
    files, typical = new_run(out), TypicalImages.load(run.files)
    try:
        head = need_subcentroids(run.model.head, "sub-centroids are changed by hand")
    except TypeError as error:
        raise RunError(f"{run.files.root}: {error}") from error
    was_open, metric = head.store.is_open.cpu(), head.store.metric
    plan = make_plan(edits, run.classes, run.names, was_open)
    images, vectors = RunImages(run, head, typical), {}
    for place, several in plan.merged.items():
        label, rows = place[0], [at for _, at in several]
        try:
            vectors[place] = merged(head.subcentroids[label, rows].cpu(), typical.sizes[label, rows], metric)
        except ValueError as error:
            raise RunError(f"{run.names[label][place[1]]} cannot be merged with the others: {error}") from None
    for place, image in plan.replaced.items():
        feature = images.feature(image, invert=invert)
        try:
            vectors[place] = placed(feature, metric)
        except ValueError as error:
            raise RunError(f"{image} cannot stand for {run.names[place[0]][place[1]]}: {error}") from None
    new = with_places(head, plan.is_open, vectors, plan.merged)
    model = Classifier(run.model.backbone, new, convert=run.model.convert, classes=run.classes).eval()
    model.subcentroid_names = [row[: new.store.n_centroids] for row in plan.names]
    shown = _counted(model, typical, images, plan, was_open, run.recipe.explain.images_per_subcentroid)
    return write_run(run, model, files, shown)


def _counted(
    model: Classifier, typical: TypicalImages, images: RunImages, plan: Plan, was_open: Tensor, each: int
) -> TypicalImages:
    """The images that stand for a model whose sub-centroids of some classes are others."""
    head, changed = need_subcentroids(model.head), plan.changed_classes(was_open)
    k = head.store.n_centroids
    sizes = nn.functional.pad(typical.sizes, (0, k - typical.sizes.shape[1])).clone()
    left = [at for at, label in enumerate(typical.classes.tolist()) if label not in changed]
    parts = [(typical, torch.tensor(left, dtype=torch.int64), typical.indices)]
    for label in changed:
        known = images.of_class(label)
        places = {name: at for at, name in enumerate(known.names)}
        itself = [places.get(name or "", -1) for name in _anchors(typical, plan, label, k)]
        labels = torch.full((len(known.names),), label)
        anchors: list[list[int]] = [[] for _ in range(label)] + [itself]
        found = typical_of(model, known.features, labels, known.names, head.n_classes, each, anchors)
        sizes[label] = found.sizes[label]
        parts.append((found, torch.arange(len(found.names)), known.indices[found.indices]))
    classes = torch.cat([part.classes[rows] for part, rows, _ in parts])
    order = torch.argsort(classes, stable=True)
    names = [part.names[at] for part, rows, _ in parts for at in rows.tolist()]
    return TypicalImages(
        torch.cat([part.features[rows].to(typical.features.dtype) for part, rows, _ in parts])[order],
        classes[order],
        torch.cat([part.subcentroids[rows] for part, rows, _ in parts])[order],
        torch.cat([indices[rows] for _, rows, indices in parts])[order],
        [names[at] for at in order.tolist()],
        sizes,
        torch.cat([part.anchors[rows] for part, rows, _ in parts])[order],
    )


def _anchors(typical: TypicalImages, plan: Plan, label: int, k: int) -> list[str | None]:
    """Name of the image that each sub-centroid of a class is from now on; None where it is none, or was just merged."""
    found: list[str | None] = []
    for at in range(k):
        was = typical.anchor(label, at)
        kept = None if was is None or (label, at) in plan.merged else typical.names[was]
        is_open = at < plan.is_open.shape[1] and bool(plan.is_open[label, at])
        found.append(plan.replaced.get((label, at), kept) if is_open else None)
    return found
