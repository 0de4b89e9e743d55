"""A backbone with a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import timm
import torch
from PIL import Image
from torch import Tensor, nn

from otcluster.dnc.classes import append_class, drop_class, need_subcentroids
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.heads import Head, build_head
from otcluster.dnc.names import subcentroid_names
from otcluster.dnc.recipe import nearest_name
from otcluster.dnc.serving import Images, Predictions, predict_images

if TYPE_CHECKING:
    from otcluster.dnc.recipe import DataConfig, Recipe


class Classifier(nn.Module):
    """A timm backbone whose pooled features go to a head.

    Args:
        backbone: A module from images (n, channels, height, width) to features (n, dim), such as a timm model with
            ``num_classes=0``.
        head: :class:`DNCHead`, :class:`LinearHead`, another head of this package, or any module from features to logits with a
            method ``observe``.
        convert: How a picture of PIL becomes a tensor (channels, height, width), for :meth:`predict`.
        classes: Names of the classes.

    Raises:
        TypeError: The head has no method ``observe``.

    Example:
        >>> from otcluster.dnc import DNCHead
        >>> model = Classifier(nn.Flatten(), DNCHead(4, n_classes=3))
        >>> model(torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        *,
        convert: Callable[[Image.Image], Tensor] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not callable(getattr(head, "observe", None)):
            raise TypeError(f"head must have a method observe(features, labels), as DNCHead and LinearHead have, got {head!r}")
        self.backbone = backbone
        self.head = head
        self.convert = convert
        self.classes = None if classes is None else list(classes)
        self.subcentroid_names: list[list[str]] | None = None  # class by class, where somebody has named some

    def features(self, images: Tensor) -> Tensor:
        """Pooled features, (n, dim), of images."""
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (n, n_classes), of images."""
        return self.head(self.features(images))

    def predict(self, images: Images, *, batch_size: int = 256) -> Predictions:
        """Classify images in evaluation mode and without gradients, whatever mode the model is in; it stays in that mode.

        Args:
            images: A batch (n, channels, height, width); one image (channels, height, width); a picture of PIL, converted as
                the training images of a run were; or a sequence of images or pictures that come out at one size.
            batch_size: How many at once.

        Returns:
            Classes, shares, sub-centroids and features, on the device of the model.

        Raises:
            TypeError: They are nothing of that; or pictures, and the model was made without ``convert``.
            ValueError: They have another shape, or ``batch_size`` is not positive.

        Example:
            >>> from otcluster.dnc import DNCHead
            >>> model = Classifier(nn.Flatten(), DNCHead(4, n_classes=3))
            >>> found = model.predict(torch.rand(5, 1, 2, 2), batch_size=2)
            >>> found.labels.shape, found.shares.shape, found.subcentroids.shape
            (torch.Size([5]), torch.Size([5, 3]), torch.Size([5]))
        """
        return predict_images(self, images, batch_size)

    def add_class(self, images: Images, name: str, *, n_subcentroids: int | None = None, batch_size: int = 256) -> int:
        """Let a model know one more class without training: its sub-centroids are those of its images' features.

        They are found as training finds them: k-means++, the solver of the head, means. No weight changes, and nothing of the
        other classes.

        Args:
            images: Images as for :meth:`predict`, not augmented; or features (n, dim).
            name: Of the class.
            n_subcentroids: How many, at most one for each image. Default: eight times as many as the other classes have, where
                there are so many images: what training has not drawn together is spread wider.
            batch_size: How many images at once.

        Returns:
            Its label, the largest.

        Raises:
            TypeError: The head has no sub-centroids, or the images are none.
            ValueError: There is a class of this name, it is empty, or a sub-centroid is called as one of its would be; no
                images, or fewer than sub-centroids.

        Example:
            >>> from otcluster.dnc import DNCHead
            >>> model = Classifier(nn.Flatten(), DNCHead(4, n_classes=2), classes=["cat", "dog"])
            >>> model.add_class(torch.rand(8, 1, 2, 2), "owl"), model.classes
            (2, ['cat', 'dog', 'owl'])
            >>> model.remove_class("dog"), model.classes, model(torch.rand(1, 1, 2, 2)).shape
            (1, ['cat', 'owl'], torch.Size([1, 2]))
        """
        head, names = need_subcentroids(self.head), self._names()
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name must be a text that is not empty, got {name!r}")
        if name in names:
            raise ValueError(f"there is a class {name} already: give the new one another name")
        if (taken := self._taken(name)) is not None:
            raise ValueError(f"there is a sub-centroid called {taken!r}: give the class {name} another name, or rename that")
        given = isinstance(images, Tensor) and images.ndim == 2
        features = images if given else self.predict(images, batch_size=batch_size).features
        append_class(head, features, n_subcentroids)  # type: ignore[arg-type]
        self.classes = [*names, name]
        if self.subcentroid_names is not None:
            rows = subcentroid_names(self.classes, head.store.n_centroids)
            known = zip(self.subcentroid_names, rows[:-1], strict=True)
            self.subcentroid_names = [[*old, *row[len(old) :]] for old, row in known] + rows[-1:]
        return len(names)

    def remove_class(self, name: str) -> int:
        """Let a model forget a class. Labels of later classes move down.

        Args:
            name: Of the class; its label as text, where the classes have no names.

        Returns:
            The label that it had.

        Raises:
            TypeError: The head has no sub-centroids.
            ValueError: There is no such class, or no other.
        """
        head, names = need_subcentroids(self.head), self._names()
        if name not in names:
            raise ValueError(f"there is no class {name!r}, only {', '.join(names[:20])}")
        label = names.index(name)
        drop_class(head, label)
        self.classes = [each for each in names if each != name]
        if self.subcentroid_names is not None:
            rows = [row for at, row in enumerate(self.subcentroid_names) if at != label]
            self.subcentroid_names = [row[: head.store.n_centroids] for row in rows]
        return label

    def _taken(self, name: str) -> str | None:
        """What a sub-centroid is called that is called as those of a new class ``name`` would be."""
        is_open = need_subcentroids(self.head).store.is_open.tolist()
        for row, open_row in zip(self.subcentroid_names or [], is_open, strict=False):
            for each, there in zip(row, open_row, strict=True):
                if there and each.removeprefix(f"{name} #").isdecimal() and each.startswith(f"{name} #"):
                    return each
        return None

    def _names(self) -> list[str]:
        return self.classes or [str(label) for label in range(need_subcentroids(self.head).n_classes)]


def build_classifier(recipe: Recipe, n_classes: int, class_sizes: Sequence[int] | None = None) -> Classifier:
    """The model of a recipe, with the weights that its seed gives.

    Args:
        recipe: What to build.
        n_classes: Number of classes.
        class_sizes: How many training images each class has; needed for ``head.allocation=by_size``.

    Raises:
        RecipeError: timm knows no such backbone, it does not take images of this size, or the sizes are needed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.train.seed)
        if not timm.is_model(recipe.backbone.name):
            hint = nearest_name(recipe.backbone.name, timm.list_models())
            raise RecipeError(f"backbone.name: timm has no model {recipe.backbone.name!r}{hint}")
        try:
            options = dict(recipe.backbone.options)
            backbone = timm.create_model(
                recipe.backbone.name, recipe.backbone.pretrained, num_classes=0, in_chans=recipe.data.channels, **options
            )
            if recipe.backbone.stem == "cifar":
                _small_stem(backbone)
            dim = _feature_length(backbone, recipe.data)
        except Exception as error:  # whatever timm and its models raise
            raise RecipeError(
                f"backbone.name={recipe.backbone.name} cannot be used with backbone.pretrained={recipe.backbone.pretrained}, "
                f"backbone.stem={recipe.backbone.stem}, backbone.options={recipe.backbone.options}, "
                f"data.channels={recipe.data.channels} and data.image_size={recipe.data.image_size}: {error}"
            ) from error
        backbone.requires_grad_(not recipe.backbone.frozen)
        return Classifier(backbone, build_head(recipe, dim, n_classes, class_sizes))


def _small_stem(backbone: nn.Module) -> None:
    """Make a ResNet begin as on CIFAR: one 3x3 convolution that keeps the size, and no pooling.

    Source: He et al., "Deep residual learning for image recognition" (CVPR 2016), section 4.2.
    """
    first = getattr(backbone, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(backbone, "maxpool"):
        raise ValueError("the small stem is for timm's ResNets, which begin with conv1 and maxpool")
    backbone.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()


@torch.no_grad()
def _feature_length(backbone: nn.Module, config: DataConfig) -> int:
    """How long a feature is: of a black image, so that a backbone that does not take such images says so before training."""
    features = backbone.eval()(torch.zeros(1, config.channels, config.image_size, config.image_size))
    backbone.train()
    if features.ndim != 2:
        raise ValueError(f"its features have shape {tuple(features.shape)}, (1, length) is needed")
    return int(features.shape[1])
