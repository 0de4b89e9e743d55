"""Where in an image a similarity comes from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_CLOSE = 1e-3  # of the length of a feature: how far the mean of a map may be from it


def feature_maps(backbone: nn.Module, features: Callable[[], Tensor]) -> tuple[Tensor, Tensor | None]:
    """Features, and the maps that they are the averages of.

    The maps are not asked for by name: of all that the modules of the backbone give on the way, they are the last whose mean
    over all places is the feature. So whatever is taken for a map is one.

    Args:
        backbone: Whose modules are listened to.
        features: Runs the backbone once and gives its features, (n, dim).

    Returns:
        Features (n, dim) and maps (n, dim, height, width); None in their place where the features are no averages over places,
        but those of a class token, or what a layer after pooling made.
    """
    seen: list[Tensor] = []

    def note(module: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            seen.append(output.detach())

    hooks = [module.register_forward_hook(note) for module in backbone.modules()]
    try:
        found = features().detach()
    finally:
        for hook in hooks:
            hook.remove()
    known: Tensor | None = None
    for maps in (each for output in reversed(seen) for each in _as_maps(output, found.shape[1])):
        if len(maps) != len(found) or (known is not None and maps.shape[2] * maps.shape[3] == 1):
            continue
        apart = (maps.to(torch.promote_types(maps.dtype, torch.float32)).mean(dim=(2, 3)) - found).norm(dim=1)
        if bool((apart <= max(_CLOSE, 4 * torch.finfo(found.dtype).eps) * found.norm(dim=1)).all()):
            known = maps
            if maps.shape[2] * maps.shape[3] > 1:  # or else it may be what pooling made of a larger one
                break
    return found, known


def _as_maps(output: Tensor, dim: int) -> list[Tensor]:
    """An output as (n, dim, height, width), in each way in which it may be meant."""
    if output.ndim == 4:
        ways = [output] if output.shape[1] == dim else []
        return ways + ([output.permute(0, 3, 1, 2)] if output.shape[3] == dim else [])
    n, length, width = output.shape
    side = round(length**0.5)
    return [output.transpose(1, 2).reshape(n, dim, side, side)] if width == dim and side * side == length else []


def cosine_parts(maps: Tensor, features: Tensor, directions: Tensor) -> Tensor:
    """What each place gives to a cosine: the parts of an image add up to the cosine of its feature to the direction.

    Args:
        maps: (n, dim, height, width), of which features are the means.
        features: (n, dim).
        directions: Unit vectors, one for each image, (n, dim).

    Returns:
        (n, height, width).

    Example:
        >>> maps = torch.tensor([[[[3.0, 1.0]], [[0.0, 0.0]]]])
        >>> cosine_parts(maps, maps.mean(dim=(2, 3)), torch.tensor([[1.0, 0.0]]))
        tensor([[[0.7500, 0.2500]]])

    Source: Zhou et al., "Learning deep features for discriminative localization" (CVPR 2016), with a sub-centroid in the place
    of the weights of a class.
    """
    places = maps.shape[2] * maps.shape[3]
    return torch.einsum("ndhw,nd->nhw", maps, directions) / (places * features.norm(dim=1).clamp(min=1e-12))[:, None, None]
