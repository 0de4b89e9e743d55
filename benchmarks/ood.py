"""What DNC and the softmax layer know of what they do not know: ``python -m benchmarks.ood`` prints the tables.

Both have the same backbone, images and epochs, and are paired by seed. On the digits the runs are trained first, into
``--out``; those that are finished are not trained again. For other runs: ``--dnc RUN... --softmax RUN...``, in the same order
of seeds, and for CIFAR-10 ``--camvid DIR``, which holds ``camvid/test/images`` and ``camvid/test/labels``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.letters import as_split, letters
from benchmarks.paired import difference
from otcluster.dnc import load_recipe, load_run, out_of_distribution, train
from otcluster.dnc.data import Split
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.unknown.calibration import calibrate_on, halves
from otcluster.dnc.unknown.scores import ClassMeanCosine, KnownScore, score_of, usual_score

N_LETTERS, N_NOISE, PATCHES_A_FRAME = 1000, 1000, 10
SIDES = (64, 128, 256)  # of patches, in pixels of a frame
CAR, CARS_ALLOWED = 8, 0.01  # class of CamVid's label maps, and the part of a patch that may be of it
HALVINGS = 10  # of the test images, over which what calibration gains is averaged
SCORES = {"dnc": ("cosine", "share", "energy"), "linear": ("share", "logit", "energy")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dnc", nargs="+", metavar="RUN", help="finished runs of DNC; default: the digits are trained")
    parser.add_argument("--softmax", nargs="+", metavar="RUN", help="finished runs of the softmax layer, in the same order")
    parser.add_argument("--data", metavar="DIR", help="folder of the images of these runs, where they have moved")
    parser.add_argument("--camvid", metavar="DIR", type=Path, help="folder that holds camvid/test")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of the digits are trained")
    parser.add_argument("--out", type=Path, default=Path("runs/ood"), help="where the digits' runs go")
    chosen = parser.parse_args()
    if bool(chosen.dnc) != bool(chosen.softmax) or len(chosen.dnc or []) != len(chosen.softmax or []):
        parser.error("--dnc and --softmax must name as many runs each, in the same order of seeds")
    names = {"dnc": chosen.dnc, "linear": chosen.softmax} if chosen.dnc else trained(chosen.out, chosen.seeds)
    runs = {kind: [load_run(root, data_dir=chosen.data) for root in roots] for kind, roots in names.items()}
    unseen = others(runs["dnc"][0], chosen.camvid)
    found = {kind: [measured(run, unseen) for run in each] for kind, each in runs.items()}
    print_unknown(found, {name: len(split) for name, split in unseen.items()})
    print_calibration(found)


def trained(out: Path, seeds: int) -> dict[str, list[Path]]:
    """Runs of the digits with both heads."""
    names: dict[str, list[Path]] = {kind: [out / f"{kind}-{seed}" for seed in range(seeds)] for kind in SCORES}
    for kind, roots in names.items():
        for seed, root in enumerate(roots):
            changes = [f"head.kind={kind}", f"train.seed={seed}", "train.test_every=25", "explain.anchor_epochs=0"]
            train(load_recipe("digits", changes), root)
    return names


def others(run: LoadedRun, camvid: Path | None) -> dict[str, Split]:
    """Images of no class of the run, by what they are."""
    rng = np.random.default_rng(0)
    if run.recipe.data.kind == "digits":
        test = run.load_test()
        turned = np.stack([np.rot90(np.asarray(test.read(at))) for at in range(len(test))])
        noise = np.rint(rng.integers(0, 17, (N_NOISE, 8, 8)) * (255 / 16)).astype(np.uint8)
        found = {"letters": letters(N_LETTERS), "digits turned by 90 degrees": turned, "noise": noise}
    else:
        size = run.recipe.data.image_size
        found = {"noise": rng.integers(0, 256, (N_NOISE, size, size, 3), dtype=np.uint8)}
        if camvid is not None:
            found = {"CamVid": patches(camvid / "camvid" / "test", size), **found}
    return {name: as_split(pictures) for name, pictures in found.items()}


def patches(folder: Path, size: int) -> Any:
    """Squares of street scenes at a smaller scale, (n, size, size, 3), without cars, which CIFAR-10 knows."""
    rng = np.random.default_rng(0)
    found = []
    for path in sorted((folder / "images").glob("*.jpg")):
        labels = np.asarray(Image.open(folder / "labels" / f"{path.stem}.png"))
        frame = Image.open(path).convert("RGB")
        for _ in range(PATCHES_A_FRAME):
            side = int(rng.choice(SIDES))
            left, top = (int(rng.integers(0, length - side + 1)) for length in frame.size)
            if (labels[top : top + side, left : left + side] == CAR).mean() <= CARS_ALLOWED:
                patch = frame.crop((left, top, left + side, top + side))
                found.append(np.asarray(patch.resize((size, size), Image.Resampling.BOX)))
    if not found:
        raise SystemExit(f"{folder} holds no images/*.jpg: --camvid names the folder that holds camvid/")
    return np.stack(found)


def measured(run: LoadedRun, unseen: dict[str, Split]) -> dict[str, Any]:
    """Of one run: AUROC and FPR95 of each score on each kind of images, and what calibration gains."""
    config, head = run.recipe.data, run.model.head
    test = evaluate(run.model, run.load_test(), config)
    known_train = evaluate(run.model, run.load_train(), config)
    means = ClassMeanCosine.of(known_train.features, known_train.labels, len(run.classes))
    policies: list[KnownScore] = [*map(score_of, SCORES[run.recipe.head.kind]), means]

    def scores(policy: KnownScore, of: Evaluation) -> torch.Tensor:
        with torch.no_grad():
            return policy.score(head, of.features, of.logits)

    unknown = {}
    for name, split in unseen.items():
        given = evaluate(run.model, split, config)
        for policy in policies:
            unknown[name, policy.name] = out_of_distribution(scores(policy, test), scores(policy, given))
    parts = [halves(test, seed) for seed in range(HALVINGS)]
    fits = [calibrate_on(run.model, *each, score=usual_score(head), keep=0.95) for each in parts]
    names = ("temperature", "ece_before", "ece_after", "nll_before", "nll_after", "kept", "accuracy", "accuracy_kept")
    gains = {name: float(np.mean([getattr(fit, name) for fit in fits])) for name in names}
    print(f"{run.files.root}: {gains}, all right in {sum(fit.status == 'all right' for fit in fits)}", flush=True)
    return {"unknown": unknown, "gains": gains}


def print_unknown(found: dict[str, list[dict[str, Any]]], sizes: dict[str, int]) -> None:
    """AUROC and FPR95, means over runs, with the difference of DNC's cosine."""
    for name, size in sizes.items():
        print(f"\n{name}, {size} images\n")
        print("| head | score | AUROC, mean | deviation | FPR95, mean | DNC's cosine less this, points of AUROC |")
        print("|---|---|---|---|---|---|")
        ours = [each["unknown"][name, "cosine"]["auroc"] for each in found["dnc"]]
        for kind, label in (("dnc", "DNC"), ("linear", "softmax")):
            for score in (*SCORES[kind], "class mean"):
                values = [each["unknown"][name, score] for each in found[kind]]
                auroc, fpr = ([each[what] for each in values] for what in ("auroc", "fpr95"))
                deviation = f"{np.std(auroc, ddof=1):.4f}" if len(auroc) > 1 else ""
                compared = "" if (kind, score) == ("dnc", "cosine") else difference(ours, auroc)
                print(f"| {label} | {score} | {np.mean(auroc):.4f} | {deviation} | {np.mean(fpr):.3f} | {compared} |")


def print_calibration(found: dict[str, list[dict[str, Any]]]) -> None:
    """What a temperature and a threshold of half of the test images do on the other half."""
    print("\n| | DNC | softmax | DNC less softmax, 100 times |\n|---|---|---|---|")
    for name, text in (
        ("accuracy", "accuracy"),
        ("temperature", "temperature"),
        ("ece_before", "expected calibration error, as trained"),
        ("ece_after", "expected calibration error, at the temperature"),
        ("nll_before", "negative log-likelihood, as trained"),
        ("nll_after", "negative log-likelihood, at the temperature"),
        ("kept", "known, 0.95 asked for"),
        ("accuracy_kept", "accuracy of those known"),
    ):
        dnc, linear = ([each["gains"][name] for each in found[kind]] for kind in ("dnc", "linear"))
        print(f"| {text} | {np.mean(dnc):.4f} | {np.mean(linear):.4f} | {difference(dnc, linear)} |")


if __name__ == "__main__":
    main()
