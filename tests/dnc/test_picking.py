"""Correcting a model by hand: each edit does what it says, contradictions are refused, and names stay."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import (
    Drop,
    Merge,
    Rename,
    Replace,
    edit,
    evaluate,
    explain,
    export,
    load_edits,
    load_recipe,
    load_run,
    overview,
    predict,
    train,
)
from otcluster.dnc.checkpoint import load_checkpoint, save_checkpoint
from otcluster.dnc.commands import app
from otcluster.dnc.editing import add_class, remove_class
from otcluster.dnc.picking.placing import merged, placed
from otcluster.dnc.typical import TypicalImages, find_typical
from otcluster.runs.errors import RunError
from tests.dnc.conftest import listing, small


def pictures(run):
    test = run.load_test()
    return [test.read(at) for at in range(len(test))]


def units(features):
    found = features.double().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def expected(run, subcentroids):
    """Cosines and predictions of the test images, in float64; sub-centroids (n_classes, k, dim) that are zero are not there."""
    cosines = np.einsum("nd,ckd->nck", units(run.model.predict(pictures(run)).features), subcentroids)
    cosines = np.where(np.abs(subcentroids).sum(axis=2) > 0, cosines, -np.inf)
    return cosines, cosines.max(axis=2).argmax(axis=1), cosines.reshape(len(cosines), -1).argmax(axis=1) % cosines.shape[2]


def check(run, subcentroids):
    """See that a run answers as these sub-centroids say, and that its sizes are those of its training images."""
    cosines, labels, won = expected(run, subcentroids)
    said = run.model.predict(pictures(run))
    found = run.model.head.similarities(said.features)
    np.testing.assert_allclose(found, cosines, atol=1e-5)
    assert said.labels.tolist() == labels.tolist()
    assert said.subcentroids.tolist() == won.tolist()
    typical, images = TypicalImages.load(run.files), run.load_train()
    trained = evaluate(run.model, images, run.recipe.data)
    own = np.einsum("nd,nkd->nk", units(trained.features), subcentroids[trained.labels])
    own = np.where(np.abs(subcentroids[trained.labels]).sum(axis=2) > 0, own, -np.inf)
    sizes = np.zeros(subcentroids.shape[:2], dtype=int)
    np.add.at(sizes, (trained.labels.numpy(), own.argmax(axis=1)), 1)
    assert typical.sizes.tolist() == sizes.tolist()
    whole = find_typical(run.model, trained, images, len(run.classes), run.recipe.explain.images_per_subcentroid)
    assert (typical.names, typical.indices.tolist()) == (whole.names, whole.indices.tolist())
    assert typical.subcentroids.tolist() == whole.subcentroids.tolist()


def before(run):
    return run.model.head.subcentroids.double().numpy().copy()


def test_a_name_is_kept_and_shown_wherever_the_subcentroid_is(small_run, tmp_path):
    source = listing(small_run / "run")
    run = load_run(small_run / "run")
    everywhere = [Rename((name, at + 1), f"{name}-{at} <b>é") for name in run.classes for at in range(4)]
    written = edit(run, everywhere, tmp_path / "named")
    named = load_run(tmp_path / "named")
    assert listing(small_run / "run") == source
    assert run.names[0] == ["cat #1", "cat #2", "cat #3", "cat #4"]
    assert written.names == named.names == [[f"{name}-{at} <b>é" for at in range(4)] for name in run.classes]
    check(named, before(run))
    assert [each.name for each in overview(named).subcentroids] == [name for row in named.names for name in row]
    picture = pictures(run)[0]
    (found,), (plain,) = explain(named, picture), explain(run, picture)
    said, was = found.as_dict(named.classes), plain.as_dict(run.classes)
    own, second = found.alternatives[:2]
    assert said["name"] == named.names[own.label][own.subcentroid]
    assert said["alternatives"][0]["name"] == named.names[second.label][second.subcentroid]
    assert said["rule"] == found.rule.text(named.classes[own.label], named.names)
    assert f"{said['name']} " in said["rule"]
    assert was["name"] == f"{was['class']} #{was['subcentroid']}"
    assert explain(named.model, picture)[0].as_dict(named.classes)["rule"] == said["rule"]
    path = small_run / "images" / "test" / "cat" / "000.png"
    (predicted,) = predict(named, [path])
    assert (predicted.name, predicted.subcentroid) == (said["name"], said["subcentroid"])
    for command in (["predict", str(tmp_path / "named"), str(path)], ["explain", str(tmp_path / "named"), str(path)]):
        assert said["name"] in CliRunner().invoke(app, command).stdout
    second_name = said["alternatives"][0]["name"]
    assert f"next: {second_name}, cosine" in CliRunner().invoke(app, command).stdout
    assert "cat-0 <b>é: " in CliRunner().invoke(app, ["explain", str(tmp_path / "named")]).stdout


def test_what_is_dropped_decides_no_more_and_the_others_keep_their_numbers(small_run, tmp_path):
    run = load_run(small_run / "run")
    left = before(run)
    left[0, 1] = left[2, 3] = left[2, 0] = 0
    edit(run, [Drop("cat #2"), Drop(("owl", 4)), Drop("owl #1")], tmp_path / "new")
    new = load_run(tmp_path / "new")
    check(new, left)
    assert new.model.head.n_open.tolist() == [3, 4, 2]
    assert [each.name for each in overview(new).subcentroids if each.place[0] != 1] == [
        "cat #1",
        "cat #3",
        "cat #4",
        "owl #2",
        "owl #3",
    ]
    assert json.loads(export(new, tmp_path / "model.pt2")["subcentroids"]) == new.names
    batch = torch.stack([new.model.convert(each) for each in pictures(new)])
    logits, won = torch.export.load(tmp_path / "model.pt2").module()(batch)
    assert torch.equal(won, new.model.predict(pictures(new)).subcentroids)
    torch.testing.assert_close(logits, new.model(batch))
    with pytest.raises(RunError, match="was trained on other images"):
        train(small(small_run / "images"), tmp_path / "new")


def test_what_is_merged_is_the_mean_weighted_by_training_images(small_run, tmp_path):
    run = load_run(small_run / "run")
    sizes = TypicalImages.load(run.files).sizes.double().numpy()
    together = before(run)
    places = [3, 0, 1]
    mean = (sizes[1, places, None] * together[1, places]).sum(axis=0)
    together[1, 0] = together[1, 1] = 0
    together[1, 3] = mean / np.linalg.norm(mean)
    edit(run, [Merge(["dog #4", "dog #1", ("dog", 2)]), Rename("dog #4", "dog")], tmp_path / "new")
    new = load_run(tmp_path / "new")
    np.testing.assert_allclose(before(new)[1], together[1, :4], atol=1e-7)
    check(new, together)
    assert [each.name for each in overview(new).subcentroids if each.place[0] == 1] == ["dog #3", "dog"]
    counts = run.model.head.store.usage[1, places].sum()
    assert float(new.model.head.store.usage[1, 3]) == pytest.approx(float(counts))


def test_a_mean_is_weighted_and_of_unit_length_only_where_directions_are_compared():
    rows, sizes = torch.tensor([[3.0, 0.0], [0.0, 3.0]]), torch.tensor([3, 1])
    torch.testing.assert_close(merged(rows, sizes, "sqeuclidean"), torch.tensor([2.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(merged(rows, sizes, "cosine"), torch.tensor([3.0, 1.0], dtype=torch.float64) / 10**0.5)
    alike = torch.tensor([1.5, 1.5], dtype=torch.float64)
    torch.testing.assert_close(merged(rows, torch.tensor([0, 0]), "sqeuclidean"), alike)
    with pytest.raises(ValueError, match="no direction"):
        merged(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([2, 2]), "cosine")
    with pytest.raises(ValueError, match="not finite"):
        placed(torch.tensor([torch.nan]), "sqeuclidean")


def test_what_is_replaced_is_the_feature_of_the_image(small_run, tmp_path):
    run = load_run(small_run / "run")
    images, path = run.load_train(), small_run / "images" / "test" / "dog" / "001.png"
    at = images.names.index("train/owl/005.png")
    features = units(run.model.predict([images.read(at), Image.open(path)]).features)
    edits = [Replace("cat #2", "train/owl/005.png"), Replace(("dog", 4), path), Rename("cat #2", "odd")]
    edit(run, edits, tmp_path / "new")
    new = load_run(tmp_path / "new")
    changed = before(run)
    changed[0, 1], changed[1, 3] = features
    np.testing.assert_allclose(before(new), changed, atol=1e-6)
    check(new, before(new))
    assert new.names[0][1] == "odd"


def test_of_a_run_that_keeps_few_features_the_images_are_read(small_run, tmp_path):
    train(small(small_run / "images", "explain.images_per_subcentroid=1"), tmp_path / "run")
    run = load_run(tmp_path / "run")
    kept = TypicalImages.load(run.files).names
    other = next(name for name in run.load_train().names if name not in kept)
    edit(run, [Replace("cat #1", other), Drop("owl #2")], tmp_path / "new")
    new = load_run(tmp_path / "new")
    feature = units(run.model.predict(run.load_train().read(run.load_train().names.index(other))).features)[0]
    np.testing.assert_allclose(before(new)[0, 0], feature, atol=1e-6)
    check(new, before(new))


def test_a_head_that_compares_by_distance_is_edited_with_features_as_they_are(small_run, tmp_path):
    train(small(small_run / "images", "head.metric=sqeuclidean"), tmp_path / "run")
    run = load_run(tmp_path / "run")
    typical, images = TypicalImages.load(run.files), run.load_train()
    feature = run.model.predict(images.read(0)).features[0]
    edit(run, [Replace("owl #3", images.names[0]), Merge(["cat #1", "cat #2"])], tmp_path / "new")
    new = load_run(tmp_path / "new")
    torch.testing.assert_close(new.model.head.subcentroids[2, 2], feature)
    sizes = typical.sizes[0, :2].double()
    weights = sizes / sizes.sum() if sizes.sum() else torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        before(new)[0, 0], (weights @ run.model.head.subcentroids[0, :2].double()).float().double().numpy()
    )
    trained = evaluate(new.model, images, new.recipe.data)
    whole = find_typical(new.model, trained, images, 3, 50)
    assert TypicalImages.load(new.files).sizes.tolist() == whole.sizes.tolist()


def test_where_the_images_are_gone_a_wrong_size_is_never_shown(small_run, tmp_path):
    images = shutil.copytree(small_run / "images", tmp_path / "images")
    train(small(images, "explain.images_per_subcentroid=1"), tmp_path / "run")
    shutil.move(images, tmp_path / "moved")
    run = load_run(tmp_path / "run")
    for change in (Drop("cat #1"), Merge(["cat #1", "cat #2"]), Replace("cat #1", TypicalImages.load(run.files).names[0])):
        with pytest.raises(
            RunError, match=r"training images of class cat are needed.*there is no folder.*pass --data.*only rename"
        ):
            edit(run, [change], tmp_path / "new")
    with pytest.raises(
        RunError, match=r"neither a training image of .* nor a picture file.*cannot be read: there is no folder"
    ):
        edit(run, [Replace("cat #1", "none.png")], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    named = edit(run, [Rename("cat #1", "tom")], tmp_path / "named")
    assert overview(named).subcentroids[0].name == "tom"
    assert TypicalImages.load(named.files).sizes.tolist() == TypicalImages.load(run.files).sizes.tolist()
    moved = load_run(tmp_path / "named", data_dir=str(tmp_path / "moved"))
    found = edit(moved, [Drop("tom")], tmp_path / "new")
    check(found, before(found))
    cat = tmp_path / "moved" / "train" / "cat"
    extra = shutil.copy(cat / "000.png", cat / "more.png")
    with pytest.raises(RunError, match="there were 12 of class cat, and now there are 13"):
        edit(moved, [Drop("cat #2")], tmp_path / "again")
    extra.unlink()
    kept = TypicalImages.load(run.files).names[0]
    (tmp_path / "moved" / kept).rename(cat / "other.png")
    with pytest.raises(RunError, match=f"{kept} is not among them"):
        edit(moved, [Drop("cat #2")], tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_another_image_of_the_same_name_is_noticed(small_run, tmp_path):
    run = train_with_one_kept(small_run, tmp_path)
    typical = TypicalImages.load(run.files)
    flipped = TypicalImages(**{**vars(typical), "features": -typical.features})
    flipped.save(run.files)
    with pytest.raises(RunError, match="is another image now"):
        edit(run, [Drop("cat #1")], tmp_path / "new")


def train_with_one_kept(small_run, tmp_path):
    train(small(small_run / "images", "explain.images_per_subcentroid=1"), tmp_path / "run")
    return load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([], "no edits were given"),
        ([Drop("cat #9")], r"there is no sub-centroid 'cat #9', did you mean cat #"),
        ([Drop(("cow", 1))], r"there is no class 'cow'"),
        ([Drop(("cat", 5))], "class cat has no sub-centroid 5, only 1, 2, 3, 4"),
        ([Drop("cat #1"), Drop(("cat", 1))], "cat #1 is to be dropped and to be dropped"),
        ([Drop("cat #1"), Merge(["cat #2", "cat #1"])], r"cat #1 is to be dropped and to be merged into cat #2"),
        ([Merge(["cat #1", "cat #2"]), Merge(["cat #2", "cat #3"])], "merged into cat #1 and to be merged into cat #2"),
        ([Merge(["cat #1", "cat #1"])], "cat #1 is to be merged into cat #1 and to be merged into cat #1"),
        ([Merge(["cat #1", "dog #1"])], "cat #1 and dog #1 are of different classes"),
        ([Replace("cat #1", "a.png"), Replace("cat #1", "b.png")], "to be replaced by a.png and to be replaced by b.png"),
        ([Replace("cat #1", "a.png"), Replace("dog #1", "a.png")], "a.png is to replace two sub-centroids"),
        ([Replace("cat #1", "a.png"), Drop("cat #1")], "to be replaced by a.png and to be dropped"),
        ([Rename("cat #1", "tom"), Rename("cat #1", "tim")], "cat #1 is to be called 'tom' and 'tim'"),
        ([Rename("cat #1", "dog #2")], "two sub-centroids would be called 'dog #2'"),
        ([Rename("cat #1", "tom"), Rename("dog #2", "tom")], "two sub-centroids would be called 'tom'"),
        ([Rename("cat #1", "tom"), Drop("cat #1")], "cat #1 is to be dropped, so it cannot be called 'tom'"),
        ([Rename("cat #2", "tom"), Merge(["cat #1", "cat #2"])], "cat #2 is to be merged into cat #1, so it cannot be called"),
        ([Drop(("dog", at)) for at in (1, 2, 3, 4)], "class dog would have no sub-centroid left.*remove-class"),
        ([Replace("cat #1", "train/cat/00.png")], r"neither a training image of .*, did you mean train/cat/0\d\d\.png"),
    ],
)
def test_edits_that_cannot_be_are_refused_and_nothing_is_written(small_run, tmp_path, edits, message):
    with pytest.raises(RunError, match=message):
        edit(load_run(small_run / "run"), edits, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_may_change_hands_and_that_of_one_that_goes_is_free(small_run, tmp_path):
    run = load_run(small_run / "run")
    edits = [Rename("cat #1", "cat #2"), Rename("cat #2", "cat #1"), Drop("cat #3"), Rename("cat #4", "cat #3")]
    new = edit(run, edits, tmp_path / "new")
    assert [each.name for each in overview(new).subcentroids][:3] == ["cat #2", "cat #1", "cat #3"]
    again = edit(new, [Drop("cat #3")], tmp_path / "again")
    assert again.model.head.store.is_open[0].tolist() == [True, True, False, False]


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


GOOD = {"do": "drop", "subcentroid": "cat #1"}


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


def accuracy(run):
    found = evaluate(run.model, run.load_test(), run.recipe.data)
    return float((found.predictions == found.labels).float().mean())


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


def test_names_and_numbers_stay_when_classes_come_and_go(small_run, tmp_path):
    run = edit(load_run(small_run / "run"), [Rename("owl #4", "barn owl"), Drop("owl #2"), Drop("cat #1")], tmp_path / "edited")
    old = before(run)
    folder = small_run / "images" / "train" / "cat"
    add_class(run, "yak", [folder], tmp_path / "more", n_subcentroids=6)
    more = load_run(tmp_path / "more")
    assert more.names[2] == ["owl #1", "owl #2", "owl #3", "barn owl", "owl #5", "owl #6"]
    assert more.names[3] == [f"yak #{at}" for at in range(1, 7)]
    np.testing.assert_array_equal(before(more)[:3, :4], old)
    assert not before(more)[:3, 4:].any()
    shown = [each.name for each in overview(more).subcentroids]
    assert shown == [
        *("cat #2", "cat #3", "cat #4", "dog #1", "dog #2", "dog #3", "dog #4", "owl #1", "owl #3", "barn owl"),
        *more.names[3],
    ]
    assert sum(each.size for each in overview(more).subcentroids) == 48
    edited = edit(more, [Merge(["yak #1", "yak #2"]), Drop("dog #1")], tmp_path / "kept")  # of what is kept, which is all
    assert TypicalImages.load(edited.files).sizes.sum(dim=1).tolist() == [12, 12, 12, 12]
    remove_class(load_run(tmp_path / "kept"), "cat", tmp_path / "less")
    less = load_run(tmp_path / "less")
    assert less.names == edited.names[1:]
    assert [each.name for each in overview(less).subcentroids][3:6] == ["owl #1", "owl #3", "barn owl"]
    np.testing.assert_array_equal(before(less), before(edited)[1:])


def test_a_run_that_was_written_with_numbers_of_subcentroids_alone_is_read(small_run, tmp_path):
    add_class(load_run(small_run / "run"), "yak", [small_run / "images" / "train" / "cat"], tmp_path / "run", n_subcentroids=6)
    run = load_run(tmp_path / "run")
    weights, state = load_checkpoint(run.files.checkpoints)
    del state["names"]
    save_checkpoint(run.files.checkpoints, 1, weights, {**state, "subcentroids": [4, 4, 4, 6]})
    again = load_run(tmp_path / "run")
    assert again.model.head.n_open.tolist() == [4, 4, 4, 6]
    assert again.names[3][5] == "yak #6"
    np.testing.assert_array_equal(before(again), before(run))


def test_a_class_is_not_added_whose_subcentroids_would_be_called_as_another(small_run, tmp_path):
    run = edit(load_run(small_run / "run"), [Rename("cat #1", "yak #2"), Rename("cat #2", "gnu #x")], tmp_path / "edited")
    folder = small_run / "images" / "train" / "cat"
    with pytest.raises(RunError, match="there is a sub-centroid called 'yak #2'"):
        add_class(run, "yak", [folder], tmp_path / "more")
    assert add_class(run, "gnu", [folder], tmp_path / "more").classes[-1] == "gnu"


@pytest.fixture(scope="module")
def grown(small_run, tmp_path_factory):
    """A run whose classes chose their numbers, with gaps between them."""
    root = tmp_path_factory.mktemp("grown") / "run"
    train(small(small_run / "images", "growth.kind=evidence", "growth.k_max=5", "head.n_subcentroids=2"), root)
    run = load_run(root)
    store, images = run.model.head.store, run.load_train()
    trained = evaluate(run.model, images, run.recipe.data)
    means = nn.functional.normalize(trained.features, dim=1).view(3, 12, -1)[:, :5].contiguous()
    is_open = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [1, 0, 0, 1, 0]], dtype=torch.bool)
    store.rearrange(is_open, is_open, means, torch.ones(3, 5))
    save_checkpoint(run.files.checkpoints, 99, run.model.state_dict(), {"classes": run.classes})
    find_typical(run.model, trained, images, 3, 50).save(run.files)
    return root


def test_gaps_of_a_run_that_grew_stay(grown, tmp_path, small_run):
    run = load_run(grown)
    assert run.model.head.growing is not None
    shown = [each.name for each in overview(run).subcentroids]
    assert shown == ["cat #1", "cat #3", "cat #5", "dog #2", "dog #3", "dog #4", "owl #1", "owl #4"]
    with pytest.raises(RunError, match="there is no sub-centroid 'cat #2'"):
        edit(run, [Drop("cat #2")], tmp_path / "new")
    with pytest.raises(RunError, match="class cat has no sub-centroid 2, only 1, 3, 5"):
        edit(run, [Drop(("cat", 2))], tmp_path / "new")
    edit(run, [Rename("cat #3", "cat #2"), Drop("cat #5"), Merge(["dog #2", "dog #4"])], tmp_path / "new")
    new = load_run(tmp_path / "new")
    assert [each.name for each in overview(new).subcentroids] == ["cat #1", "cat #2", "dog #2", "dog #3", "owl #1", "owl #4"]
    left = before(new)
    np.testing.assert_array_equal(left[0, [0, 2]], before(run)[0, [0, 2]])
    check(new, left)
    add_class(load_run(grown), "yak", [small_run / "images" / "train" / "cat"], tmp_path / "more", n_subcentroids=3)
    more = load_run(tmp_path / "more")
    assert [each.name for each in overview(more).subcentroids] == [*shown, "yak #1", "yak #2", "yak #3"]
    assert [each.size for each in overview(more).subcentroids][:8] == [each.size for each in overview(run).subcentroids]


def test_a_spoilt_model_is_mended_by_hand(tmp_path):
    recipe = load_recipe("digits", ["train.epochs=2", "data.image_size=16", "head.n_subcentroids=1", "head.momentum=0.9"])
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    typical = TypicalImages.load(run.files)
    three, eight = (typical.names[int(typical.of(label, 0)[0])] for label in (3, 8))
    spoilt = edit(run, [Replace("8 #1", three)], tmp_path / "spoilt")
    mended = edit(load_run(tmp_path / "spoilt"), [Replace("8 #1", eight)], tmp_path / "mended")
    good, bad, again = accuracy(run), accuracy(spoilt), accuracy(mended)
    assert good - bad > 0.05
    assert good - again < 0.03
