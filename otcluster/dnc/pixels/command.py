"""What ``otcluster dnc eval`` and ``predict`` do with runs of pixels."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from otcluster.runs.errors import RunError


def evaluate_pixel_run(run: Path, data: str | None, split: str) -> None:
    """Print intersection over union of each class, and the means."""
    from otcluster.dnc.pixels.evaluation import evaluate_pixels
    from otcluster.dnc.pixels.runs import conversion_of, inference_of, load_pixel_run

    loaded = load_pixel_run(run, data_dir=data)
    images = loaded.load_test() if split == "test" else loaded.load_data().train
    found = evaluate_pixels(
        loaded.model, images, len(loaded.classes), conversion_of(loaded.recipe),
        inference=inference_of(loaded.recipe), broken=loaded.recipe.data.broken,
    ).need_labels(f"{split} images").metrics(loaded.classes)  # fmt: skip
    for name, value in found["per_class"].items():
        typer.echo(f"{name:24} {'no pixels' if value is None else f'{value:.4f}'}")
    typer.echo(
        f"{split} mean IoU {found['mean_iou']:.4f}, pixel accuracy {found['pixel_accuracy']:.4f}, mean accuracy "
        f"{found['mean_accuracy']:.4f} on {found['images']} images, of {run}"
    )


def predict_pixel_run(run: Path, images: list[str], out: Path, as_json: bool) -> None:
    """Write maps and overlays, and print which parts of each picture are of which class."""
    from otcluster.dnc.pixels.prediction import predict_pictures
    from otcluster.dnc.pixels.runs import conversion_of, inference_of, load_pixel_run

    loaded = load_pixel_run(run)
    found = predict_pictures(
        loaded.model, images, out, convert=conversion_of(loaded.recipe), inference=inference_of(loaded.recipe),
        classes=loaded.classes, palette=loaded.palette,
    )  # fmt: skip
    failed = 0
    for path, parts in zip(images, found, strict=True):
        if isinstance(parts, RunError):
            failed += 1
            typer.echo(f"error: {parts}", err=True)
        elif as_json:
            typer.echo(json.dumps({"path": path, "parts": parts}, ensure_ascii=False))
        else:
            said = ", ".join(f"{name} {part:.1%}" for name, part in sorted(parts.items(), key=lambda each: -each[1]))
            typer.echo(f"{path}: {said}")
    if failed:
        raise RunError(f"{failed} of {len(images)} images could not be classified")
