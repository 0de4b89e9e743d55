"""Edits as values, in files and by the command: what is read, what is refused, and what is told."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from otcluster.dnc import Drop, Merge, Rename, Replace, edit, evaluate, load_edits, load_run, train
from otcluster.dnc.commands import app
from otcluster.runs.errors import RunError
from tests.dnc.conftest import small
from tests.dnc.edited import accuracy

GOOD = {"do": "drop", "subcentroid": "cat #1"}


def test_values_that_are_no_edits_are_refused(small_run, tmp_path):
    for name, message in (
        ("", "must not be empty"),
        (" tom", "begin or end with a blank"),
        ("a\nb", "one line"),
        ("a\x1b[0m", "control"),
        ("a\u2028b", "one line"),
        ("\ud800", "control"),
    ):
        with pytest.raises(ValueError, match=message):
            Rename("cat #1", name)
    for wrong, kind, message in (
        (lambda: Rename("cat #1", 3), TypeError, "a name must be text, got 3"),
        (lambda: Drop(("cat", 0)), ValueError, "counted from 1, got 0"),
        (lambda: Drop(("cat", True)), ValueError, "counted from 1, got True"),
        (lambda: Drop(["cat", 1]), TypeError, "is its name, or"),
        (lambda: Merge(["cat #1"]), ValueError, "two sub-centroids or more"),
        (lambda: Merge("cat #1"), ValueError, "two sub-centroids or more"),
        (lambda: Merge(["cat #1", 2]), TypeError, "places: a sub-centroid is"),
        (lambda: Replace("cat #1", None), TypeError, "image must be"),
        (lambda: edit(load_run(small_run / "run"), ["cat #1"], tmp_path / "new"), TypeError, "edits are Rename, Drop"),
    ):
        with pytest.raises(kind, match=message):
            wrong()
    train(small(small_run / "images", "head.kind=linear"), tmp_path / "linear")
    linear = load_run(tmp_path / "linear")
    assert linear.names == [[], [], []]
    with pytest.raises(RunError, match="changed by hand where a head has sub-centroids, and this is LinearHead"):
        edit(linear, [Drop("cat #1")], tmp_path / "new")
    with pytest.raises(RunError, match="exists: choose another --out"):
        edit(load_run(small_run / "run"), [Drop("cat #1")], tmp_path)


def test_a_file_of_edits_is_read(tmp_path):
    path = tmp_path / "changes.json"
    path.write_text(
        '[{"do": "rename", "subcentroid": "goose #2", "name": "goose in flight"}, {"do": "drop", "subcentroid": ["goose", 3]},'
        ' {"do": "merge", "subcentroids": ["goose #1", ["goose", 4]]},'
        ' {"do": "replace", "subcentroid": "swan #1", "image": "1.png"}]'
    )
    assert load_edits(path) == [
        Rename("goose #2", "goose in flight"),
        Drop(("goose", 3)),
        Merge(["goose #1", ("goose", 4)]),
        Replace("swan #1", "1.png"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", r"changes\.json cannot be read: Expecting"),
        (GOOD, r"changes\.json must hold a list of edits"),
        ([], r"changes\.json must hold a list of edits"),
        ([GOOD, 3], r"changes\.json, entry 2: an edit is an object with the key do, got 3"),
        ([GOOD, {"subcentroid": "x"}], "entry 2: the key do is missing: it is one of rename, drop, merge, replace"),
        ([{"do": "renam"}], "entry 1: do is 'renam', did you mean rename"),
        ([GOOD, {"do": "rename", "subcentroid": "x", "nmae": "y"}], "entry 2: rename knows no key 'nmae', did you mean name"),
        ([{"do": "rename", "subcentroid": "x"}], "entry 1: rename needs the key name"),
        ([{"do": "rename", "subcentroid": "x", "name": "a\nb"}], "entry 1: rename: a name must be one line"),
        ([{"do": "drop", "subcentroid": 3}], r"entry 1: drop: place: a sub-centroid is its name, or \(class, number\), got 3"),
        ([{"do": "drop", "subcentroid": ["cat", 0]}], "entry 1: drop: place: the number of a sub-centroid is counted from 1"),
        ([{"do": "merge", "subcentroids": "cat #1"}], "entry 1: merge: places must be two sub-centroids or more"),
        ([{"do": "replace", "subcentroid": "cat #1", "image": 3}], "entry 1: replace: image must be"),
        ('[{"do": "drop", "subcentroid": "a", "subcentroid": "b"}]', "the key 'subcentroid' stands twice"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_entry_and_key(tmp_path, content, message):
    path = tmp_path / "changes.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RunError, match=message):
        load_edits(path)
    with pytest.raises(RunError, match="cannot be read"):
        load_edits(tmp_path / "none.json")


def test_the_command_writes_a_run_and_compares_accuracies(small_run, tmp_path):
    changes, out = tmp_path / "changes.json", tmp_path / "new"
    cat = [f"train/cat/{at:03}.png" for at in range(4)]
    spoil = [{"do": "replace", "subcentroid": f"dog #{at + 1}", "image": name} for at, name in enumerate(cat)]
    changes.write_text(json.dumps(spoil))
    said = CliRunner().invoke(app, ["edit", str(small_run / "run"), str(changes), "--out", str(out)])
    assert said.exit_code == 0, said.output
    old, new = load_run(small_run / "run"), load_run(out)
    *classes, total, last = said.stdout.splitlines()
    assert total == f"test accuracy {accuracy(old):.4f} before, {accuracy(new):.4f} after, on 12 images"
    assert last == f"4 edits of {small_run / 'run'}, in {out}"
    both = [evaluate(each.model, each.load_test(), each.recipe.data).metrics(old.classes)["per_class"] for each in (old, new)]
    differ = [name for name in old.classes if both[0][name] != both[1][name]]
    assert classes == [f"{name:24} {both[0][name]:.4f} before, {both[1][name]:.4f} after" for name in differ]
    changes.write_text('[{"do": "drop", "subcentroid": "cat #7"}]')
    refused = CliRunner().invoke(app, ["edit", str(small_run / "run"), str(changes), "--out", str(tmp_path / "other")])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: there is no sub-centroid 'cat #7'")
    assert not (tmp_path / "other").exists()


def test_the_command_says_that_it_cannot_evaluate(small_run, tmp_path):
    changes = tmp_path / "changes.json"
    changes.write_text('[{"do": "rename", "subcentroid": "cat #1", "name": "tom"}]')
    command = ["edit", str(small_run / "run"), str(changes), "--out", str(tmp_path / "new"), "--data", str(tmp_path / "none")]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    assert "is not evaluated, for its test images cannot be read: there is no folder" in said.stderr
    assert load_run(tmp_path / "new").names[0][0] == "tom"
