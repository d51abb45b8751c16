"""Pictures of heads: one mesh lit from the side, and many of them as one sheet.

Meshes are in metres and in the head's own axes (+x the subject's left, +y up, +z out of the face). The
rasteriser is handed in; this module only places camera and light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh

DISTANCE = 0.9  # m from the camera to the head
SIZE = 0.32  # m of the head that a picture shows
MIDDLE = np.array([0.0, 0.02, -0.06])  # m, head axes: what the camera looks at and the head turns about
LIGHT = np.array([0.35, 0.45, 0.82])  # towards the light, camera's side
FINER = 2  # pixels are averaged from this many samples each way


class Rasterizes(Protocol):
    def rasterize(self, mesh: Mesh, camera: Camera):
        """Maps with `normal` [H, W, 3] in the mesh's frame and `mask` [H, W]."""


def portrait(mesh: Mesh, rasterizer: Rasterizes, size: int = 256, yaw: float = 0.0) -> np.ndarray:
    """A grey, lit picture of a head on white.

    Args:
        mesh: m, head axes.
        yaw: degrees the head is turned to its left.

    Returns:
        [size, size, 3] uint8.
    """
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    to_camera = np.eye(4)
    to_camera[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ turn
    to_camera[:3, 3] = [0, 0, DISTANCE] - to_camera[:3, :3] @ MIDDLE
    fine = FINER * size
    focal, middle = fine / SIZE * DISTANCE, fine / 2 - 0.5
    maps = rasterizer.rasterize(mesh, Camera.pinhole(focal, focal, middle, middle, fine, fine, to_camera))
    towards = turn.T @ (LIGHT / np.linalg.norm(LIGHT))
    light = 0.25 + 0.75 * np.clip(maps.normal @ towards, 0, 1)
    grey = np.where(maps.mask, light * 235, 255).reshape(size, FINER, size, FINER).mean(axis=(1, 3))
    return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=2)


def sheet(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows of `columns`; the last row is filled up with white."""
    rows = -(-len(pictures) // columns)
    height, width, _ = pictures[0].shape
    out = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        row, column = divmod(k, columns)
        out[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return out
