"""Images: folders as they come, broken files, and the order that a seed gives."""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from otcluster.dnc.conversion import Conversion, mixing
from otcluster.dnc.data import epoch_batches, load_batches, load_data, load_test
from otcluster.dnc.errors import DataError
from otcluster.dnc.pictures import open_image
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


def test_a_models_test_images_are_labelled_by_name(tmp_path):
    write_images(tmp_path / "a" / "test", classes=("owl", "cat"), n=2)
    assert load_test(config(tmp_path / "a"), ["cat", "dog", "owl"]).labels.tolist() == [0, 0, 2, 2]
    write_images(tmp_path / "b" / "test", classes=("ant", "cat"), n=2)
    with pytest.raises(DataError, match="holds classes that the model has not: ant"):
        load_test(config(tmp_path / "b"), ["cat", "dog"])
    with pytest.raises(DataError, match=r"holds test/ but no train/"):
        load_data(config(tmp_path / "a"))
    write_images(tmp_path / "c", n=10)
    split = load_test(config(tmp_path / "c"), ["cat", "dog", "owl"])
    assert split.names == load_data(config(tmp_path / "c")).test.names


def test_hidden_files_are_no_data(tmp_path):
    write_images(tmp_path / "x" / "train")
    write_images(tmp_path / "x" / "train", classes=(".ipynb_checkpoints", "cat/.trash"), n=2)
    (tmp_path / "x" / "train" / "cat" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "x" / "train" / ".empty").mkdir()
    data = load_data(config(tmp_path / "x"))
    assert data.classes == ["cat", "dog", "owl"]
    assert not [name for name in data.train.names + data.test.names if "/." in name]
    (tmp_path / "y" / ".hidden").mkdir(parents=True)
    with pytest.raises(DataError, match=r"y is no folder of classes: .*hidden"):
        load_data(config(tmp_path / "y"))
    write_images(tmp_path / ".z" / "train")  # the folder itself may be hidden
    assert len(load_data(config(tmp_path / ".z")).train) == 30


def test_names_that_no_file_of_a_run_can_hold_are_refused(tmp_path):
    write_images(tmp_path / "x", classes=("cat", "dog"))
    (tmp_path / "x" / "dog").rename(os.fsdecode(os.fsencode(tmp_path / "x") + b"/d\xff"))
    with pytest.raises(DataError, match=r"d\\udcff.* is not UTF-8"):
        load_data(config(tmp_path / "x"))


def test_other_bytes_under_the_same_names_are_other_images(image_folder):
    before = load_data(config(image_folder)).fingerprint
    assert load_data(config(image_folder)).fingerprint == before
    path = image_folder / "train" / "cat" / "000.png"
    original = path.read_bytes()
    for changed in (original + b"more", original[:-1] + b"?"):
        path.write_bytes(changed)
        assert load_data(config(image_folder)).fingerprint != before
    path.unlink()
    path.symlink_to("nowhere")
    assert load_data(config(image_folder)).fingerprint != before


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


def test_images_can_be_read_by_processes_that_are_started_afresh(image_folder):
    for settings in (config(image_folder), DataConfig(kind="digits", channels=1)):
        split = load_data(settings).test.subset([2, 0])
        again = pickle.loads(pickle.dumps(split))
        assert again.names == split.names
        assert np.array_equal(np.asarray(again.read(1)), np.asarray(split.read(1)))


def test_a_worker_reports_a_broken_image_as_the_main_process_does(image_folder, caplog):
    (image_folder / "train" / "cat" / "000.png").write_bytes(b"no image")
    split = load_data(config(image_folder)).train
    with pytest.raises(DataError, match=r"^[^\n]*cat/000\.png cannot be read as an image[^\n]*$"):
        read_all(split, config(image_folder, workers=1), [[0, 1]])
    ((_, labels, _),) = read_all(split, config(image_folder, workers=1, broken="skip"), [[0, 1]])
    assert len(labels) == 1
    assert "skipped: " in caplog.text


def test_an_epoch_visits_every_image_once_and_another_in_another_order():
    one, two = epoch_batches(32, 8, 0, 0), epoch_batches(32, 8, 0, 1)
    assert sorted(index for batch in one for index in batch) == list(range(32))
    assert one != two
    assert one == epoch_batches(32, 8, 0, 0)
    assert [len(batch) for batch in epoch_batches(33, 8, 0, 0)] == [8] * 4
    assert [len(batch) for batch in epoch_batches(5, 8, 0, 0)] == [5]


RAMP = np.linspace(0, 1, 256).repeat(4).reshape(32, 32)


