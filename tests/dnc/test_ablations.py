"""Ablations: what is varied, that every run is a run, and what the tables say."""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_1samp
from typer.testing import CliRunner

from otcluster.dnc import Ablation, ablate, load_recipe
from otcluster.dnc.ablations.comparison import Comparison, Outcome
from otcluster.dnc.ablations.jobs import visible_devices
from otcluster.dnc.ablations.progress import Unwatched
from otcluster.dnc.ablations.report import draw, table_markdown
from otcluster.dnc.ablations.variants import axis, combined, load_set, set_names, variant, vary
from otcluster.dnc.ablations.work import compare
from otcluster.dnc.commands import app
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.run import RunFiles
from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted
from tests import processes
from tests.disk import full_disk
from tests.dnc.conftest import SMALL, listing, write_images

FAST = [*SMALL, "train.epochs=1", "explain.images_per_subcentroid=1"]
HEADS = "head.kind=linear,dnc"


def plan(folder, *varied, changes=(), **kwargs):
    axes = [vary(text) for text in varied or (HEADS,)]
    return Ablation.plan("image-folder", [*FAST, *changes], axes=axes, data=str(folder), **kwargs)


class Noted(Unwatched):
    """Notes which runs have ended, and may stop one half-way."""

    def __init__(self, stop_in=None, signum=signal.SIGTERM):
        self.ends, self.stop_in, self.signum = [], stop_in, signum

    def moved(self, run, share):
        if run.folder == self.stop_in and share < 1:
            os.kill(os.getpid(), self.signum)

    def ended(self, run, outcome):
        self.ends.append(run.folder)


def test_every_combination_is_a_variant_and_every_seed_and_split_a_run(tmp_path):
    made = plan(tmp_path, HEADS, "head.momentum=0.1,0.5,0.9", seeds=2, splits=2, changes=["train.seed=5"])
    assert len(made.variants) == 6
    assert len(made.runs) == 24
    assert made.variants[0].name == "head.kind=linear, head.momentum=0.1"
    assert {(run.seed, run.split) for run in made.runs} == set(itertools.product((5, 6), (0, 1)))
    for run in made.runs:
        assert (run.recipe.train.seed, run.recipe.data.fold) == (run.seed, run.split)
        assert f"head.kind={run.recipe.head.kind}, head.momentum={run.recipe.head.momentum}" == run.variant.name
    assert len({run.folder for run in made.runs}) == 24
    assert all(run.folder.startswith(f"head.kind={run.recipe.head.kind},_head.momentum=") for run in made.runs)


def test_commas_in_brackets_and_quotes_do_not_separate():
    assert [each.changes for each in vary("train.shares=[1,2],null").variants] == [
        ("train.shares=[1,2]",),
        ("train.shares=null",),
    ]
    assert len(vary("data.dir='a,b',\"c,d\"").variants) == 2
    assert load_recipe("image-folder", vary("data.dir='a,b',c").variants[0].changes).data.dir == "a,b"


