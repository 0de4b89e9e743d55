"""The report of a run of pixels: what is looked at, drawn and written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from otcluster.dnc.classes import need_cosines
from otcluster.dnc.errors import DataError
from otcluster.dnc.explaining.overview import Overview, overview_of
from otcluster.dnc.explaining.report.content import FORMAT
from otcluster.dnc.explaining.report.figures import draw_confusion, draw_map, draw_similarity
from otcluster.dnc.explaining.report.folder import check_folder, file_name, write
from otcluster.dnc.explaining.report.pictures import data_uri, png_bytes
from otcluster.dnc.explaining.report.pixel_content import described, of_image, of_model, of_test, truths
from otcluster.dnc.explaining.report.pixel_page import OWNERS_SHOWN, Map, PixelPictures, render_pixels
from otcluster.dnc.explaining.report.pixel_sheets import Row, draw_owners, draw_patches, marked, shown_size
from otcluster.dnc.explaining.rule import Place
from otcluster.dnc.pictures import open_image
from otcluster.dnc.pixels.labels import LabelMap
from otcluster.dnc.pixels.layouts import PixelSplit
from otcluster.dnc.pixels.owners import Owners, Ownership, owners, ownership
from otcluster.dnc.pixels.painting import overlay
from otcluster.dnc.pixels.patches import Patch, TypicalPatches, typical_patches
from otcluster.dnc.pixels.runs import PixelRun
from otcluster.dnc.pixels.shades import paint_owners, swatch

_PATCHES, _ALL_PATCHES = 6, 2000  # of a sub-centroid, and of all of them
_OWNERS = "Which sub-centroid owns which pixel"  # the caption of the map
_TESTED = 4  # test images, whose owners are shown


@dataclass(frozen=True)
class _Subject:
    """An image to explain: why, its name, and how image and labels are read."""

    group: str
    name: str
    read: Callable[[], tuple[Image.Image, LabelMap | None]]


def make_pixel_report(
    run: PixelRun,
    out: str | Path,
    *,
    images: Sequence[str | Path] | None = None,
    n_test: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """What :func:`otcluster.dnc.report` does for runs of pixels.

    Args:
        run: From :func:`otcluster.dnc.pixels.runs.load_pixel_run`.
        out: The directory. An earlier report in it is replaced.
        images: Image files to explain.
        n_test: Of how many test images to show the owners. Default: 4, or none where ``images`` are given.
        progress: Is told in words what is being done.

    Returns:
        The page, and what it says.

    Raises:
        TypeError: The head has no sub-centroids, or scales the classes by weights of their own.
        ValueError: The head compares by distance, ``n_test`` is negative, or an image gives features that are not finite.
        DataError: The images of the run cannot be read.
        RunError: The images are of other classes, or the directory holds something else.
    """
    root, say = Path(out), progress or (lambda text: None)
    if n_test is not None and n_test < 0:
        raise ValueError(f"n_test must not be negative, got {n_test}")
    check_folder(root)
    head, data = need_cosines(run.model.head, "models are explained"), run.load_data()
    say(f"looking at {len(data.train)} training images")
    n = max(1, min(_PATCHES, _ALL_PATCHES // int(head.store.is_open.sum())))
    patches = typical_patches(run, n=n)
    found = overview_of(head, run.classes, run.names, patches.sizes, patches.names)
    say(f"classifying {len(data.test)} test images")
    owned = ownership(run, data.test)
    test, model = of_test(owned, run.classes), of_model(found, patches, owned.counts)
    n_shown = (0 if images else _TESTED) if n_test is None else n_test
    subjects = [*_given(images or ()), *_tested(owned, data.test, n_shown)]
    say(f"explaining {len(subjects)} images")
    said: list[dict[str, Any]] = []
    shown: list[list[Map]] = []
    broken: list[dict[str, str]] = []
    files: dict[str, bytes] = {}
    for subject, picture, true, why in _explained(run, subjects, broken):
        file = file_name(len(said) + 1, subject.name)
        entry = of_image(why, run.classes, run.names, group=subject.group, name=subject.name, true=true, file=file)
        panels = _panels(run, picture, true, why)
        files[file] = _sheet(run, entry, panels)
        shown.append([_on_page(caption, panel, subject.name) for caption, panel in panels])
        said.append(entry)
    facts = [described(run, found, test, patches), *([truths(run, said)] if said else [])]
    say("drawing")
    cells = _cells(patches, data.train)
    files |= _class_sheets(run, found, model, cells) | {
        "map.png": draw_map(found),
        "similarity.png": draw_similarity(found),
        "confusion.png": draw_confusion(test["confusion"], run.classes, of_pixels=True),
    }
    whole = {
        "format": FORMAT,
        "kind": "pixels",
        "facts": [each.as_dict() for each in facts],
        "model": model,
        "test": test,
        "explained": said,
        "broken": broken,
        "files": sorted(files),
    }
    pictures = PixelPictures(
        {f"subcentroid-{at}": [data_uri(cell) for cell in cells[each.place]] for at, each in enumerate(found.subcentroids)},
        {each.name: data_uri(swatch(run.palette[each.place[0]], each.place[1])) for each in found.subcentroids},
        {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in zip(run.classes, run.palette, strict=True)},
        shown,
        data_uri(files["similarity.png"]),
    )
    return write(root, render_pixels(whole, pictures), whole, files), whole


def _given(images: Sequence[str | Path]) -> Iterable[_Subject]:
    for path in images:
        name = str(path).encode("utf-8", "backslashreplace").decode("utf-8")  # whatever bytes it is of
        yield _Subject("given", name, lambda path=path: (open_image(Path(path)).convert("RGB"), None))  # type: ignore[misc]


def _tested(owned: Ownership, split: PixelSplit, n: int) -> Iterable[_Subject]:
    """Test images in equal steps from the worst to the best."""
    ranked = sorted((value, at) for value, at in zip(owned.accuracies, owned.indices, strict=True) if not math.isnan(value))
    chosen = np.unique(np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)).tolist()
    for place in chosen:
        at = ranked[place][1]
        yield _Subject("test", split.names[at], lambda at=at: split.read(at))  # type: ignore[misc]


def _explained(
    run: PixelRun, subjects: Sequence[_Subject], broken: list[dict[str, str]]
) -> Iterable[tuple[_Subject, Image.Image, LabelMap | None, Owners]]:
    """Those that can be read; of others it is noted what is wrong with them."""
    for subject in subjects:
        try:
            picture, true = subject.read()
            yield subject, picture, true, owners(run, picture, name=subject.name)
        except DataError as error:
            broken.append({"name": subject.name, "error": str(error).encode("utf-8", "backslashreplace").decode("utf-8")})


def _panels(run: PixelRun, picture: Image.Image, true: LabelMap | None, why: Owners) -> list[tuple[str, Image.Image]]:
    """The image, its labels where they are known, the predicted classes and the owners, with captions, all of one size."""
    size = shown_size(picture)
    shown = [("The image", picture)]
    shown += [] if true is None else [("Its labels", overlay(picture, true, run.palette))]
    shown.append(("Predicted classes", overlay(picture, why.labels, run.palette)))
    kind = Image.Resampling.NEAREST if max(picture.size) < max(size) else Image.Resampling.BICUBIC
    painted = paint_owners(why.labels, why.subcentroids, run.palette, len(run.names[0]), size)
    return [
        *((caption, panel.resize(size, kind)) for caption, panel in shown),
        ("Which sub-centroid owns which pixel", painted),
    ]


def _on_page(caption: str, panel: Image.Image, name: str) -> Map:
    """Hatchings and numbers are kept to the bit."""
    uri = data_uri(png_bytes(panel) if caption == _OWNERS else panel)
    return Map(caption, uri, f"{name}: {caption[0].lower()}{caption[1:]}")


def _sheet(run: PixelRun, entry: Mapping[str, Any], panels: Sequence[tuple[str, Image.Image]]) -> bytes:
    colours = dict(zip(run.classes, run.palette, strict=True))
    legend = [
        (swatch(colours[each["class"]], each["number"] - 1), f"{each['subcentroid']} ({each['class']}), {each['share']:.1%}")
        for each in entry["owners"][:OWNERS_SHOWN]
    ]
    rest = entry["owners"][OWNERS_SHOWN:]
    more = f"{len(rest)} more own {sum(each['share'] for each in rest):.1%}. " if rest else ""
    more += f"The nearest sub-centroid is of the predicted class in {entry['faithful']} of {entry['features']} features."
    right = "" if entry["accuracy"] is None else f": {entry['accuracy']:.1%} of the labelled pixels right"
    return draw_owners(f"{entry['name']}{right}", panels, legend, more)


def _cells(patches: TypicalPatches, split: PixelSplit) -> dict[Place, list[Image.Image]]:
    """The patches as they are shown; every image is read once."""
    places: dict[int, list[tuple[Place, int, Patch]]] = {}
    found: dict[Place, dict[int, Image.Image]] = {}
    for label, of_class in enumerate(patches.patches):
        for at, own in enumerate(of_class):
            found[label, at] = {}
            for rank, patch in enumerate(own):
                places.setdefault(patch.image, []).append(((label, at), rank, patch))
    for index, wanted in places.items():
        picture, _ = split.read(index)
        for place, rank, patch in wanted:
            found[place][rank] = marked(patch, picture)
    return {place: [cells[rank] for rank in sorted(cells)] for place, cells in found.items()}


def _class_sheets(
    run: PixelRun, found: Overview, model: Mapping[str, Any], cells: Mapping[Place, list[Image.Image]]
) -> dict[str, bytes]:
    rows: dict[int, list[Row]] = {}
    for each, said in zip(found.subcentroids, model["subcentroids"], strict=True):
        own = said["owned"]
        right = "" if own["right"] is None else f", {own['right']:.0%} rightly"
        lines = [each.name, f"{each.share:.1%} of the class", f"owns {own['share']:.2%} of test pixels{right}"]
        lines += [f"wrongly mostly {own['errs_for'][0]['class']}"] if own["errs_for"] else []
        rows.setdefault(each.place[0], []).append(Row(each.place[1], lines, cells[each.place]))
    return {
        file_name(label + 1, run.classes[label], "patches"): draw_patches(run.classes[label], run.palette[label], own)
        for label, own in rows.items()
    }
