"""One picture that shows whether a track is right: the recording, the head over it, the depth difference."""

from __future__ import annotations

import cv2
import numpy as np

from davatar.capture.frame import Frame
from davatar.geometry.mesh import Mesh
from davatar.raster.embree import EmbreeRasterizer

SHOWN_MM = 5.0  # end of the colour scale of the difference
OPACITY = 0.65


def panel(frame: Frame, mesh: Mesh, height: int) -> np.ndarray:
    """[height, 3 width, 3] uint8 sRGB, sides even: recording | tracked head blended | |depth - head|, 0 to 5 mm.

    Args:
        mesh: world frame, m.
    """
    height -= height % 2
    width = round(height * frame.camera.width / frame.camera.height / 2) * 2
    camera = frame.camera.resized(width, height)
    picture = _background(frame)
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    maps = EmbreeRasterizer().rasterize(mesh, camera)
    toward = camera.center - (mesh.vertices.mean(0))
    light = toward / np.linalg.norm(toward)
    shade = np.clip(np.abs(maps.normal @ light), 0, 1)[..., None] * np.array([214.0, 206.0, 200.0])
    mask = maps.mask[..., None]
    blended = np.where(mask, (1 - OPACITY) * picture + OPACITY * shade, picture)
    depth = cv2.resize(np.nan_to_num(frame.depth), (width, height), interpolation=cv2.INTER_NEAREST)
    difference = 1000 * np.abs(depth - maps.depth)
    scaled = np.clip(255 * difference / SHOWN_MM, 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1]
    compared = maps.mask & (depth > 0) & (difference < 30)
    errors = np.where(compared[..., None], colours, picture * 0.35)
    return np.ascontiguousarray(np.concatenate([picture, blended, errors], axis=1).clip(0, 255).astype(np.uint8))


def _background(frame: Frame) -> np.ndarray:
    """[H, W, 3] uint8: the colour image, or depth as grey."""
    if frame.color is not None and frame.color.shape[:2] == frame.depth.shape:
        return frame.color
    finite = np.isfinite(frame.depth)
    near, far = np.percentile(frame.depth[finite], [1, 90]) if finite.any() else (0.0, 1.0)
    grey = 255 * (1 - (np.nan_to_num(frame.depth, nan=far) - near) / max(far - near, 1e-6))
    return np.repeat(np.where(finite, grey.clip(20, 255), 0)[..., None], 3, axis=2).astype(np.uint8)
