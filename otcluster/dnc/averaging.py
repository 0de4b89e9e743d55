"""An exponential moving average of the weights that training passes through."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Weights and buffers of a backbone, averaged over the steps.

    Args:
        backbone: What is averaged; it is copied.
        decay: How much of the average stays at a step, in (0, 1).

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(layer, 0.5)
        >>> for value in (2.0, 4.0):
        ...     _ = layer.weight.data.fill_(value)
        ...     average.update(layer)
        >>> average.backbone.weight.item()
        3.0

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992).
    """

    def __init__(self, backbone: nn.Module, decay: float) -> None:
        moved: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(backbone, multi_avg_fn=moved, use_buffers=True)

    @property
    def backbone(self) -> nn.Module:
        """The averaged copy."""
        return self._averaged.module

    def update(self, backbone: nn.Module) -> None:
        """Take in the weights of a step; the first are taken as they are."""
        self._averaged.update_parameters(backbone)

    def state_dict(self) -> dict[str, Any]:
        """What is saved: that of the averaged backbone."""
        return self.backbone.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved average."""
        self.backbone.load_state_dict(state)
        self._averaged.n_averaged.fill_(1)  # so that the next is averaged, and not taken as it is
