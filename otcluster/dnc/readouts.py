"""Classifiers fitted to the features of a trained run: what a backbone has learnt, whatever head it was trained with.

Features are divided by their lengths first, for the training and the test images alike, so that all compare by angle.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import Tensor, nn

from otcluster.dnc.evaluation import Evaluation, accuracies, evaluate
from otcluster.estimators import NearestSubCentroid
from otcluster.runs.errors import RunError

if TYPE_CHECKING:
    from otcluster.dnc.recipe import Recipe
    from otcluster.dnc.run import LoadedRun


_Array = npt.NDArray[Any]


class Readout(Protocol):
    """What makes a classifier for features."""

    def fitted(self, features: _Array, labels: _Array, seed: int) -> Any:
        """An estimator with ``predict``, fitted to features (n, dim) and classes (n,); ``seed`` is of what it draws."""
        ...


@dataclass(frozen=True)
class ClassMeans:
    """The nearest class mean, by scikit-learn's ``NearestCentroid``."""

    def fitted(self, features: _Array, labels: _Array, seed: int) -> Any:
        """The estimator."""
        # It also looks how far samples are from their means, which only shrinking needs, and which one sample a class has not.
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.filterwarnings("ignore", message="self.within_class_std_dev_", category=UserWarning)
            return NearestCentroid().fit(features, labels)


@dataclass(frozen=True)
class Neighbours:
    """A vote of the nearest training features, by scikit-learn's ``KNeighborsClassifier``; fewer where there are fewer.

    Args:
        n_neighbours: How many vote.
    """

    n_neighbours: int = 20

    def fitted(self, features: _Array, labels: _Array, seed: int) -> Any:
        """The estimator."""
        return KNeighborsClassifier(min(self.n_neighbours, len(features)), algorithm="brute").fit(features, labels)


@dataclass(frozen=True)
class SubCentroids:
    """The nearest of a few centroids of each class, by :class:`otcluster.estimators.NearestSubCentroid` with k-means.

    Args:
        n_subcentroids: How many each class has.
    """

    n_subcentroids: int = 4

    def fitted(self, features: _Array, labels: _Array, seed: int) -> Any:
        """The estimator."""
        return NearestSubCentroid(self.n_subcentroids, metric="cosine", random_state=seed % 2**32).fit(features, labels)


READOUT_NAMES = ("ncm", "knn", "sub-centroids")


def readout_of(name: str, recipe: Recipe) -> Readout:
    """The readout of a name, with the numbers that a recipe has: ``head.n_neighbours`` and ``head.n_subcentroids``.

    Raises:
        RunError: There is none of this name.
    """
    if name not in READOUT_NAMES:
        raise RunError(f"there is no readout {name!r}: choose among {', '.join(READOUT_NAMES)}")
    if name == "ncm":
        return ClassMeans()
    return Neighbours(recipe.head.n_neighbours) if name == "knn" else SubCentroids(recipe.head.n_subcentroids)


def usual_readouts(recipe: Recipe) -> tuple[str, ...]:
    """Those that are evaluated without being asked for: of features that were learnt without labels."""
    return ("sub-centroids",) if recipe.head.kind == "simclr" else ()


def read_out(readout: Readout, train: Evaluation, test: Evaluation, *, seed: int = 0) -> Tensor:
    """Predict the classes of test features from training features.

    Args:
        readout: How.
        train: Features (n, dim) and labels to learn from.
        test: Features (m, dim) to classify; labels and logits are not looked at.
        seed: Of what the readout draws.

    Returns:
        Classes, integers of shape (m,).

    Raises:
        RunError: There are no training features.

    Example:
        >>> none = torch.zeros(0)
        >>> train = Evaluation(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), none, torch.tensor([0, 1]), none)
        >>> test = Evaluation(torch.tensor([[2.0, 1.0], [0.1, 0.2]]), none, none, none)
        >>> read_out(ClassMeans(), train, test)
        tensor([0, 1])
    """
    if not len(train.features):
        raise RunError("there are no training features to read out by: the run needs its training images, see --data")
    if not len(test.features):
        return torch.zeros(0, dtype=torch.int64)
    estimator = readout.fitted(_unit(train), train.labels.numpy(), seed)
    return torch.as_tensor(estimator.predict(_unit(test)), dtype=torch.int64)


def _unit(evaluation: Evaluation) -> _Array:
    return nn.functional.normalize(evaluation.features.float(), dim=-1).numpy()


def evaluate_readouts(run: LoadedRun, names: Sequence[str], test: Evaluation | None = None) -> dict[str, dict[str, Any]]:
    """Evaluate readouts of a run on its test images, with its training images to learn from.

    Args:
        run: A trained run, from :func:`otcluster.dnc.load_run`.
        names: Of the readouts: ``"ncm"``, ``"knn"``, ``"sub-centroids"``.
        test: What :func:`otcluster.dnc.evaluate` gave of the test images. Default: it is called here.

    Returns:
        By name, what ``Evaluation.metrics`` gives of a head: accuracy, of each class too, and the number of images.

    Raises:
        RunError: There is no such readout, or the training images are of other classes.
        DataError: The images are not where they were.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc import load_recipe, load_run, train
        >>> recipe = load_recipe("digits", ["train.epochs=1", "data.image_size=8", "backbone.frozen=true"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(recipe, folder + "/run")
        ...     found = evaluate_readouts(load_run(folder + "/run"), ["ncm", "knn"])
        >>> found["knn"]["accuracy"] > 0.5  # of a backbone that has learnt nothing
        True
    """
    for name in names:
        readout_of(name, run.recipe)  # before any image is looked at
    if not names:
        return {}
    test = evaluate(run.model, run.load_test(), run.recipe.data) if test is None else test
    return readout_metrics(run.recipe, names, evaluate(run.model, run.load_train(), run.recipe.data), test, run.classes)


def readout_metrics(
    recipe: Recipe, names: Sequence[str], train: Evaluation, test: Evaluation, classes: list[str]
) -> dict[str, dict[str, Any]]:
    """As :func:`evaluate_readouts`, of features that are at hand."""
    chosen = {name: readout_of(name, recipe) for name in names}
    seed = recipe.train.seed
    return {name: accuracies(read_out(each, train, test, seed=seed), test.labels, classes) for name, each in chosen.items()}
