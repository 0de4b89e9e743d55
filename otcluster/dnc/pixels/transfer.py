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
    found, left = _placed(network.encoder, given, _who(run.recipe.backbone, recipe.backbone, source), run.recipe.backbone)
    network.encoder.load_state_dict(found)
    return _told(run, source, left)


def _who(theirs: BackboneConfig, ours: BackboneConfig, source: Path) -> str:
    """The beginning of every message: which two backbones do not go together."""
    return f"backbone.init_from: {source} has {_described(theirs)}, and this recipe {_described(ours)}"


def _described(config: BackboneConfig) -> str:
    more = f" with backbone.options={config.options}" if config.options else ""
    return f"backbone.name={config.name}{more}"


def _placed(
    encoder: nn.Module, weights: dict[str, Tensor], who: str, theirs: BackboneConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights by the names of the encoder, all that it has, and the names of those behind its last stage."""
    # timm takes the stages out of a list of them: "layers.0.x" is "layers_0.x" here.
    expected = encoder.state_dict()
    places = {_flat(name.removeprefix(_ENCODER)): name for name in expected}
    stages = tuple(f"{name}_" for name, _ in encoder.get_submodule(_ENCODER.removesuffix(".")).named_children())
    found, left = {}, []
    for name, value in weights.items():
        place = places.get(_flat(name))
        if place is None and _flat(name).startswith(stages):
            raise RecipeError(f"{who}: the encoder has no {name}")
        if place is None:
            left.append(name)
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
    return found, left


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _told(run: LoadedRun, source: Path, left: list[str]) -> str:
    unused = {f"{_BACKBONE}{name}" for name in left}
    sizes = {name: value.numel() for name, value in run.model.named_parameters()}
    names = [name for name in sizes if not name.startswith(_BACKBONE) or name in unused]
    n, numbers = len(sizes) - len(names), sum(sizes.values()) - sum(sizes[name] for name in names)
    discarded = f"discarded: {', '.join(names)}" if names else "none discarded"
    return f"the encoder begins with {n} of {len(sizes)} parameters of {source} ({numbers:,} numbers), {discarded}"
