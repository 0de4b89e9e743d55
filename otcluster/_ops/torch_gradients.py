"""What gradients need of torch: a value that remembers what it was computed from, and the derivative of a tile of scores.

Everything between the two is computed by passes, which know nothing of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def attach(
    make: Callable[[], torch.Tensor],
    pullback: Callable[[torch.Tensor, Sequence[bool]], Sequence[torch.Tensor | None]],
    inputs: Sequence[torch.Tensor],
) -> torch.Tensor:
    """The new tensor that ``make`` computes, with ``pullback`` as its derivative after ``inputs``.

    ``pullback`` is handed the gradient of the value, and for each input whether its own is wanted.
    """
    value: torch.Tensor = _Attached.apply(make, pullback, *inputs)
    return value


def vector_jacobian(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], upstream: torch.Tensor
) -> Sequence[torch.Tensor]:
    """The gradients at ``inputs`` of ``function(*inputs)``, weighted by ``upstream``."""
    with torch.enable_grad():
        leaves = [values.detach().requires_grad_() for values in inputs]
        value = function(*leaves)
    return torch.autograd.grad(value, leaves, upstream)


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, make: Any, pullback: Any, *inputs: torch.Tensor) -> torch.Tensor:
        ctx.pullback = pullback
        value: torch.Tensor = make()
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        return (None, None, *ctx.pullback(upstream, ctx.needs_input_grad[2:]))
