"""The comparison on CamVid trains every arm, makes its tables and draws, on a few generated images."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.camvid import ARMS, FULL, by_class, changes_of, differences, main, read_runs, run_one, summary
from benchmarks.camvid_pictures import owner_picture
from otcluster.dnc import load_recipe
from otcluster.runs.errors import RunError
from tests.dnc.pixel_files import write_layout

RECIPE = "camvid-fcn-resnet18"
TINY = [
    "backbone.name=test_resnet",
    "pixels.resize=null", "pixels.crop=[32,48]", "pixels.dim=8", "data.batch_size=2", "memory.capacity=220", "contrast.dim=4",
    "contrast.warmup=0", "head.n_subcentroids=2", "train.epochs=1", "train.accelerator=cpu", "optim.warmup_epochs=0",
]  # fmt: skip


def changes(arm, seed, data):
    return changes_of(arm, seed, data=str(data), full=False, jobs=1, changes=TINY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each arm, and a second one of DNC, on images beside them; to be copied, not changed."""
    root = tmp_path_factory.mktemp("camvid")
    write_layout("camvid", root / "images", np.random.default_rng(0))
    for arm, seed in [*((arm, 0) for arm in ARMS), ("dnc", 1)]:
        run_one(RECIPE, changes(arm, seed, root / "images"), root / "runs" / f"{arm}-{seed}", 1)
    return root


def test_arms_differ_in_their_heads_alone():
    found = {arm: load_recipe("camvid-deeplabv3-resnet18", ARMS[arm]) for arm in ARMS}
    assert {arm: (each.head.kind, each.solver.kind) for arm, each in found.items()} == {
        "dnc": ("dnc", "log_sinkhorn"), "softmax": ("linear", "log_sinkhorn"), "contrast": ("contrast", "log_sinkhorn"),
        "kmeans": ("dnc", "nearest"), "onemean": ("deepncm", "log_sinkhorn"),
    }  # fmt: skip
    budget = {(each.train.epochs, each.optim.lr, each.data.batch_size, each.memory.capacity) for each in found.values()}
    assert len(budget) == 1
    full = load_recipe("camvid-deeplabv3-resnet18", FULL)
    assert (full.pixels.resize, full.train.epochs, full.data.batch_size) == ([360, 480], 60, 8)
    asked = changes_of("contrast", 3, data="place", full=True, jobs=1, changes=["train.epochs=7"])
    chosen = load_recipe("camvid-deeplabv3-resnet18", asked)
    assert (chosen.train.epochs, chosen.train.seed, chosen.head.kind, chosen.pixels.resize) == (7, 3, "contrast", [360, 480])


def test_rows_are_what_the_runs_say(trained):
    rows = read_runs(trained / "runs")
    assert [(row["arm"], row["seed"]) for row in rows] == [("dnc", 0), ("dnc", 1), *((arm, 0) for arm in list(ARMS)[1:])]
    for row in rows:
        metrics = json.loads((trained / "runs" / f"{row['arm']}-{row['seed']}" / "metrics.json").read_text())
        assert row["mean_iou"] == metrics["test"]["mean_iou"]
        assert row["per_class"] == metrics["test"]["per_class"]
        assert (row["subcentroids"] is None) == (row["arm"] in ("softmax", "contrast"))
    assert {row["steps"] for row in rows} == {1}
    with pytest.raises(RunError, match="holds no finished run named <arm>-<seed>"):
        read_runs(trained / "images")


def row(arm, seed, mean_iou, **more):
    usual = {"pixel_accuracy": 0.5, "mean_accuracy": 0.4, "seconds": 90.0, "subcentroids": None}
    return {"arm": arm, "seed": seed, "mean_iou": mean_iou, "per_class": {"sky": mean_iou, "pole": None}, **usual, **more}


def test_tables_hold_means_seeds_and_classes():
    known = {"cosine_mean": 0.25, "perplexity": 9.5, "dead_share": 0.0}
    rows = [row("dnc", 0, 0.3, subcentroids=known), row("dnc", 1, 0.5, subcentroids=known), row("softmax", 1, 0.2)]
    assert summary(rows).splitlines() == [
        "| | mean IoU | seed 0 | seed 1 | pixel accuracy | mean accuracy | cosine of pairs | perplexity | dead | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| DNC | 0.400 | 0.300 | 0.500 | 0.500 | 0.400 | 0.250 | 9.500 | 0.000 | 1.5 |",
        "| softmax | 0.200 |  | 0.200 | 0.500 | 0.400 |  |  |  | 1.5 |",
    ]
    assert by_class(rows).splitlines()[2:] == ["| sky | 0.400 | 0.200 |", "| pole |  |  |"]
    assert differences(rows) == "- DNC less softmax, points of mean IoU, 1 seed: +30.00"


def test_what_is_missing_is_trained_in_a_process_and_all_is_drawn(trained, tmp_path, capfd):
    runs = tmp_path / "runs"
    shutil.copytree(trained / "runs", runs)
    before = json.loads((runs / "contrast-0" / "metrics.json").read_text())["test"]
    shutil.rmtree(runs / "contrast-0")
    asked = ["--data", str(trained / "images"), "--arms", "dnc", "contrast", "--recipe", RECIPE, "--out", str(runs)]
    assert (
        main([*asked, "--set", *TINY[:3], "--set", *TINY[3:], "--pictures", str(tmp_path / "figure.png"), "--images", "2"]) == 0
    )
    printed = capfd.readouterr().out
    assert "contrast-0: epoch 1/1, loss" in printed
    assert "dnc-0: epoch" not in printed  # it was finished
    assert "| ContrastiveSeg |" in printed
    kept = json.loads((runs / "results.json").read_text())
    again = next(each for each in kept["runs"] if each["arm"] == "contrast")
    assert {name: again[name] for name in ("mean_iou", "per_class")} == {
        name: before[name] for name in ("mean_iou", "per_class")
    }
    assert len(kept["runs"]) == 6
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > figure.height
        assert np.asarray(figure.convert("RGB")).std() > 20
    with pytest.raises(SystemExit):
        main([*asked, "--set", *TINY, "optim.lr=0.5"])
    assert "optim.lr" in capfd.readouterr().err  # what is there is of another recipe
    assert main(["--tables", str(runs)]) == 0
    assert capfd.readouterr().out.strip() == printed[printed.index(kept["device"]) :].rpartition("\n\n")[0].strip()


def test_what_cannot_be_asked_is_refused(tmp_path, capsys):
    for given, message in (([], "--data DIR is needed to train"), (["--data", "x", "--seeds", "0"], "at least 1")):
        with pytest.raises(SystemExit) as ended:
            main([*given, "--out", str(tmp_path)])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_shades_go_from_dark_to_light_around_the_colour_of_a_class():
    labels, owners = np.array([[0, 0, 0, 1]]), np.array([[0, 1, 2, 1]])
    found = owner_picture(labels, owners, [(100, 100, 200), (10, 20, 30)], 3)
    assert found[0].tolist() == [[40, 40, 80], [100, 100, 200], [193, 193, 233], [10, 20, 30]]
    assert owner_picture(labels, owners * 0, [(100, 100, 200), (10, 20, 30)], 1)[0, 0].tolist() == [100, 100, 200]
