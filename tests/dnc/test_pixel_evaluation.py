"""How well pixels are classified, and pictures of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from otcluster.dnc import Segmenter
from otcluster.dnc.pixels.conversion import PixelConversion
from otcluster.dnc.pixels.evaluation import Inference, PixelEvaluation, evaluate_pixels
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import load_pixels
from otcluster.dnc.pixels.painting import index_picture, overlay, with_legend
from tests.dnc.pixel_files import harm, picture, save, write_folders
from tests.dnc.segmenters import a_head, patches


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


@pytest.mark.parametrize("how", [{}, {"window": (40, 40), "flip": True}, {"scales": (0.75, 1.0)}])
def test_images_of_one_size_go_together_and_each_is_what_it_is_alone(how):
    torch.manual_seed(0)
    model, inference = Segmenter(patches(), a_head()).eval(), Inference(**how)
    images = torch.randn(3, 3, 48, 56)
    together = inference.shares(model, images, (60, 70))
    assert together.shape == (3, 3, 60, 70)
    for one, image in zip(together, images, strict=True):
        torch.testing.assert_close(one, inference.shares(model, image, (60, 70)), atol=1e-5, rtol=0)


def test_what_is_found_does_not_depend_on_batches(tmp_path):
    """Of images of two sizes, in turn and in runs, one of them broken."""
    write_folders(tmp_path, n_test=9)
    rng = np.random.default_rng(1)
    for at in (3, 6):
        pixels, labels = picture(rng, 64, 32)
        save(pixels, tmp_path / "test" / "images" / f"{at}.png")
        save(labels, tmp_path / "test" / "labels" / f"{at}.png")
    harm(tmp_path, "value", part="test", at=1)
    split, model, sizes = load_pixels("folders", tmp_path).test, Segmenter(patches(), a_head()).eval(), []

    def counted(images):
        sizes.append(tuple(images.shape))
        return model(images)

    found = [evaluate_pixels(counted, split, 3, PixelConversion(), broken="skip", batch_size=most) for most in (1, 2, 4)]
    assert [each.n_images for each in found] == [8, 8, 8]
    for each in found[1:]:
        assert torch.equal(each.confusion, found[0].confusion)
    assert [size[0] for size in sizes[8:]] == 2 * [2, 1, 2, 1, 2]
    assert {size[1:] for size in sizes} == {(3, 48, 64), (3, 64, 32)}
