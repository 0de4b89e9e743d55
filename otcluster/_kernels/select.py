"""Which problems the kernels take, and why not the others: the one place that decides.

``OTCLUSTER_KERNELS`` in the environment is ``auto``, ``0`` (never) or ``1``: what a kernel cannot take on a device is then an
error that says why.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def _what_is_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    compilers = (os.environ.get("CC") or "cc", "gcc", "clang")
    if os.environ.get("TRITON_INTERPRET") != "1" and not any(map(shutil.which, compilers)):
        return "Triton needs a C compiler, and finds none: install gcc or clang, or set CC"
    return None


_ABSENT = _what_is_missing()


def takes(what: str, arrays: Sequence[Tensor], objections: Sequence[str | None] = (), *, any_layout: bool = False) -> bool:
    """Whether a kernel does ``what``.

    Args:
        what: For the log and for the error.
        arrays: What it would read.
        objections: What else speaks against it, for each reason one text or None.
        any_layout: Whether arrays are copied first, so that they need not be contiguous.

    Raises:
        ValueError: It does not, and ``OTCLUSTER_KERNELS=1`` asks for it.
    """
    if not may_be_there(arrays[0].device):
        return False
    asked = os.environ.get("OTCLUSTER_KERNELS", "auto")
    if asked not in ("auto", "0", "1"):
        raise ValueError(f"OTCLUSTER_KERNELS must be auto, 0 or 1, got {asked!r}")
    if asked == "0":
        return False
    unfit = [_unfit(array, any_layout) for array in arrays]
    reasons = (_ABSENT, _too_old(arrays[0].device), *unfit, *objections)
    reason = next((each for each in reasons if each is not None), None)
    if reason is None:
        return True
    if asked == "1":
        raise ValueError(f"no kernel does {what}: {reason}. Mend that, or unset OTCLUSTER_KERNELS")
    if not torch.compiler.is_compiling():
        _say(what, reason)
    return False


def may_be_there(device: torch.device) -> bool:
    """Whether a device may have kernels at all."""
    return device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET", "0") == "1")


def unfit_points(x: Tensor, centroids: Tensor) -> str | None:
    """Why the kernels for points do not take these arrays: a reason, or None where they do.

    Example:
        >>> unfit_points(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(4, 2))
        'x is float64, and the kernels take float16, bfloat16 and float32'
    """
    for name, array in (("x", x), ("centroids", centroids)):
        if array.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            return f"{name} is {str(array.dtype).removeprefix('torch.')}, and the kernels take float16, bfloat16 and float32"
        if array.ndim != 2:
            return f"{name} has shape {tuple(array.shape)}, and the kernels take one problem at a time, (count, d)"
    return None if x.shape[1] else "the vectors have no dimensions"


@torch.compiler.assume_constant_result
def _too_old(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available():  # tensors may stand for those of a device that is elsewhere
        return "no CUDA device is present"
    if torch.version.hip is not None:
        return None
    found = torch.cuda.get_device_capability(device)
    return None if found >= (8, 0) else f"the device has compute capability {found[0]}.{found[1]}, and kernels need 8.0"


def _unfit(array: Tensor, any_layout: bool) -> str | None:
    if array.dtype == torch.float64:
        return "float64 is computed without kernels"
    if not any_layout and not array.is_contiguous():
        return "an input is not contiguous: call .contiguous() first"
    return None


@functools.cache
def _say(what: str, reason: str) -> None:
    logger.info("no kernel does %s: %s", what, reason)
