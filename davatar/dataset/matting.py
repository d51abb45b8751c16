"""Which pixels of a photograph belong to the head: from a matte or from depth, fading to white at the neck.

Arrays on one pixel grid in, an alpha map [H, W] in 0..1 out. Metres.
"""

from __future__ import annotations

import cv2
import numpy as np

from davatar.dataset.geometry import FADE
from davatar.raster.maps import RasterMaps

BEHIND = 0.03  # m: a measurement so far behind the mesh sees past the head
HAIR = 0.04  # m: off the mesh, depth may differ by so much from the mesh nearby ...
REACH = 0.035  # m: ... and lie so far to its side


def depth_alpha(maps: RasterMaps, depth: np.ndarray, focal: float) -> np.ndarray:
    """Foreground by depth, where a recording has no matte.

    On the mesh: everything but what was measured clearly behind it. Off the mesh: what was measured near it
    (hair, ears that the fit missed). Unmeasured pixels follow the mesh.

    Args:
        depth: [H, W] m, NaN = none, on the grid of `maps`.
        focal: px.
    """
    if not maps.mask.any():
        return np.zeros(maps.mask.shape, np.float32)
    pixels_away, row, column = nearest_hit(maps.mask)
    surface = maps.depth[row, column]
    measured = np.isfinite(depth)
    difference = np.where(measured, depth, surface) - surface
    on_mesh = maps.mask & (difference < BEHIND)
    beside = ~maps.mask & measured & (np.abs(difference) < HAIR) & (pixels_away * surface < REACH * focal)
    foreground = cv2.medianBlur((on_mesh | beside).astype(np.uint8), 3)  # flying pixels come one by one
    return cv2.GaussianBlur(foreground.astype(np.float32), (0, 0), 0.6)


def neck_fade(maps: RasterMaps) -> np.ndarray:
    """[H, W] 0..1: 0 below the neck cut, 1 above; off the mesh, the value of the nearest mesh pixel."""
    if not maps.mask.any():
        return np.zeros(maps.mask.shape, np.float32)
    _, row, column = nearest_hit(maps.mask)
    height = maps.canonical[..., 1][row, column]
    return np.clip((height - FADE[0]) / (FADE[1] - FADE[0]), 0, 1).astype(np.float32)


def nearest_hit(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every pixel the nearest one inside the mask: distance in px, its row, its column, each [H, W]."""
    distance, labels = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(mask)
    order = np.zeros(labels.max() + 1, np.int64)
    order[labels[rows, columns]] = np.arange(len(rows))
    pick = order[labels]
    return distance, rows[pick], columns[pick]


def on_white(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[H, W, 3] 0..1 over white."""
    return 1 - alpha[..., None] * (1 - image)
