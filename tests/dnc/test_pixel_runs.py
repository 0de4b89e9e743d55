"""Runs of pixels from end to end: layouts as published, bad input, training that resumes, evaluation, maps and overlays."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from otcluster.dnc import Ablation, load_recipe, load_run, train
from otcluster.dnc.commands import app
from otcluster.dnc.data import seed_of
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.pixels.conversion import PixelConversion, pixel_batches
from otcluster.dnc.pixels.evaluation import Inference, PixelEvaluation, evaluate_pixels
from otcluster.dnc.pixels.labels import IGNORE, read_labels
from otcluster.dnc.pixels.layouts import load_pixels, palette
from otcluster.dnc.pixels.painting import index_picture, overlay, with_legend
from otcluster.dnc.pixels.runs import load_pixel_run
from otcluster.dnc.progress import Silent
from otcluster.dnc.recipe import recipe_names
from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted
from tests.dnc.conftest import listing

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
FAST = ["data.batch_size=4", "pixels.dim=16", "memory.capacity=300", "head.n_subcentroids=2", "train.test_every=1"]


def picture(rng, height=48, width=64, n_classes=3):
    """An image of blocks, each in the colour of its class, and its labels."""
    labels = rng.integers(n_classes, size=(height // 16, width // 16)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    pixels = (COLOURS[labels % 3] + rng.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
    return pixels, labels


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folders(root, n=8, n_test=3, seed=0):
    rng = np.random.default_rng(seed)
    for part, many in (("train", n), ("test", n_test)):
        for at in range(many):
            pixels, labels = picture(rng)
            labels[:4] = IGNORE
            save(pixels, root / part / "images" / f"{at}.png")
            save(labels, root / part / "labels" / f"{at}.png")
    (root / "classes.txt").write_text("red\ngreen\nblue\n")


@pytest.fixture
def folders(tmp_path):
    write_folders(tmp_path / "images")
    return tmp_path / "images"


def write_layout(layout, root, rng):
    """A data set as it is published, with labels that use the edges of its table."""
    if layout == "camvid":
        for part in ("train", "val", "test"):
            for at in range(3):
                pixels, labels = picture(rng)
                labels[0, :12] = range(12)  # 11 is unlabelled
                save(pixels, root / part / "images" / f"{at}.jpg")
                save(labels, root / part / "labels" / f"{at}.png")
    elif layout == "ade20k":
        for part in ("training", "validation"):
            for at in range(3):
                pixels, labels = picture(rng)
                labels[0, :3] = [0, 1, 150]
                save(pixels, root / "ADEChallengeData2016" / "images" / part / f"ADE_{at}.jpg")
                save(labels, root / "ADEChallengeData2016" / "annotations" / part / f"ADE_{at}.png")
    else:
        for part in ("train", "val"):
            for at in range(3):
                pixels, labels = picture(rng)
                labels[0, :4] = [0, 7, 33, 255]  # unlabelled, road, bicycle, licence plate
                name = f"ulm_{at}"
                save(pixels, root / "leftImg8bit" / part / "ulm" / f"{name}_leftImg8bit.png")
                save(labels, root / "gtFine" / part / "ulm" / f"{name}_gtFine_labelIds.png")


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


def harm(folders, what):
    """Make one file wrong; which is named."""
    labels, image = folders / "train" / "labels" / "3.png", folders / "train" / "images" / "3.png"
    if what == "value":
        save(np.full((48, 64), 3, np.uint8), labels)
    elif what == "colours":
        save(np.zeros((48, 64, 3), np.uint8), labels)
    elif what == "size":
        save(np.zeros((40, 64), np.uint8), labels)
    elif what == "map":
        labels.write_bytes(b"no picture")
    elif what == "image":
        image.write_bytes(b"no picture")
    elif what == "no map":
        labels.unlink()
    else:
        image.unlink()


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


@given(st.integers(0, 10**6), st.booleans(), st.integers(20, 90), st.integers(20, 90))
def test_image_and_labels_are_cut_and_turned_together(seed, flip, height, width):
    """Where image and label are the same numbers, they stay so, but for what lies beyond the image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(200, size=(height, width)).astype(np.uint8)
    convert = PixelConversion(crop=(48, 56), flip=flip, mean=(0, 0, 0), std=(1, 1, 1))
    torch.manual_seed(seed)
    image, cut = convert(Image.fromarray(labels).convert("RGB"), labels)
    assert image.shape == (3, 48, 56)
    assert cut.shape == (48, 56)
    inside = cut != IGNORE
    np.testing.assert_allclose((image[0] * 255)[inside], cut[inside], atol=1e-3)
    assert int(inside.sum()) == min(48, height) * min(56, width)
    assert not image[:, ~inside].any()


