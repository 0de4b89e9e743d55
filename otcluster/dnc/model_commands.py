"""The commands ``otcluster dnc ...`` that explain a trained run, or make something else of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from otcluster.dnc.editing import add_class, remove_class
from otcluster.dnc.explaining.decision import explain
from otcluster.dnc.explaining.measures import measure
from otcluster.dnc.explaining.overview import overview
from otcluster.dnc.explaining.report.work import make_report
from otcluster.dnc.exporting import export
from otcluster.dnc.prediction import read_picture
from otcluster.dnc.run import LoadedRun, RunFiles, load_run
from otcluster.runs.errors import RunError
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import need_one_process

Out = Annotated[Path, typer.Option("--out", metavar="RUN2", help="Directory of the new run, which must not exist.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="DIR", help="Folder of the images; train/<class>/* and test/<class>/*, say.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")]
Invert = Annotated[bool, typer.Option("--invert", help="Swap dark and light first.")]


def offer_inversion(run: LoadedRun, invert: bool) -> None:
    """Say how the pictures were that a run of the digits was trained on, where somebody's own are taken as they are."""
    if run.recipe.data.kind == "digits" and not invert:
        typer.echo("the digits are 0 to 16, white on black: pass --invert for dark ink on light paper", err=True)


def export_command(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="*.onnx, or *.pt2 for torch.export.")],
) -> None:
    """Write the model of a run, sub-centroids inside, to a file that runs without this package."""

    def action() -> None:
        need_one_process("export")
        metadata = export(load_run(run), file)
        typer.echo(
            f"input images (n, {metadata['channels']}, {metadata['image_size']}, {metadata['image_size']}): a picture is"
        )
        typer.echo(f"brought {metadata['preprocessing']}; mean {metadata['mean']}, std {metadata['std']}")
        typer.echo(f"answers as {run} does on a random batch: {file}")

    guarded(action)


def add_class_command(
    run: RunFolder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the class.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")],
    out: Out,
    n_subcentroids: Annotated[
        int | None, typer.Option("--subcentroids", min=1, help="How many. Default: eight times as many as other classes have.")
    ] = None,
    invert: Invert = False,
) -> None:
    """Let a run know one more class without training, and write the result as a run of its own."""

    def action() -> None:
        need_one_process("add-class")
        loaded = load_run(run)
        offer_inversion(loaded, invert)
        added = add_class(loaded, name, images, out, n_subcentroids=n_subcentroids, invert=invert)
        typer.echo(f"{out} knows {len(added.classes)} classes, {name} with them")

    guarded(action)


def remove_class_command(
    run: RunFolder, name: Annotated[str, typer.Argument(metavar="NAME", help="Of the class.")], out: Out
) -> None:
    """Let a run forget a class, and write the result as a run of its own."""

    def action() -> None:
        need_one_process("remove-class")
        left = remove_class(load_run(run), name, out)
        typer.echo(f"{out} knows {len(left.classes)} classes, {name} no more")

    guarded(action)


def explain_command(
    run: RunFolder,
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGES]...", help="Image files.")] = None,
    more: Annotated[list[str] | None, typer.Option("--images", metavar="FILE", help="The same. May be repeated.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="REPORT", help="Write a page to look at, pictures and data to this folder.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="With --out or --measure: folder where the images of the run lie now."),
    ] = None,
    invert: Invert = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with cosines and heat maps.")] = False,
    measured: Annotated[
        bool, typer.Option("--measure", help="Also measure, on the test images, how true its explanations are.")
    ] = False,
) -> None:
    """Say what a model has learnt; or, of pictures, why each is of its class.

    Of a run of pixels: what its sub-centroids stand for, and which of them own how much of each picture.
    """

    def action() -> None:
        need_one_process("explain")
        given = [*(more or []), *(images or [])]
        if out is not None and as_json:
            raise RunError("--json prints, and --out writes the same as report.json: pass one of them")
        if RunFiles(run).read_recipe().of_pixels:
            _of_pixels(run, given, out, data, invert, as_json, measured)
            return
        if out is None and data is not None and not measured:
            raise RunError(
                "--data says where a report or --measure finds the images of the run: pass --out with it, or --measure"
            )
        if out is None and given and measured:
            raise RunError("--measure is of the model: leave the images out, or pass --out with them")
        loaded = load_run(run, data_dir=data)
        if given and not as_json:
            offer_inversion(loaded, invert)
        try:
            if out is not None:
                _report(loaded, out, given, invert, measured)
            elif given:
                _explain_images(loaded, given, invert, as_json)
            else:
                _explain_model(loaded, as_json, measured)
        except (TypeError, ValueError) as error:  # of the head: nothing of this run can be explained
            raise RunError(str(error)) from None

    guarded(action)


