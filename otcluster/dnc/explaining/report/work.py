"""The report of a run: what is looked at, explained, drawn and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from otcluster.dnc.classes import need_subcentroids
from otcluster.dnc.data import ImageData, Split
from otcluster.dnc.errors import DataError
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.explaining.decision import Explanation, explain
from otcluster.dnc.explaining.measures import Measures
from otcluster.dnc.explaining.overview import Overview, overview
from otcluster.dnc.explaining.report.choosing import Chosen, choose
from otcluster.dnc.explaining.report.content import Names, content, explained, tested
from otcluster.dnc.explaining.report.facts import described, doubts, truths
from otcluster.dnc.explaining.report.figures import draw_confusion, draw_map, draw_similarity
from otcluster.dnc.explaining.report.folder import check_folder, file_name, write
from otcluster.dnc.explaining.report.page import PagePictures, Shown, render, shown_of
from otcluster.dnc.explaining.report.pictures import Picture, TrainingPictures, as_seen, data_uri, on_page, overlay, reduced
from otcluster.dnc.explaining.report.sheets import Panels, draw_card, draw_gallery
from otcluster.dnc.prediction import read_picture
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages
from otcluster.dnc.unknown.calibration import Calibration

if TYPE_CHECKING:
    from otcluster.dnc.pixels.runs import PixelRun

_TYPICAL, _ALL_TYPICAL = 5, 2000  # images of a sub-centroid, and of all of them
_FAILURES = 24
_AT_ONCE = 32


@dataclass(frozen=True)
class Made:
    """A report that was written.

    Attributes:
        page: The HTML file.
        content: What it says, as in ``report.json``.
    """

    page: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class _Subject:
    """An image to explain: why, its name, its class where that is known, and how it is read."""

    group: str
    name: str
    true: int | None
    read: Callable[[], Image.Image]


def report(
    run: LoadedRun | PixelRun,
    out: str | Path,
    *,
    images: Sequence[str | Path] | None = None,
    invert: bool = False,
    n_test: int | None = None,
    measures: Measures | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write what a model has learnt and why it decides as it does: a page that needs nothing else, and the same as data.

    The directory gets ``index.html``, in which all pictures are; ``report.json``, what the page says; ``gallery.png``,
    ``map.png``, ``similarity.png`` and ``confusion.png``; and one ``explained-*.png`` for each explained image.

    Of a run of pixels it shows how well each class is told, the training pixels nearest to each sub-centroid, and which
    sub-centroid owns which pixel of some test images (``n_test``, 4, in equal steps from the worst to the best) and of
    ``images``. In place of ``gallery.png`` there is a ``patches-*.png`` for each class. All training images are looked at.

    Args:
        run: Trained to the end, from :func:`otcluster.dnc.load_run`; its head is one of sub-centroids, compared by cosine. Its
            images must be where they were, or where ``data_dir`` said. Or a run of pixels, from
            :func:`otcluster.dnc.pixels.runs.load_pixel_run`, with any checkpoint.
        out: The directory. An earlier report in it is replaced.
        images: Image files to explain. One that cannot be read is named on the page.
        invert: Swap dark and light of these files first, as for prediction.
        n_test: How many misclassified test images to explain, at most, and a quarter as many of the closest calls and of the
            surest each; of a run of pixels, how many test images. Default: 24 and 4, or none where ``images`` are given.
        measures: From :func:`otcluster.dnc.measure`, to be told of too.
        progress: Is told in words what is being done.

    Returns:
        The page.

    Raises:
        TypeError: The head has no sub-centroids, or scales the classes by weights of their own.
        ValueError: The head compares by distance, ``n_test`` is negative, an image gives features that are not finite, or
            ``invert`` or ``measures`` are given for a run of pixels.
        DataError: The images of the run cannot be read.
        RunError: The run has not been trained to the end, or the directory holds something else.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     page = report(load_run(folder + "/run"), folder + "/report", n_test=4)
        ...     page.name, sorted(each.name for each in page.parent.glob("*.png"))[:2]
        ('index.html', ['confusion.png', 'explained-001-digit-...png'])
    """
    return make_report(run, out, images=images, invert=invert, n_test=n_test, measures=measures, progress=progress).page


