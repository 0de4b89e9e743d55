"""DNC and its rivals on CamVid, same network and budget: ``python -m benchmarks.camvid --data DIR`` prints the tables.

Of each arm and seed there is a run, ``OUT/<arm>-<seed>``, trained in a process of its own. Runs that are finished are not
repeated, and the others go on where they were stopped. ``--full`` is for a GPU: 360 x 480 pixels, 60 epochs. ``--tables DIR``
makes the tables of the runs in DIR anew, and with it ``--pictures FILE`` draws what they say of some test images: no training.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import difference
from otcluster.dnc import load_recipe, train
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.progress import Silent
from otcluster.dnc.run import RunFiles
from otcluster.runs.errors import RunError
from otcluster.runs.files import write_text

ARMS = {
    "dnc": [],
    "softmax": ["head.kind=linear"],
    "contrast": ["head.kind=contrast"],
    "kmeans": ["solver.kind=nearest"],
    "onemean": ["head.kind=deepncm", "head.temperature=null"],
}
"""What a recipe with a DNC head is changed to; all else is the same."""

TITLES = {
    "dnc": "DNC",
    "softmax": "softmax",
    "contrast": "ContrastiveSeg",
    "kmeans": "DNC with k-means",
    "onemean": "one mean a class (DeepNCM)",
}

FULL = [
    "pixels.resize=[360,480]", "pixels.crop=[256,320]", "data.batch_size=8", "train.epochs=60", "train.test_every=10",
    "train.channels_last=true",
]  # fmt: skip


class Lines(Silent):
    """A line for each epoch of a run, under its name: several runs print at once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        tested = row["test_mean_iou"]
        test = "" if tested is None else f", test mean IoU {tested:.4f}"
        print(f"{self.name}: epoch {row['epoch']}/{epochs}, loss {row['train_loss']:.4f}{test}", flush=True)


def changes_of(arm: str, seed: int, *, data: str, full: bool, jobs: int, changes: Sequence[str]) -> list[str]:
    """What the recipe is changed to for a run."""
    gpu = torch.cuda.is_available()
    usual = list(FULL) if full else []
    if full and gpu and torch.cuda.is_bf16_supported():
        usual.append("train.precision=bf16-mixed")
    if full:
        usual.append(f"data.workers={min(8, max(0, (os.cpu_count() or 1) // jobs - 1))}")
    return [*usual, f"data.dir={data}", *changes, *ARMS[arm], f"train.seed={seed}"]


def run_one(recipe: str, changes: list[str], out: Path, threads: int) -> dict[str, Any]:
    """Train a run, or go on with it."""
    torch.set_num_threads(threads)
    return train(load_recipe(recipe, changes), out, progress=Lines(out.name))


def train_all(recipe: str, runs: dict[tuple[str, int], list[str]], out: Path, jobs: int) -> list[str]:
    """Train the runs that are not finished, each in a process of its own; what is wrong with those that failed."""
    failed = []
    done = [each for each in runs if RunFiles(out / f"{each[0]}-{each[1]}").metrics.is_file()]
    for arm, seed in done:
        train(load_recipe(recipe, runs[arm, seed]), out / f"{arm}-{seed}")  # refuses one of another recipe
    runs = {each: changes for each, changes in runs.items() if each not in done}
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        asked = {
            pool.submit(run_one, recipe, changes, out / f"{arm}-{seed}", threads): f"{arm}-{seed}"
            for (arm, seed), changes in runs.items()
        }
        try:
            for job in as_completed(asked):
                try:
                    metrics = job.result()
                except RunError as error:  # the others go on
                    failed.append(f"{asked[job]} failed: {error}")
                    print(failed[-1], flush=True)
                    continue
                test = metrics["test"]
                print(
                    f"{asked[job]}: mean IoU {test['mean_iou']:.4f}, pixel accuracy {test['pixel_accuracy']:.4f}, "
                    f"{metrics['seconds']:.0f} s", flush=True,
                )  # fmt: skip
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def read_runs(out: Path) -> list[dict[str, Any]]:
    """A row for each run in ``out`` that is finished, in the order of arms and seeds.

    Raises:
        RunError: There is none.
    """
    rows = []
    for folder in sorted(out.iterdir()) if out.is_dir() else ():
        named = re.fullmatch(r"(\w+)-(\d+)", folder.name)
        files = RunFiles(folder)
        if named is None or named[1] not in ARMS or not files.metrics.is_file():
            continue
        metrics = files.read_metrics()
        test = metrics["test"]
        rows.append(
            {
                "arm": named[1], "seed": int(named[2]), "head": metrics["head"], "recipe": metrics["recipe"],
                "epochs": metrics["epochs"], "steps": metrics["steps"], "seconds": metrics["seconds"],
                "mean_iou": test["mean_iou"], "pixel_accuracy": test["pixel_accuracy"], "mean_accuracy": test["mean_accuracy"],
                "per_class": test["per_class"], "images": test["images"], "subcentroids": metrics.get("subcentroids"),
                "dnc_share": metrics.get("dnc_share"),
            }
        )  # fmt: skip
    if not rows:
        raise RunError(f"{out} holds no finished run named <arm>-<seed>, with one of the arms {', '.join(ARMS)}")
    order = list(ARMS)
    return sorted(rows, key=lambda row: (order.index(row["arm"]), row["seed"]))


