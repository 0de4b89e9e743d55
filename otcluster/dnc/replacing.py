"""A head in place of the classifier of any model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from otcluster.dnc.baselines import LinearHead
from otcluster.dnc.classifier import Classifier
from otcluster.dnc.heads import Head

_PLACES = ("fc", "classifier", "head", "heads")


def replace_classifier(model: nn.Module, head: Head) -> Classifier:
    """Put ``head`` in the place of the last linear layer of a timm or torchvision model.

    A timm model is asked to leave its classifier out; of others, the last linear layer of ``fc``, ``classifier``, ``head`` or
    ``heads`` is replaced, where nothing with a shape of its own follows it. Everything else stays, pretrained weights too.

    Args:
        model: Changed in place: it becomes the backbone.
        head: Its length of features must be that of the layer it replaces. It is moved to the device of that layer, and to
            its dtype; but where that is half precision, only a linear head: sub-centroids and memory would lose small steps.

    Returns:
        The classifier, in the mode (training or evaluation) of the model.

    Raises:
        TypeError: The model has no such layer.
        ValueError: Features of another length; or auxiliary outputs, which have classifiers of their own.

    Example:
        >>> import torch, torchvision
        >>> from otcluster.dnc import DNCHead
        >>> resnet = torchvision.models.resnet18()
        >>> model = replace_classifier(resnet, DNCHead(512, n_classes=3))
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 3])
    """
    if getattr(model, "aux_logits", False):
        raise ValueError(f"{type(model).__name__} has auxiliary outputs: make it with aux_logits=False")
    like: Tensor | None = next(model.parameters(), None)
    if callable(getattr(model, "reset_classifier", None)) and callable(getattr(model, "get_classifier", None)):
        dim = _timm_length(model)
        _check_length(head, dim, type(model).__name__)
        model.reset_classifier(0)  # type: ignore[operator]
    else:
        owner, name, layer = _last_linear(model)
        _check_length(head, layer.in_features, type(model).__name__)
        like = layer.weight
        setattr(owner, name, nn.Identity())
    if like is not None:
        half = like.is_floating_point() and torch.finfo(like.dtype).bits < 32
        keeps = half and not isinstance(head, LinearHead)
        head.to(device=like.device, dtype=None if keeps else like.dtype)
    head.train(model.training)
    return Classifier(model, head).train(model.training)


def _timm_length(model: Any) -> int:
    """How long the features are that a timm model gives without its classifier."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def _check_length(head: Head, dim: int, name: str) -> None:
    own = head.in_features if isinstance(head, LinearHead) else head.memory.dim
    if own != dim:
        raise ValueError(f"head must take features of length {dim}, which {name} has, and takes {own}: make it with dim={dim}")


def _last_linear(model: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """The layer that makes the logits, and where it is: its owner, and its name there."""
    for place in _PLACES:
        found = getattr(model, place, None)
        if isinstance(found, nn.Linear):
            return model, place, found
        if isinstance(found, nn.Sequential) and len(found):
            name, last = list(found.named_children())[-1]
            if isinstance(last, nn.Linear):
                return found, name, last
    tried = ", ".join(_PLACES)
    raise TypeError(
        f"{type(model).__name__} has no classifier that can be replaced: neither timm's reset_classifier, nor a linear layer "
        f"(or a sequence that ends with one) in {tried}. Make Classifier(backbone, head) of a module that gives features"
    )
