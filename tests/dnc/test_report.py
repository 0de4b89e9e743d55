"""The report of a run: what it says, that all of it is text, where it may lie, and how it is in a browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from otcluster.dnc import DNCHead, calibrate, evaluate, explain, load_recipe, load_run, measure, overview, report, train
from otcluster.dnc.commands import app
from otcluster.dnc.editing import add_class, remove_class
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.explaining.map import angle_map
from otcluster.dnc.explaining.report.choosing import choose, margins
from otcluster.dnc.explaining.report.folder import file_name
from otcluster.dnc.explaining.report.page import heat_words
from otcluster.dnc.explaining.report.pictures import overlay, reduced
from tests.dnc.conftest import listing, small, write_images
from tests.dnc.pages import Page, read

TAG, BREAKOUT = "<b onclick=alert(1)>&amp;", '"><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def made(small_run, tmp_path_factory):
    """The report of the small run."""
    return report(load_run(small_run / "run"), tmp_path_factory.mktemp("report") / "report", n_test=4)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report of a run whose classes and files are called by HTML, and of a user's pictures, one of them broken."""
    root = tmp_path_factory.mktemp("hostile")
    for part, n in (("train", 6), ("test", 3)):
        write_images(root / "images" / part, (TAG, BREAKOUT, "owl"), n=n)
        (root / "images" / part / BREAKOUT / "000.png").rename(root / "images" / part / BREAKOUT / f"{BREAKOUT}.png")
    train(small(root / "images", "data.image_size=64", "head.n_subcentroids=2"), root / "run")
    mine = root / f"{BREAKOUT} ../<svg onload=alert(3)>.png".replace("/", "_")
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(mine)
    broken = root / "<i>broken.png"
    broken.write_bytes(b"none")
    page = report(load_run(root / "run"), root / "report", images=[mine, broken], n_test=3)
    return page, str(mine), str(broken)


def test_all_of_a_report_is_what_the_model_computed(small_run, made):
    run = load_run(small_run / "run")
    page, said = read(made)
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


def test_the_page_says_what_the_data_say(made, hostile):
    for path in (made, hostile[0]):
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


def test_a_report_is_whole_by_itself(made):
    page, said = read(made)
    files = {each.name for each in made.parent.iterdir()}
    assert files == {"index.html", "report.json", *said["files"]}
    assert {"gallery.png", "map.png", "similarity.png", "confusion.png"} < files
    assert {each["file"] for each in said["explained"]} < files
    for name in said["files"]:
        with Image.open(made.parent / name) as image:
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
    assert made.stat().st_size < 400_000


def test_names_that_are_html_are_shown_as_text(hostile):
    path, mine, broken = hostile
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


def test_of_many_classes_the_matrix_names_what_each_is_mostly_taken_for(tmp_path, opened):
    names = [f"class {at:02}" for at in range(61)]
    write_images(tmp_path / "images" / "train", names, n=1)
    write_images(tmp_path / "images" / "test", names, n=1, seed=1)
    train(small(tmp_path / "images", "head.n_subcentroids=1"), tmp_path / "run")
    path = report(load_run(tmp_path / "run"), tmp_path / "report", n_test=3)
    page, said = read(path)
    assert "Mostly taken for" in page.text
    failures = [each for each in said["explained"] if each["group"] == "failure"]
    assert len(failures) == 3
    shown = opened(path)
    for each in failures:
        row = shown.locator(".sortable tbody tr").filter(has_text=each["true"]).filter(has_text=f"{each['class']} (1)")
        assert row.locator("a").count() == 1
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_file_names_hold_no_path():
    assert file_name(1, "../../etc/passwd") == "explained-001-etc-passwd.png"
    assert file_name(12, "…/…") == "explained-012-image.png"
    assert file_name(1, "a" * 300 + ".png") == f"explained-001-{'a' * 36}.png.png"


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


def test_all_kinds_of_failures_are_chosen_before_two_of_one_kind():
    angles = torch.linspace(0, 1.9, 24)
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    head = DNCHead(2, n_classes=3, n_subcentroids=1, memory=0)
    store = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]], [[0.0, 1.0]]])
    head.store.centroids.copy_(store)
    head.store.started.fill_(True)
    logits = head(features)
    said = logits.argmax(dim=1)
    labels = said.clone()
    labels[said == 0] = torch.tensor([1, 1, 1, 2] + [0] * (int((said == 0).sum()) - 4))
    labels[20] = 0
    found = Evaluation(features, logits, labels, torch.arange(24))
    best = (features @ store[:, 0].T).sort(dim=1, descending=True).values
    torch.testing.assert_close(margins(features, head), best[:, 0] - best[:, 1])
    three, all_of_them = choose(found, head, 3), choose(found, head, 100)
    assert (three.n_failures, three.n_kinds) == (5, 3)
    assert {(int(labels[row]), int(said[row])) for row in three.failures} == {(1, 0), (2, 0), (0, int(said[20]))}
    assert three.failures[0] == 0  # of the most frequent kind, the one that it was surest of
    assert sorted(all_of_them.failures) == torch.nonzero(labels != said).flatten().tolist()
    assert not {*all_of_them.close} & {*all_of_them.sure}
    assert {int(said[row]) for row in three.close} <= {0, 1, 2}
    right = [row for row in range(24) if labels[row] == said[row]]
    assert three.close == (min(right, key=lambda row: float(margins(features, head)[row])),)
    assert choose(Evaluation(features[:0], logits[:0], labels[:0], labels[:0]), head, 3).n_failures == 0


