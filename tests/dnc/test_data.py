"""Images: folders as they come, broken files, and the order that a seed gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from otcluster.dnc.data import Conversion, epoch_batches, load_batches, load_data, open_image
from otcluster.dnc.errors import DataError
from otcluster.dnc.recipe import DataConfig
from tests.dnc.conftest import write_images


def config(root, **changes):
    return DataConfig(dir=str(root), image_size=16, batch_size=8, **changes)


def test_the_digits_are_split_80_to_20_without_overlap():
    data = load_data(DataConfig(kind="digits", channels=1))
    assert len(data.train) + len(data.test) == 1797
    assert abs(len(data.test) / 1797 - 0.2) < 0.01
    assert not set(data.train.names) & set(data.test.names)
    assert data.fingerprint == load_data(DataConfig(kind="digits", channels=1)).fingerprint
    assert data.fingerprint != load_data(DataConfig(kind="digits", channels=1, split_seed=1)).fingerprint


def test_a_folder_with_train_and_test_is_taken_as_it_is(image_folder):
    data = load_data(config(image_folder))
    assert data.classes == ["cat", "dog", "owl"]
    assert (len(data.train), len(data.test)) == (36, 12)
    assert data.train.names[0] == "train/cat/000.png"


@pytest.mark.parametrize("inner", ["train", "."])
def test_a_folder_without_test_is_split(tmp_path, inner):
    write_images(tmp_path / "x" / inner, n=10)
    data = load_data(config(tmp_path / "x"))
    assert (len(data.train), len(data.test)) == (24, 6)
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]


def test_test_classes_are_matched_by_name(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", classes=("owl",), n=2)
    assert load_data(config(tmp_path)).test.labels.tolist() == [2, 2]


def test_folders_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(DataError, match="is not set: pass --data"):
        load_data(DataConfig())
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        load_data(config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no folder of classes"):
        load_data(config(tmp_path / "empty"))
    write_images(tmp_path / "one" / "train", classes=("cat",))
    with pytest.raises(DataError, match="holds one class, cat"):
        load_data(config(tmp_path / "one"))
    write_images(tmp_path / "more" / "train")
    write_images(tmp_path / "more" / "test", classes=("emu",), n=1)
    with pytest.raises(DataError, match=r"holds classes that .* has not: emu"):
        load_data(config(tmp_path / "more"))


def read_all(split, settings, batches=None):
    order = batches or [list(range(len(split)))]
    return list(load_batches(split, Conversion(settings, augment=True), settings, order, seed=3, epoch=2))


def test_a_broken_image_is_refused_by_name_or_skipped_as_asked(image_folder, caplog):
    bad = image_folder / "train" / "dog" / "005.png"
    bad.write_bytes(bad.read_bytes()[:60])
    before = bad.read_bytes()
    split = load_data(config(image_folder)).train
    with pytest.raises(DataError, match=r"dog/005\.png cannot be read as an image.*data\.broken=skip"):
        read_all(split, config(image_folder))
    ((images, labels, indices),) = read_all(split, config(image_folder, broken="skip"))
    assert len(images) == len(labels) == 35
    assert "005.png" in caplog.text
    assert split.names.index("train/dog/005.png") not in indices.tolist()
    assert bad.read_bytes() == before


def test_augmentation_depends_on_seed_epoch_and_image_alone(image_folder):
    split = load_data(config(image_folder)).train
    ((whole, _, _),) = read_all(split, config(image_folder))
    ((late, _, _),) = read_all(split, config(image_folder), [[20, 21]])
    assert torch.equal(whole[20:22], late)
    ((other, _, _),) = list(
        load_batches(split, Conversion(config(image_folder), augment=True), config(image_folder), [[20, 21]], seed=3, epoch=3)
    )
    assert not torch.equal(late, other)


def test_workers_change_nothing(image_folder):
    split = load_data(config(image_folder)).train
    batches = [[0, 5, 9], [7, 30]]
    for one, two in zip(
        read_all(split, config(image_folder), batches), read_all(split, config(image_folder, workers=2), batches), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_an_epoch_visits_every_image_once_and_another_in_another_order():
    one, two = epoch_batches(32, 8, 0, 0), epoch_batches(32, 8, 0, 1)
    assert sorted(index for batch in one for index in batch) == list(range(32))
    assert one != two
    assert one == epoch_batches(32, 8, 0, 0)
    assert [len(batch) for batch in epoch_batches(33, 8, 0, 0)] == [8] * 4
    assert [len(batch) for batch in epoch_batches(5, 8, 0, 0)] == [5]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_any_mode_are_converted(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (20, 10)).save(path)
    for channels in (1, 3):
        tensor = Conversion(DataConfig(channels=channels, image_size=16), augment=False)(open_image(path))
        assert tensor.shape == (channels, 16, 16)


def test_a_users_digit_becomes_what_the_training_images_are():
    settings = DataConfig(kind="digits", channels=1)
    digit = load_data(settings).test.read(0)
    large = digit.resize((80, 80), Image.Resampling.NEAREST).convert("RGB")
    convert = Conversion(settings, augment=False)
    assert torch.equal(convert(digit), convert(large))
    assert len(np.unique(np.asarray(digit))) <= 17


def test_missing_files_and_text_are_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    for name in ("a.png", "b.png"):
        with pytest.raises(DataError, match=name):
            open_image(tmp_path / name)