def summary(rows: list[dict[str, Any]]) -> str:
    """A line for each arm: mean IoU, that of each seed, and what is known of its sub-centroids."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"| | mean IoU | {''.join(f'seed {seed} | ' for seed in seeds)}pixel accuracy | mean accuracy | cosine of pairs | "
        "perplexity | dead | minutes |",
        "|---|" + "---|" * (len(seeds) + 7),
    ]
    for arm in _arms(rows):
        own = [row for row in rows if row["arm"] == arm]
        by_seed = {row["seed"]: row["mean_iou"] for row in own}
        cells = [
            _mean(by_seed.values()),
            *(_mean([by_seed.get(seed)]) for seed in seeds),
            _mean(row["pixel_accuracy"] for row in own),
            _mean(row["mean_accuracy"] for row in own),
            *(
                _mean((row["subcentroids"] or {}).get(what) for row in own)
                for what in ("cosine_mean", "perplexity", "dead_share")
            ),
            _mean((row["seconds"] / 60 for row in own), 1),
        ]
        lines.append(f"| {TITLES[arm]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_class(rows: list[dict[str, Any]]) -> str:
    """A line for each class: its IoU, the mean over the seeds, for each arm."""
    arms = _arms(rows)
    lines = [f"| | {' | '.join(TITLES[arm] for arm in arms)} |", "|---|" + "---|" * len(arms)]
    for name in rows[0]["per_class"]:
        cells = [_mean(row["per_class"].get(name) for row in rows if row["arm"] == arm) for arm in arms]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(rows: list[dict[str, Any]]) -> str:
    """The first arm against each other one, mean IoU in points, over the seeds that both have."""
    found = {arm: {row["seed"]: row["mean_iou"] for row in rows if row["arm"] == arm} for arm in _arms(rows)}
    first, *others = found
    lines = []
    for other in others:
        both = sorted(found[first].keys() & found[other].keys())
        if both:
            pairs = ([found[arm][seed] for seed in both] for arm in (first, other))
            seeds = "1 seed" if len(both) == 1 else f"{len(both)} seeds"
            lines.append(f"- {TITLES[first]} less {TITLES[other]}, points of mean IoU, {seeds}: {difference(*pairs)}")
    return "\n".join(lines)


def report(out: Path, device: str | None) -> str:
    """Write ``OUT/results.json`` from the runs in ``out``, and return the tables; ``device`` None keeps what the file says."""
    rows, path = read_runs(out), out / "results.json"
    if device is None and path.is_file():
        device = json.loads(path.read_text(encoding="utf-8")).get("device")
    write_text(path, json.dumps({"device": device, "torch": torch.__version__, "runs": rows}, indent=2) + "\n")
    tables = [summary(rows), differences(rows), by_class(rows)]
    return "\n\n".join([*([device] if device else []), *(each for each in tables if each)])


def _arms(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _mean(values: Any, digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.{digits}f}" if known else ""


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def main(given: Sequence[str] | None = None) -> int:
    """The command; 1 where a run failed, 2 where what is asked for cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of CamVid: train/, val/ and test/ with images and labels each")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the threads")
    parser.add_argument("--recipe", default="camvid-deeplabv3-resnet18")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="for all arms")
    parser.add_argument("--full", action="store_true", help="360 x 480 pixels and 60 epochs, for a GPU")
    parser.add_argument("--out", default="runs/camvid", type=Path)
    parser.add_argument("--tables", type=Path, metavar="DIR", help="train nothing: the tables of the runs in DIR")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="what the runs say of some test images (.png or .svg)")
    parser.add_argument("--images", type=int, default=3, help="how many, with --pictures")
    chosen = parser.parse_args(given)
    if min(chosen.seeds, chosen.jobs, chosen.images) < 1:
        parser.error("--seeds, --jobs and --images must be at least 1")
    if chosen.tables is None and chosen.data is None:
        parser.error("--data DIR is needed to train; --tables DIR makes the tables of runs that are there")
    try:
        return _run(chosen)
    except (RunError, RecipeError, DataError) as error:
        parser.exit(2, f"{error}\n")


def _run(chosen: argparse.Namespace) -> int:
    out, failed, device = chosen.tables or chosen.out, [], None
    if chosen.tables is None:
        how = {"data": chosen.data, "full": chosen.full, "jobs": chosen.jobs, "changes": chosen.set}
        runs = {(arm, seed): changes_of(arm, seed, **how) for seed in range(chosen.seeds) for arm in chosen.arms}
        failed, device = train_all(chosen.recipe, runs, out, chosen.jobs), _device()
    print(report(out, device))
    if chosen.pictures is not None:
        from benchmarks.camvid_pictures import draw

        draw(out, chosen.arms, chosen.pictures, n_images=chosen.images, data_dir=chosen.data)
        print(f"\n{chosen.pictures}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
