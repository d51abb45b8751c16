"""What a rasteriser returns, and the contract every backend keeps (design 4, 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh


@dataclass(frozen=True)
class RasterMaps:
    triangle: np.ndarray  # [H, W] int32, -1 where nothing was hit
    barycentric: np.ndarray  # [H, W, 3] float32, zeros where nothing was hit
    depth: np.ndarray  # [H, W] float32 m along the camera's z, 0 where nothing was hit
    normal: np.ndarray  # [H, W, 3] float32 unit, world frame, zeros where nothing was hit
    canonical: np.ndarray  # [H, W, C] float32 head-model units (C = 3 or 5), zeros where nothing was hit
    mask: np.ndarray  # [H, W] bool
    coverage: np.ndarray | None = None  # [H, W] float32 0..1, share of sub-rays that hit; None when not asked for


class Rasterizer(Protocol):
    """A plugin of group `davatar.rasterizers` is a callable without arguments that returns one of these."""

    name: str

    def rasterize(self, mesh: Mesh, camera: Camera, *, subpixels: int = 0) -> RasterMaps:
        """Mesh in world metres, seen by `camera`; nearest hit wins, no back-face culling.

        Args:
            subpixels: n > 0 also fills `coverage` from an n x n grid of sub-rays per pixel.
        """
