"""A trained model as one file that runs without this package, sub-centroids inside."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from otcluster.dnc.classifier import Classifier
from otcluster.dnc.head import DNCHead
from otcluster.dnc.recipe import DataConfig
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.serving import winning_subcentroids
from otcluster.runs.errors import RunError
from otcluster.runs.files import replaced

_INPUT, _OUTPUTS = "images", ("logits", "subcentroids")
_TRACED, _TRIED = 2, 5  # images of the batch that is traced, and of that by which the file is compared
_METADATA = "otcluster.json"
_TOLERANCE = 1e-4  # of the largest logit: what other kernels round otherwise, through all layers


class ExportError(RunError):
    """A model cannot be written, or what was written does not say what the model says."""


class _Served(nn.Module):
    """From images to logits and, with sub-centroids, which one of the predicted class won."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.model.features(images)
        logits = self.model.head(features)
        won = winning_subcentroids(self.model.head, features, logits.argmax(dim=1))
        return (logits,) if won is None else (logits, won)


def export(run: LoadedRun, path: str | Path) -> dict[str, str]:
    """Write the model of a run to one file, and see that it says what the model says.

    Its input ``images`` has shape (n, channels, size, size), any n; its outputs are ``logits`` (n, n_classes) and, for a head
    with sub-centroids, ``subcentroids`` (n,), int64: which one of the predicted class won, from 0. Metadata tell the classes
    and how a picture becomes an input.

    Args:
        run: From :func:`otcluster.dnc.load_run`.
        path: ``*.onnx``, for which ``pip install 'otcluster[onnx]'`` is needed, or ``*.pt2``, a file of ``torch.export``. It is
            written whole or not at all, and only once its answer to a random batch is the model's.

    Returns:
        The metadata: text by name, of which all but ``preprocessing`` are JSON. A file of ``torch.export`` holds them as JSON
        in its extra file ``otcluster.json``.

    Raises:
        ExportError: The name ends otherwise, a package is missing, the backbone cannot be exported, or the answers differ.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(load_recipe("digits", ["train.epochs=1", "data.image_size=8"]), folder + "/run")
        ...     metadata = export(load_run(folder + "/run"), folder + "/digits.pt2")
        ...     program = torch.export.load(folder + "/digits.pt2").module()
        ...     logits, subcentroids = program(torch.zeros(3, 1, 8, 8))
        >>> logits.shape, subcentroids.shape, metadata["mean"]
        (torch.Size([3, 10]), torch.Size([3]), '[0.5]')
    """
    path = Path(path)
    writers: dict[str, Callable[[_Served, Tensor, dict[str, str], Path], None]] = {".onnx": _write_onnx, ".pt2": _write_program}
    readers: dict[str, Callable[[Path, Tensor], list[Tensor]]] = {".onnx": _ask_onnx, ".pt2": _ask_program}
    if path.suffix not in writers:
        raise ExportError(f"{path} must end in {' or '.join(writers)}")
    served = _Served(copy.deepcopy(run.model).cpu()).eval()
    dtype = next(served.parameters()).dtype
    config = run.recipe.data
    traced, tried = (_random(config, n, dtype) for n in (_TRACED, _TRIED))
    metadata = describe(config, run.classes)
    if isinstance(run.model.head, DNCHead):
        metadata["subcentroids"] = json.dumps(run.names, ensure_ascii=False)
    with replaced(path) as temporary:
        try:
            with _quiet(), torch.no_grad():
                writers[path.suffix](served, traced, metadata, temporary)
                said = readers[path.suffix](temporary, tried)
        except (ImportError, OSError):
            raise
        except Exception as error:  # whatever the exporters raise
            raise ExportError(f"backbone.name={run.recipe.backbone.name} cannot be exported: {error}") from error
        with torch.no_grad():
            check_same(said, served.model, tried, path)
    return metadata


def describe(config: DataConfig, classes: list[str]) -> dict[str, str]:
    """The metadata of a model: classes, and how a picture becomes an input."""
    size = config.image_size
    mean, std = (each * config.channels if len(each) == 1 else each for each in (config.mean, config.std))
    colours = "grey" if config.channels == 1 else "RGB"
    steps = [f"to {colours}"]
    if config.kind == "digits":
        steps.append("by area to 8x8, in 17 levels, white on black")
    if config.crop_share is None:
        steps.append(f"bilinearly with antialiasing to {size}x{size}")
    else:
        shorter = round(size / config.crop_share)
        steps.append(f"bilinearly with antialiasing so that the shorter side is {shorter}, and the middle {size}x{size} of it")
    steps.append("divided by 255, minus mean, divided by std")
    return {
        "classes": json.dumps(classes, ensure_ascii=False),
        "channels": json.dumps(config.channels),
        "image_size": json.dumps(size),
        "crop_share": json.dumps(config.crop_share),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "preprocessing": "; ".join(steps),
    }


@torch.no_grad()
def check_same(said: list[Tensor], model: Classifier, images: Tensor, path: Path) -> None:
    """See that a file answers as the model does, but for rounding.

    Raises:
        ExportError: It does not.
    """
    features = model.features(images)
    logits = model.head(features)
    largest = float(logits.abs().max())
    if said[0].shape != logits.shape or (len(said) > 1) != isinstance(model.head, DNCHead):
        raise ExportError(f"{path.name} gives other outputs than the model")
    gap = float((said[0] - logits).abs().max())
    if not gap <= _TOLERANCE * max(largest, 1.0):
        raise ExportError(f"the logits of {path.name} differ by {gap:.3g} from those of the model, of at most {largest:.3g}")
    if isinstance(model.head, DNCHead):
        own = model.head.similarities(features)[torch.arange(len(images)), said[0].argmax(dim=1)]
        chosen = own.gather(1, said[1][:, None])[:, 0]
        tolerance = _TOLERANCE * max(float(own.amax(dim=1).abs().max()), 1.0)
        if not bool((own.amax(dim=1) - chosen <= tolerance).all()):  # of two that are equal but for rounding, either is right
            raise ExportError(f"the sub-centroids of {path.name} are not the nearest ones of the model")


def _random(config: DataConfig, n: int, dtype: torch.dtype) -> Tensor:
    shape = (n, config.channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(n)).to(dtype)


def _dynamic() -> Any:
    return ({0: torch.export.Dim("n", min=1)},)


def _write_program(served: _Served, images: Tensor, metadata: dict[str, str], path: Path) -> None:
    program = torch.export.export(served, (images,), dynamic_shapes=_dynamic())
    whole = BytesIO()
    torch.export.save(program, whole, extra_files={_METADATA: json.dumps(metadata, ensure_ascii=False)})
    path.write_bytes(whole.getbuffer())


def _ask_program(path: Path, images: Tensor) -> list[Tensor]:
    return list(torch.export.load(path).module()(images))


def _write_onnx(served: _Served, images: Tensor, metadata: dict[str, str], path: Path) -> None:
    _need("onnx", "onnxscript", "onnxruntime")
    names = list(_OUTPUTS[: len(served(images))])
    program = torch.onnx.export(
        served, (images,), dynamo=True, dynamic_shapes=_dynamic(), input_names=[_INPUT], output_names=names, verbose=False
    )
    if program is None:
        raise ExportError("torch.onnx.export gave no program")
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def _ask_onnx(path: Path, images: Tensor) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(None, {_INPUT: images.numpy()})]


def _need(*names: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in names if find_spec(name) is None]:
        raise ExportError(f"ONNX needs {', '.join(missing)}: pip install 'otcluster[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of their own work."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