def test_scaled_labels_are_labels_and_a_small_image_is_padded():
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 15:] = 7
    convert = PixelConversion(crop=(64, 64), scale=(0.5, 2.0), jitter=0.3, flip=True)
    torch.manual_seed(0)
    for _ in range(20):
        image, cut = convert(Image.new("RGB", (30, 20), "red"), labels)
        assert set(cut.unique().tolist()) <= {0, 7, IGNORE}
        assert image.isfinite().all()
    assert convert.plain()(Image.new("RGB", (30, 20)), labels)[1].tolist() == labels.tolist()


@pytest.mark.parametrize("size", [(24, 36), (40, 60), (7, 90)])
def test_labels_stay_under_what_they_are_of_when_resized(size):
    """Of an image of two halves and its labels: the border of both lies at one place, to half a pixel."""
    labels = np.zeros((16, 24), np.uint8)
    labels[:, 9:] = 1
    labels[11:] = 2
    image, small = PixelConversion(resize=size, mean=(0, 0, 0), std=(1, 1, 1))(Image.fromarray(100 * labels), labels)
    rows, columns = (np.arange(many) + 0.5 for many in size)
    expected = labels[(rows * 16 / size[0]).astype(int)[:, None], (columns * 24 / size[1]).astype(int)]
    np.testing.assert_array_equal(small.numpy(), expected)
    assert image.shape == (3, *size)


def test_a_crop_of_one_class_is_drawn_again():
    labels = np.zeros((64, 256), np.uint8)
    labels[:, 224:] = 1
    convert = PixelConversion(crop=(64, 64))
    torch.manual_seed(0)
    mixed = sum(len(convert(Image.new("RGB", (256, 64)), labels)[1].unique()) == 2 for _ in range(50))
    assert mixed > 20  # of one draw each it would be one in six


def test_batches_follow_from_seed_epoch_and_index(folders):
    split = load_pixels("folders", folders).train
    convert = PixelConversion(crop=(32, 32), scale=(0.5, 2.0), flip=True)
    one = list(pixel_batches(split, convert, [[0, 1], [2, 3]], seed=1, epoch=2))
    other = list(pixel_batches(split, convert, [[3, 0]], seed=1, epoch=2, workers=1))
    assert torch.equal(one[1][0][1], other[0][0][0])
    assert torch.equal(one[0][1][0], other[0][1][1])
    assert not torch.equal(one[0][0][0], next(pixel_batches(split, convert, [[0]], seed=1, epoch=3))[0][0])
    assert seed_of(1, 2, 0) != seed_of(1, 3, 0)


def test_broken_pairs_are_refused_or_skipped(folders):
    harm(folders, "value")
    split, convert = load_pixels("folders", folders).train, PixelConversion(crop=(32, 32))
    with pytest.raises(DataError, match=r"data\.broken=skip"):
        list(pixel_batches(split, convert, [[2, 3]]))
    images, labels, indices = next(pixel_batches(split, convert, [[2, 3]], broken="skip"))
    assert (len(images), len(labels), indices.tolist()) == (1, 1, [2])
    assert [len(each) for each in next(pixel_batches(split, convert, [[3]], broken="skip"))] == [0, 0, 0]


def brightness(images):
    """Logits of three classes that are the three channels."""
    return 5 * images


