"""What a model learns about itself from images it was not trained on: a temperature, and from where on it does not know."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otcluster.dnc.data import Split
from otcluster.dnc.evaluation import Evaluation, evaluate
from otcluster.dnc.run import LoadedRun, RunFiles
from otcluster.dnc.unknown.measures import calibration_error, check_keep, known_threshold
from otcluster.dnc.unknown.scores import score_of, usual_score
from otcluster.dnc.unknown.temperature import Status, fit_temperature, negative_log_likelihood
from otcluster.runs.errors import RunError
from otcluster.runs.files import write_text

logger = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class Verdict:
    """Whether an image is known, and by what.

    Attributes:
        known: Whether the score is at least the threshold.
        score: Name of the score.
        value: Of this image.
        threshold: From where on an image is known; -inf where every image is.
    """

    known: bool
    score: str
    value: float
    threshold: float

    def text(self) -> str:
        """In words, with as many digits as tell the two numbers apart.

        Example:
            >>> Verdict(False, "cosine", 0.41, 0.62).text(), Verdict(False, "cosine", 0.6199, 0.62).text()
            ('cosine 0.41 below 0.62', 'cosine 0.6199 below 0.6200')
        """
        digits = next(
            (n for n in range(2, 17) if (f"{self.value:.{n}f}" == f"{self.threshold:.{n}f}") == (self.value == self.threshold)),
            17,
        )
        how = "at least" if self.known else "below"
        return f"{self.score} {self.value:.{digits}f} {how} {self.threshold:.{digits}f}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite is None."""
        return {name: _finite(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` found. All that is reported was measured on images that nothing was fitted to.

    Attributes:
        temperature: What logits are divided with to make shares.
        status: How it was found, as in :class:`otcluster.dnc.unknown.temperature.FittedTemperature`. With ``"all right"`` it is
            1: where no held-out image is wrong, they do not tell how often images are.
        score: Name of the score of how well an image is known.
        threshold: From where on it is; -inf where there were too few held-out images to leave out any.
        keep: The part of images of known classes to keep, as asked for.
        n_held_out: How many images temperature and threshold were fitted to.
        n_reported: How many others the rest was measured on.
        ece_before, ece_after: Expected calibration error of the shares, at the temperature 1 and at this one.
        nll_before, nll_after: Mean negative log-likelihood of the true classes, in nats, likewise; inf where one has the logit
            -inf.
        kept: The part of them that is known.
        accuracy: Of all of them.
        accuracy_kept: Of those that are known; None where none is.
        model: SHA-256 of the weights that all this is true of.
    """

    temperature: float
    status: Status
    score: str
    threshold: float
    keep: float
    n_held_out: int
    n_reported: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    kept: float
    accuracy: float
    accuracy_kept: float | None
    model: str

    def shares(self, logits: Tensor) -> Tensor:
        """Softmax shares at the temperature, float64, of logits (n, n_classes)."""
        return torch.softmax(logits.double() / self.temperature, dim=1)

    def verdicts(self, head: nn.Module, features: Tensor, logits: Tensor) -> list[Verdict]:
        """Whether images are known, of what the head was given, (n, dim), and what it made of it, (n, n_classes)."""
        values = score_of(self.score, self.temperature).score(head, features, logits).tolist()
        return [Verdict(value >= self.threshold, self.score, value, self.threshold) for value in values]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite are None."""
        return {name: _finite(value) for name, value in asdict(self).items()}

    def save(self, files: RunFiles) -> None:
        """Write it to a run, whole or not at all."""
        write_text(files.calibration, json.dumps({"format": _FORMAT, **self.as_dict()}, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, run: LoadedRun) -> Calibration | None:
        """That of a run; None where it has none, or one of other weights, which is warned about.

        Raises:
            RunError: It cannot be read.
        """
        path = run.files.calibration
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path} cannot be read ({error}): {_AGAIN}") from None
        found = _parsed(text, str(path))
        if found.model != model_digest(run.model):
            logger.warning("%s is not used: it is of other weights than the model's; %s", path, _AGAIN)
            return None
        return found


_AGAIN = "remove it, or make it anew with 'otcluster dnc calibrate'"


def calibrate(
    run: LoadedRun, *, keep: float = 0.95, seed: int = 0, score: str | None = None, split: Split | None = None
) -> Calibration:
    """Find, on held-out images, the temperature of a model's shares and the score below which it does not know.

    Training images cannot serve: the model was made to be right and sure of them, and sub-centroids are means of their
    features. They would tell that nearly all is right, and that known images lie nearer than they do.

    Args:
        run: A trained run, from :func:`otcluster.dnc.load_run`, of any head.
        keep: The part of images of known classes to keep, in (0, 1]; see :func:`known_threshold`.
        seed: Which half of the test images is held out.
        score: ``"cosine"`` to the nearest sub-centroid, ``"share"`` of the predicted class, ``"logit"`` or ``"energy"``.
            Default: the cosine where it decides, or else the share.
        split: Images to hold out, which are neither trained on nor test images; the report is then of all test images. Default:
            half of the test images of each class, and the report is of the other half.

    Returns:
        What was found; ``save(run.files)`` keeps it with the run, whose predictions and explanations then go by it.

    Raises:
        DataError: The images are not there or cannot be read.
        RunError: There are fewer than two test images, or no others to hold out; or the head has no such score, or gives what
            is not finite.
        ValueError: ``keep`` is out of range, or there is no such score.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     found = calibrate(load_run(folder + "/run"), keep=0.9)
        >>> found.score, found.n_held_out, found.n_reported, found.nll_after < found.nll_before
        ('cosine', 180, 179, True)

    Source: Guo et al., "On calibration of modern neural networks" (ICML 2017), for the temperature.
    """
    check_keep(keep)
    name = usual_score(run.model.head) if score is None else score
    score_of(name)
    test = evaluate(run.model, run.load_test(), run.recipe.data)
    if split is None:
        held_out, reported = halves(test, seed)
    else:
        held_out, reported = evaluate(run.model, split, run.recipe.data), test
    if not len(held_out.labels) or not len(reported.labels):
        raise RunError(
            f"{run.files.root} cannot be calibrated: {len(held_out.labels)} images to hold out and {len(reported.labels)} test "
            "images to report on, and at least one of each is needed"
        )
    try:
        return calibrate_on(run.model, held_out, reported, score=name, keep=keep)
    except (TypeError, ValueError) as error:  # of this head, or what it gives
        raise RunError(f"{run.files.root} cannot be calibrated: {error}") from None


@torch.no_grad()
def calibrate_on(model: nn.Module, held_out: Evaluation, reported: Evaluation, *, score: str, keep: float) -> Calibration:
    """As :func:`calibrate`, of images that were evaluated already.

    Args:
        model: With a ``head``.
        held_out: What temperature and threshold are fitted to.
        reported: What is reported on.
        score: Name of the score.
        keep: The part of images to keep.

    Raises:
        TypeError, ValueError: The head has no such score, or logits and features are not finite.
    """
    if bool(reported.logits.isnan().any()):
        raise ValueError(
            f"logits must not be NaN, and those of test image {int(reported.logits.isnan().any(1).int().argmax())} are"
        )
    head: nn.Module = model.head  # type: ignore[assignment]
    fitted = fit_temperature(held_out.logits, held_out.labels)
    temperature = 1.0 if fitted.status == "all right" else fitted.temperature
    policy = score_of(score, temperature)
    threshold = known_threshold(policy.score(head, held_out.features, held_out.logits), keep)
    known = policy.score(head, reported.features, reported.logits) >= threshold
    right = reported.predictions == reported.labels
    plain, tempered = (torch.softmax(reported.logits.double() / each, dim=1) for each in (1.0, temperature))
    return Calibration(
        temperature=temperature,
        status=fitted.status,
        score=score,
        threshold=threshold,
        keep=keep,
        n_held_out=len(held_out.labels),
        n_reported=len(reported.labels),
        ece_before=calibration_error(plain, reported.labels),
        ece_after=calibration_error(tempered, reported.labels),
        nll_before=negative_log_likelihood(reported.logits, reported.labels),
        nll_after=negative_log_likelihood(reported.logits, reported.labels, temperature),
        kept=float(known.double().mean()),
        accuracy=float(right.double().mean()),
        accuracy_kept=float(right[known].double().mean()) if bool(known.any()) else None,
        model=model_digest(model),
    )


def halves(evaluation: Evaluation, seed: int) -> tuple[Evaluation, Evaluation]:
    """Two halves, each with half of the images of each class, to one image; the first is the larger, if any is."""
    labels = evaluation.labels.numpy(force=True)
    mixed = np.random.default_rng(seed).permutation(len(labels))
    order = torch.from_numpy(mixed[np.argsort(labels[mixed], kind="stable")])
    first, second = (
        Evaluation(*(getattr(evaluation, each.name)[rows.sort().values] for each in fields(Evaluation)))
        for rows in (order[::2], order[1::2])
    )
    return first, second


def model_digest(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers of a model, by name; the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b"")
    return digest.hexdigest()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_INFINITE = {"threshold": -math.inf, "nll_before": math.inf, "nll_after": math.inf}
"""Numbers that may be infinite, and are null in JSON."""


def _parsed(text: str, source: str) -> Calibration:
    try:
        values = json.loads(text)
        if values.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        values |= {name: infinite for name, infinite in _INFINITE.items() if values[name] is None}
        found = Calibration(**values)
        score_of(found.score, found.temperature)
        if not isinstance(found.threshold, float) or math.isnan(found.threshold) or not isinstance(found.model, str):
            raise TypeError(f"threshold={found.threshold!r}, model={found.model!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{source} cannot be read ({error!r}): {_AGAIN}") from None
    return found