def test_a_map_keeps_what_a_plane_can_keep_and_says_how_much():
    angle = torch.tensor([0.0, 0.3, 0.7, 1.2], dtype=torch.float64)
    line, kept = angle_map((angle[:, None] - angle).cos())
    assert kept == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(line, line), (angle[:, None] - angle).abs(), atol=1e-4, rtol=0)
    points = torch.nn.functional.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    places, kept = angle_map(points @ points.T)
    rows, columns = np.triu_indices(30, 1)
    angles = torch.arccos((points @ points.T).clamp(-1, 1))[rows, columns]
    assert kept == pytest.approx(np.corrcoef(angles, (places[rows] - places[columns]).norm(dim=1))[0, 1])
    assert 0.3 < kept < 1
    assert torch.equal(places, angle_map(points @ points.T)[0])
    assert angle_map(torch.ones(1, 1))[1] is None
    assert angle_map(torch.ones(5, 5))[0].abs().max() == 0
    with pytest.raises(ValueError, match=r"cosines must have shape \(m, m\), got \(2, 3\)"):
        angle_map(torch.ones(2, 3))


def test_heat_lies_over_the_places_that_it_is_of():
    heat = torch.tensor([[0.0, 0.4], [-0.1, 0.0]])
    found = np.asarray(overlay(Image.new("RGB", (10, 10), "white"), heat)).astype(int)
    half = found.shape[0] // 2
    still, strong, against = found[2, 2], found[2, half + 2], found[half + 2, 2]
    assert set(still) == {255}
    assert strong[0] > strong[1] > strong[2]  # orange
    assert against[2] > against[1]  # violet
    assert against.sum() > strong.sum()  # and paler
    assert heat_words(heat.tolist())["least"]["row"] == 2


def test_pictures_tell_nothing_else_of_their_files(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (300, 200), "red").save(tmp_path / "mine.jpg", exif=exif)
    with Image.open(tmp_path / "mine.jpg") as image:
        plain = reduced(image)
    assert plain.size == (224, 149)
    assert not plain.info
    assert not plain.getexif()


def test_a_browser_shows_all_pictures_and_asks_no_network(made, hostile, opened):
    for path in (made, hostile[0]):
        page = opened(path)
        assert page.locator("img").count() > 10
        assert page.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert {TAG, BREAKOUT, "owl"} == set(page.locator("section.class h3").all_inner_texts())
    assert page.evaluate("document.querySelector('.swatch.for').getBoundingClientRect().width") > 5  # styles are allowed


def test_the_confusion_matrix_is_sorted_by_click_and_by_key(made, opened):
    page = opened(made)

    def column(at):
        return page.evaluate(f"[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[{at}].textContent)")

    heads = page.locator(".sortable thead th[aria-sort]")
    before = column(0)
    assert before == ["cat", "dog", "owl"]
    heads.nth(0).locator("button").click()
    assert (column(0), heads.nth(0).get_attribute("aria-sort")) == (before, "ascending")
    heads.nth(0).locator("button").click()
    assert (column(0), heads.nth(0).get_attribute("aria-sort")) == (before[::-1], "descending")
    heads.nth(2).locator("button").focus()
    page.keyboard.press("Enter")
    shares = [float(text.rstrip("%")) for text in column(2)]
    assert shares == sorted(shares, reverse=True)
    assert [heads.nth(at).get_attribute("aria-sort") for at in range(3)] == ["none", "none", "descending"]
    page.keyboard.press("Space")
    assert [float(text.rstrip("%")) for text in column(2)] == sorted(shares)
    page.keyboard.press("Tab")  # to the next column
    page.keyboard.press("Enter")
    counts = [int(text or 0) for text in column(3)]
    assert counts == sorted(counts, reverse=True)
    assert heads.nth(3).get_attribute("aria-sort") == "descending"
    assert page.inner_text("#sorted").endswith("descending")


def test_classes_are_looked_for_and_keys_reach_the_content(made, opened):
    page = opened(made)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.fill("#filter", "OW")
    assert page.locator("section.class:visible h3").all_inner_texts() == ["owl"]
    assert page.inner_text("#filtered") == "1 of 3 classes"
    page.fill("#filter", "")
    assert page.locator("section.class:visible").count() == 3


def test_a_number_in_the_matrix_leads_to_its_failure(made, opened):
    _, said = read(made)
    failures = [each for each in said["explained"] if each["group"] == "failure"]
    assert failures
    page = opened(made)
    links = page.locator(".sortable td a")
    assert links.count() == len({(each["true"], each["class"]) for each in failures})
    links.nth(0).focus()
    page.keyboard.press("Enter")
    assert page.locator("article:target").inner_text().startswith("✗ wrong")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(made, hostile, opened, scheme):
    for path in (made, hostile[0]):
        page = opened(path, viewport={"width": 360, "height": 740}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        bright = page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert bright == (scheme == "light")


def test_it_can_be_read_without_scripts(made, opened):
    page = opened(made, java_script_enabled=False)
    assert page.locator("article").first.is_visible()
    assert not page.locator(".filter").is_visible()


def test_the_digits_have_a_report(tmp_path):
    train(load_recipe("digits", ["train.epochs=1", "data.image_size=8"]), tmp_path / "run")
    said = []
    page, data = read(report(load_run(tmp_path / "run"), tmp_path / "report", progress=said.append))
    assert said == ["classifying 359 test images", f"explaining {len(data['explained'])} images", "drawing"]
    assert data["failures"]["explained"] == 24
    groups = [each["group"] for each in data["explained"]]
    assert groups == ["failure"] * 24 + ["close"] * 6 + ["sure"] * 6
    assert "24 of " in page.text
