"""What depth would tell about the expression in places it does not show, if the linear surface were there.

Behind a hand, glasses or hair the few points left that speak about the mouth or the brows tell mostly what the head
model misses, and the fit turns a tenth of a millimetre on a cheek into several at the lips. So where the camera looks
at the face and no depth is used, the linear surface stands in: as point-to-plane measurements at which the linear
fit's weights are exactly right. Together they are a Gaussian about those weights whose precision is the information
that is missing, shape by shape; on a face in full view it is next to nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from davatar.tracking.surface import FitSurface

FACING = 0.3  # cosine between normal and ray above which a camera should see skin


def hidden_information(
    surface: FitSurface, posed: np.ndarray, eye: np.ndarray, points: np.ndarray, count: int, reach: float
) -> np.ndarray:
    """Sum over the measurements that hidden skin would give of (normal . shape directions)^T (the same).

    Args:
        posed: [K, 3] m, morphable frame: the linear fit's surface.
        eye: [3] m, same frame: the camera.
        points: [N, 3] m, same frame: depth that lies on the surface.
        count: how many of them the fit uses; hidden skin gets as many per area as seen skin has.
        reach: m; skin with no point this near is hidden.

    Returns:
        [53, 53] mm^2 per squared weight; zeros without points.
    """
    normals, toward = surface.normals(posed), eye - posed
    facing = (normals * toward).sum(1) > FACING * np.linalg.norm(toward, axis=1)
    skin = np.flatnonzero((surface.confidence == 1) & facing)
    if len(points) == 0 or len(skin) == 0:
        return np.zeros(2 * surface.expression.shape[-1:])
    away, _ = cKDTree(points).query(posed[skin], distance_upper_bound=reach)
    seen, area = np.isfinite(away), surface.areas(posed)[skin]
    hidden = skin[~seen]
    rows = 1000 * np.matmul(normals[hidden, None], surface.expression[hidden])[:, 0]
    density = count / max(float(area[seen].sum()), 1e-9)
    return rows.T @ (rows * (density * area[~seen])[:, None])
