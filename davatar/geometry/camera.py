"""The one camera: a pinhole with OpenCV axes (x right, y down, z forward), pixel centres at integers.

Metres, world frame of the capture. Backends that think in pixel corners shift by half a pixel inside
themselves. Projection and its inverse live here; images and files live elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from davatar.core.errors import DataError


@dataclass(frozen=True)
class Camera:
    K: np.ndarray  # [3, 3] float64, pixels
    world_to_camera: np.ndarray  # [4, 4] float64, rigid, acts on column points
    width: int
    height: int

    def __post_init__(self):
        for name, shape in (("K", (3, 3)), ("world_to_camera", (4, 4))):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise DataError(f"camera {name} has shape {value.shape}, expected {shape}")
            if not np.isfinite(value).all():
                raise DataError(f"camera {name} holds non-finite values")
            object.__setattr__(self, name, value)
        if self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            raise DataError(f"focal lengths must be positive, found {self.K[0, 0]:g} and {self.K[1, 1]:g}")
        if self.width < 1 or self.height < 1:
            raise DataError(f"camera size must be positive, found {self.width}x{self.height}")

    @staticmethod
    def pinhole(
        fx: float,
        fy: float,
        cx: float,
        cy: float,
        width: int,
        height: int,
        world_to_camera: np.ndarray | None = None,
    ) -> Camera:
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
        return Camera(K, np.eye(4) if world_to_camera is None else world_to_camera, width, height)

    @property
    def camera_to_world(self) -> np.ndarray:
        """[4, 4], the exact rigid inverse."""
        R, t = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        out = np.eye(4)
        out[:3, :3] = R.T
        out[:3, 3] = -R.T @ t
        return out

    @property
    def center(self) -> np.ndarray:
        """[3] position of the camera in the world, m."""
        return self.camera_to_world[:3, 3]

    def resized(self, width: int, height: int) -> Camera:
        """The same view on another pixel grid; the outer edges of the image stay where they are."""
        sx, sy = width / self.width, height / self.height
        K = self.K.copy()
        K[0, :2] *= sx
        K[1, 1] *= sy
        K[0, 2] = (self.K[0, 2] + 0.5) * sx - 0.5
        K[1, 2] = (self.K[1, 2] + 0.5) * sy - 0.5
        return replace(self, K=K, width=width, height=height)

    def cropped(self, x: int, y: int, width: int, height: int) -> Camera:
        """The window whose top-left pixel is column x, row y; it may reach beyond the image."""
        K = self.K.copy()
        K[0, 2] -= x
        K[1, 2] -= y
        return replace(self, K=K, width=width, height=height)

    def moved(self, world_to_camera: np.ndarray) -> Camera:
        return replace(self, world_to_camera=world_to_camera)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points [..., 3] m -> pixels [..., 2] (column, row) and depth [...] m along the camera's z."""
        in_camera = points @ self.world_to_camera[:3, :3].T + self.world_to_camera[:3, 3]
        depth = in_camera[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            homogeneous = in_camera @ self.K.T
            return homogeneous[..., :2] / depth[..., None], depth

    def rays(self) -> np.ndarray:
        """[H, W, 3] directions in camera axes with z = 1: a pixel's point is ray * depth."""
        column, row = np.meshgrid(np.arange(self.width), np.arange(self.height))
        pixels = np.stack([column, row, np.ones_like(row)], -1).astype(np.float64)
        return pixels @ np.linalg.inv(self.K).T


def backproject(depth: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Lift every measured pixel to a world point.

    Args:
        depth: [H, W] float, distance along the camera's z axis in m; NaN where nothing was measured.
        camera: the view that took `depth`.

    Returns:
        points: [N, 3] float64, world frame, m; one per finite pixel, row by row.
        pixels: [N, 2] int, (column, row) of each point.

    Raises:
        DataError: `depth` and `camera` differ in size.
    """
    if depth.shape != (camera.height, camera.width):
        raise DataError(
            f"depth is {depth.shape[1]}x{depth.shape[0]}, its camera {camera.width}x{camera.height}",
            mend="resize one of them (Camera.resized)",
        )
    row, column = np.nonzero(np.isfinite(depth))
    in_camera = camera.rays()[row, column] * depth[row, column, None]
    to_world = camera.camera_to_world
    return in_camera @ to_world[:3, :3].T + to_world[:3, 3], np.stack([column, row], -1)
