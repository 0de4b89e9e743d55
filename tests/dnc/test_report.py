"""The report of a run: what it says, that all of it is text, and where it may lie."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from otcluster.dnc import calibrate, evaluate, explain, load_recipe, load_run, measure, overview, report, train
from otcluster.dnc.commands import app
from otcluster.dnc.editing import add_class, remove_class
from tests.dnc.conftest import listing, small, write_images
from tests.dnc.pages import BREAKOUT, TAG, Page, read


def test_all_of_a_report_is_what_the_model_computed(small_run, small_report):
    run = load_run(small_run / "run")
    page, said = read(small_report)
    model, test = overview(run), run.load_test()
    assert said["format"] == "otcluster report 1"
    assert said["model"] == json.loads(json.dumps(model.as_dict()))
    result = evaluate(run.model, test, run.recipe.data)
    hits = (result.predictions == result.labels).tolist()
    assert said["test"]["accuracy"] == pytest.approx(np.mean(hits))
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (result.labels.numpy(), result.predictions.numpy()), 1)
    assert said["test"]["confusion"] == counts.tolist()
    assert said["failures"]["images"] == hits.count(False)
    names = {name: at for at, name in enumerate(test.names)}
    explained = explain(run, [test.read(names[each["name"]]) for each in said["explained"]])
    for each, why in zip(said["explained"], explained, strict=True):
        plain = json.loads(json.dumps(why.as_dict(run.classes)))
        assert {key: each[key] for key in ("class", "rule", "nearest", "heat")} == {
            key: plain[key] for key in ("class", "rule", "nearest", "heat")
        }
        assert each["subcentroid"] == f"{plain['class']} #{plain['subcentroid']}"
        assert each["true"] == run.classes[int(test.labels[names[each["name"]]])]
        assert each["right"] == (each["true"] == each["class"]) == (each["group"] != "failure")
        assert each["runner_up"]["lost_by"] == pytest.approx(plain["alternatives"][0]["lost_by"])
        assert each["subcentroids"][0]["cosine"] == pytest.approx(each["cosine"])
        assert sum(one["share"] for one in each["classes"]) + each["other_share"] == pytest.approx(1)
        stands = {one.name: one.typical[0] if one.typical else None for one in model.subcentroids}
        assert each["image"] == stands[each["subcentroid"]]
    assert len(said["explained"]) == len(page.of("article"))


def test_the_page_says_what_the_data_say(small_report, hostile_report):
    for path in (small_report, hostile_report[0]):
        page, said = read(path)
        text = re.sub(r"\s+", " ", page.text)
        assert len(page.of("article")) == len(said["explained"])
        for each in said["model"]["subcentroids"]:
            assert each["name"] in text
            images = "1 training image" if each["size"] == 1 else f"{each['size']} training images"
            assert f"{images}, {each['share']:.1%} of the class; reach {each['reach']:.3f}." in text
            assert all(any(name in (one.get("alt") or "") for one in page.of("img")) for name in each["typical"])
        for each in said["explained"]:
            assert each["rule"] in text
            assert each["name"] in text
            assert f"Cosine {each['cosine']:.3f} to {each['subcentroid']}" in text
            assert f"which lost by {each['runner_up']['lost_by']:.3f}" in text
            assert all(f"{one['cosine']:.3f}" in text for one in (*each["classes"], *each["subcentroids"], *each["nearest"]))
        for pair in said["model"]["confusable"]:
            assert f"{pair['first']} {pair['second']} {pair['cosine']:.3f}" in text
        for table in said["facts"]:
            assert all(f"{row['name']} {row['value']}" in text for row in table["rows"])
        assert f"correlate by {said['model']['map_kept']:.2f}" in text
        assert len(page.of("circle")) == len(said["model"]["subcentroids"])


def test_dead_and_duplicate_subcentroids_are_flagged(small_run, tmp_path):
    run = load_run(small_run / "run")
    run.model.head.store.centroids[0, 1] = run.model.head.store.centroids[0, 0]
    page, said = read(report(run, tmp_path / "report", n_test=0))
    marks = [attributes for attributes in page.of("span") if "mark" in (attributes.get("class") or "")]
    twins = {name for pair in said["model"]["duplicates"] for name in (pair["first"], pair["second"])}
    assert {"cat #1", "cat #2"} <= twins
    assert len(marks) == len(twins) + len(said["model"]["dead"])
    assert said["facts"][0]["rows"][-1]["meaning"] == (
        f"{len(said['model']['dead'])} dead, {len(said['model']['duplicates'])} pairs of duplicates"
    )
    first, second = page.text.split("Stands for the same as ")[1:3]  # of cat #1 and of cat #2
    assert (first.split(".")[0], second.split(".")[0]) == ("cat #2", "cat #1")


def test_a_run_whose_subcentroids_are_images_says_so_and_whether_its_explanations_are_true(small_run, tmp_path):
    changes = ["train.epochs=2", "explain.anchor_epochs=1", "data.image_size=64", "head.n_subcentroids=2"]
    train(small(small_run / "images", *changes), tmp_path / "run")
    run = load_run(tmp_path / "run")
    measures = measure(run, n_images=4)
    page, said = read(report(run, tmp_path / "report", n_test=4, measures=measures))
    anchors = {each.name: each.anchor for each in overview(run).subcentroids}
    assert None not in anchors.values()
    text = re.sub(r"\s+", " ", page.text)
    for each in said["explained"]:
        assert (each["image"], each["is_image"]) == (anchors[each["subcentroid"]], True)
        assert f"It won: {each['subcentroid']} , which is {each['image']}" in re.sub(r"\s+,", " ,", text.replace(",", " ,"))
    assert all(f"It is {name}." in text for name in anchors.values())
    rows = {row["name"]: row["value"] for table in said["facts"] for row in table["rows"]}
    assert rows["Anchored"] == "6"
    assert rows["After anchoring"] == f"{said['test']['accuracy']:.2%}"
    assert rows["Fidelity"] == "100.0%"
    assert rows["Deletion, random"] == f"{measures.fading.deletion_random:.3f}"
    assert "Are these explanations true?" in text
    assert all(f"{name} {value}" in text for name, value in rows.items())


def test_a_report_is_whole_by_itself(small_report):
    page, said = read(small_report)
    files = {each.name for each in small_report.parent.iterdir()}
    assert files == {"index.html", "report.json", *said["files"]}
    assert {"gallery.png", "map.png", "similarity.png", "confusion.png"} < files
    assert {each["file"] for each in said["explained"]} < files
    for name in said["files"]:
        with Image.open(small_report.parent / name) as image:
            image.load()
            assert min(image.size) > 80
    assert all(each["src"].startswith("data:image/") and each["alt"].strip() for each in page.of("img"))
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base", "form")]
    assert all(each["href"].startswith("#") for each in page.of("a"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each["href"][1:] for each in page.of("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert small_report.stat().st_size < 400_000


def test_names_that_are_html_are_shown_as_text(hostile_report):
    path, mine, broken = hostile_report
    page, said = read(path)
    assert TAG in page.text
    assert BREAKOUT in page.text
    assert mine in page.text
    assert f"{broken}: {broken} cannot be read as an image" in re.sub(r"\s+", " ", page.text)
    assert [each["name"] for each in said["broken"]] == [broken]
    assert [each["name"] for each in said["explained"] if each["group"] == "given"] == [mine]
    assert not page.of("b")
    assert not page.of("i")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [each for each in page.of("img") if not each["src"].startswith("data:image/")]
    assert not [name for _, attributes in page.tags for name in attributes if name == "style"]  # the policy would stop it
    assert all(re.fullmatch(r"[a-z]+|explained-\d{3}-[\w.-]+", name[:-4], re.ASCII) for name in said["files"])
    assert {each.name for each in path.parent.iterdir()} == {"index.html", "report.json", *said["files"]}


def test_an_earlier_report_is_replaced_and_nothing_else_is(small_run, tmp_path):
    run, out = load_run(small_run / "run"), tmp_path / "deep" / "report"
    first = listing(report(run, out, n_test=4).parent)
    (out / "mine.txt").write_text("keep")
    again = listing(report(run, out, n_test=4).parent)
    assert again == {**first, "mine.txt": b"keep"}
    alone = listing(report(run, out, n_test=0).parent)
    assert {"index.html", "report.json", "gallery.png", "map.png", "similarity.png", "confusion.png", "mine.txt"} == set(alone)
    assert not Page(alone["index.html"].decode()).of("article")
    said = json.loads(alone["report.json"])
    (out / "report.json").write_text(json.dumps({**said, "files": ["../../other.png", "mine.txt", 3]}))
    (tmp_path / "other.png").write_bytes(b"keep")
    report(run, out, n_test=0)
    assert (out / "mine.txt").exists()
    assert (tmp_path / "other.png").exists()


def test_a_folder_that_is_no_report_is_left_alone(small_run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.json").write_text('{"format": "mine"}')
    (tmp_path / "file").write_text("mine")
    before, run = listing(tmp_path), str(small_run / "run")
    for out, why in (
        ("mine", "mine exists and is no report: choose another --out"),
        ("file", "file exists and is no report: choose another --out"),
        ("file/below", "file is no folder"),
    ):
        said = CliRunner().invoke(app, ["explain", run, "--out", str(tmp_path / out)])
        assert said.exit_code == 2
        assert why in said.stderr
    assert listing(tmp_path) == before


def test_the_command_explains_given_pictures_and_names_the_page(small_run, tmp_path):
    pictures = [str(small_run / "images" / "test" / name / "000.png") for name in ("cat", "owl", "dog")]
    (tmp_path / "broken.png").write_bytes(b"none")
    asked = ["explain", str(small_run / "run"), "--images", pictures[0], pictures[1], "--images", pictures[2]]
    out = tmp_path / "a report"
    said = CliRunner().invoke(app, [*asked, "--out", str(out)])
    assert said.exit_code == 0, said.output
    last = said.stdout.splitlines()[-1]
    assert unquote(urlparse(last).path) == str(out / "index.html")
    assert urlparse(last).scheme == "file"
    names = [each["name"] for each in read(out / "index.html")[1]["explained"]]
    assert names == [pictures[0], pictures[2], pictures[1]]  # those of options first
    failed = CliRunner().invoke(app, [*asked, str(tmp_path / "broken.png"), "--out", str(out)])
    assert failed.exit_code == 2
    assert "broken.png cannot be read as an image" in failed.stderr
    assert failed.stderr.endswith("1 of 4 images could not be explained\n")
    page, data = read(out / "index.html")
    assert "Pictures that could not be read" in page.text
    assert len(data["explained"]) == 3
    words = CliRunner().invoke(app, asked)
    assert [line.split(": ")[0] for line in words.stdout.splitlines() if not line.startswith(" ")] == names


def test_options_that_do_not_fit_are_refused(small_run, tmp_path):
    run = str(small_run / "run")
    both = CliRunner().invoke(app, ["explain", run, "--json", "--out", str(tmp_path / "report")])
    assert (both.exit_code, "pass one of them" in both.stderr) == (2, True)
    where = CliRunner().invoke(app, ["explain", run, "--data", str(small_run / "images")])
    assert (where.exit_code, "pass --out with it" in where.stderr) == (2, True)
    assert not (tmp_path / "report").exists()
    with pytest.raises(ValueError, match="n_test must not be negative, got -1"):
        report(load_run(run), tmp_path / "report", n_test=-1)


@pytest.mark.parametrize(
    ("change", "why"),
    [("head.kind=linear", "and this is LinearHead"), ("head.metric=sqeuclidean", "compares by metric='sqeuclidean'")],
)
def test_a_head_that_cannot_be_explained_has_no_report(small_run, tmp_path, change, why):
    train(small(small_run / "images", change), tmp_path / "run")
    said = CliRunner().invoke(app, ["explain", str(tmp_path / "run"), "--out", str(tmp_path / "report")])
    assert said.exit_code == 2
    assert why in said.stderr
    assert not (tmp_path / "report").exists()


def test_images_that_have_moved_are_found_with_data_and_missed_without(small_run, tmp_path):
    write_images(tmp_path / "before" / "train", n=4)
    write_images(tmp_path / "before" / "test", n=2, seed=1)
    train(small(tmp_path / "before"), tmp_path / "run")
    (tmp_path / "before").rename(tmp_path / "after")
    asked = ["explain", str(tmp_path / "run"), "--out", str(tmp_path / "report")]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 2
    assert "there is no folder" in said.stderr
    assert "--data" in said.stderr
    assert CliRunner().invoke(app, [*asked, "--data", str(tmp_path / "after")]).exit_code == 0
    (tmp_path / "after" / "train" / "cat" / "000.png").write_bytes(b"none")
    assert CliRunner().invoke(app, [*asked, "--data", str(tmp_path / "after")]).exit_code == 0
    page, data = read(tmp_path / "report" / "index.html")
    assert data["unreadable"] == ["train/cat/000.png"]
    assert any("train/cat/000.png" in (each.get("aria-label") or "") for each in page.of("span"))


def test_runs_whose_classes_were_changed_have_reports(small_run, tmp_path):
    write_images(tmp_path / "new", ("bee",), n=3, seed=5)
    added = add_class(load_run(small_run / "run"), "bee", [tmp_path / "new"], tmp_path / "more")
    page, data = read(report(added, tmp_path / "report", images=[tmp_path / "new" / "bee" / "000.png"]))
    assert data["explained"][0]["class"] == "bee"
    assert data["unreadable"]
    assert all("new/bee" in name for name in data["unreadable"])
    assert "not at hand" in page.text
    assert "no images" in page.text  # of a class without test images there is no accuracy
    less = remove_class(load_run(small_run / "run"), "dog", tmp_path / "less")
    page, data = read(report(less, tmp_path / "report", n_test=4))
    assert data["test"]["left_out"] == 4
    assert "4 test images are of classes that the model does not know" in page.text
    assert data["unreadable"] == []
    assert all(each["true"] != "dog" for each in data["explained"])


def test_of_a_calibrated_run_it_says_what_the_model_does_not_know(small_run, tmp_path):
    shutil.copytree(small_run / "run", tmp_path / "run")
    page, data = read(report(load_run(tmp_path / "run"), tmp_path / "report", n_test=12))
    assert {each["known"] for each in data["explained"]} == {None}
    assert "I do not know" not in page.text
    run = load_run(tmp_path / "run")
    calibrate(run, keep=0.5).save(run.files)
    page, data = read(report(run, tmp_path / "report", n_test=12))
    unknown = [each for each in data["explained"] if each["known"] is False]
    assert unknown
    assert page.text.count("I do not know") == len(unknown)
    assert all(each["verdict"].startswith("cosine ") and each["verdict"] in page.text for each in unknown)
    assert "When it does not know" in page.text
    assert [each["title"] for each in data["facts"]] == ["The model", "When it does not know"]


def test_the_digits_have_a_report(tmp_path):
    train(load_recipe("digits", ["train.epochs=1", "data.image_size=8"]), tmp_path / "run")
    said = []
    page, data = read(report(load_run(tmp_path / "run"), tmp_path / "report", progress=said.append))
    assert said == ["classifying 359 test images", f"explaining {len(data['explained'])} images", "drawing"]
    assert data["failures"]["explained"] == 24
    groups = [each["group"] for each in data["explained"]]
    assert groups == ["failure"] * 24 + ["close"] * 6 + ["sure"] * 6
    assert "24 of " in page.text
