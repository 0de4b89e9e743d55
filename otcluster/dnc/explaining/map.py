"""Sub-centroids on a plane, as far apart as their angles allow."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import KernelPCA
from sklearn.manifold import smacof
from torch import Tensor

_SETTLED = 500  # beyond as many points, where each round takes a matrix of their distances, they stay where they start
_ROUNDS = 200


def angle_map(cosines: Tensor) -> tuple[Tensor, float | None]:
    """Put points on a plane so that their distances are near their angles, by scaling: classical first, then by SMACOF.

    Args:
        cosines: Between the points, (m, m).

    Returns:
        Places, (m, 2) in radians, around the middle; and how much of the angles they keep: the correlation of all distances on
        the plane with the angles, at most 1. None in its place for fewer than three points or where all angles are the same.
        The same cosines give the same places. Beyond 500 points they are those of classical scaling.

    Raises:
        ValueError: The cosines are not square.

    Example:
        >>> angles = torch.tensor([0.0, 0.5, 1.5])  # on a circle
        >>> places, kept = angle_map((angles[:, None] - angles).cos())
        >>> round(float((places[0] - places[2]).norm()), 3), round(kept, 3)
        (1.5, 1.0)

    Source: de Leeuw, "Applications of convex analysis to multidimensional scaling" (1977), as in scikit-learn.
    """
    if cosines.ndim != 2 or cosines.shape[0] != cosines.shape[1]:
        raise ValueError(f"cosines must have shape (m, m), got {tuple(cosines.shape)}")
    m = len(cosines)
    values = cosines.double().cpu().clamp(-1, 1)
    angles = torch.arccos((values + values.T) / 2).fill_diagonal_(0.0).numpy()
    places = np.zeros((m, 2))
    if m > 1 and angles.any():
        # Centred as KernelPCA does, minus half the squares are the inner products of classical scaling.
        start = KernelPCA(2, kernel="precomputed", random_state=0).fit_transform(-0.5 * angles**2)
        places[:, : start.shape[1]] = np.nan_to_num(start)
        if 2 < m <= _SETTLED:
            places, _ = smacof(
                angles, n_components=2, init=places, n_init=1, max_iter=_ROUNDS, random_state=0, normalized_stress=False
            )
    places = places - places.mean(axis=0)
    pairs = np.triu_indices(m, 1)
    apart, shown = angles[pairs], np.linalg.norm(places[pairs[0]] - places[pairs[1]], axis=1)
    told = m > 2 and float(np.ptp(apart)) > 1e-9 and float(np.ptp(shown)) > 1e-9
    return torch.from_numpy(places), float(np.corrcoef(apart, shown)[0, 1]) if told else None
