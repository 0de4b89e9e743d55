"""The narrow waist: the few primitives that carry all speed, and the one place that selects their form.

Every primitive is defined once, on the array standard, in :mod:`otcluster._ops.generic`. A form for one library
subclasses that definition and overrides what the library does better. Nothing above this package knows which is used.
"""

from __future__ import annotations

import sys
from typing import Any

import array_api_compat
import numpy as np

from otcluster._ops.generic import GenericOps
from otcluster._ops.numpy import NumpyOps

__all__ = ["GenericOps", "select"]


def select(array: Any, argument: str) -> GenericOps:
    """Choose the primitives for ``array``, by its library and its device.

    Raises:
        TypeError: ``array`` is not an array that can be computed with; the message names ``argument``.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{argument} is a masked array, whose mask would be lost: fill it, or give scores of -inf to what is masked"
        )
    if isinstance(array, np.matrix):
        raise TypeError(f"{argument} is a numpy.matrix, whose slices are never one-dimensional: pass numpy.asarray of it")
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(array, torch.Tensor):
        from otcluster._ops.torch import TorchOps

        return TorchOps(array, argument)
    if isinstance(array, np.ndarray):
        return NumpyOps()
    if array_api_compat.is_array_api_obj(array):
        ops = GenericOps(array_api_compat.array_namespace(array), array_api_compat.device(array))
        ops.may_check = not (array_api_compat.is_jax_array(array) and isinstance(array, sys.modules["jax"].core.Tracer))
        return ops
    raise TypeError(
        f"{argument} must be an array (NumPy, torch, or another library of the array-API standard), "
        f"got {type(array).__name__}: convert it first, with numpy.asarray for example"
    )
