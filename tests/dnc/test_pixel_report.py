"""The report of a run of pixels: what it says, that all of it is text, the command, and how it is in a browser."""

from __future__ import annotations

import itertools
import json
import re
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from otcluster.dnc import DNCHead, LinearHead, load_recipe, overview, report, train
from otcluster.dnc.commands import app
from otcluster.dnc.errors import DataError
from otcluster.dnc.explaining.report.pixel_sheets import CELL, marked
from otcluster.dnc.pixels.evaluation import evaluate_pixels
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.owners import owners
from otcluster.dnc.pixels.patches import Patch, typical_patches
from otcluster.dnc.pixels.runs import conversion_of, load_pixel_run
from tests.dnc.conftest import listing
from tests.dnc.pages import read
from tests.dnc.pixel_models import CLASSES, untrained, with_head, write_pixels

TAG, BREAKOUT = "<b onclick=alert(1)>&amp;", '"><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(write_pixels(tmp_path_factory.mktemp("pixels") / "images", n_test=6))


@pytest.fixture(scope="module")
def made(run):
    return report(run, run.files.root.parent / "report")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report of a run whose classes and files are called by HTML, and of a user's pictures, one of them broken."""
    root = tmp_path_factory.mktemp("hostile")
    classes = [TAG, BREAKOUT, "owl", "<i>never"]
    images = write_pixels(root / "images", classes, n=3, n_test=2)
    for kind in ("images", "labels"):
        (images / "train" / kind / "0.png").rename(images / "train" / kind / f"{BREAKOUT}.png")
    mine, broken, tiny = (root / name for name in (f"{BREAKOUT} <svg onload=alert(3)>.png", "<i>broken.png", "tiny.png"))
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(mine)
    broken.write_bytes(b"none")
    Image.new("RGB", (9, 9)).save(tiny)
    page = report(untrained(images, None, classes), root / "report", images=[mine, broken, tiny], n_test=2)
    return page, str(mine), str(broken), str(tiny)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as the command line has it."""
    root = tmp_path_factory.mktemp("trained")
    write_pixels(root / "images", n=4, n_test=2)
    changes = ["data.kind=pixel-folders", f"data.dir={root / 'images'}", "data.batch_size=4", "train.epochs=1"]
    small = ["pixels.resize=null", "pixels.crop=[48,64]", "pixels.dim=16", "head.n_subcentroids=2", "memory.capacity=80"]
    train(load_recipe("camvid-fcn-resnet18", [*changes, *small]), root / "run")
    return root


def asked(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_all_of_a_report_is_what_the_model_computed(run, made):
    _, said = read(made)
    data, patches = run.load_data(), typical_patches(run)
    expected = evaluate_pixels(run.model, data.test, 4, conversion_of(run.recipe))
    assert said["test"] == {**expected.metrics(CLASSES), "confusion": expected.confusion.tolist()}
    model = json.loads(json.dumps(overview(run, n_typical=6).as_dict()))
    for each, plain in zip(said["model"]["subcentroids"], model["subcentroids"], strict=True):
        label, at = CLASSES.index(each["class"]), each["number"] - 1
        assert {key: each[key] for key in plain} == plain
        assert each["patches"] == [patch.as_dict() | {"box": list(patch.box)} for patch in patches.of(label, at)]
    assert {key: said["model"][key] for key in model if key != "subcentroids"} == {
        key: model[key] for key in model if key != "subcentroids"
    }
    owned = {}
    for at in range(len(data.test)):
        picture, true = data.test.read(at)
        found = owners(run, picture)
        for place in itertools.product(range(4), range(3), range(4)):
            mine = (found.labels == place[0]) & (found.subcentroids == place[1]) & (true == place[2])
            owned[place] = owned.get(place, 0) + int(mine.sum())
    for each in said["model"]["subcentroids"]:
        label, at = CLASSES.index(each["class"]), each["number"] - 1
        counts = {CLASSES[true]: owned[label, at, true] for true in range(4)}
        total = sum(counts.values())
        assert each["owned"]["pixels"] == total
        assert each["owned"]["share"] == pytest.approx(total / sum(owned.values()))
        if total:
            assert each["owned"]["right"] == pytest.approx(counts[CLASSES[label]] / total)
        wrong = sorted((n for name, n in counts.items() if n and name != CLASSES[label]), reverse=True)[:3]
        assert [one["pixels"] for one in each["owned"]["errs_for"]] == wrong
        assert all(counts[one["class"]] == one["pixels"] for one in each["owned"]["errs_for"])


def test_the_images_shown_go_from_the_worst_to_the_best_and_their_owners_are_told(run, made):
    page, said = read(made)
    split, rights = run.load_data().test, []
    for at in range(len(split)):
        picture, true = split.read(at)
        rights.append((owners(run, picture).labels == true)[true != IGNORE].mean())
    shown = said["explained"]
    assert [each["accuracy"] for each in shown] == pytest.approx([sorted(rights)[at] for at in (0, 2, 3, 5)])
    for each in shown:
        picture, true = split.read(split.names.index(each["name"]))
        found = owners(run, picture)
        counts = found.counts(4, 3)
        assert sum(one["share"] for one in each["owners"]) == pytest.approx(1)
        assert [one["share"] for one in each["owners"]] == sorted((one["share"] for one in each["owners"]), reverse=True)
        for one in each["owners"]:
            label, at = CLASSES.index(one["class"]), one["number"] - 1
            assert one["subcentroid"] == f"{one['class']} #{one['number']}"
            assert one["share"] == pytest.approx(counts[label, at] / counts.sum())
            mine = (found.labels == label) & (found.subcentroids == at) & (true != IGNORE)
            assert one["right"] == (pytest.approx((true == label)[mine].mean()) if mine.any() else None)
        assert {one["class"]: one["share"] for one in each["parts"]} == pytest.approx(
            {CLASSES[label]: (found.labels == label).mean() for label in np.unique(found.labels)}
        )
        assert (each["faithful"], each["features"]) == (found.n_faithful, found.n_features)
    rows = {row["name"]: row["value"] for table in said["facts"] for row in table["rows"]}
    n = sum(each["features"] for each in shown)
    assert rows["Fidelity"] == f"{n:,} of {n:,}"
    assert rows["Nearest of all"] == f"{np.mean([each['nearest_share'] for each in shown]):.1%}"
    assert rows["Mean IoU"] == f"{said['test']['mean_iou']:.2%}"
    assert len(page.of("article")) == 4


def test_the_page_says_what_the_data_say(made, hostile):
    for path in (made, hostile[0]):
        page, said = read(path)
        text = re.sub(r"\s+", " ", page.text)
        for table in said["facts"]:
            assert all(f"{row['name']} {row['value']}" in text for row in table["rows"])
        for name, iou in said["test"]["per_class"].items():
            assert name in text
            assert iou is None or f" {iou:.1%}" in text
        for each in said["model"]["subcentroids"]:
            pixels = "1 training pixel" if each["size"] == 1 else f"{each['size']:,} training pixels"
            assert (
                f"{pixels}, {each['share']:.1%} of the class; reach {each['reach']:.3f}. Owns {each['owned']['pixels']:,} test"
                in text
            )
            for one in each["owned"]["errs_for"]:
                assert f"{one['class']} ({one['share']:.1%})" in text
            for patch in each["patches"]:
                where = f"{patch['image']}, row {patch['row']}, column {patch['column']}, of class {each['class']}: cosine"
                assert any((one.get("alt") or "").startswith(where) for one in page.of("img"))
        for each in said["explained"]:
            assert each["name"] in text
            told = f"Of {each['features']} features the nearest sub-centroid is of the predicted class in {each['faithful']};"
            assert told in text
            assert all(f"{one['class']} {one['share']:.1%}" in text for one in (*each["parts"], *each["owners"]))
        assert text.count("No training pixel is of this class.") == 3
        assert len(page.of("circle")) == len(said["model"]["subcentroids"])
        maps = [one["alt"] for one in page.of("img") if "which sub-centroid owns which pixel" in one["alt"]]
        assert len(maps) == len(said["explained"])


def test_a_report_is_whole_by_itself(made, hostile):
    for path in (made, hostile[0]):
        page, said = read(path)
        files = {each.name for each in path.parent.iterdir()}
        assert files == {"index.html", "report.json", *said["files"]}
        assert {
            "map.png",
            "similarity.png",
            "confusion.png",
            "patches-003-owl.png" if path != made else "patches-003-car.png",
        } < files
        assert {each["file"] for each in said["explained"]} < files
        assert all(re.fullmatch(r"[a-z]+|(explained|patches)-\d{3}-[\w.-]+", name[:-4], re.ASCII) for name in said["files"])
        for name in said["files"]:
            with Image.open(path.parent / name) as image:
                image.load()
                assert min(image.size) > 80
        assert all(each["src"].startswith("data:image/") for each in page.of("img"))
        assert all(each["alt"].strip() or each["class"] == "sample" for each in page.of("img"))
        assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base", "form")]
        assert not [name for _, attributes in page.tags for name in attributes if name == "style"]  # the policy would stop it
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert all(each["href"].startswith("#") for each in page.of("a"))
        assert {each["href"][1:] for each in page.of("a")} <= set(ids)
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_names_that_are_html_are_shown_as_text_and_what_cannot_be_read_is_named(hostile):
    path, mine, broken, tiny = hostile
    page, said = read(path)
    text = re.sub(r"\s+", " ", page.text)
    assert all(name in page.text for name in (TAG, BREAKOUT, mine))
    assert f"{broken}: {broken} cannot be read as an image" in text
    assert f"{tiny}: {tiny} cannot be classified: images must have at least 16 pixels" in text
    assert [each["name"] for each in said["broken"]] == [broken, tiny]
    assert said["explained"][0]["name"] == mine
    assert [each["group"] for each in said["explained"]] == ["given", "test", "test"]
    assert said["explained"][0]["accuracy"] is None
    assert not page.of("b")
    assert not page.of("i")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert any((one.get("alt") or "").startswith(f"train/images/{BREAKOUT}.png, row") for one in page.of("img"))


def test_an_earlier_report_is_replaced_and_without_images_there_are_none(run, tmp_path):
    first = listing(report(run, tmp_path / "report", n_test=1).parent)
    (tmp_path / "report" / "mine.txt").write_text("keep")
    assert listing(report(run, tmp_path / "report", n_test=1).parent) == {**first, "mine.txt": b"keep"}
    alone = listing(report(run, tmp_path / "report", n_test=0).parent)
    assert not [name for name in alone if name.startswith("explained")]
    said = json.loads(alone["report.json"])
    assert [each["title"] for each in said["facts"]] == ["The model"]


def test_arguments_that_do_not_fit_are_refused(run, tmp_path):
    for arguments, message in (
        ({"n_test": -1}, "n_test must not be negative, got -1"),
        ({"invert": True}, "invert and measures are for runs of images"),
        ({"measures": object()}, "invert and measures are for runs of images"),
    ):
        with pytest.raises(ValueError, match=message):
            report(run, tmp_path / "report", **arguments)
    with pytest.raises(TypeError, match="and this is LinearHead"):
        report(with_head(run, LinearHead(5, 4)), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_windows_are_told_of_and_images_left_out_where_they_cannot_be_read(tmp_path):
    images = write_pixels(tmp_path / "images")
    (images / "test" / "images" / "1.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"test/images/1.png cannot be read"):
        report(untrained(images), tmp_path / "report")
    run = untrained(images, None, CLASSES, "data.broken=skip", "pixels.window=[32,32]")
    page, said = read(report(run, tmp_path / "report", n_test=100))
    assert said["test"]["images"] == len(said["explained"]) == 2
    assert "test/images/1.png" not in {each["name"] for each in said["explained"]}
    assert "by windows, scales or mirrored images; owners are looked for in features of the whole image" in page.text


def test_of_many_classes_each_has_what_it_is_mostly_taken_for(tmp_path):
    classes = [f"class {at:02}" for at in range(61)]
    images = write_pixels(tmp_path / "images", classes, n=2, n_test=1)
    run = untrained(images, DNCHead(5, n_classes=61, n_subcentroids=1), classes)
    page, said = read(report(run, tmp_path / "report", n_test=1))
    assert "Mostly taken for" in page.text
    row = np.array(said["test"]["confusion"][0], float)
    worst = max((share, name) for at, (share, name) in enumerate(zip(row / row.sum(), classes, strict=True)) if at != 0)
    assert f"{worst[1]} ({worst[0]:.1%})" in page.text


def test_the_ring_is_around_the_place(run):
    picture = Image.new("RGB", (100, 60), (10, 200, 10))
    picture.putpixel((3, 30), (250, 0, 0))
    for side, box in ((40, (0, 10, 23, 50)), (96, (0, 0, 51, 60))):
        cell = np.asarray(marked(Patch(0, "a", 30, 3, box, side, 1.0), picture)).astype(int)
        assert cell.shape == (CELL, CELL, 3)
        red = np.argwhere((cell[:, :, 0] > 150) & (cell[:, :, 1] < 60))
        assert np.abs(red.mean(axis=0) - CELL / 2).max() <= 2
        assert cell[CELL // 2, 2].tolist() == [154, 160, 166]  # beyond the image
        assert cell[CELL // 2, 60].tolist() == [10, 200, 10]


def test_the_command_writes_a_report_and_names_it(trained, tmp_path):
    image = trained / "images" / "test" / "images" / "0.png"
    out = tmp_path / "a report"
    said = asked(trained / "run", image, tmp_path / "none.png", "--out", out)
    assert said.exit_code == 2
    assert "none.png cannot be read as an image" in said.stderr
    assert said.stderr.endswith("1 of 2 images could not be explained\n")
    assert unquote(urlparse(said.stdout.splitlines()[-1]).path) == str(out / "index.html")
    _, data = read(out / "index.html")
    assert [each["name"] for each in data["explained"]] == [str(image)]
    metrics = json.loads((trained / "run" / "metrics.json").read_text())["test"]
    assert {key: data["test"][key] for key in metrics} == metrics
    (trained / "images").rename(trained / "moved")
    try:
        assert "there is no folder" in asked(trained / "run", "--out", out).stderr
        assert asked(trained / "run", "--out", out, "--data", trained / "moved").exit_code == 0
        assert asked(trained / "run", "--data", trained / "moved").exit_code == 0
    finally:
        (trained / "moved").rename(trained / "images")
    assert len(read(out / "index.html")[1]["explained"]) == 2


def test_the_command_tells_of_pictures_and_of_the_model(trained, tmp_path):
    image = trained / "images" / "test" / "images" / "0.png"
    run = load_pixel_run(trained / "run")
    with Image.open(image) as opened:
        found = owners(run, opened.convert("RGB"))
    words = asked(trained / "run", image, tmp_path / "none.png")
    assert words.exit_code == 2
    first, second, third = words.stdout.splitlines()
    label = np.bincount(found.labels.ravel(), minlength=4)
    assert first.startswith(f"{image}: {CLASSES[label.argmax()]} {label.max() / found.labels.size:.1%}")
    owner = np.unravel_index(found.counts(4, 2).argmax(), (4, 2))
    assert second.startswith(
        f"  owned by {CLASSES[owner[0]]} #{owner[1] + 1} {found.counts(4, 2).max() / found.labels.size:.1%}"
    )
    assert f"predicted class in {found.n_faithful} of {found.n_features} features" in third
    plain = json.loads(asked(trained / "run", image, "--json").stdout)
    assert (plain["path"], plain["features"]) == (str(image), found.n_features)
    assert plain["owners"][0]["share"] == pytest.approx(found.counts(4, 2).max() / found.labels.size)
    lines = asked(trained / "run").stdout.splitlines()
    model = overview(run)
    assert [line.split(": ")[0] for line in lines[:8]] == [each.name for each in model.subcentroids]
    patch = typical_patches(run).of(0, 0)[0]
    assert f"{model.subcentroids[0].size} training pixels" in lines[0]
    assert f"{patch.name} at row {patch.row}, column {patch.column}" in lines[0]
    plain = json.loads(asked(trained / "run", "--json").stdout)
    assert plain["subcentroids"][0]["patches"][0]["image"] == patch.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--invert"], "--invert and --measure are for runs of images with a class each"),
        (["--measure"], "--invert and --measure are for runs of images with a class each"),
        (["a.png", "--data", "b"], "--data says where the images of the run lie"),
        (["--json", "--out", "b"], "pass one of them"),
    ],
)
def test_options_that_do_not_fit_are_refused(trained, arguments, message):
    said = asked(trained / "run", *arguments)
    assert said.exit_code == 2
    assert message in said.stderr


def test_a_softmax_has_nothing_to_explain(tmp_path):
    images = write_pixels(tmp_path / "images", n=2, n_test=1)
    changes = ["data.kind=pixel-folders", f"data.dir={images}", "pixels.resize=null", "pixels.crop=[32,32]", "pixels.dim=8"]
    train(load_recipe("camvid-fcn-resnet18", [*changes, "head.kind=linear", "train.epochs=1"]), tmp_path / "run")
    for more in ([], [images / "test" / "images" / "0.png"], ["--out", tmp_path / "report"]):
        said = asked(tmp_path / "run", *more)
        assert said.exit_code == 2
        assert "where a head has sub-centroids, and this is LinearHead" in said.stderr
    assert not (tmp_path / "report").exists()


def test_a_browser_shows_it_sorts_it_and_asks_no_network(made, hostile, opened):
    for path in (made, hostile[0]):
        page = opened(path)
        assert page.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")
    page = opened(made)
    heads = page.locator(".sortable thead th[aria-sort]")
    heads.nth(2).locator("button").click()
    shown = page.evaluate("[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[2].textContent)")
    iou = read(made)[1]["test"]["per_class"].values()
    known = sorted((each for each in iou if each is not None), reverse=True)
    assert shown == [*(f"{value:.1%}" for value in known), *["no pixels"] * list(iou).count(None)]
    assert heads.nth(2).get_attribute("aria-sort") == "descending"
    page.locator("#image-0 tbody a").first.click()
    assert page.locator("li.card:target h4").inner_text().strip() == read(made)[1]["explained"][0]["owners"][0]["subcentroid"]
    page.fill("#filter", "sk")
    assert [text.strip() for text in page.locator("section.class:visible h3").all_inner_texts()] == ["sky"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(made, hostile, opened, scheme):
    for path in (made, hostile[0]):
        page = opened(path, viewport={"width": 360, "height": 740}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_torch_stays_where_it_was(run):
    """Looking at a model changes neither its mode nor its weights."""
    run.model.train()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    owners(run, run.load_data().test.read(0)[0])
    assert run.model.training
    run.model.eval()
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