def test_measures_are_those_of_numpy(folders):
    split = load_pixels("folders", folders).test
    convert = PixelConversion(mean=(0, 0, 0), std=(1, 1, 1))
    found = evaluate_pixels(brightness, split, 3, convert).metrics(["red", "green", "blue"])
    said, true = [], []
    for at in range(len(split)):
        image, labels = split.read(at)
        said.append(np.asarray(image).argmax(axis=2).ravel())
        true.append(labels.ravel())
    said, true = np.concatenate(said), np.concatenate(true)
    said, true = said[true != IGNORE], true[true != IGNORE]
    iou = [((said == c) & (true == c)).sum() / ((said == c) | (true == c)).sum() for c in range(3)]
    assert list(found["per_class"].values()) == pytest.approx(iou, abs=1e-6)
    assert found["mean_iou"] == pytest.approx(np.mean(iou), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx((said == true).mean(), abs=1e-6)
    assert found["mean_accuracy"] == pytest.approx(np.mean([(said == c)[true == c].mean() for c in range(3)]), abs=1e-6)
    assert found["images"] == 3


def test_classes_that_never_occur_are_left_out_of_the_mean():
    found = PixelEvaluation(torch.tensor([[4, 0, 0], [0, 0, 0], [2, 0, 2]]), 1).metrics(["a", "b", "c"])
    assert found["per_class"] == {"a": pytest.approx(2 / 3, abs=1e-6), "b": None, "c": 0.5}
    assert found["mean_iou"] == pytest.approx((2 / 3 + 0.5) / 2, abs=1e-6)


def test_windows_scales_and_flips_of_a_model_that_looks_at_single_pixels_change_nothing():
    image = torch.rand(3, 37, 50, generator=torch.Generator().manual_seed(0))
    whole = Inference().shares(brightness, image, (37, 50))
    torch.testing.assert_close(whole, torch.softmax(5 * image, dim=0))
    for how in (Inference((16, 24)), Inference((16, 24), (5, 7)), Inference((64, 64)), Inference((20, 50), flip=True)):
        torch.testing.assert_close(how.shares(brightness, image, (37, 50)), whole)
    smooth = Inference(scales=(0.5, 1.0)).shares(brightness, image, (37, 50))
    assert not torch.allclose(smooth, whole)
    torch.testing.assert_close(smooth.sum(dim=0), torch.ones(37, 50))


def test_every_window_is_of_its_size_and_every_pixel_is_seen():
    seen = []

    def note(images):
        seen.append(images.shape)
        return images

    Inference((16, 16), (16, 16)).shares(note, torch.rand(3, 40, 33), (40, 33))
    assert set(seen) == {(1, 3, 16, 16)}
    assert len(seen) == 3 * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (0, 4)}, "window must be positive"),
        ({"stride": (4, 4)}, "at most a window"),
        ({"window": (4, 4), "stride": (5, 4)}, "at most a window"),
        ({"scales": ()}, "at least one"),
        ({"scales": (0.0,)}, "positive numbers"),
    ],
)
def test_inference_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Inference(**arguments)


def test_maps_are_painted_in_their_colours():
    labels = np.array([[0, 1], [2, IGNORE]], np.uint8)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    shown = np.asarray(index_picture(labels, colours).convert("RGB"))
    assert shown.reshape(-1, 3).tolist() == [*map(list, colours), [0, 0, 0]]
    image = Image.new("RGB", (2, 2), (100, 100, 100))
    painted = np.asarray(overlay(image, labels, colours, strength=0.5))
    assert painted[1, 1].tolist() == [100, 100, 100]
    assert painted[0, 0].tolist() == [178, 50, 50]
    assert with_legend(image.resize((200, 50)), ["a", "b", "c"], colours).size[1] > 50
    with pytest.raises(ValueError, match="labels must be of the size of the image"):
        overlay(image, labels[:1], colours)


def recipe(folders, *changes, name="camvid-fcn-resnet18"):
    where = ["data.kind=pixel-folders", f"data.dir={folders}", "pixels.resize=null", "pixels.crop=[32,48]"]
    return load_recipe(name, [*where, *FAST, "train.epochs=2", *changes])


