"""One picture that shows whether a track is right: the recording, the head over it, the depth difference."""

from __future__ import annotations

import cv2
import numpy as np

from davatar.capture.frame import Frame
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.raster.embree import EmbreeRasterizer

SHOWN_MM = 5.0  # end of the colour scale of the difference
OPACITY = 0.65
AROUND = 0.19  # m: what is shown around the head's centre


def window(cameras: list[Camera], centers: np.ndarray) -> tuple[int, int, int]:
    """Left, top and edge in pixels of the square that holds the head in every frame.

    Args:
        cameras: one per frame.
        centers: [T, 3] head centres, world, m.
    """
    corners = []
    for camera, center in zip(cameras, centers, strict=True):
        pixel, depth = camera.project(center[None])
        reach = AROUND * camera.K[0, 0] / max(float(depth[0]), 0.1)
        corners += [pixel[0] - reach, pixel[0] + reach]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    edge = int(np.ceil((high - low).max()))
    left, top = np.round((low + high) / 2 - edge / 2).astype(int)
    return int(left), int(top), edge


def panel(frame: Frame, mesh: Mesh, area: tuple[int, int, int], height: int) -> np.ndarray:
    """[height, 3 height, 3] uint8 sRGB: recording | tracked head blended | |depth - head|, blue 0 to red 5 mm.

    Args:
        mesh: world frame, m.
        area: left, top, edge of the shown square, pixels; it may reach beyond the image.
    """
    height -= height % 2
    left, top, edge = area
    camera = frame.camera.cropped(left, top, edge, edge).resized(height, height)
    place = np.float32([[height / edge, 0, 0], [0, height / edge, 0]])
    place[:, 2] = (0.5 - np.array([left, top])) * height / edge - 0.5
    size = (height, height)
    picture = cv2.warpAffine(_background(frame), place, size, flags=cv2.INTER_LINEAR, borderValue=(24, 24, 24))
    picture = picture.astype(np.float32)
    depth = cv2.warpAffine(np.nan_to_num(frame.depth), place, size, flags=cv2.INTER_NEAREST, borderValue=0)
    maps = EmbreeRasterizer().rasterize(mesh, camera)
    toward = camera.center - mesh.vertices.mean(0)
    light = toward / np.linalg.norm(toward)
    shade = np.clip(np.abs(maps.normal @ light), 0, 1)[..., None] * np.array([214.0, 206.0, 200.0])
    blended = np.where(maps.mask[..., None], (1 - OPACITY) * picture + OPACITY * shade, picture)
    difference = 1000 * np.abs(depth - maps.depth)
    scaled = np.clip(255 * difference / SHOWN_MM, 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1]
    compared = maps.mask & (depth > 0) & (difference < 30)
    errors = np.where(compared[..., None], colours, picture * 0.35)
    return np.ascontiguousarray(np.concatenate([picture, blended, errors], axis=1).clip(0, 255).astype(np.uint8))


def _background(frame: Frame) -> np.ndarray:
    """[H, W, 3] uint8: the colour image, or depth as grey."""
    if frame.color is not None and frame.color.shape[:2] == frame.depth.shape:
        return np.ascontiguousarray(frame.color)
    finite = np.isfinite(frame.depth)
    near, far = np.percentile(frame.depth[finite], [1, 90]) if finite.any() else (0.0, 1.0)
    grey = 255 * (1 - (np.nan_to_num(frame.depth, nan=far) - near) / max(far - near, 1e-6))
    return np.repeat(np.where(finite, grey.clip(20, 255), 0)[..., None], 3, axis=2).astype(np.uint8)