def _of_pixels(
    run: Path, images: list[str], out: Path | None, data: str | None, invert: bool, as_json: bool, measured: bool
) -> None:
    from otcluster.dnc.pixels.explain_command import explain_pixel_run

    if invert or measured:
        raise RunError(
            "--invert and --measure are for runs of images with a class each, and this one is of pixels, whose explanations "
            "always say how true they are: leave them out"
        )
    if data is not None and out is None and images:
        raise RunError("--data says where the images of the run lie, and without --out none of them are read: leave it out")
    try:
        explain_pixel_run(run, images, out, data, as_json)
    except (TypeError, ValueError) as error:  # of the head: nothing of this run can be explained
        raise RunError(str(error)) from None


def _report(run: LoadedRun, out: Path, images: list[str], invert: bool, measured: bool) -> None:
    found = measure(run) if measured else None
    made = make_report(run, out, images=images, invert=invert, measures=found, progress=lambda text: typer.echo(text, err=True))
    for each in made.content["broken"]:
        typer.echo(f"error: {each['error']}", err=True)
    typer.echo(f"{len(made.content['explained'])} images explained, {made.page.stat().st_size / 1e6:.1f} MB, in {made.page}")
    typer.echo(made.page.absolute().as_uri())
    _count_failed(len(made.content["broken"]), len(images))


def _explain_model(run: LoadedRun, as_json: bool, measured: bool) -> None:
    found, true = overview(run), measure(run) if measured else None
    if as_json:
        plain = found.as_dict() | ({} if true is None else {"measures": true.as_dict()})
        typer.echo(json.dumps(plain, ensure_ascii=False))
        return
    for each in found.subcentroids:
        typer.echo(
            f"{each.name}: {each.size} training images ({each.share:.0%} of its class), {', '.join(each.typical) or 'none'}"
        )
    for line in found.lines("training image"):
        typer.echo(line)
    for line in [] if true is None else true.lines():
        typer.echo(line)


def _explain_images(run: LoadedRun, images: list[str], invert: bool, as_json: bool) -> None:
    read = []
    for path in images:
        try:
            read.append((path, read_picture(run, path, invert=invert)))
        except RunError as error:
            typer.echo(f"error: {error}", err=True)
    explained = explain(run, [picture for _, picture in read]) if read else []
    for (path, _), found in zip(read, explained, strict=True):
        plain = found.as_dict(run.classes)
        if as_json:
            typer.echo(json.dumps({"path": path, **plain}, ensure_ascii=False))
            continue
        unknown = found.verdict is not None and not found.verdict.known
        doubt = f"I do not know, {found.verdict.text()}; the nearest class is " if found.verdict and unknown else ""
        typer.echo(f"{path}: {doubt}{plain['class']} ({plain['share']:.1%}), cosine {plain['cosine']:.3f}")
        typer.echo(f"  {plain['rule']}")
        if plain["alternatives"]:
            second = found.alternatives[1]
            name = plain["alternatives"][0]["name"]
            typer.echo(f"  next: {name}, cosine {second.cosine:.3f}, which lost by {second.lost_by:.3f}")
        near = ", ".join(f"{each['name']} of {each['class']} ({each['cosine']:.2f})" for each in plain["nearest"])
        typer.echo(f"  most like: {near or 'no training image'}")
    _count_failed(len(images) - len(read), len(images))


def _count_failed(failed: int, n: int) -> None:
    if failed:
        raise RunError(f"{failed} of {n} images could not be explained")
