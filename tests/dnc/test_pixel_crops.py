"""What becomes of images and their labels on the way to a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from otcluster.dnc.data import seed_of
from otcluster.dnc.errors import DataError
from otcluster.dnc.pixels.conversion import PixelConversion, pixel_batches
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import load_pixels
from tests.dnc.pixel_files import harm


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
