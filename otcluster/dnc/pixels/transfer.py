"""An encoder that begins with the backbone of a run of images, none of its weights left out."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from otcluster.dnc.errors import RecipeError
from otcluster.dnc.pixels.networks import Network
from otcluster.dnc.pixels.segmenter import Segmenter
from otcluster.dnc.recipe import BackboneConfig, Recipe
from otcluster.dnc.run import LoadedRun, load_run
from otcluster.dnc.transfer import need_source
from otcluster.runs.errors import RunError

_ENCODER, _BACKBONE = "model.", "backbone."


def begin_encoder(model: Segmenter, recipe: Recipe, weights: dict[str, Tensor] | None) -> str:
    """Give the encoder of a segmenter its first weights: every parameter and buffer of the backbone of a run of images.

    An encoder has the stages of its backbone. What a backbone has behind the last of them, such as the norm of a Swin, a
    network of pixels has not, and neither has it the head of the run: where these have parameters, they are named.

    Args:
        model: From :func:`otcluster.dnc.pixels.runs.build_segmenter`.
        recipe: Its recipe, whose ``backbone.init_from`` is the run.
        weights: Of the backbone of that run, by name, from :func:`otcluster.dnc.transfer.starting_point`.

    Returns:
        How many parameters were used, and which were not, in words.

    Raises:
        RecipeError: The run has another backbone, or one for small images; the message names both, and the first tensor that
            does not fit. Or it is not there any more.
    """
    source, given = need_source(recipe, weights)
    try:
        run = load_run(source)
    except RunError as error:
        raise RecipeError(f"backbone.init_from: {error}") from error
    network: Network = model.network  # type: ignore[assignment]
    who = _who(run.recipe.backbone, recipe.backbone, source)
    network.encoder.load_state_dict(_placed(network.encoder, given, who, run.recipe.backbone))
    sizes, unused = {name: each.numel() for name, each in run.model.named_parameters()}, discarded(network.encoder, run)
    n, numbers = len(sizes) - len(unused), sum(sizes.values()) - sum(unused.values())
    rest = f"discarded: {', '.join(unused)}" if unused else "none discarded"
    return f"the encoder begins with {n} of {len(sizes)} parameters of {source} ({numbers:,} numbers), {rest}"


def discarded(encoder: nn.Module, run: LoadedRun) -> dict[str, int]:
    """The parameters of a run of images that an encoder has no place for, and of how many numbers each is.

    Args:
        encoder: Of :class:`otcluster.dnc.pixels.networks.Network`.
        run: From :func:`otcluster.dnc.load_run`.
    """
    places = _places(encoder)
    return {
        name: each.numel()
        for name, each in run.model.named_parameters()
        if not name.startswith(_BACKBONE) or _flat(name.removeprefix(_BACKBONE)) not in places
    }


def _who(theirs: BackboneConfig, ours: BackboneConfig, source: Path) -> str:
    """The beginning of every message: which two backbones do not go together."""
    return f"backbone.init_from: {source} has {_described(theirs)}, and this recipe {_described(ours)}"


def _described(config: BackboneConfig) -> str:
    more = f" with backbone.options={config.options}" if config.options else ""
    return f"backbone.name={config.name}{more}"


def _placed(encoder: nn.Module, weights: dict[str, Tensor], who: str, theirs: BackboneConfig) -> dict[str, Tensor]:
    """The weights by the names of the encoder, all that it has; what lies behind its last stage is left out."""
    expected, places = encoder.state_dict(), _places(encoder)
    stages = tuple(f"{name}_" for name, _ in encoder.get_submodule(_ENCODER.removesuffix(".")).named_children())
    found = {}
    for name, value in weights.items():
        place = places.get(_flat(name))
        if place is None and _flat(name).startswith(stages):
            raise RecipeError(f"{who}: the encoder has no {name}")
        if place is None:
            continue
        here, there = tuple(expected[place].shape), tuple(value.shape)
        if here != there and theirs.stem != "imagenet":
            raise RecipeError(
                f"{who}: {name} has shape {there} there and {here} here, for the run begins as small images need it "
                f"(backbone.stem={theirs.stem}), and networks of pixels do not: train it with backbone.stem=imagenet, and with "
                "a larger data.image_size"
            )
        if here != there:
            raise RecipeError(f"{who}: {name} has shape {there} there and {here} here")
        found[place] = value
    if missing := next((name for name in expected if name not in found), None):
        raise RecipeError(f"{who}: the run has no {missing.removeprefix(_ENCODER)}")
    return found


def _places(encoder: nn.Module) -> dict[str, str]:
    """The names of an encoder by those of its backbone: timm takes stages out of their list, "layers.0.x" is "layers_0.x"."""
    return {_flat(name.removeprefix(_ENCODER)): name for name in encoder.state_dict()}


def _flat(name: str) -> str:
    return name.replace(".", "_")
