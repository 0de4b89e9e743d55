"""The shortest rule over sub-centroids that decides an image, and every other image that it holds for, in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDING = 1e-6  # of angles: what could tie is named

Place = tuple[int, int]
"""A sub-centroid: its class, and which of the class, counted from 0."""


@dataclass(frozen=True)
class Rule:
    """IF an image is near enough to one sub-centroid AND nearer to it than to a few others THEN it is of its class.

    True of every image, not only of the one that it was made for. Of the angles on a sphere, and of distances, that between two
    sub-centroids is at most the sum of those from the image to both. So a sub-centroid that is more than twice as far from the
    winner as the image is cannot be nearer to the image than the winner, and need not be named.

    Attributes:
        winner: The sub-centroid.
        least: The cosine to the winner that is needed, in thousandths; None where all others are named, so that none is.
        others: Sub-centroids of other classes that the image must be less like than the winner, the likeliest first.

    Source: the triangle inequality, as in Elkan, "Using the triangle inequality to accelerate k-means" (ICML 2003).
    """

    winner: Place
    least: float | None
    others: tuple[Place, ...]

    def holds(self, cosines: Tensor) -> Tensor:
        """Whether it holds for images of these cosines to all sub-centroids, (n, n_classes, k): booleans, (n,)."""
        won = cosines[:, self.winner[0], self.winner[1]]
        found = torch.ones_like(won, dtype=torch.bool) if self.least is None else won >= self.least
        for label, at in self.others:
            found = found & (won > cosines[:, label, at])
        return found

    def text(self, name: str, names: Sequence[Sequence[str]]) -> str:
        """In words.

        Args:
            name: Of the class.
            names: Of the sub-centroids, class by class.
        """
        own = names[self.winner[0]][self.winner[1]]
        if self.least is None:
            return f"IF it is nearer to {own} than to any sub-centroid of another class THEN it is {name}"
        said = f"IF its cosine to {own} is at least {self.least:.3f}"
        if self.others:
            *most, last = (names[label][at] for label, at in self.others)
            listed = f"{', '.join(most)} and {last}" if most else last
            said += f" AND it is nearer to {own} than to {listed}"
        return f"{said} THEN it is {name}"


def shortest_rule(cosines: Tensor, subcentroids: Tensor, is_open: Tensor) -> Rule:
    """The rule of one image.

    Args:
        cosines: Of the image to all sub-centroids, (n_classes, k).
        subcentroids: Unit vectors, (n_classes, k, dim).
        is_open: Which there are, (n_classes, k).

    Returns:
        With a threshold, the lowest for these others, and the sub-centroids of other classes within twice its angle; or
        without, and all of them, where a threshold would spare none.

    Example:
        >>> angle = torch.tensor([[0.0], [0.5], [2.0]])  # three classes, a sub-centroid each, on a circle
        >>> places = torch.stack([angle.cos(), angle.sin()], dim=-1)
        >>> image = torch.tensor([0.2]).cos().item(), torch.tensor([0.2]).sin().item()
        >>> rule = shortest_rule(places @ torch.tensor(image), places, torch.ones(3, 1, dtype=torch.bool))
        >>> rule.winner, round(rule.least, 2), rule.others
        ((0, 0), 0.97, ())
    """
    k = cosines.shape[1]
    open_cosines = cosines.double().masked_fill(~is_open, -torch.inf)
    label, at = divmod(int(open_cosines.argmax()), k)
    foreign = is_open.clone()
    foreign[label] = False
    least = max(-1.0, math.floor(1000 * float(open_cosines[label, at])) / 1000)  # a number to be read, and the rule is of it
    reach = math.acos(least)
    apart = torch.acos((subcentroids.double() @ subcentroids[label, at].double()).clamp(-1, 1))
    needed = foreign & (apart <= 2 * reach + _ROUNDING)
    spares = int(needed.sum()) < int(foreign.sum())
    chosen = needed if spares else foreign
    if spares:  # the lowest threshold that spares the same
        free = float(apart[foreign & ~needed].min())
        least = min(least, math.ceil(1000 * math.cos(free / 2 - _ROUNDING)) / 1000)
    order = torch.argsort(open_cosines.flatten(), descending=True).tolist()
    others = tuple(divmod(place, k) for place in order if bool(chosen.view(-1)[place]))
    return Rule((label, at), least if spares else None, others)