def ramp(mode):
    """From black to white, in an image of this mode."""
    if mode in ("I;16", "I"):
        return Image.fromarray((RAMP * 65535).round().astype(np.uint16 if mode == "I;16" else np.int32))
    if mode == "F":
        return Image.fromarray(RAMP.astype(np.float32))
    grey = Image.fromarray((RAMP * 255).round().astype(np.uint8))
    return grey.convert("RGB").quantize(256) if mode == "P" else grey.convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "I", "F", "CMYK"])
def test_pictures_of_any_mode_keep_their_values(tmp_path, mode):
    path = tmp_path / {"CMYK": "x.tiff", "I": "x.tiff", "F": "x.tiff"}.get(mode, "x.png")
    ramp(mode).save(path)
    for channels in (1, 3):
        settings = DataConfig(channels=channels, image_size=32)
        tensor = Conversion(settings, augment=False)(open_image(path))
        assert tensor.shape == (channels, 32, 32)
        grey = (tensor * 0.25 + 0.5).numpy()
        # Black and white alone are dithered: only their means are those of the ramp, and to the grain of the dither.
        close = 0.02 if mode == "1" else 0.003
        np.testing.assert_allclose(grey.mean(axis=(0, 2)), RAMP.mean(axis=1), atol=close if mode != "1" else 0.2)
        np.testing.assert_allclose(grey.mean(), 0.5, atol=close)
        if mode != "1":
            np.testing.assert_allclose(grey[0], RAMP, atol=0.01)


def test_ranges_of_integers_and_floats_are_the_smallest_that_hold_them(tmp_path):
    path = tmp_path / "x.tiff"
    for white, kind in ((1, np.float32), (255, np.float32), (65535, np.float32), (255, np.int32), (65535, np.int32)):
        Image.fromarray((RAMP * white).astype(kind)).save(path)
        np.testing.assert_allclose(np.asarray(open_image(path)) / 255, RAMP, atol=0.006)
    for values in (RAMP * 1e6, RAMP - 0.5, RAMP * np.nan):
        Image.fromarray(values.astype(np.float32)).save(path)
        with pytest.raises(DataError, match=r"x\.tiff .*its values run from .* 0 to 65,535 is understood"):
            open_image(path)


def test_transparent_pixels_show_the_background(tmp_path):
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[2:6, 2:6, 3] = 255  # black ink on nothing
    Image.fromarray(ink).save(tmp_path / "x.png")
    paper = np.asarray(open_image(tmp_path / "x.png"))
    assert (paper[0, 0] == 255).all()
    assert (paper[3, 3] == 0).all()
    assert not np.asarray(open_image(tmp_path / "x.png", background="black")).any()


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
    with pytest.raises(DataError, match=f"^{tmp_path} is a folder: pass the images in it"):
        open_image(tmp_path)


def test_the_five_folds_share_the_digits():
    folds = [load_data(DataConfig(kind="digits", channels=1, fold=fold)) for fold in range(5)]
    names = [name for data in folds for name in data.test.names]
    assert len(names) == len(set(names)) == 1797
    assert all(not set(data.train.names) & set(data.test.names) for data in folds)
    assert all(abs(len(data.test) - 1797 / 5) < 6 for data in folds)


def test_some_labels_of_each_class_are_kept():
    few = load_data(DataConfig(kind="digits", channels=1, labels_per_class=10))
    whole = load_data(DataConfig(kind="digits", channels=1))
    assert torch.bincount(few.train.labels).tolist() == [10] * 10
    assert set(few.train.names) < set(whole.train.names)
    assert few.test.names == whole.test.names
    assert np.array_equal(
        np.asarray(few.train.read(7)), np.asarray(whole.train.read(whole.train.names.index(few.train.names[7])))
    )
    other = load_data(DataConfig(kind="digits", channels=1, labels_per_class=10, split_seed=1))
    assert few.train.names != other.train.names
    with pytest.raises(DataError, match=r"class 8 has 139 training images, data\.labels_per_class asks for 140"):
        load_data(DataConfig(kind="digits", channels=1, labels_per_class=140))


