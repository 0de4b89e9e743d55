"""Networks from images to pixel features: an encoder of timm and a decoder, whose last 1x1 convolution is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import timm
from torch import Tensor, nn

from otcluster.checks import check_whole
from otcluster.dnc.recipe import nearest_name
from otcluster.dnc.recipe_values import LEAST_SIDE

NetworkName = Literal["fcn", "deeplabv3", "upernet"]

_DEEPEST = LEAST_SIDE  # pixels of an image for one of the last features of an encoder that is not dilated
# Of DeepLabV3, by the output stride: with half the stride a rate spans half the pixels.
_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}


class Network(nn.Module):
    """From images to pixel features, made by :func:`build_network`.

    Args:
        encoder: An encoder of segmentation-models-pytorch, from images to features of all its stages.
        decoder: From these to pixel features.
        in_channels: Channels of an image.
        dim: Length of a pixel feature.
        stride: How many pixels of an image, along each side, one feature stands for.
        middle: From a list with the features of the last stage but one to auxiliary features; None for none.
        multiple: Images are padded with zeros, below and on the right, until their sides are multiples of this.
        pools: Whether the decoder normalises what is one number for a whole image, so that training needs two images.

    Attributes:
        dim: Length of a pixel feature.
        middle_dim: Length of an auxiliary feature; None where there are none.
        stride: As given.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        in_channels: int,
        dim: int,
        stride: int,
        middle: nn.Module | None = None,
        multiple: int = 1,
        pools: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.middle = encoder, decoder, middle
        self.in_channels, self.dim, self.stride = in_channels, dim, stride
        self.multiple, self.pools = multiple, pools
        self.middle_dim = None if middle is None else dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}, stride={self.stride}"

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Pixel features (n, dim, h', w') of images (n, channels, h, w); h' is h / stride, rounded up, and so is w'.

        With ``aux=True`` a pair of these and auxiliary features, (n, middle_dim, h'', w'').

        Raises:
            ValueError: The images have another shape or are too small; or it is one image, while the network trains and
                normalises over what is one number for each image.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels or min(images.shape[2:]) < _DEEPEST:
            raise ValueError(
                f"images must have shape (n, {self.in_channels}, height, width), with sides of at least {_DEEPEST} pixels, got "
                f"{tuple(images.shape)}"
            )
        if self.training and self.pools and len(images) < 2:
            raise ValueError(
                "images must be two or more while this network trains, got 1: its decoder normalises the mean of each image "
                "over the batch. Take larger batches, build a fcn, or call eval()"
            )
        below, right = (-side % self.multiple for side in images.shape[2:])
        if below or right:
            images = nn.functional.pad(images, (0, right, 0, below))
        stages = self.encoder(images)
        # Before the decoder, which may change the list.
        last_but_one = stages[-2:-1]
        pixels = self.decoder(stages)
        return pixels if self.middle is None else (pixels, self.middle(last_but_one))


