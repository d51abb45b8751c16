"""Who looks: cameras around the head. Studio world (x the subject's left, y up, z out of the face), metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.core.errors import DataError
from davatar.geometry.camera import Camera

TARGET = np.array([0.0, 0.016, 0.01])  # m, middle of the head with hair and half of the neck


@dataclass(frozen=True)
class Rig:
    cameras: tuple[Camera, ...]  # the first one also measures depth
    serials: tuple[str, ...]  # a name per camera

    def __post_init__(self):
        if not self.cameras or len(self.cameras) != len(self.serials) or len(set(self.serials)) != len(self.serials):
            raise DataError(f"a rig needs one distinct serial per camera: {len(self.cameras)} cameras, {self.serials}")

    def __len__(self) -> int:
        return len(self.cameras)

    def joined(self, other: Rig) -> Rig:
        """Both rigs at once; this one's first camera stays first, the other's cameras are renumbered."""
        cameras = self.cameras + other.cameras
        return Rig(cameras, tuple(f"{k:02d}" for k in range(len(cameras))))

    @staticmethod
    def single(distance: float = 0.6, *, yaw: float = 0.0, pitch: float = 0.0, width: int = 640, height: int = 576,
               focal: float = 504.3) -> Rig:  # fmt: skip
        """One depth + colour camera in front of the face; angles in degrees, focal length in pixels."""
        camera = look_at(distance, yaw, pitch, width, height, focal)
        return Rig((camera,), ("00",))

    @staticmethod
    def arc(n: int = 16, distance: float = 1.0, azimuth: float = 68.0, elevation: tuple[float, float] = (-22.0, 28.0),
            size: int = 128, extent: float = 0.29) -> Rig:  # fmt: skip
        """`n` cameras on a part of a sphere: the first in front (0, 4 degrees), the others spread evenly.

        Args:
            azimuth: largest angle to either side, degrees.
            elevation: lowest and highest angle, degrees.
            size: image side, pixels.
            extent: width of the picture at the head, m.
        """
        if n < 1:
            raise DataError(f"a rig of {n} cameras films nothing")
        focal = size * distance / extent
        angles = [(0.0, 4.0)]
        golden = (np.sqrt(5) - 1) / 2
        for k in range(n - 1):
            side = -azimuth + 2 * azimuth * (k + 0.5) / (n - 1)
            angles.append((side, elevation[0] + (elevation[1] - elevation[0]) * ((0.5 + k * golden) % 1)))
        cameras = tuple(look_at(distance, a, e, size, size, focal) for a, e in angles)
        return Rig(cameras, tuple(f"{k:02d}" for k in range(n)))


def look_at(distance: float, azimuth: float, elevation: float, width: int, height: int, focal: float) -> Camera:
    """A camera that looks at the middle of the head; azimuth > 0 stands on the subject's left, degrees."""
    a, e = np.radians([azimuth, elevation])
    outward = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    forward = -outward
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ (TARGET + distance * outward)
    return Camera.pinhole(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height, pose)
