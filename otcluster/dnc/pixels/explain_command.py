"""What ``otcluster dnc explain`` does with runs of pixels."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from otcluster.dnc.classes import need_cosines
from otcluster.dnc.errors import DataError
from otcluster.dnc.explaining.overview import overview_of
from otcluster.dnc.explaining.report.pixel_content import shares_of
from otcluster.dnc.explaining.report.work import make_report
from otcluster.dnc.pictures import open_image
from otcluster.dnc.pixels.owners import owners
from otcluster.dnc.pixels.patches import typical_patches
from otcluster.dnc.pixels.runs import PixelRun, load_pixel_run
from otcluster.runs.errors import RunError

_LEAST = 0.01  # of the pixels, from which on an owner is named


def explain_pixel_run(run: Path, images: list[str], out: Path | None, data: str | None, as_json: bool) -> None:
    """Write a report; or say what each sub-centroid stands for; or, of pictures, which sub-centroids own how much of each.

    Args:
        run: Its directory.
        images: Picture files; may be none.
        out: Where the report is written, if anywhere.
        data: Where the images of the run lie now.
        as_json: Whether JSON is printed in place of words.

    Raises:
        RunError: There is no such run, or a picture cannot be explained.
        TypeError, ValueError: The head has no sub-centroids that could be looked at.
    """
    loaded = load_pixel_run(run, data_dir=data)
    if out is not None:
        _report(loaded, out, images)
    elif images:
        _explain_pictures(loaded, images, as_json)
    else:
        _explain_model(loaded, as_json)


def _report(run: PixelRun, out: Path, images: list[str]) -> None:
    made = make_report(run, out, images=images, progress=lambda text: typer.echo(text, err=True))
    for each in made.content["broken"]:
        typer.echo(f"error: {each['error']}", err=True)
    typer.echo(f"{len(made.content['explained'])} images explained, {made.page.stat().st_size / 1e6:.1f} MB, in {made.page}")
    typer.echo(made.page.absolute().as_uri())
    _count_failed(len(made.content["broken"]), len(images))


def _explain_model(run: PixelRun, as_json: bool) -> None:
    patches = typical_patches(run)
    head = need_cosines(run.model.head, "models are explained")
    found = overview_of(head, run.classes, run.names, patches.sizes, patches.names)
    if as_json:
        plain = found.as_dict()
        for each, said in zip(found.subcentroids, plain["subcentroids"], strict=True):
            said["patches"] = [patch.as_dict() for patch in patches.of(*each.place)]
        typer.echo(json.dumps(plain, ensure_ascii=False))
        return
    for each in found.subcentroids:
        near = ", ".join(f"{patch.name} at row {patch.row}, column {patch.column}" for patch in patches.of(*each.place)[:3])
        typer.echo(f"{each.name}: {each.size} training pixels ({each.share:.0%} of its class), {near or 'none'}")
    for line in found.lines("training pixel"):
        typer.echo(line)


def _explain_pictures(run: PixelRun, images: list[str], as_json: bool) -> None:
    failed = 0
    for path in images:
        try:
            found = owners(run, open_image(Path(path)).convert("RGB"), name=path)
        except DataError as error:
            failed += 1
            typer.echo(f"error: {error}", err=True)
            continue
        said = shares_of(found, run.classes, run.names)
        if as_json:
            typer.echo(json.dumps({"path": path, **said}, ensure_ascii=False))
            continue
        typer.echo(f"{path}: {', '.join(_part(each, 'class') for each in said['parts'])}")
        named = [each for each in said["owners"] if each["share"] >= _LEAST]
        rest = len(said["owners"]) - len(named)
        few = f", and {rest} more with less than {_LEAST:.0%} each" if rest else ""
        typer.echo(f"  owned by {', '.join(_part(each, 'subcentroid') for each in named)}{few}")
        typer.echo(
            f"  the nearest sub-centroid is of the predicted class in {found.n_faithful} of {found.n_features} features, and "
            f"the owner is the nearest of all for {found.nearest_share:.1%} of the pixels"
        )
    _count_failed(failed, len(images))


def _part(each: dict[str, str | float], key: str) -> str:
    return f"{each[key]} {each['share']:.1%}"


def _count_failed(failed: int, n: int) -> None:
    if failed:
        raise RunError(f"{failed} of {n} images could not be explained")
