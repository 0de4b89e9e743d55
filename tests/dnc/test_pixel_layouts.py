"""Images with labels at every pixel: layouts as published, and what is wrong with files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from otcluster.dnc.errors import DataError
from otcluster.dnc.pixels.labels import IGNORE, read_labels
from otcluster.dnc.pixels.layouts import load_pixels, palette
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
        ("colours", r"labels/3.png is a picture of mode RGB"),
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