class Stop(Silent):
    def __init__(self, at):
        self.at = at

    def step(self, step, *args, **kwargs):
        if step == self.at:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("pixels")
    write_folders(root / "images")
    train(recipe(root / "images", "train.epochs=30", "train.test_every=30", "pixels.output_stride=8"), root / "run")
    return root


def test_blocks_are_learnt_and_everything_is_left_behind(run):
    metrics = json.loads((run / "run" / "metrics.json").read_text())
    assert metrics["test"]["pixel_accuracy"] > 0.7  # a third by chance
    assert set(metrics["test"]["per_class"]) == {"red", "green", "blue"}
    assert metrics["subcentroids"]["cosine_mean"] < 0.999
    assert {path.name for path in (run / "run").iterdir()} == {
        "recipe.yaml", "metrics.json", "history.csv", "curves.png", "predictions.png", "checkpoints",
    }  # fmt: skip
    assert (run / "run" / "history.csv").read_text().splitlines()[0].count("test_mean_iou") == 1
    with Image.open(run / "run" / "predictions.png") as sheet:
        assert np.asarray(sheet).std() > 20


def test_eval_and_predict_by_the_command_line(run, tmp_path):
    metrics = json.loads((run / "run" / "metrics.json").read_text())["test"]
    told = CliRunner().invoke(app, ["eval", str(run / "run")])
    assert f"test mean IoU {metrics['mean_iou']:.4f}, pixel accuracy {metrics['pixel_accuracy']:.4f}" in told.stdout
    image = run / "images" / "test" / "images" / "0.png"
    out = tmp_path / "maps"
    result = CliRunner().invoke(app, ["predict", str(run / "run"), str(image), str(tmp_path / "none.png"), "--out", str(out)])
    assert result.exit_code == 2
    assert "none.png cannot be read" in result.stderr
    assert result.stdout.startswith(f"{image}: ")
    with Image.open(out / "0.png") as shown:
        assert shown.mode == "P"
        labels = np.asarray(shown)
    loaded = load_pixel_run(run / "run")
    with Image.open(image) as opened:
        tensor = PixelConversion(mean=tuple(loaded.recipe.data.mean), std=tuple(loaded.recipe.data.std)).image(
            opened.convert("RGB")
        )
    np.testing.assert_array_equal(labels, loaded.model.predict(tensor[None]).labels[0].numpy())
    assert (out / "0-overlay.png").is_file()
    for arguments, message in (
        (["predict", str(run / "run"), str(image)], "pass --out DIR"),
        (["predict", str(run / "run"), str(image), str(image), "--out", str(out)], "two pictures are called 0"),
        (["eval", str(run / "run"), "--readout", "knn"], "this run is of pixels"),
        (["export", str(run / "run"), str(tmp_path / "model.onnx")], "classifies pixels"),
    ):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert message in refused.stderr
    with pytest.raises(RunError, match="classifies pixels"):
        load_run(run / "run")