def test_several_keys_change_together():
    both = axis([variant("plain:"), variant("k-means: solver.kind=nearest head.momentum=0.9")])
    made = Ablation.plan("digits", axes=[both], seeds=1)
    assert [run.folder for run in made.runs] == ["plain/seed-0", "k-means/seed-0"]
    assert made.runs[0].recipe == load_recipe("digits")
    assert made.runs[1].recipe == load_recipe("digits", ["solver.kind=nearest", "head.momentum=0.9"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vary", "head.kinds=dnc,linear"], r"variant head\.kinds=dnc: unknown key head\.kinds, did you mean head\.kind"),
        (["--vary", "head.kind=linear,softmaxx"], r"variant head\.kind=softmaxx: head\.kind must be one of"),
        (["--vary", "train.epochs=1,many"], r"variant train\.epochs=many: train\.epochs must be a whole number, got 'many'"),
        (["--vary", "head.kind"], r"'head\.kind' does not say what to vary"),
        (["--vary", "head.kind=dnc,,linear"], r"does not say what to vary"),
        (["--vary", "head.kind=dnc,dnc"], r"head\.kind=dnc is there twice"),
        (["--vary", "train.epochs=1,1.0"], r"train\.epochs"),
        (["--vary", "train.seed=1,2"], r"train\.seed is not varied.*--seeds"),
        (["--vary", "data.split_seed=1,2"], r"--splits"),
        (["--vary", "head.kind=dnc,linear", "--set", "head"], r"head\.kind is varied twice"),
        (["--vary", "head.kind=dnc,linear", "head.kind=dnc"], r"head\.kind is varied and changed for all"),
        (["--set", "heads"], r"no set 'heads', did you mean head\?"),
        (["--set", "none.yaml"], r"cannot read set none\.yaml"),
        (["--variant", "no colon"], r"is no variant"),
        (["--variant", "a: b"], r"is no variant"),
        ([], r"nothing is varied"),
        (["--vary", "head.kind=dnc,linear", "tain.epochs=1"], r"unknown key tain"),
        (["--variant", "a:", "--variant", "b:"], r"variants a and b are the same recipe"),
        (["--variant", "a/b:", "--variant", "a?b: train.epochs=3"], None),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("otcluster.dnc.ablations.command.ablate", lambda *args, **kwargs: pytest.fail("was begun"))
    if message is None:  # names that differ have folders that differ
        assert len({run.folder for run in Ablation.plan("digits", axes=[axis(map(variant, options[1::2]))], seeds=1).runs}) == 2
        return
    result = CliRunner().invoke(app, ["ablate", "digits", *options])
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a: [", "- 1", "vary: {head.kind: dnc}", "variants: {a: 3}", "description: x", "varry: {}"])
def test_a_set_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"set .*mine\.yaml"):
        load_set(str(path))


@pytest.mark.parametrize("name", set_names())
def test_every_prepared_set_is_trained_on_the_digits(tmp_path, name):
    description, axes = load_set(name)
    assert description
    changes = [
        "train.epochs=1", "data.image_size=8", "data.augment=none", "data.labels_per_class=24", "data.batch_size=20",
        "optim.lr=0.01", "optim.warmup_epochs=0",
    ]  # fmt: skip
    comparison = ablate(Ablation.plan("digits", changes, axes=axes, seeds=1), tmp_path / name)
    assert not comparison.failed
    assert [row.n for row in comparison.rows] == [1] * len(combined(axes))
    for outcome in comparison.outcomes:
        assert outcome.value > 0.15  # more than chance, after one epoch of twelve steps
        assert (tmp_path / name / outcome.folder / "checkpoints" / "latest").is_file()


def test_statistics_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(0.9, 0.02, 5) for name in "abc"}
    runs = [Outcome(name, seed, 1, "", float(value), 2.0) for name in "abc" for seed, value in enumerate(values[name])]
    runs[5] = replace(runs[5], value=None, failed="why")  # of b: no pair of the first seed
    first, second, third = Comparison.of("abc", runs).rows
    assert (first.mean, first.deviation) == pytest.approx((values["a"].mean(), values["a"].std(ddof=1)))
    assert first.difference is first.low is None
    for row, keep in ((second, slice(1, None)), (third, slice(None))):
        differences = (values[row.variant] - values["a"])[keep]
        interval = ttest_1samp(differences, 0).confidence_interval(0.95)
        assert (row.difference, row.low, row.high) == pytest.approx((differences.mean(), interval.low, interval.high))
        assert row.n_pairs == len(differences)
    assert (second.n, second.failed, second.missing) == (4, 1, 0)
    assert "4 (1 failed)" in table_markdown(Comparison.of("abc", runs))


def test_nothing_is_said_of_what_is_not_known():
    row, other = Comparison.of("ab", [Outcome("a", 0, 0, ""), Outcome("b", 0, 0, "", 0.5, 1.0)]).rows
    assert (row.n, row.mean, row.deviation, row.missing) == (0, None, None, 1)
    assert (other.mean, other.deviation, other.difference, other.n_pairs) == (0.5, None, None, 0)


@pytest.mark.usefixtures("rendered")
def test_tables_and_picture_are_left_and_a_finished_ablation_is_not_repeated(image_folder, tmp_path):
    out = tmp_path / "out"
    comparison = ablate(plan(image_folder, seeds=2), out)
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["variant"] for row in rows] == ["head.kind=linear", "head.kind=dnc"]
    results, means = json.loads((out / "results.json").read_text()), {}
    for row, outcome in itertools.product(rows, results["outcomes"]):
        metrics = RunFiles(out / outcome["folder"]).read_metrics()
        assert outcome["value"] == metrics["test"]["accuracy"]
        if outcome["variant"] == row["variant"]:
            means.setdefault(row["variant"], []).append(outcome["value"])
    assert [float(row["mean"]) for row in rows] == pytest.approx([np.mean(means[row["variant"]]) for row in rows])
    with Image.open(out / "results.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
    before, noted = listing(out), Noted()
    assert ablate(plan(image_folder, seeds=2), out, watcher=noted) == comparison
    assert noted.ends == []
    after = listing(out)
    assert {name for name in after if after[name] != before[name]} <= {"results.png"}
    more = ablate(plan(image_folder, seeds=3), out, watcher=noted)
    assert noted.ends == ["head.kind=linear/seed-2", "head.kind=dnc/seed-2"]
    assert [row.n for row in more.rows] == [3, 3]


def test_a_run_that_fails_is_in_the_table_and_the_others_go_on(image_folder, tmp_path):
    out = tmp_path / "out"
    options = [*FAST, "optim.name=sgd", "--vary", "optim.lr=1e30,0.01", "--seeds", "1", "--data", str(image_folder)]
    result = CliRunner().invoke(app, ["ablate", "image-folder", *options, "--out", str(out)])
    assert result.exit_code == 1, result.output
    assert "the loss is nan" in (out / "table.md").read_text()
    bad, good = json.loads((out / "results.json").read_text())["rows"]
    assert (bad["n"], bad["failed"], good["n"], good["failed"]) == (0, 1, 1, 0)
    assert "1 of 2 runs compared" in result.stdout


def test_one_that_was_stopped_goes_on_where_it_was(image_folder, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    stopping = Noted("head.kind=dnc/seed-0", signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        ablate(plan(image_folder, seeds=1), out, watcher=stopping)
    assert stopped.value.exit_code == 130
    assert stopping.ends == ["head.kind=linear/seed-0"]
    partial = compare(plan(image_folder, seeds=1), out)
    assert [(row.n, row.missing) for row in partial.rows] == [(1, 0), (0, 1)]
    first = (out / "head.kind=linear" / "seed-0" / "metrics.json").stat().st_mtime_ns
    noted = Noted()
    ablate(plan(image_folder, seeds=1), out, watcher=noted)
    assert noted.ends == ["head.kind=dnc/seed-0"]
    assert (out / "head.kind=linear" / "seed-0" / "metrics.json").stat().st_mtime_ns == first
    ablate(plan(image_folder, seeds=1), whole)
    for name in ("head.kind=linear", "head.kind=dnc"):
        one, other = (listing(each / name / "seed-0" / "checkpoints") for each in (out, whole))
        assert one["step-4/model.safetensors"] == other["step-4/model.safetensors"]


@pytest.mark.parametrize("n_writes", [0, 4, 30, 45])
def test_a_disk_that_is_full_leaves_an_ablation_that_goes_on(image_folder, tmp_path, monkeypatch, n_writes):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        full_disk(patch, n_writes)
        with pytest.raises(OSError, match="No space left on device"):
            ablate(plan(image_folder, seeds=1), out)
    ended = set(out.glob("*/*/metrics.json"))
    assert len(ended) < 2
    noted = Noted()
    found = ablate(plan(image_folder, seeds=1), out, watcher=noted)
    assert not found.failed
    assert [row.n for row in found.rows] == [1, 1]
    assert len(noted.ends) == 2 - len(ended)
    assert not [path for path in out.rglob("*") if ".part" in path.name]


def test_a_signal_between_two_runs_is_heeded(image_folder, tmp_path, monkeypatch):
    class Late(Noted):
        def ended(self, run, outcome):
            super().ended(run, outcome)
            os.kill(os.getpid(), signal.SIGTERM)

    noted = Late()
    with pytest.raises(Interrupted, match="between two runs") as stopped:
        ablate(plan(image_folder, seeds=1), tmp_path / "out", watcher=noted)
    assert stopped.value.exit_code == 143
    assert noted.ends == ["head.kind=linear/seed-0"]


def test_a_directory_of_something_else_is_left_as_it_is(image_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(RunError, match="exists and is no ablation"):
        ablate(plan(image_folder), tmp_path / "mine")
    assert listing(tmp_path / "mine") == {"thesis.txt": b"words"}
    ablate(plan(image_folder, seeds=1), tmp_path / "out")
    before = listing(tmp_path / "out")
    with pytest.raises(RunError, match=r"holds a run of another recipe \(train\.epochs is 1 there and 2 here\)"):
        ablate(plan(image_folder, seeds=1, changes=["train.epochs=2"]), tmp_path / "out")
    with pytest.raises(RunError, match="there is no ablation in"):
        compare(plan(image_folder), tmp_path / "none")
    assert listing(tmp_path / "out") == before


def test_splits_that_would_all_be_the_same_are_refused(image_folder, tmp_path):
    with pytest.raises(DataError, match="--splits would repeat the same one"):
        ablate(plan(image_folder, splits=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_images(tmp_path / "whole", n=20)
    ablate(plan(tmp_path / "whole", "head.kind=linear", seeds=1, splits=2), tmp_path / "out")
    runs = [tmp_path / "out" / "head.kind=linear" / name for name in ("seed-0", "split-1-seed-0")]
    tests = [json.loads((run / "index.json").read_text()) for run in runs]
    assert tests[0] != tests[1]


def in_processes(folder, out, jobs, epochs):
    """Ablate in ``jobs`` processes, ending as the command does."""
    made = plan(folder, changes=[f"train.epochs={epochs}"], seeds=2)
    try:
        ablate(made, out, jobs=jobs)
    except Interrupted as stopped:
        sys.exit(stopped.exit_code)


def test_in_two_processes_it_is_stopped_as_one_and_ends_the_same(image_folder, tmp_path, monkeypatch):
    out, many = tmp_path / "out", 200
    fork = processes.start("tests.dnc.test_ablations:in_processes", image_folder, out, 2, many)
    latest = time.monotonic() + 120
    while len(list(out.glob("*/seed-0/history.csv"))) < 2:  # both are at it
        assert time.monotonic() < latest, fork.errors.read_text()
        time.sleep(0.05)
    os.kill(fork.process.pid, signal.SIGTERM)
    [(code, _, errors)] = processes.end([fork])
    assert code == 143, errors
    stopped = {path.parent.parent.parent.name: path.read_text() for path in out.glob("*/seed-0/checkpoints/latest")}
    assert set(stopped) == {"head.kind=linear", "head.kind=dnc"}
    assert not list(out.glob("*/seed-1"))
    assert not list(out.glob("*/*/metrics.json"))
    with pytest.raises(RunError, match=f"train.epochs is {many} there and 1 here"):
        ablate(plan(image_folder, seeds=2), out, jobs=2)
    # The processes above were new interpreters; these are forks, which have imported everything.
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: processes.forks())
    one, two = (ablate(plan(image_folder, seeds=2), tmp_path / f"jobs-{jobs}", jobs=jobs) for jobs in (1, 2))
    assert [replace(each, seconds=0.0) for each in one.outcomes] == [replace(each, seconds=0.0) for each in two.outcomes]


def test_devices_are_those_that_may_be_seen(monkeypatch):
    for named, n, expected in (("", 0, []), ("", 2, ["0", "1"]), ("3, 5", 2, ["3", "5"]), ("GPU-a", 1, ["GPU-a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        monkeypatch.setattr("torch.cuda.device_count", lambda n=n: n)
        assert visible_devices() == expected


@pytest.mark.usefixtures("rendered")
def test_any_name_is_drawn_as_it_is_and_partial_results_too(tmp_path):
    runs = [Outcome("a$x_{$b", 0, 0, "", 0.5, 1.0), Outcome("b", 0, 0, "")]
    draw(Comparison.of(["a$x_{$b", "b"], runs), "$^$", [], tmp_path / "bars.png")
    axes = [vary("memory.capacity=8,0")]
    draw(Comparison.of(["x", "y"], [replace(runs[0], variant="y")]), "t", axes, tmp_path / "line.png")
    draw(Comparison.of(["x", "y"], []), "t", [], tmp_path / "none.png")
    assert len(list(tmp_path.glob("*.png"))) == 3
