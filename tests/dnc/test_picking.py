"""Correcting a model by hand: each edit does what it says, and contradictions are refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
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
    load_recipe,
    load_run,
    overview,
    predict,
    train,
)
from otcluster.dnc.commands import app
from otcluster.dnc.picking.placing import merged, placed
from otcluster.dnc.typical import TypicalImages, find_typical
from otcluster.runs.errors import RunError
from tests.dnc.conftest import listing, small
from tests.dnc.edited import accuracy, before, check, pictures, units


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