class FCNDecoder(nn.Module):
    """The last features through one 3x3 convolution: what the FCN of dilated encoders has before its classifier.

    It has one such layer, as torchvision's ``FCNHead``; ``length`` is given where that has a quarter of the encoder's.

    Args:
        in_channels: Length of a feature of the encoder.
        length: Length of a pixel feature.

    Example:
        >>> import torch
        >>> FCNDecoder(8, 4)([torch.zeros(1, 8, 5, 5)]).shape
        torch.Size([1, 4, 5, 5])

    Source: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation" (CVPR 2015); in this form, on
    a dilated encoder, Yu & Koltun, "Multi-scale context aggregation by dilated convolutions" (ICLR 2016).
    """

    def __init__(self, in_channels: int, length: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, length, 3, padding=1, bias=False), nn.BatchNorm2d(length), nn.ReLU(), nn.Dropout(0.1)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Pixel features of those of all stages."""
        return self.layers(features[-1])


def build_network(
    name: NetworkName,
    encoder: str,
    *,
    dim: int = 256,
    in_channels: int = 3,
    output_stride: int | None = None,
    pretrained: bool = False,
    aux: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Network:
    """A network of images to pixel features, (n, dim, h', w'): everything that ``name`` has before its last 1x1 convolution.

    DeepLabV3 and UPerNet have the decoders of segmentation-models-pytorch. Weights begin as torch's random state says.

    Args:
        name: ``"fcn"``, ``"deeplabv3"`` or ``"upernet"``.
        encoder: A model of timm that gives features of several stages, such as ``"resnet18"``, or for UPerNet
            ``"swin_tiny_patch4_window7_224"``, which then takes images of any size.
        dim: Length of a pixel feature.
        in_channels: Channels of an image.
        output_stride: How many pixels of an image, along each side, one of the last features of the encoder stands for: 8, 16
            or 32 for ``"fcn"``, 8 or 16 for ``"deeplabv3"``; later stages are dilated. Default: 8. UPerNet's encoders are not
            dilated, it takes 32 alone, and its pixel features stand for 4 x 4 pixels.
        pretrained: Whether the encoder begins with timm's weights, which are downloaded.
        aux: Whether the network gives auxiliary features too: of the last stage but one, through a 3x3 convolution.
        options: More arguments of the encoder in timm.

    Raises:
        ImportError: segmentation-models-pytorch is not installed.
        TypeError: A number is no whole number.
        ValueError: There is no such network, encoder or output stride, or they do not go together.

    Example:
        >>> import torch
        >>> network = build_network("deeplabv3", "resnet18", dim=32).eval()
        >>> network(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 32, 8, 12])

    Source: FCN as in :class:`FCNDecoder`; Chen et al., "Rethinking atrous convolution for semantic image segmentation" (2017);
    Xiao et al., "Unified perceptual parsing for scene understanding" (ECCV 2018); the auxiliary features of Zhao et al.,
    "Pyramid scene parsing network" (CVPR 2017).
    """
    dim, in_channels = check_whole("dim", dim, 1), check_whole("in_channels", in_channels, 1)
    if name not in get_args(NetworkName):
        raise ValueError(f"name must be one of {', '.join(get_args(NetworkName))}, got {name!r}")
    strides = {"fcn": (8, 16, 32), "deeplabv3": (8, 16), "upernet": (_DEEPEST,)}[name]
    stride = strides[0] if output_stride is None else output_stride
    if stride not in strides:
        raise ValueError(f"output_stride must be one of {', '.join(map(str, strides))} for {name}, got {output_stride}")
    try:
        import segmentation_models_pytorch as smp
        from segmentation_models_pytorch.encoders import get_encoder
    except ImportError as error:
        raise ImportError("networks for pixels need segmentation-models-pytorch: pip install 'otcluster[dnc]'") from error
    if not timm.is_model(encoder):
        raise ValueError(f"encoder: timm has no model {encoder!r}{nearest_name(encoder, timm.list_models())}")
    # Windows of any image, shifted in every second layer of all stages, as where Swin was made for segmentation.
    swin = {"strict_img_size": False, "always_partition": True} if encoder.startswith("swin") else {}
    more = {**swin, **(options or {}), "in_channels": in_channels}
    named, weights = f"tu-{encoder}", True if pretrained else None
    try:
        if name == "upernet":
            made = smp.UPerNet(named, encoder_weights=weights, decoder_channels=dim, **more)
            stages, decoder = made.encoder, made.decoder
        elif name == "deeplabv3":
            made = smp.DeepLabV3(
                named, encoder_weights=weights, encoder_output_stride=stride, decoder_channels=dim,
                decoder_atrous_rates=_RATES[stride], **more,
            )  # fmt: skip
            stages, decoder = made.encoder, made.decoder
        else:
            stages = get_encoder(named, weights=weights, output_stride=stride, **more)
            decoder = FCNDecoder(stages.out_channels[-1], dim)
        reductions = stages.model.feature_info.reduction()
    except Exception as error:  # whatever timm and its models raise
        told = f" and options={dict(options)}" if options else ""
        raise ValueError(
            f"encoder={encoder!r} cannot be used for {name} with output_stride={stride}, in_channels={in_channels} and "
            f"pretrained={pretrained}{told}: it must give features of several stages, and where output_stride is less than "
            f"{_DEEPEST} it must be a convolutional network that timm can dilate, such as resnet18 ({error})"
        ) from error
    return Network(
        stages,
        decoder,
        in_channels=in_channels,
        dim=dim,
        stride=4 if name == "upernet" else stride,
        middle=FCNDecoder(stages.out_channels[-2], dim) if aux else None,
        # Encoders that begin with patches would leave out what does not fill one.
        multiple=4 if reductions[0] == 4 else 1,
        pools=name != "fcn",
    )
