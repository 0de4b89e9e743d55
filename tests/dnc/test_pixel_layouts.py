"""Images with labels at every pixel: layouts as published, and what is wrong with files."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from otcluster.dnc.errors import DataError
from otcluster.dnc.pixels.labels import IGNORE, read_labels
from otcluster.dnc.pixels.layouts import load_pixels, load_test_pixels, palette
from otcluster.dnc.pixels.painting import index_picture
from tests.dnc.pixel_files import harm, save, write_layout

EDGES = {"camvid": [*range(11), IGNORE], "ade20k": [IGNORE, 0, 149], "cityscapes": [IGNORE, 0, 18, IGNORE]}


@pytest.mark.parametrize(("layout", "n_classes"), [("camvid", 11), ("ade20k", 150), ("cityscapes", 19)])
def test_published_layouts_are_read(tmp_path, layout, n_classes):
    write_layout(layout, tmp_path, np.random.default_rng(0))
    data = load_pixels(layout, tmp_path)
    assert len(data.classes) == len(data.palette) == n_classes
    assert (len(data.train), len(data.test)) == (3, 3)
    image, labels = data.train.read(1)
    assert image.size == (64, 48)
    assert labels[0, : len(EDGES[layout])].tolist() == EDGES[layout]
    assert data.train.subset([2]).read(0)[1].tolist() == data.train.read(2)[1].tolist()
    assert data.fingerprint == load_pixels(layout, tmp_path).fingerprint


def test_train_ids_of_cityscapes_are_taken_where_they_are(tmp_path):
    write_layout("cityscapes", tmp_path, np.random.default_rng(0))
    for path in (tmp_path / "gtFine").rglob("*_labelIds.png"):
        save(np.full((48, 64), 18, np.uint8), path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    assert set(load_pixels("cityscapes", tmp_path).train.read(0)[1].ravel().tolist()) == {18}


def test_names_of_ade20k_are_read(tmp_path):
    write_layout("ade20k", tmp_path, np.random.default_rng(0))
    rows = [f"{at}\t0.1\t1\t1\tthing {at}, other word" for at in range(1, 151)]
    (tmp_path / "ADEChallengeData2016" / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    assert load_pixels("ade20k", tmp_path).classes[:2] == ["thing 1", "thing 2"]


def test_without_names_classes_are_counted(folders):
    (folders / "classes.txt").unlink()
    data = load_pixels("folders", folders)
    assert data.classes == ["0", "1", "2"]
    assert data.palette == palette(3)


@pytest.mark.parametrize("mode", ["L", "P", "I", "I;16"])
def test_values_or_indices_are_the_labels(tmp_path, mode):
    labels = np.array([[0, 1], [2, IGNORE]], np.uint8)
    image = Image.fromarray(labels)
    if mode == "P":
        image = index_picture(labels, palette(3))
    elif mode != "L":
        image = Image.fromarray(labels.astype(np.uint16 if mode == "I;16" else np.int32))
    path = tmp_path / ("map.tif" if mode == "I" else "map.png")  # no PNG has 32 bits
    image.save(path)
    np.testing.assert_array_equal(read_labels(path, 3), labels)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("value", r"labels/3.png holds the label 3, and there are 3 classes \(0 to 2, and 255 for no class\)"),
        ("colours", r"^[^ ]*labels/3.png is a picture of mode RGB, and labels are whole numbers"),
        ("size", r"images/3.png has 64 x 48 pixels, and its map of labels .*labels/3.png has 64 x 40"),
        ("map", r"labels/3.png cannot be read as a map of labels"),
        ("image", r"images/3.png cannot be read as an image"),
        ("no map", r"images/3.png has no map of labels"),
        ("no image", r"labels/3.png has no image"),
    ],
)
def test_what_is_wrong_is_named_by_its_file(folders, what, message):
    harm(folders, what)
    with pytest.raises(DataError, match=message):
        load_pixels("folders", folders).train.read(3)


def test_folders_that_are_none_are_refused(tmp_path, folders):
    with pytest.raises(DataError, match="there is no layout 'voc'"):
        load_pixels("voc", folders)
    with pytest.raises(DataError, match="there is no folder"):
        load_pixels("folders", tmp_path / "nowhere")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "classes.txt").write_text("red\ngreen\n")
    with pytest.raises(DataError, match="holds neither test/ nor val/"):
        load_pixels("folders", tmp_path / "empty")
    (folders / "classes.txt").write_text("only\n")
    with pytest.raises(DataError, match="has 1 classes"):
        load_pixels("folders", folders)


def test_parts_may_lie_inside_images_and_labels(folders, tmp_path):
    for part, named in (("train", "train"), ("test", "val")):
        for kind in ("images", "labels"):
            shutil.copytree(folders / part / kind, tmp_path / "other" / kind / named)
    shutil.copy(folders / "classes.txt", tmp_path / "other")
    data, expected = load_pixels("folders", tmp_path / "other"), load_pixels("folders", folders)
    assert data.train.names == [f"images/train/{at}.png" for at in range(8)]
    assert data.test.names == [f"images/val/{at}.png" for at in range(3)]
    np.testing.assert_array_equal(data.test.read(2)[1], expected.test.read(2)[1])


def test_of_a_pair_of_folders_a_fifth_is_held_out(folders, tmp_path):
    for kind in ("images", "labels"):
        for at in range(8):
            place = tmp_path / "other" / kind / f"day {at // 4}" / f"{at % 4}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folders / "train" / kind / f"{at}.png", place)
    every = [f"images/day {at // 4}/{at % 4}.png" for at in range(8)]
    held_out = []
    for fold in range(5):
        data = load_pixels("folders", tmp_path / "other", fold=fold)
        assert data.classes == ["0", "1", "2"]
        assert sorted(data.train.names + data.test.names) == every
        assert load_test_pixels("folders", tmp_path / "other", data.classes, fold=fold).names == data.test.names
        held_out += data.test.names
    assert sorted(held_out) == every  # each of them once
    assert len({tuple(load_pixels("folders", tmp_path / "other", seed=seed).test.names) for seed in range(5)}) > 1
    read = dict(zip(data.train.names, map(data.train.read, range(len(data.train))), strict=True))
    first = next(iter(read))
    at = every.index(first)
    np.testing.assert_array_equal(read[first][1], load_pixels("folders", folders).train.read(at)[1])


def test_a_model_is_tested_without_training_images_and_on_its_own_classes(folders, tmp_path):
    shutil.rmtree(folders / "train")
    assert load_test_pixels("folders", folders, ["red", "green", "blue"]).names == [f"test/images/{at}.png" for at in range(3)]
    with pytest.raises(DataError, match=r"there is no folder .*train/images"):
        load_pixels("folders", folders)
    with pytest.raises(DataError, match=r"other classes than the run was trained on: 'green' stands where the run has 'lime'"):
        load_test_pixels("folders", folders, ["red", "lime", "blue"])
    write_layout("camvid", tmp_path / "camvid", np.random.default_rng(0))
    with pytest.raises(DataError, match=r"other classes than the run was trained on: 11 and not 3; pass --data"):
        load_test_pixels("camvid", tmp_path / "camvid", load_pixels("camvid", tmp_path / "camvid").classes[:3])
    (folders / "classes.txt").unlink()
    assert load_test_pixels("folders", folders, ["red", "green", "blue"]).read(0)[1].max() == IGNORE


@pytest.mark.parametrize("layout", ["camvid", "ade20k", "cityscapes"])
def test_published_test_images_are_read_alone(tmp_path, layout):
    write_layout(layout, tmp_path, np.random.default_rng(0))
    data = load_pixels(layout, tmp_path)
    for name in ("train", "training"):
        for path in list(tmp_path.rglob(name)):
            shutil.rmtree(path)
    found = load_test_pixels(layout, tmp_path, data.classes)
    assert found.names == data.test.names
    np.testing.assert_array_equal(found.read(1)[1], data.test.read(1)[1])


def test_classes_that_only_test_images_have_are_counted(folders):
    (folders / "classes.txt").unlink()
    save(np.full((48, 64), 5, np.uint8), folders / "test" / "labels" / "0.png")
    data = load_pixels("folders", folders)
    assert data.classes == ["0", "1", "2", "3", "4", "5"]
    assert set(np.unique(data.test.read(0)[1])) == {5}


def test_train_ids_of_one_part_of_cityscapes_are_enough_for_that_part(tmp_path):
    write_layout("cityscapes", tmp_path, np.random.default_rng(0))
    expected = load_pixels("cityscapes", tmp_path).test.read(0)[1]
    for path in (tmp_path / "gtFine" / "train").rglob("*_labelIds.png"):
        save(np.full((48, 64), 18, np.uint8), path.with_name(path.name.replace("labelIds", "labelTrainIds")))
        save(np.zeros((48, 64, 3), np.uint8), path.with_name(path.name.replace("labelIds", "color")))  # which lies there too
    data = load_pixels("cityscapes", tmp_path)
    assert set(np.unique(data.train.read(0)[1])) == {18}
    np.testing.assert_array_equal(data.test.read(0)[1], expected)


def test_names_of_ade20k_are_told_apart_and_counted(tmp_path):
    write_layout("ade20k", tmp_path, np.random.default_rng(0))
    path = tmp_path / "ADEChallengeData2016" / "objectInfo150.txt"
    rows = [f"{at}\t0.1\t1\t1\tthing, word {at}" for at in range(1, 151)]
    path.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    assert load_pixels("ade20k", tmp_path).classes[149] == "thing, word 150"
    path.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows[:99]]))
    with pytest.raises(DataError, match=r"objectInfo150.txt names 99 classes, and a heading with a line for each of 150"):
        load_pixels("ade20k", tmp_path)


def test_names_of_classes_are_text_and_told_apart(folders):
    names = folders / "classes.txt"
    names.write_bytes("\ufeffred\r\ngreen\r\n\r\nblue\r\n".encode())
    assert load_pixels("folders", folders).classes == ["red", "green", "blue"]
    names.write_bytes("grün".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes.txt cannot be read as text in UTF-8"):
        load_pixels("folders", folders)
    names.write_text("red\nblue\nred\n")
    with pytest.raises(DataError, match=r"classes.txt names a class twice, 'red'"):
        load_pixels("folders", folders)


def beside(folders, what):
    """Put something beside the pairs, or in the place of a map."""
    labels, image = folders / "train" / "labels" / "3.png", folders / "train" / "images" / "3.png"
    if what == "two images":
        shutil.copy(image, image.with_suffix(".bmp"))
    elif what == "two maps":
        shutil.copy(labels, labels.with_suffix(".tif"))
    elif what == "jpeg":
        with Image.open(labels) as opened:
            opened.save(labels.with_suffix(".jpg"))
        labels.unlink()
    elif what == "fractions":
        Image.fromarray(np.zeros((48, 64), np.float32)).save(labels.with_suffix(".tif"))
        labels.unlink()
    elif what == "16 bits":
        Image.fromarray(np.full((48, 64), 700, np.uint16)).save(labels)
    else:
        with Image.open(labels) as opened:
            opened.convert("RGBA").save(labels)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("two images", r"images/3\.bmp and .*images/3\.png have the same name without their ends"),
        ("two maps", r"labels/3\.png and .*labels/3\.tif have the same name without their ends"),
        ("jpeg", r"labels/3\.jpg cannot be a map of labels: \.jpg changes the numbers of classes, save it as PNG"),
        ("fractions", r"labels/3\.tif is a picture of mode F, and labels are whole numbers"),
        ("16 bits", r"labels/3\.png holds the label 700"),
        ("transparent", r"labels/3\.png is a picture of mode RGBA"),
    ],
)
def test_what_is_beside_or_no_map_is_named(folders, what, message):
    beside(folders, what)
    with pytest.raises(DataError, match=message):
        load_pixels("folders", folders).train.read(3)


def test_how_many_have_no_partner_and_what_was_expected_is_said(folders):
    for at in (2, 5):
        (folders / "train" / "labels" / f"{at}.png").unlink()
    with pytest.raises(DataError, match=r"images/2\.png has no map of labels: expected .*labels/2\.png \(2 of 8 have none\)"):
        load_pixels("folders", folders)


def test_what_other_programs_leave_is_passed_over(folders):
    (folders / "train" / "images" / "._3.png").write_bytes(b"notes")
    (folders / "train" / "labels" / ".DS_Store").write_bytes(b"notes")
    (folders / "train" / "labels" / "notes.txt").write_text("notes")
    (folders / "train" / "images" / ".thumbnails").mkdir()
    save(np.zeros((4, 4), np.uint8), folders / "train" / "images" / ".thumbnails" / "3.png")
    assert len(load_pixels("folders", folders).train) == 8


def test_an_image_of_16_bits_is_brought_to_eight(folders):
    path = folders / "train" / "images" / "3.png"
    Image.fromarray(np.full((48, 64), 65535, np.uint16)).save(path)
    image, _ = load_pixels("folders", folders).train.read(3)
    assert image.mode == "RGB"
    assert image.getextrema() == ((255, 255),) * 3
