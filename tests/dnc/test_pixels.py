"""Pixels go to the class of their nearest sub-centroid; ignored ones count for nothing, rare classes as much as others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from otcluster.dnc import DeepNCMHead, DNCHead, KNNHead, LinearHead, Segmenter, SimCLRHead
from otcluster.dnc.pixels import segmenter
from otcluster.dnc.pixels.networks import build_network
from tests.dnc.segmenters import DIM, IGNORED, a_batch, a_head, patches, same, state, textures


def test_the_loss_is_the_mean_over_pixels_with_a_label():
    model = Segmenter(patches(), a_head(), ignore_index=IGNORED)
    images, labels = a_batch()
    step = model.loss(images, labels)
    shares = model(images).detach().to(torch.float64).log_softmax(dim=1)
    entropies, right = [], 0
    for i, image in enumerate(labels):
        for y, row in enumerate(image):
            for x, label in enumerate(row.tolist()):
                if label != IGNORED:
                    entropies.append(-float(shares[i, label, y, x]))
                    right += int(shares[i, :, y, x].argmax()) == label
    assert step.loss.item() == pytest.approx(np.mean(entropies), rel=1e-5)
    assert (int(step.n_counted), int(step.n_right)) == (len(entropies), right)
    assert torch.equal(step.features, model.features(images))
    assert not step.features.requires_grad


def test_no_gradient_comes_from_ignored_pixels():
    model = Segmenter(nn.Identity(), LinearHead(3, 2))
    images = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), IGNORED)
    labels[0, 1, 2] = 1
    model.loss(images, labels).loss.backward()
    assert (images.grad.abs().sum(dim=1) > 0).nonzero().tolist() == [[0, 1, 2]]


def bilinear(maps, size):
    """(h', w', c) at the size (h, w), by hand: values stand in the middles of their parts, and edges go on."""
    rows, columns = [
        (np.clip((np.arange(to) + 0.5) * n / to - 0.5, 0, n - 1), n) for to, n in zip(size, maps.shape[:2], strict=True)
    ]

    def parts(where):
        at, n = where
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, n - 1), at - low

    (up, down, y), (left, right, x) = parts(rows), parts(columns)
    y, x = y[:, None, None], x[None, :, None]
    above = maps[up][:, left] * (1 - x) + maps[up][:, right] * x
    below = maps[down][:, left] * (1 - x) + maps[down][:, right] * x
    return above * (1 - y) + below * y


@pytest.mark.parametrize("k", [3, (1, 3, 2)])
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("at_once", [1 << 24, 100])
def test_predictions_are_the_nearest_subcentroids(k, metric, at_once, monkeypatch):
    monkeypatch.setattr(segmenter, "_AT_ONCE", at_once)
    model = Segmenter(patches().to(torch.float64), a_head(k=k, metric=metric)).train()
    images = a_batch(3, (16, 24))[0]
    found = model.predict(images, batch_size=2)
    assert model.training
    assert found.labels.dtype == found.subcentroids.dtype == torch.int64
    centroids, is_open = model.head.subcentroids.to(torch.float64).numpy(), model.head.store.is_open.numpy()
    features = model.features(images.to(torch.float64)).to(torch.float32).detach().to(torch.float64).permute(0, 2, 3, 1).numpy()
    for i, grid in enumerate(features):
        if metric == "cosine":
            close = grid / np.linalg.norm(grid, axis=-1, keepdims=True) @ centroids.reshape(-1, DIM).T
        else:
            close = -((grid[:, :, None] - centroids.reshape(-1, DIM)) ** 2).sum(-1) / 2
        close = np.where(is_open, close.reshape(*grid.shape[:2], *is_open.shape), -np.inf)
        large = bilinear(close.max(-1), (16, 24))
        order = np.sort(large, axis=-1)
        sure = order[..., -1] - order[..., -2] > 1e-5
        assert sure.mean() > 0.99
        assert (found.labels[i].numpy() == large.argmax(-1))[sure].all()
        owners = close.argmax(-1).repeat(4, axis=0).repeat(4, axis=1)
        own = np.take_along_axis(owners, large.argmax(-1)[..., None], -1)[..., 0]
        assert (found.subcentroids[i].numpy() == own)[sure].all()


def test_with_a_feature_for_each_pixel_the_nearest_subcentroid_decides():
    model = Segmenter(nn.Identity(), DNCHead(3, 2, n_subcentroids=2, memory=0))
    model.head.place(torch.ones(2, 2, dtype=torch.bool), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]]))
    images = torch.tensor([[2.0, 0, 0], [0, 0, 3], [-1, 0.5, 0], [0.1, 1, 0]]).T.reshape(1, 3, 2, 2)
    found = model.predict(images)
    assert found.labels.tolist() == [[[0, 1], [1, 0]]]
    assert found.subcentroids.tolist() == [[[0, 0], [1, 1]]]


def test_a_linear_head_is_a_convolution_of_one_pixel():
    network, head = patches(), LinearHead(DIM, 4)
    model = Segmenter(network, head)
    convolution = nn.Conv2d(DIM, 4, 1)
    convolution.load_state_dict({"weight": head.weight.detach()[:, :, None, None], "bias": head.bias.detach()})
    images, labels = a_batch(n_classes=4)
    by_hand = nn.functional.interpolate(convolution(network(images)), (16, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), by_hand)
    step = model.loss(images, labels)
    torch.testing.assert_close(step.loss, nn.functional.cross_entropy(by_hand, labels, ignore_index=IGNORED))
    before = state(model)
    model.observe(step.features, labels)
    assert same(before, state(model))
    assert model.predict(images).subcentroids is None


class Pair(nn.Module):
    """Pixel features, and auxiliary features of half the size."""

    def __init__(self):
        super().__init__()
        self.near, self.far = patches(4), patches(8, dim=5)

    def forward(self, images):
        return self.near(images), self.far(images)


def test_the_auxiliary_head_adds_its_loss_and_predicts_nothing():
    network, head, aux = Pair(), a_head(), LinearHead(5, 3)
    images, labels = a_batch()
    model, plain = Segmenter(network, head, aux=aux, aux_weight=0.3), Segmenter(network, head)
    far = Segmenter(network.far, aux)
    expected = plain.loss(images, labels).loss + 0.3 * far.loss(images, labels).loss
    torch.testing.assert_close(model.loss(images, labels).loss, expected)
    assert torch.equal(model(images), plain(images))
    model.loss(images, labels).loss.backward()
    assert aux.weight.grad.abs().sum() > 0
    assert network.far.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="build it with aux=True"):
        Segmenter(patches(), head, aux=aux).loss(images, labels)


@pytest.mark.parametrize("head", [a_head, lambda: DeepNCMHead(DIM, 3), lambda: LinearHead(DIM, 3)])
def test_half_precision_ends_before_the_logits(head):
    model = Segmenter(patches(), head())
    images, labels = a_batch()
    with torch.autocast("cpu", torch.bfloat16):
        step = model.loss(images, labels)
        step.loss.backward()
        model.observe(step.features, labels)
        logits = model(images)
    assert step.features.dtype == torch.bfloat16
    assert step.loss.dtype == logits.dtype == torch.float32
    assert model.network.weight.grad.isfinite().all()
    assert step.loss.isfinite()
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", ["dnc", "linear"])
def test_two_textures_are_learnt(kind):
    torch.manual_seed(0)
    head = LinearHead(16, 2) if kind == "linear" else DNCHead(16, 2, n_subcentroids=3, momentum=0.9, memory=256)
    model = Segmenter(build_network("fcn", "test_resnet", dim=16), head, per_class=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for at in range(60):
        images, labels = textures(8, seed=at)
        step = model.loss(images, labels)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        model.observe(step.features, labels)
    images, labels = textures(16, seed=1000)
    found = model.predict(images)
    known = labels != IGNORED
    assert (found.labels == labels)[known].to(torch.float32).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"head": KNNHead(DIM, 3)}, TypeError, "head must be a DNCHead, DeepNCMHead or LinearHead, got KNNHead"),
        ({"head": SimCLRHead(DIM, 3)}, TypeError, "got SimCLRHead"),
        ({"aux": DNCHead(DIM, 3)}, TypeError, "aux must be a LinearHead or None, got DNCHead"),
        ({"aux": LinearHead(DIM, 4)}, ValueError, "aux must have the 3 classes of the head, got 4"),
        ({"ignore_index": 2}, ValueError, "ignore_index must be none of the 3 classes, got 2"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index must be a whole number"),
        ({"aux_weight": -1.0}, ValueError, "aux_weight must be at least 0"),
        ({"per_class": 0}, ValueError, "per_class must be at least 1"),
        ({"classes": ["a"]}, ValueError, "classes must be 3 names"),
    ],
)
def test_a_segmenter_says_what_does_not_fit(options, error, said):
    with pytest.raises(error, match=said):
        Segmenter(patches(), options.pop("head", None) or DNCHead(DIM, 3), **options)


def test_images_features_and_labels_that_do_not_fit_are_refused():
    model = Segmenter(patches(), a_head())
    images, labels = a_batch()
    before, features = state(model), model.features(images)
    for bad, error, said in (
        (labels[:1], ValueError, r"labels \(n, height, width\), got \(2, 3, 16, 24\) and \(1, 16, 24\)"),
        (labels.to(torch.float32), TypeError, "labels must be integers in a tensor, got torch.float32"),
        (labels.numpy(), TypeError, "labels must be integers in a tensor, got ndarray"),
        (labels.clamp(max=3), ValueError, "labels must lie in 0 to 2 or be ignore_index=255, got 3"),
        (labels - 1, ValueError, "got -1|got 254"),
    ):
        with pytest.raises(error, match=said):
            model.loss(images, bad)
        with pytest.raises(error):
            model.observe(features, bad)
    with pytest.raises(ValueError, match=r"features must have shape \(n, 6, height, width\)"):
        model.observe(features[0], labels)
    with pytest.raises(ValueError, match=r"features must have shape \(n, 6, height, width\)"):
        model.grid_logits(features[:, :5])
    with pytest.raises(ValueError, match="n at least 1"):
        model.predict(images[:0])
    assert same(before, state(model))
    assert Segmenter(patches(), a_head(), ignore_index=-1).loss(images, labels.where(labels != IGNORED, -1)).n_counted > 0
