"""What a network of pixels begins with: ``python -m benchmarks.transfer_pixels --data DIR --images DIR`` prints the table.

Two classifiers of the same backbone are trained on --images, by DNC and by a softmax; then the same recipe of pixels on --data
from each of them, and from random weights. ``--images DNC_RUN SOFTMAX_RUN`` takes classifiers that are trained already. On a
GPU: ResNet-18 on CIFAR-10, 60 epochs each, and the whole recipe of pixels. Runs that are finished are not repeated, and the
others go on where they were stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar10 import GPU, run_one
from benchmarks.paired import difference
from otcluster.dnc import load_run
from otcluster.dnc.pixels.runs import load_pixel_run
from otcluster.dnc.pixels.transfer import discarded
from otcluster.runs.files import write_text

CLASSIFIERS = {"DNC": ["head.kind=dnc"], "softmax": ["head.kind=linear", "head.temperature=null"]}
SCRATCH = "random weights"
STARTS = [*CLASSIFIERS, SCRATCH]
STEM = ["backbone.stem=imagenet", "data.image_size=64", "explain.anchor_epochs=0"]
"""Images twice as large as those of CIFAR, for the stem that networks of pixels have."""

Found = dict[tuple[str, int], dict[str, Any]]


def folder(out: Path, what: str, name: str, seed: int) -> Path:
    """Where a run lies."""
    return out / f"{what}-{name.replace(' ', '-').lower()}-{seed}"


def classifiers(pool: ProcessPoolExecutor, chosen: argparse.Namespace) -> tuple[dict[tuple[str, int], Path], Found]:
    """The runs to begin with, by method and seed, and what they say of themselves; trained where none were given."""
    if len(chosen.images) == 2:
        given = dict(zip(CLASSIFIERS, map(Path, chosen.images), strict=True))
        told = {name: json.loads((place / "metrics.json").read_text(encoding="utf-8")) for name, place in given.items()}
        keys = [(name, seed) for seed in range(chosen.seeds) for name in CLASSIFIERS]
        return {key: given[key[0]] for key in keys}, {key: told[key[0]] for key in keys}
    usual = GPU if chosen.image_recipe == "cifar10-resnet18" else []
    places, jobs = {}, {}
    for seed in range(chosen.seeds):
        for name, changes in CLASSIFIERS.items():
            place = places[name, seed] = folder(chosen.out, "images", name, seed)
            more = [f"data.dir={chosen.images[0]}", f"train.seed={seed}"]
            jobs[name, seed] = pool.submit(
                run_one, chosen.image_recipe, [*usual, *STEM, *changes, *more, *chosen.set_images], place
            )
    return places, _ended(jobs, "accuracy", "images")


def segmenters(pool: ProcessPoolExecutor, chosen: argparse.Namespace, begin: dict[tuple[str, int], Path]) -> Found:
    """The same recipe of pixels from each classifier, and from random weights."""
    jobs = {}
    for seed in range(chosen.seeds):
        for name in STARTS:
            changes = ["backbone.pretrained=false", f"data.dir={chosen.data}", f"train.seed={seed}", *chosen.set]
            if name != SCRATCH:
                changes.append(f"backbone.init_from={begin[name, seed]}")
            jobs[name, seed] = pool.submit(run_one, chosen.recipe, changes, folder(chosen.out, "pixels", name, seed))
    return _ended(jobs, "mean_iou", "pixels")


def _ended(jobs: dict[tuple[str, int], Future[dict[str, Any]]], measure: str, what: str) -> Found:
    found = {}
    for (name, seed), job in jobs.items():
        found[name, seed] = job.result()
        value, seconds = found[name, seed]["test"][measure], found[name, seed]["seconds"]
        print(f"{what}, {name}, seed {seed}: {value:.4f} after {seconds:.0f} s", flush=True)
    return found


def table(images: Found, pixels: Found, lost: dict[tuple[str, int], int], seeds: int) -> str:
    """Markdown: a row for each seed and start."""
    lines = [
        "| begins with | seed | accuracy on images | numbers discarded | mean IoU | pixel accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for name in STARTS:
        for seed in range(seeds):
            before = ["", ""]
            if name != SCRATCH:
                before = [f"{images[name, seed]['test']['accuracy']:.4f}", f"{lost[name, seed]:,}"]
            test = pixels[name, seed]["test"]
            after = [f"{test['mean_iou']:.4f}", f"{test['pixel_accuracy']:.4f}"]
            lines.append(f"| {' | '.join([name, str(seed), *before, *after])} |")
    found = judged(pixels, seeds)
    lines.append("")
    lines += [f"DNC - {name}, points of mean IoU: {difference(found['DNC'], found[name])}" for name in STARTS[1:]]
    return "\n".join(lines) + "\n"


def judged(pixels: Found, seeds: int) -> dict[str, list[float]]:
    """Mean IoU of each seed, by what was begun with."""
    return {name: [pixels[name, seed]["test"]["mean_iou"] for seed in range(seeds)] for name in STARTS}


def _begin_in_process(threads: int) -> None:
    torch.set_num_threads(threads)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the images with labels at every pixel")
    parser.add_argument("--images", required=True, nargs="+", metavar="DIR", help="a folder of images, or DNC_RUN SOFTMAX_RUN")
    parser.add_argument("--out", default="runs/transfer-pixels", type=Path)
    parser.add_argument("--recipe", default="camvid-fcn-resnet18", help="of pixels")
    parser.add_argument("--image-recipe", default="cifar10-resnet18")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe of pixels")
    parser.add_argument("--set-images", nargs="*", default=[], metavar="KEY=VALUE", help="changes of that of images")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    chosen = parser.parse_args(arguments)
    if len(chosen.images) > 2:
        parser.error(f"--images takes one folder of images or two runs, got {len(chosen.images)}")
    threads = max(1, torch.get_num_threads() // chosen.jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(chosen.jobs, mp_context=context, initializer=_begin_in_process, initargs=(threads,)) as pool:
        begin, images = classifiers(pool, chosen)
        pixels = segmenters(pool, chosen, begin)
    lost = {}
    for (name, seed), place in begin.items():
        encoder = load_pixel_run(folder(chosen.out, "pixels", name, seed)).model.network.encoder
        lost[name, seed] = sum(discarded(encoder, load_run(place)).values())
    markdown = table(images, pixels, lost, chosen.seeds)
    results = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "recipe": chosen.recipe,
        "changes": chosen.set,
        "mean_iou": judged(pixels, chosen.seeds),
        "images": [
            {"begins": name, "seed": seed, "discarded": lost[name, seed], **images[name, seed]} for name, seed in images
        ],
        "pixels": [{"begins": name, "seed": seed, **pixels[name, seed]} for name, seed in pixels],
    }
    write_text(chosen.out / "results.json", json.dumps(results, indent=2) + "\n")
    write_text(chosen.out / "results.md", markdown)
    print(f"\n{markdown}\n{json.dumps(results['mean_iou'])}")


if __name__ == "__main__":
    main()
