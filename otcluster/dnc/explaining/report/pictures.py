"""Pictures for a page: small, without what their files say of their makers, and as text that a page can hold."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from otcluster.dnc.data import Split
from otcluster.dnc.errors import DataError
from otcluster.dnc.recipe import DataConfig
from otcluster.dnc.typical import TypicalImages

_THUMBNAIL, _SHOWN = 64, 224  # longest sides
_LOSSLESS = 64  # the longest side that is kept to the bit; larger ones are photographs, mostly
_FOR, _AGAINST = (230, 97, 0), (94, 60, 153)  # told apart by people who see no red or no green
_DEEPEST = 0.8  # how much of a picture the strongest place may cover


class TrainingPictures:
    """The training images that a run keeps, read by name, each once.

    An image that came with an added class was the user's, and is not read again.
    """

    def __init__(self, split: Split, typical: TypicalImages) -> None:
        places = {name: at for at, name in enumerate(split.names)}
        self._places = {
            name: places[name]
            for name, index in zip(typical.names, typical.indices.tolist(), strict=True)
            if index >= 0 and name in places
        }
        self._read = split.read
        self._known: dict[str, Image.Image | None] = {}

    def __call__(self, name: str) -> Image.Image | None:
        """The image, at most as large as an explained one is shown; None if it cannot be read."""
        if name not in self._known:
            try:
                self._known[name] = reduced(self._read(self._places[name]))
            except (KeyError, DataError):
                self._known[name] = None
        return self._known[name]


def reduced(image: Image.Image, side: int = _SHOWN) -> Image.Image:
    """A picture in colour whose longest side is at most ``side``, and nothing else of its file."""
    plain = Image.fromarray(np.asarray(image.convert("RGB")))
    plain.thumbnail((side, side))
    return plain


@dataclass(frozen=True)
class Picture:
    """A picture as a page holds it.

    Attributes:
        uri: A data URI.
        tiny: Whether it is of so few pixels that they are to be seen.
    """

    uri: str
    tiny: bool


def on_page(image: Image.Image, *, small: bool = False) -> Picture:
    """A picture for a page, as a thumbnail or as large as explained images are shown."""
    return Picture(data_uri(reduced(image, _THUMBNAIL if small else _SHOWN)), max(image.size) <= _LOSSLESS)


def data_uri(image: Image.Image | bytes) -> str:
    """A picture, or the bytes of a PNG file, as text: PNG, or JPEG where that is smaller and the picture is not tiny."""
    if isinstance(image, bytes):
        return _encoded(image, "png")
    if max(image.size) > _LOSSLESS:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        if len(buffer.getvalue()) < len(png_bytes(image, quick=True)):
            return _encoded(buffer.getvalue(), "jpeg")
    return _encoded(png_bytes(image), "png")


def png_bytes(image: Image.Image, *, quick: bool = False) -> bytes:
    """A picture as a PNG file, as small as can be, or, of a large photograph, in a third of the time."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=not quick)
    return buffer.getvalue()


def _encoded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def as_seen(tensor: Tensor, config: DataConfig) -> Image.Image:
    """What the backbone was given, (channels, height, width), as a picture: this is what the places of a heat map are of."""
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (config.mean, config.std))
    pixels = ((tensor.float().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def overlay(seen: Image.Image, heat: Tensor) -> Image.Image:
    """A picture in grey, and on it in orange what speaks for a class and in violet what speaks against it, place by place.

    Args:
        seen: What the backbone was given.
        heat: (height, width); the strongest place is the deepest in colour.
    """
    side = max(_SHOWN // max(heat.shape), 1)
    size = heat.shape[1] * side, heat.shape[0] * side
    grey = np.asarray(seen.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float64)[:, :, None]
    parts = heat.double().numpy()
    strength = np.abs(parts) / max(float(np.abs(parts).max()), 1e-12) * _DEEPEST
    colour = np.where(parts[:, :, None] >= 0, _FOR, _AGAINST).astype(np.float64)
    strength, colour = (each.repeat(side, axis=0).repeat(side, axis=1) for each in (strength[:, :, None], colour))
    mixed = grey * (1 - strength) + colour * strength * (0.55 + 0.45 * grey / 255)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
