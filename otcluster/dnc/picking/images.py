"""Images that edits need: those that take the place of a sub-centroid, and those that are counted anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from otcluster.dnc.data import ImageData
from otcluster.dnc.errors import DataError
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.head import DNCHead
from otcluster.dnc.prediction import read_picture
from otcluster.dnc.recipe import nearest_name
from otcluster.dnc.run import LoadedRun
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError

_SAME = 0.9  # the cosine that an image at least has to itself, whatever device and precision it was looked at with before


@dataclass(frozen=True)
class Known:
    """Features of all training images of a class.

    Attributes:
        features: (n, dim).
        indices: Which training image each is, (n,).
        names: Their names.
    """

    features: Tensor
    indices: Tensor
    names: list[str]


class RunImages:
    """The images of a run, which need not all be at hand."""

    def __init__(self, run: LoadedRun, head: DNCHead, typical: TypicalImages) -> None:
        self.run, self.typical = run, typical
        self.keeps_features = head.store.metric == "cosine"  # those that are kept have unit length

    @cached_property
    def data(self) -> ImageData | str:
        """The images where the run has them, or why they cannot be read."""
        try:
            return self.run.load_data()
        except DataError as error:
            return str(error)

    def feature(self, image: str, *, invert: bool) -> Tensor:
        """The feature, (dim,), of a training image by its name, or else of a picture file.

        Args:
            image: The name or the path.
            invert: Swap dark and light of a picture file first.

        Raises:
            DataError: It cannot be read as an image.
            RunError: It is neither.
        """
        typical = self.typical
        if self.keeps_features and image in typical.names:
            return typical.features[typical.names.index(image)]
        data = self.data
        if isinstance(data, ImageData) and image in data.train.names:
            return self._seen(data.train.read(data.train.names.index(image)))
        if Path(image).is_file():
            return self._seen(read_picture(self.run, image, invert=invert))
        known = typical.names if isinstance(data, str) else data.train.names
        absent = f"; its training images cannot be read: {data}" if isinstance(data, str) else ""
        raise RunError(
            f"{image} is neither a training image of {self.run.files.root} nor a picture file"
            f"{nearest_name(image, known)}{absent}"
        )

    def _seen(self, picture: Image.Image) -> Tensor:
        return self.run.model.predict(picture).features[0].cpu()

    def of_class(self, label: int) -> Known:
        """All training images of a class: those that the run keeps where these are all, or else as they are read.

        Raises:
            DataError: One cannot be read.
            RunError: They are not where they were, or are others than those that the run was trained on.
        """
        typical, size = self.typical, int(self.typical.sizes[label].sum())
        kept = torch.nonzero(typical.classes == label).flatten()
        names = [typical.names[at] for at in kept.tolist()]
        if self.keeps_features and len(kept) == size:
            return Known(typical.features[kept], typical.indices[kept], names)
        run, data = self.run, self.data
        name = run.classes[label]
        if isinstance(data, str):
            raise self._refused(name, data)
        if name not in data.classes:
            raise self._refused(name, f"class {name} is not among them")
        chosen = torch.nonzero(data.train.labels == data.classes.index(name)).flatten()
        split = data.train.subset(chosen.tolist())
        if absent := sorted({*names} - {*split.names}):
            raise self._refused(name, f"{absent[0]} is not among them")
        found = evaluate(run.model, split, run.recipe.data)
        if len(found.features) != size:
            raise self._refused(name, f"there were {size} of class {name}, and now there are {len(found.features)}")
        read = Known(found.features, chosen[found.indices], [split.names[at] for at in found.indices.tolist()])
        unit = nn.functional.normalize(read.features.float(), dim=1)
        rows = [read.names.index(each) for each in names]
        alike = (unit[rows] * nn.functional.normalize(typical.features[kept].float(), dim=1)).sum(dim=1)
        if len(rows) and float(alike.min()) < _SAME:
            raise self._refused(name, f"{names[int(alike.argmin())]} is another image now")
        return read

    def _refused(self, name: str, why: str) -> RunError:
        return RunError(
            f"the training images of class {name} are needed, to count those of each sub-centroid anew, and those that "
            f"{self.run.files.root} was trained on are not at hand ({why}): pass --data, their folder, or only rename"
        )
