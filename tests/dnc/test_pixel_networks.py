"""Networks of pixel features: encoders of timm with three decoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from otcluster.dnc import DNCHead, LinearHead, Segmenter
from otcluster.dnc.pixels.networks import build_network
from tests.dnc.segmenters import a_batch

SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(
    ("name", "encoder", "options", "stride"),
    [
        ("fcn", "resnet18", {}, 8),
        ("fcn", "resnet18", {"output_stride": 16}, 16),
        ("fcn", "resnet18", {"output_stride": 32}, 32),
        ("fcn", SWIN, {"output_stride": 32}, 32),
        ("deeplabv3", "resnet18", {}, 8),
        ("deeplabv3", "resnet18", {"output_stride": 16}, 16),
        ("upernet", "resnet18", {}, 4),
        ("upernet", SWIN, {}, 4),
        ("upernet", "test_convnext", {}, 4),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (65, 98)])
def test_every_network_gives_pixel_features_and_learns(name, encoder, options, stride, size):
    network = build_network(name, encoder, dim=16, aux=True, **options)
    model = Segmenter(network, DNCHead(16, 3, n_subcentroids=2), aux=LinearHead(16, 3))
    images, labels = a_batch(2, size)
    features, middle = network(images)
    assert network.stride == stride
    assert features.shape == (2, 16, *(-(-side // stride) for side in size))
    assert middle.shape[:2] == (2, 16)
    deep = min(16, options.get("output_stride", 16 if name == "upernet" else 8))
    # ConvNeXt leaves out what does not fill a patch of two by two, the others do not.
    assert all(found in (-(-side // deep), side // deep) for found, side in zip(middle.shape[2:], size, strict=True))
    assert model(images).shape == (2, 3, *size)
    model.observe(features, labels)
    step = model.loss(images, labels)
    step.loss.backward()
    first = next(network.encoder.parameters())
    assert first.grad.isfinite().all()
    assert first.grad.abs().sum() > 0
    assert all(each.grad is not None for each in network.decoder.parameters())


def test_swin_sees_the_same_windows_whatever_the_size_of_the_image():
    torch.manual_seed(0)
    network = build_network("upernet", SWIN, dim=8).eval()
    images = torch.randn(1, 3, 62, 61)
    padded = nn.functional.pad(images, (0, 3, 0, 2))
    torch.testing.assert_close(network(images), network(padded))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("unet", "resnet18"), "name must be one of fcn, deeplabv3, upernet, got 'unet'"),
        (("fcn", "resnet_18"), "timm has no model 'resnet_18', did you mean resnet18"),
        (("deeplabv3", SWIN), "cannot be used for deeplabv3 with output_stride=8.*convolutional network"),
        (("upernet", "vit_tiny_patch16_224"), "must give features of several stages"),
    ],
)
def test_networks_that_cannot_be_built_say_why(arguments, said):
    with pytest.raises(ValueError, match=said):
        build_network(*arguments)


def test_networks_refuse_strides_images_and_batches_that_do_not_fit():
    with pytest.raises(ValueError, match="output_stride must be one of 8, 16 for deeplabv3, got 32"):
        build_network("deeplabv3", "resnet18", output_stride=32)
    with pytest.raises(ValueError, match="output_stride must be one of 32 for upernet, got 8"):
        build_network("upernet", "resnet18", output_stride=8)
    network = build_network("deeplabv3", "resnet18", dim=8)
    for shape in ((2, 1, 64, 64), (2, 3, 64, 31), (3, 64, 64)):
        with pytest.raises(ValueError, match=r"images must have shape \(n, 3, height, width\), with sides of at least 32"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match="two or more while this network trains"):
        network(torch.zeros(1, 3, 64, 64))
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 8, 8)
    assert build_network("fcn", "resnet18", dim=8, in_channels=4)(torch.zeros(1, 4, 64, 64)).shape == (1, 8, 8, 8)