def make_report(
    run: LoadedRun | PixelRun,
    out: str | Path,
    *,
    images: Sequence[str | Path] | None = None,
    invert: bool = False,
    n_test: int | None = None,
    measures: Measures | None = None,
    progress: Callable[[str], None] | None = None,
) -> Made:
    """What :func:`report` does, and what the report says."""
    if not isinstance(run, LoadedRun):
        from otcluster.dnc.explaining.report.pixel_work import make_pixel_report

        if invert or measures is not None:
            raise ValueError(
                "invert and measures are for runs of images with a class each, and this run is of pixels: leave them out"
            )
        return Made(*make_pixel_report(run, out, images=images, n_test=n_test, progress=progress))
    root, say = Path(out), progress or (lambda text: None)
    if n_test is not None and n_test < 0:
        raise ValueError(f"n_test must not be negative, got {n_test}")
    check_folder(root)
    head = need_subcentroids(run.model.head, "models are explained")
    n_subcentroids = int(head.store.is_open.sum())
    found = overview(run, n_typical=max(1, min(_TYPICAL, _ALL_TYPICAL // n_subcentroids)))
    names, data = Names.of(found), run.load_data()
    training = TrainingPictures(data.train, TypicalImages.load(run.files))
    split, left_out = _known(data, run.classes)
    say(f"classifying {len(split)} test images")
    result = evaluate(run.model, split, run.recipe.data)
    test = tested(result, run.classes, left_out)
    n_failures = (0 if images else _FAILURES) if n_test is None else n_test
    chosen = choose(result, head, n_failures)
    subjects = [*_given(run, images or (), invert), *_tested(chosen, split, result.indices.tolist(), result.labels.tolist())]
    say(f"explaining {len(subjects)} images")
    shown: list[Shown] = []
    said: list[dict[str, Any]] = []
    broken: list[dict[str, str]] = []
    files: dict[str, bytes] = {}
    for subject, picture, why in _explained(run, subjects, broken):
        file = file_name(len(said) + 1, subject.name)
        entry = explained(why, names, group=subject.group, name=subject.name, true=subject.true, file=file)
        panels = _panels(run, picture, why)
        files[file] = draw_card(entry, panels, training)
        heats = [None if each is None else on_page(each) for each in panels[1:]]
        shown.append(Shown(on_page(panels[0]), *heats))
        said.append(entry)
    facts, calibration = [described(run, found, test)], Calibration.load(run)
    facts += [] if measures is None else [truths(measures)]
    facts += [] if calibration is None else [doubts(calibration)]
    say("drawing")
    files |= {
        "gallery.png": draw_gallery(found, training),
        "map.png": draw_map(found),
        "similarity.png": draw_similarity(found),
        "confusion.png": draw_confusion(test["confusion"], run.classes),
    }
    thumbnails, large = _of_training(found, said, training)
    whole = content(
        facts,
        found,
        test,
        chosen,
        said,
        broken=broken,
        unreadable=sorted(name for name, picture in thumbnails.items() if picture is None),
        files=sorted(files),
    )
    page = render(whole, PagePictures(thumbnails, large, shown, data_uri(files["similarity.png"])))
    return Made(write(root, page, whole, files), whole)


def _known(data: ImageData, classes: Sequence[str]) -> tuple[Split, int]:
    """The test images of classes that the model knows, labelled by it, and how many others there are."""
    places = {name: label for label, name in enumerate(classes)}
    labels = [places.get(data.classes[label], -1) for label in data.test.labels.tolist()]
    kept = [at for at, label in enumerate(labels) if label >= 0]
    split = replace(data.test.subset(kept), labels=torch.tensor([labels[at] for at in kept], dtype=torch.int64))
    return split, len(labels) - len(kept)


def _given(run: LoadedRun, images: Sequence[str | Path], invert: bool) -> Iterable[_Subject]:
    for path in images:
        name = str(path).encode("utf-8", "backslashreplace").decode("utf-8")  # whatever bytes it is of
        yield _Subject("given", name, None, lambda path=path: read_picture(run, path, invert=invert))  # type: ignore[misc]


def _tested(chosen: Chosen, split: Split, indices: list[int], labels: list[int]) -> Iterable[_Subject]:
    for group, rows in (("failure", chosen.failures), ("close", chosen.close), ("sure", chosen.sure)):
        for row in rows:
            at = indices[row]
            yield _Subject(group, split.names[at], labels[row], lambda at=at: split.read(at))  # type: ignore[misc]


def _explained(
    run: LoadedRun, subjects: Sequence[_Subject], broken: list[dict[str, str]]
) -> Iterable[tuple[_Subject, Image.Image, Explanation]]:
    """Those that can be read, a few at a time; of others it is noted what is wrong with them."""
    for start in range(0, len(subjects), _AT_ONCE):
        read: list[tuple[_Subject, Image.Image]] = []
        for subject in subjects[start : start + _AT_ONCE]:
            try:
                read.append((subject, subject.read()))
            except DataError as error:
                text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
                broken.append({"name": subject.name, "error": text})
        why = explain(run, [picture for _, picture in read]) if read else []
        yield from ((subject, picture, each) for (subject, picture), each in zip(read, why, strict=True))


def _panels(run: LoadedRun, picture: Image.Image, why: Explanation) -> Panels:
    """An explained image, and its two heat maps over what the backbone was given."""
    assert run.model.convert is not None  # a run knows how
    heats = [each if each is not None and each.numel() > 1 else None for each in (why.heat, why.heat_against)]
    seen = as_seen(run.model.convert(picture), run.recipe.data)
    winner, against = (None if each is None else overlay(seen, each) for each in heats)
    return reduced(picture), winner, against


def _of_training(
    found: Overview, said: list[dict[str, Any]], training: TrainingPictures
) -> tuple[dict[str, Picture | None], dict[str, Picture | None]]:
    """All training images that the page shows, small, and those that it shows large; None for those that cannot be read."""
    typical = [name for each in found.subcentroids for name in shown_of(each.anchor, each.typical)]
    nearest = [near["name"] for each in said for near in each["nearest"]]
    decided = [
        one["image"] for each in said for one in (each, each["runner_up"]) if one is not None and one["image"] is not None
    ]

    def pictures(names: list[str], *, small: bool) -> dict[str, Picture | None]:
        read = {name: training(name) for name in dict.fromkeys(names)}
        return {name: None if image is None else on_page(image, small=small) for name, image in read.items()}

    return pictures([*typical, *nearest], small=True), pictures(decided, small=False)
