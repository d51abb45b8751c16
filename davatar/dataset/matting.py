"""Which pixels of a photograph belong to the head: from a matte or from depth, fading to white at the neck.

Arrays on one pixel grid in, an alpha map [H, W] in 0..1 out. Metres.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from davatar.dataset.geometry import FADE
from davatar.geometry.camera import Camera
from davatar.raster.maps import RasterMaps

BEHIND = 0.03  # m: a measurement so far behind the mesh sees past the head
HAIR = 0.09  # m: off the mesh, hair may come so much closer than the silhouette beside it ...
REACH = 0.035  # m: ... and stand off so far (a shell of 3 cm around a ball of 10 cm does both)
VOTERS = 0.005  # m: half the window in which they vote
NEARBY = 0.02  # m: how far the depth of the mesh is averaged beside it
RIM = 3  # px: so near the mesh, a pixel belongs to the part of it that is nearest


def depth_alpha(maps: RasterMaps, depth: np.ndarray, focal: float, fade: np.ndarray) -> np.ndarray:
    """Foreground by depth, where a recording has no matte.

    On the mesh: everything but what was measured clearly behind it. Off the mesh: what was measured near it
    (hair, ears that the fit missed). Unmeasured pixels follow the mesh.

    Args:
        depth: [H, W] m, NaN = none, on the grid of `maps`.
        focal: px.
        fade: [H, W] 0..1 that the result is multiplied with, see `neck_fade`.
    """
    if not maps.mask.any():
        return np.zeros(maps.mask.shape, np.float32)
    pixels_away, row, column = nearest_hit(maps.mask)
    surface = maps.depth[row, column]
    measured = np.isfinite(depth)
    difference = np.where(measured, depth, surface) - surface
    on_mesh = cv2.medianBlur((maps.mask & (difference < BEHIND)).astype(np.uint8), 3)  # flying pixels come one by one
    near = ~maps.mask & measured & (difference > -HAIR) & (difference < BEHIND)
    near &= pixels_away * surface < REACH * focal
    # Dark hair gives depth here and there only: beside the mesh the measured pixels around vote.
    window = 2 * max(1, round(VOTERS * focal / float(np.median(surface)))) + 1
    votes, voters = (cv2.blur(which.astype(np.float32), (window, window)) for which in (near, measured & ~maps.mask))
    beside = ~maps.mask & (votes > 0.5 * voters) & (votes > 0.15)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (window, window))
    closed = cv2.morphologyEx(np.maximum(on_mesh, beside), cv2.MORPH_CLOSE, disc)
    closed[measured & (difference >= BEHIND)] = 0
    alpha = _without_islands(closed, maps.mask) * fade
    # Where the nearest part of the mesh changes from chin to neck, a thin ray of chin stands out of the neck.
    alpha = np.where(maps.mask, alpha, cv2.morphologyEx(alpha, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    return cv2.GaussianBlur(alpha, (0, 0), 0.6)


def _without_islands(foreground: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Without foreground that nowhere meets the mesh, and without holes inside it (an open mouth is no background)."""
    _, background = cv2.connectedComponents((foreground == 0).astype(np.uint8), connectivity=4)
    filled = (foreground > 0) | ~np.isin(background, np.unique(background[~mask]))
    _, labels = cv2.connectedComponents(filled.astype(np.uint8))
    return filled & np.isin(labels, np.unique(labels[mask]))


def neck_fade(maps: RasterMaps, camera: Camera, head_to_world: np.ndarray) -> np.ndarray:
    """[H, W] 0..1: 0 below the neck cut, 1 above.

    On the mesh and at its rim by canonical height, so that an opening jaw does not fade. Farther off by the height,
    in the head's axes, at which the pixel's ray passes the mesh nearby (its depth blurred over the gap).

    Args:
        camera: of the maps.
        head_to_world: [4, 4] similarity, head-model units to m.
    """
    if not maps.mask.any():
        return np.zeros(maps.mask.shape, np.float32)
    pixels_away, row, column = nearest_hit(maps.mask)
    nearest = maps.canonical[..., 1][row, column]
    spread = max(1.0, NEARBY * camera.K[0, 0] / float(np.median(maps.depth[maps.mask])))
    weight, depth = (
        cv2.GaussianBlur(values.astype(np.float32), (0, 0), spread) for values in (maps.mask, maps.depth * maps.mask)
    )
    depth = np.where(weight > 1e-3, depth / np.maximum(weight, 1e-3), maps.depth[row, column])
    camera_to_head = np.linalg.inv(camera.world_to_camera @ head_to_world)
    height = (camera.rays() * depth[..., None]) @ camera_to_head[1, :3] + camera_to_head[1, 3]
    height = np.where(pixels_away <= RIM, nearest, np.minimum(height, nearest))
    return np.clip((height - FADE[0]) / (FADE[1] - FADE[0]), 0, 1).astype(np.float32)


def nearest_hit(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every pixel the nearest one inside the mask: distance in px, its row, its column, each [H, W]."""
    distance, (row, column) = distance_transform_edt(~mask, return_indices=True)
    return distance, row, column


def on_white(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[H, W, 3] 0..1 over white."""
    return 1 - alpha[..., None] * (1 - image)