def test_pictures_too_small_for_the_network_are_named(run, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    result = CliRunner().invoke(app, ["predict", str(run / "run"), str(tmp_path / "small.png"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "small.png cannot be classified: images must have shape" in result.stderr


def test_the_averaged_network_is_the_one_that_is_kept(folders, tmp_path):
    metrics = train(recipe(folders, "train.ema=0.5", "train.epochs=3"), tmp_path / "run")["test"]
    told = CliRunner().invoke(app, ["eval", str(tmp_path / "run")]).stdout
    assert f"test mean IoU {metrics['mean_iou']:.4f}, pixel accuracy {metrics['pixel_accuracy']:.4f}" in told


def test_a_run_of_images_takes_no_out(small_run, tmp_path):
    image = next((small_run / "images" / "test" / "cat").iterdir())
    refused = CliRunner().invoke(app, ["predict", str(small_run / "run"), str(image), "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert "--out is for runs of pixels" in refused.stderr
    with pytest.raises(RunError, match="classifies images as a whole"):
        load_pixel_run(small_run / "run")


@pytest.mark.parametrize(
    "changes", [("train.ema=0.5",), ("head.kind=linear", "pixels.aux_weight=0.4")], ids=["dnc, averaged", "linear"]
)
def test_stopped_anywhere_it_ends_the_same(folders, tmp_path, changes):
    whole = recipe(folders, *changes)
    steps = train(whole, tmp_path / "whole")["steps"]
    assert steps == 4
    for at in (1, 2, 3):
        with pytest.raises(Interrupted):
            train(whole, tmp_path / "run", progress=Stop(at))
    train(whole, tmp_path / "run")
    ended, other = listing(tmp_path / "run" / "checkpoints" / "step-4"), listing(tmp_path / "whole" / "checkpoints" / "step-4")
    assert ended["model.safetensors"] == other["model.safetensors"]
    assert (tmp_path / "run" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()
    first, second = (json.loads((tmp_path / each / "metrics.json").read_text())["test"] for each in ("run", "whole"))
    assert first == second


def test_what_cannot_be_read_is_left_out_or_ends_training(folders, tmp_path):
    harm(folders, "value")
    with pytest.raises(DataError, match=r"labels/3.png holds the label 3"):
        train(recipe(folders, "train.epochs=1"), tmp_path / "refused")
    metrics = train(recipe(folders, "train.epochs=1", "data.broken=skip"), tmp_path / "run")
    assert metrics["steps"] == 2


def test_crops_without_a_label_and_classes_that_never_occur_are_survived(folders, tmp_path):
    for path in (folders / "train" / "labels").iterdir():
        save(np.full((48, 64), IGNORE if int(path.stem) % 2 else 0, np.uint8), path)
    metrics = train(recipe(folders, "train.epochs=1"), tmp_path / "run")
    assert 0 <= metrics["test"]["pixel_accuracy"] <= 1


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).of_pixels])
def test_every_recipe_takes_a_step_on_its_layout(tmp_path, name):
    layout = name.split("-")[0]
    write_layout(layout, tmp_path / "images", np.random.default_rng(0))
    side = 64
    changes = [
        f"data.dir={tmp_path / 'images'}", "backbone.pretrained=false", "data.batch_size=2", "data.workers=0",
        f"pixels.crop=[{side},{side}]", "pixels.dim=16", "train.epochs=1", "train.accelerator=cpu", "train.checkpoint_steps=10",
    ]  # fmt: skip
    kind = load_recipe(name)
    if kind.pixels.window is not None:
        changes.append(f"pixels.window=[{side},{side}]")
    if kind.pixels.resize is not None:
        changes.append("pixels.resize=null")
    smaller = {"resnet101": "resnet18", "swin_base_patch4_window7_224": "swin_s3_tiny_224"}.get(kind.backbone.name)
    changes += [] if smaller is None else [f"backbone.name={smaller}"]
    metrics = train(load_recipe(name, changes), tmp_path / "run")
    assert metrics["steps"] == 1
    assert metrics["test"]["mean_iou"] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["pixels.network=null"], r"do not go together"),
        (["data.kind=folder"], r"do not go together"),
        (["head.kind=knn"], r"head.kind must be dnc, linear, deepncm or contrast for pixels, got knn"),
        (["data.mixup=0.2"], r"data.mixup must be 0 for pixels"),
        (["data.augment=crop"], r"data.augment must be none for pixels"),
        (["explain.anchor_epochs=1"], r"explain.anchor_epochs is for images with a class each, got 1"),
        (["pixels.crop=[0,4]"], r"pixels.crop must be a height and a width"),
        (["pixels.scale=[2.0,1.0]"], r"pixels.scale must be a least and a greatest factor"),
        (["pixels.stride=[4,4]"], r"pixels.stride must be at most pixels.window"),
        (["pixels.test_scales=[]"], r"pixels.test_scales must be positive factors"),
        (["optim.label_smoothing=0.1"], r"optim.label_smoothing must be 0 for pixels"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("camvid-fcn-resnet18", changes)
    with pytest.raises(RecipeError, match="do not go together"):
        load_recipe("digits", ["pixels.network=fcn"])


def test_pixels_are_not_ablated():
    with pytest.raises(RecipeError, match="recipe camvid-fcn-resnet18 is of pixels, and ablations compare accuracies"):
        Ablation.plan("camvid-fcn-resnet18", axes=[])
