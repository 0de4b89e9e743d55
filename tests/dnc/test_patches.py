"""What sub-centroids of pixels stand for, who owns which pixel, and how that is painted: against NumPy, one by one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from otcluster.dnc import DNCHead, LinearHead, overview
from otcluster.dnc.baselines import DeepNCMHead
from otcluster.dnc.errors import DataError
from otcluster.dnc.pixels.evaluation import evaluate_pixels
from otcluster.dnc.pixels.labels import IGNORE
from otcluster.dnc.pixels.layouts import _CAMVID, palette
from otcluster.dnc.pixels.owners import Owners, owners, ownership
from otcluster.dnc.pixels.patches import Patch, typical_patches
from otcluster.dnc.pixels.prediction import label_map
from otcluster.dnc.pixels.runs import conversion_of, inference_of
from otcluster.dnc.pixels.shades import paint_owners, shades_of, swatch
from tests.dnc.pixel_models import CLASSES, STRIDE, untrained, with_head, write_pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(write_pixels(tmp_path_factory.mktemp("pixels") / "images"))


def features_and_labels(run, picture, true):
    """Features of the grid in float64, their labels, and the pixels that these are of."""
    with torch.no_grad():
        found = run.model.features(conversion_of(run.recipe).image(picture)[None])[0].permute(1, 2, 0).double().numpy()
    h, w = found.shape[:2]
    rows = np.array([int((r + 0.5) * true.shape[0] / h) for r in range(h)])
    columns = np.array([int((c + 0.5) * true.shape[1] / w) for c in range(w)])
    return found / np.linalg.norm(found, axis=2, keepdims=True), true[rows[:, None], columns], rows, columns


def nearest_by_hand(run, n):
    """The same by loops over images, classes and sub-centroids."""
    split, centroids = run.load_data().train, run.model.head.subcentroids.double().numpy()
    found = {(c, k): [] for c in range(centroids.shape[0]) for k in range(centroids.shape[1])}
    sizes = np.zeros(centroids.shape[:2], int)
    for index in range(len(split)):
        features, labels, rows, columns = features_and_labels(run, *split.read(index))
        for (c, k), best in found.items():
            there = np.argwhere(labels == c)
            if len(there):
                cosines = features[labels == c] @ centroids[c].T
                sizes[c, k] += (cosines.argmax(axis=1) == k).sum()
                at = cosines[:, k].argmax()
                best.append((cosines[at, k], index, rows[there[at][0]], columns[there[at][1]]))
    return {place: sorted(best, key=lambda each: -each[0])[:n] for place, best in found.items()}, sizes


@pytest.mark.parametrize("n", [1, 3, 9])
def test_patches_are_the_nearest_places_of_the_class_one_an_image(run, n):
    found = typical_patches(run, n=n)
    expected, sizes = nearest_by_hand(run, n)
    assert found.n_images == 5
    np.testing.assert_array_equal(found.sizes.numpy(), sizes)
    assert [[len(own) for own in of_class] for of_class in found.patches] == [[min(n, 5)] * 3] * 3 + [[0] * 3]
    for (c, k), best in expected.items():
        assert [(p.image, p.row, p.column) for p in found.of(c, k)] == [each[1:] for each in best]
        np.testing.assert_allclose([p.cosine for p in found.of(c, k)], [each[0] for each in best], atol=1e-6)
        assert found.names(c, k) == [f"train/images/{each[1]}.png" for each in best]


def test_a_patch_is_cut_where_the_image_ends(run):
    split = run.load_data().train
    for side, expected in ((None, 35), (20, 20), (500, 500)):  # half of 70 is less than 96
        for of_class in typical_patches(run, n=5, side=side).patches:
            for patch in (each for own in of_class for each in own):
                left, upper, right, lower = patch.box
                assert patch.side == expected
                assert left == max(patch.column - expected // 2, 0)
                assert upper == max(patch.row - expected // 2, 0)
                assert right == min(patch.column - expected // 2 + expected, 70)
                assert lower == min(patch.row - expected // 2 + expected, 53)
                picture = split.read(patch.image)[0]
                cut = np.asarray(patch.cut(picture))
                middle = cut[patch.row - upper, patch.column - left]
                np.testing.assert_array_equal(middle, np.asarray(picture)[patch.row, patch.column])


def test_of_equal_places_the_first_image_comes_first(tmp_path):
    images = write_pixels(tmp_path / "images", n=2)
    for kind in ("images", "labels"):
        shutil.copy(images / "train" / kind / "1.png", images / "train" / kind / "0.png")
    for own in typical_patches(untrained(images), n=2).patches[0]:
        assert [each.image for each in own] == [0, 1]
        assert (own[0].row, own[0].column, own[0].cosine) == (own[1].row, own[1].column, own[1].cosine)


def test_subcentroids_that_a_class_does_not_have_have_no_patches(run):
    head = DNCHead(5, n_classes=4, n_subcentroids=[3, 1, 2, 1])
    found = typical_patches(with_head(run, head))
    assert [[len(own) for own in of_class] for of_class in found.patches] == [[5, 5, 5], [5, 0, 0], [5, 5, 0], [0, 0, 0]]
    assert found.sizes[1].tolist()[1:] == [0, 0]
    model = overview(with_head(run, head), n_typical=2)
    assert [each.name for each in model.subcentroids] == [
        "road #1",
        "road #2",
        "road #3",
        "sky #1",
        "car #1",
        "car #2",
        "never #1",
    ]
    assert [each.size for each in model.subcentroids] == [
        *found.sizes[0].tolist(),
        *found.sizes[[1, 2, 2], [0, 0, 1]].tolist(),
        0,
    ]
    assert model.subcentroids[0].typical == tuple(found.names(0, 0)[:2])
    assert (3, 0) not in model.dead  # nothing is known of a class without pixels


def test_what_is_held_does_not_grow_with_the_images(tmp_path, monkeypatch):
    """Between images there are the best places and the counts, whatever was seen."""
    from otcluster.dnc.pixels import patches

    seen = []
    merged = patches._merged
    monkeypatch.setattr(patches, "_merged", lambda *given: seen.append([each.shape for each in given]) or merged(*given))
    typical_patches(untrained(write_pixels(tmp_path / "images", n=12)), n=2)
    assert len(seen) == 12
    assert {tuple(each) for each in seen} == {((4, 3, 2), (4, 3, 2, 5), (4, 3), (4, 3, 5))}


def test_training_images_that_cannot_be_read_or_are_too_small_are_named(tmp_path):
    images = write_pixels(tmp_path / "images")
    (images / "train" / "images" / "2.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"train/images/2.png cannot be read as an image"):
        typical_patches(untrained(images))
    found = typical_patches(untrained(images, None, CLASSES, "data.broken=skip"))
    assert found.n_images == 4
    assert 2 not in {patch.image for of_class in found.patches for own in of_class for patch in own}
    for kind, mode in (("images", "RGB"), ("labels", "L")):
        Image.new(mode, (12, 12)).save(images / "train" / kind / "2.png")
    with pytest.raises(DataError, match=r"train/images/2.png cannot be classified: images must have at least 16 pixels"):
        typical_patches(untrained(images))
    for path in (images / "train" / "images").iterdir():
        path.write_bytes(b"none")
    with pytest.raises(DataError, match="none of 5 images can be read"):
        typical_patches(untrained(images, None, CLASSES, "data.broken=skip"))


def test_an_image_without_any_label_is_survived(tmp_path):
    images = write_pixels(tmp_path / "images", n=2)
    Image.fromarray(np.full((53, 70), IGNORE, np.uint8)).save(images / "train" / "labels" / "0.png")
    found = typical_patches(untrained(images))
    assert found.n_images == 2
    assert {patch.image for of_class in found.patches for own in of_class for patch in own} == {1}
    Image.fromarray(np.full((53, 70), IGNORE, np.uint8)).save(images / "test" / "labels" / "0.png")
    counted = ownership(untrained(images), untrained(images).load_data().test)
    assert np.isnan(counted.accuracies[0])
    assert counted.indices == [0, 1, 2]


@pytest.mark.parametrize(("arguments", "kind"), [({"n": 0}, ValueError), ({"n": 1.5}, TypeError), ({"side": 0}, ValueError)])
def test_numbers_that_cannot_be_are_refused(run, arguments, kind):
    with pytest.raises(kind, match=next(iter(arguments))):
        typical_patches(run, **arguments)


@pytest.mark.parametrize(
    ("head", "kind", "message"),
    [
        (LinearHead(5, 4), TypeError, "where a head has sub-centroids, and this is LinearHead"),
        (DeepNCMHead(5, 4), ValueError, "this head compares by metric='sqeuclidean'"),
    ],
)
def test_heads_that_cannot_be_explained_are_refused(run, head, kind, message):
    other = with_head(run, head)
    for look in (typical_patches, overview, lambda it: owners(it, Image.new("RGB", (32, 32)))):
        with pytest.raises(kind, match=message):
            look(other)
    with pytest.raises(kind, match=message):
        ownership(other, other.load_data().test)
    assert other.names == ([[f"{name} #1"] for name in CLASSES] if isinstance(head, DNCHead) else [[]] * 4)


def test_owners_are_those_of_the_segmenter_and_true(run):
    picture, true = run.load_data().test.read(0)
    found = owners(run, picture)
    expected = run.model.predict(conversion_of(run.recipe).image(picture)[None])
    np.testing.assert_array_equal(found.labels, expected.labels[0].numpy())
    np.testing.assert_array_equal(found.subcentroids, expected.subcentroids[0].numpy())
    assert found.n_features == (53 // STRIDE) * (70 // STRIDE)
    assert found.n_faithful == found.n_features
    features, _, _, _ = features_and_labels(run, picture, np.zeros((53, 70), np.uint8))
    best = np.einsum("hwd,ckd->hwck", features, run.model.head.subcentroids.double().numpy()).reshape(*features.shape[:2], 12)
    rows, columns = (np.minimum(((np.arange(of) + 0.5) * to / of).astype(int), to - 1) for of, to in ((53, 6), (70, 8)))
    nearest = best.argmax(axis=2)[rows[:, None], columns]
    said = found.labels.astype(int) * 3 + found.subcentroids
    assert found.nearest_share == pytest.approx((nearest == said).mean())
    assert 0.8 < found.nearest_share < 1
    assert (found.labels == true)[true != IGNORE].mean() > 0.6  # the blocks are told apart
    assert found.counts(4, 3).sum() == 53 * 70


def test_fidelity_finds_a_model_that_does_not_do_as_it_says(run, monkeypatch):
    picture, _ = run.load_data().test.read(0)
    logits = run.model.grid_logits
    monkeypatch.setattr(run.model, "grid_logits", lambda features: -logits(features))
    assert owners(run, picture).n_faithful < owners(run, picture).n_features / 2


@pytest.mark.parametrize(
    "how", [[], ["pixels.window=[32,32]"], ["pixels.test_flip=true", "pixels.test_scales=[1.0,1.5]"], ["pixels.resize=[32,48]"]]
)
def test_labels_are_those_that_predict_writes_however_images_are_classified(tmp_path, how):
    run = untrained(write_pixels(tmp_path / "images"), None, CLASSES, *how)
    split = run.load_data().test
    for at in range(len(split)):
        picture, _ = split.read(at)
        found = owners(run, picture)
        np.testing.assert_array_equal(
            found.labels, label_map(run.model, picture, conversion_of(run.recipe), inference_of(run.recipe))
        )
        assert found.n_faithful == found.n_features
    counted = ownership(run, split)
    expected = evaluate_pixels(run.model, split, 4, conversion_of(run.recipe), inference=inference_of(run.recipe))
    assert torch.equal(counted.evaluation.confusion, expected.confusion)
    assert counted.evaluation.metrics(CLASSES) == expected.metrics(CLASSES)


def test_pixels_are_counted_by_owner_and_true_class(run):
    split, seen = run.load_data().test, []
    found = ownership(run, split, after_image=lambda: seen.append(1))
    expected = np.zeros((4, 3, 4), int)
    for at in range(len(split)):
        picture, true = split.read(at)
        own = owners(run, picture)
        known = true != IGNORE
        np.add.at(expected, (own.labels[known], own.subcentroids[known], true[known]), 1)
        assert found.accuracies[at] == pytest.approx((own.labels == true)[known].mean())
    np.testing.assert_array_equal(found.counts.numpy(), expected)
    assert (len(seen), found.indices) == (3, [0, 1, 2])


def test_features_that_are_not_finite_are_refused(run):
    broken = with_head(run, DNCHead(5, n_classes=4))
    bias = run.model.network.mix.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(float("nan"))
        try:
            with pytest.raises(ValueError, match=r"the features of mine are not finite"):
                owners(broken, Image.new("RGB", (32, 32)), name="mine")
        finally:
            bias.copy_(kept)


@pytest.mark.parametrize("k", [1, 10, 25])
def test_the_subcentroids_of_a_class_look_different(k):
    for colour in (*_CAMVID.values(), *palette(21)):
        looks = np.stack([np.asarray(swatch(colour, at)).astype(int) for at in range(k)]).reshape(k, -1)
        apart = np.abs(looks[:, None] - looks[None]).max(axis=2)
        assert apart[~np.eye(k, dtype=bool)].min(initial=255) > 30
        assert shades_of(colour, k).shape == (k, 3)


def test_a_map_of_owners_has_shades_lines_between_classes_and_numbers():
    labels = np.zeros((20, 40), np.uint8)
    labels[:, 20:] = 1
    subcentroids = np.zeros((20, 40), np.int64)
    subcentroids[10:, :20], subcentroids[:, 20:] = 3, 6
    colours = [(128, 0, 0), (0, 0, 128)]
    found = np.asarray(paint_owners(labels, subcentroids, colours, 7, (400, 200))).astype(int)
    assert found.shape == (200, 400, 3)
    assert found[5, 5].tolist() == shades_of(colours[0], 7)[0].tolist()
    assert found[195, 5].tolist() == shades_of(colours[0], 7)[3].tolist()
    assert not found[:, 199].any()  # where the classes meet, and nowhere within a class
    assert found[99, 5].any()
    plain, hatched = ({tuple(each) for each in part.reshape(-1, 3)} for part in (found[:40, :60], found[:40, 205:265]))
    assert len(plain) == 1
    assert len(hatched) == 2
    numbers = (found == 255).all(axis=2)
    assert numbers[:100, :199].any()
    assert numbers[100:, :199].any()
    assert numbers[:, 201:].any()
    tiny = np.asarray(paint_owners(labels, subcentroids, colours, 7, (20, 10)))
    assert not (tiny == 255).all(axis=2).any()  # without room there is no number


def test_counts_and_plain_values():
    found = Owners(np.array([[0, 1], [1, 1]], np.uint8), np.array([[0, 1], [1, 0]]), 4, 4, 1.0)
    assert found.counts(2, 2).tolist() == [[1, 0], [1, 2]]
    patch = Patch(3, "a.png", 5, 6, (0, 0, 10, 11), 20, 0.5)
    assert patch.as_dict() == {"image": "a.png", "row": 5, "column": 6, "box": [0, 0, 10, 11], "cosine": 0.5}