def test_val_is_the_test_set_of_folders_in_the_layout_of_imagenet(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", n=2)
    data = load_data(config(tmp_path))
    assert (len(data.train), len(data.test)) == (36, 6)
    assert data.test.names[0] == "val/cat/000.png"
    assert load_test(config(tmp_path), data.classes).names == data.test.names


def test_images_in_memory_are_the_same_and_are_not_read_again(image_folder, caplog):
    (image_folder / "train" / "dog" / "005.png").write_bytes(b"no image")
    split = load_data(config(image_folder)).train
    kept = load_data(config(image_folder, in_memory=True)).train
    (image_folder / "train" / "cat" / "000.png").unlink()
    assert kept.names == split.names
    assert all(np.array_equal(np.asarray(kept.read(at)), np.asarray(split.read(at))) for at in (1, 20, 35))
    assert kept.read(0).size == (16, 16)
    with pytest.raises(DataError, match=r"dog/005\.png cannot be read"):
        kept.read(kept.names.index("train/dog/005.png"))


def official_cifar(root, known, monkeypatch):
    """Small files in the official layout, with their checksums made known to torchvision."""
    folder = root / known.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "owl"]
    key, many = ("labels", "label_names") if known is CIFAR10 else ("fine_labels", "fine_label_names")
    parts = {
        "train_list": [f"part_{at}" for at in range(len(known.train_list))],
        "test_list": ["held_out"],
    }
    for attribute, files in parts.items():
        listed = []
        for file in files:
            rows = {"data": rng.integers(0, 256, (6, 3072), dtype=np.uint8), key: [0, 1, 2] * 2}
            (folder / file).write_bytes(pickle.dumps(rows))
            listed.append([file, hashlib.md5((folder / file).read_bytes()).hexdigest()])
        monkeypatch.setattr(known, attribute, listed)
    (folder / "meta_here").write_bytes(pickle.dumps({many: names}))
    digest = hashlib.md5((folder / "meta_here").read_bytes()).hexdigest()
    monkeypatch.setattr(known, "meta", {"filename": "meta_here", "key": many, "md5": digest})
    return folder


@pytest.mark.parametrize("known", [CIFAR10, CIFAR100])
def test_official_files_are_read_and_only_with_their_checksums(tmp_path, monkeypatch, known):
    folder = official_cifar(tmp_path, known, monkeypatch)
    data = load_data(config(tmp_path))
    assert data.classes == ["cat", "dog", "owl"]
    assert (len(data.train), len(data.test)) == (6 * len(known.train_list), 6)
    rows = pickle.loads((folder / "held_out").read_bytes())["data"]
    assert np.array_equal(np.asarray(data.test.read(4)), rows[4].reshape(3, 32, 32).transpose(1, 2, 0))
    assert data.test.labels.tolist() == [0, 1, 2] * 2
    assert load_test(config(tmp_path), ["dog", "owl", "emu", "cat"]).labels.tolist() == [3, 0, 1] * 2
    with pytest.raises(DataError, match="holds classes that the model has not: dog, owl"):
        load_test(config(tmp_path), ["cat"])
    (folder / "held_out").write_bytes((folder / "held_out").read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"does not hold CIFAR.* as it was published"):
        load_data(config(tmp_path))


def test_the_middle_is_kept_where_a_share_is_asked_for():
    wide = Image.fromarray(np.arange(200, dtype=np.uint8).repeat(100).reshape(200, 100).T.copy())
    settings = DataConfig(channels=1, image_size=40, crop_share=0.5, mean=[0.0], std=[1 / 255])
    tensor = Conversion(settings, augment=False)(wide)
    assert tensor.shape == (1, 40, 40)
    assert tensor[0, 0, 0] == pytest.approx(75, abs=1)  # the shorter side became 80, of the longer 160 the middle 40
    assert tensor[0, -1, -1] == pytest.approx(124, abs=1)


def test_means_and_deviations_are_those_of_each_channel():
    settings = DataConfig(image_size=4, mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])
    tensor = Conversion(settings, augment=False)(Image.new("RGB", (4, 4), (255, 255, 255)))
    assert tensor[:, 0, 0].tolist() == pytest.approx([1.8, 0.8, 0.35])


@pytest.mark.parametrize("changes", [{"augment": "resized-crop-flip"}, {"rand_augment": 9}, {"erasing": 1.0}])
def test_augmentations_vary_pictures_in_training_alone(changes):
    settings = DataConfig(image_size=16, **{"augment": "none", **changes})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    plain = Conversion(DataConfig(image_size=16, augment="none"), augment=True)(image)
    assert torch.equal(Conversion(settings, augment=False)(image), plain)
    varied = [Conversion(settings, augment=True)(image) for _ in range(8)]
    assert all(each.shape == (3, 16, 16) for each in varied)
    assert any(not torch.equal(each, plain) for each in varied)


def test_mixing_gives_shares_that_say_how_images_were_mixed():
    images, labels = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), torch.tensor([0, 2])
    assert mixing(DataConfig(), 3) is None
    for changes in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mixed, shares = mixing(DataConfig(**changes), 3)(images, labels)
        assert shares.sum(1).tolist() == pytest.approx([1, 1])
        # Of each picture the white share is the share of the class whose images are white.
        assert mixed.mean(dim=(1, 2, 3)).tolist() == pytest.approx(shares[:, 2].tolist(), abs=1e-6)
    assert mixing(DataConfig(mixup=0.2, cutmix=1.0), 3)(images, labels)[1].shape == (2, 3)
