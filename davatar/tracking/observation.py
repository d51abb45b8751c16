"""One depth image -> what a fit sees of it: points, normals and noise level on the head, in camera axes, m.

Smoothing is decided by the noise itself: nearest-point pairs are biased when the noise reaches the size of
the features, so a recording whose robust sigma of (raw - smoothed) exceeds 1.5 mm is fitted to the smoothed
depth (calm recordings lose detail by it and are left alone).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.capture.frame import Frame
from davatar.geometry.camera import Camera
from davatar.tracking.segmentation import BALL, grid_normals, in_head, mean_of_near

SMOOTH_REACH, SMOOTH_LIMIT = 2, 0.010  # 5 x 5 pixels, neighbours within 10 mm
NOISY = 1.5e-3  # m, robust sigma of (raw - smoothed) above which the smoothed depth is fitted


@dataclass(frozen=True)
class Observation:
    """Everything measured in the head region of one frame."""

    index: int  # frame of the capture
    camera: Camera
    points: np.ndarray  # [N, 3] m, camera axes
    normals: np.ndarray  # [N, 3] unit, towards the camera; zeros where unknown
    noise: float  # m, robust sigma of (raw - smoothed) in the region
    depth: np.ndarray  # [H, W] m, the whole image (free-space test, overlays)

    def sample(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """At most `count` points and normals, drawn without replacement; the draw depends on frame and seed only."""
        if len(self.points) <= count:
            return self.points, self.normals
        chosen = np.random.default_rng((seed, self.index)).choice(len(self.points), count, replace=False)
        return self.points[chosen], self.normals[chosen]


def sigma_at(points: np.ndarray) -> np.ndarray:
    """[N, 3] m -> [N] m: expected error of a depth point; 1.5 mm at 0.6 m, growing with the square of distance."""
    return 1.5e-3 * (points[:, 2] / 0.6) ** 2


def observe(frame: Frame, center: np.ndarray, smooth: bool | None = None) -> Observation:
    """Cut the head region out of a frame.

    Args:
        frame: with depth; a person mask, if there, restricts the region.
        center: [3] m, camera axes: head centre as `segmentation.find_heads` gives it.
        smooth: fit the smoothed depth; None = by the noise rule.
    """
    depth, camera = frame.depth, frame.camera
    rows, columns = _window(depth.shape, camera, center)
    crop = depth[rows, columns].astype(np.float32)
    smoothed = mean_of_near(crop, SMOOTH_REACH, SMOOTH_LIMIT)
    rays = camera.cropped(columns.start, rows.start, crop.shape[1], crop.shape[0]).rays().astype(np.float32)
    grid, raw = rays * smoothed[..., None], rays * crop[..., None]
    inside = np.isfinite(crop)
    inside[inside] = in_head(raw[inside], center.astype(np.float32))
    if frame.mask is not None:
        inside &= np.asarray(frame.mask, np.float32)[rows, columns] > 0.5
    difference = (crop - smoothed)[inside]
    noise = float(1.4826 * np.median(np.abs(difference))) if len(difference) else 0.0
    if smooth is None:
        smooth = noise > NOISY
    points = (grid if smooth else raw)[inside]
    normals = np.nan_to_num(grid_normals(grid)[inside])
    return Observation(frame.index, camera, points, normals, noise, depth)


def _window(shape: tuple[int, int], camera: Camera, center: np.ndarray) -> tuple[slice, slice]:
    near = max(center[2] - BALL, 0.1)
    middle = camera.K @ (center / center[2])
    reach = BALL / near * np.array([camera.K[0, 0], camera.K[1, 1]]) + SMOOTH_REACH + 1
    low = np.floor(middle[:2] - reach).astype(int)
    high = np.ceil(middle[:2] + reach).astype(int) + 1
    height, width = shape
    column = slice(int(np.clip(low[0], 0, width - 1)), int(np.clip(high[0], 1, width)))
    row = slice(int(np.clip(low[1], 0, height - 1)), int(np.clip(high[1], 1, height)))
    return row, column
