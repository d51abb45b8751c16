"""Camera paths around a head: camera-to-head poses [4, 4] in metres, head axes x left, y up, z out of the face.

`shake` is the published camera_shake (spec diffusion-avatars 8), golden in the tests; `orbit` swings wider.
"""

from __future__ import annotations

import numpy as np

from davatar.geometry.camera import Camera

UP = np.array([0.0, 1.0, 0.0])


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[4, 4] pose of a camera (OpenCV axes) at `position` that looks at `target`, head axes."""
    z = target - position
    z = z / np.linalg.norm(z)
    x = np.cross(z, UP)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, -np.cross(x, z), z], axis=1)
    pose[:3, 3] = position
    return pose


def shake(
    frames: int,
    *,
    amount: float = 0.3,
    distance: float = 1.0,
    height: float = 0.02,
    look_height: float | None = None,
    depth_swing: float = 0.02,
    period: float = 40.0,
) -> np.ndarray:
    """[T, 4, 4]: the camera swings sideways by `amount` m once per `period` frames, and a little to and fro."""
    target = np.array([0.0, height if look_height is None else look_height, 0.0])
    poses = []
    for i in range(frames):
        side = np.sin(2 * np.pi * i / period) * amount
        poses.append(look_at(np.array([side, height, np.cos(4 * np.pi * i / period) * depth_swing + distance]), target))
    return np.stack(poses)


def orbit(
    frames: int, *, distance: float = 1.0, azimuth: float = 40.0, elevation: float = 10.0, period: float = 96.0
) -> np.ndarray:
    """[T, 4, 4]: an ellipse on a sphere about the head, to `azimuth` and `elevation` degrees, once per `period`."""
    phase = 2 * np.pi * np.arange(frames) / period
    a, e = np.radians(azimuth) * np.sin(phase), np.radians(elevation) * np.cos(phase)
    positions = distance * np.stack([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], axis=1)
    return np.stack([look_at(position, np.zeros(3)) for position in positions])


def around(view: Camera, center: np.ndarray, head_to_world: np.ndarray, poses: np.ndarray) -> list[Camera]:
    """Cameras on a path about a head, with pictures as wide at the head as those of `view`.

    Args:
        view: a camera that frames the head well, world m.
        center: [3] m, head axes: the point that poses circle.
        head_to_world: [4, 4] rigid, head axes to world m; fixed for the whole path.
        poses: [T, 4, 4] camera to head axes, about the origin.
    """
    world = head_to_world[:3, :3] @ center + head_to_world[:3, 3]
    depth = (view.world_to_camera[:3, :3] @ world + view.world_to_camera[:3, 3])[2]
    distance = float(np.linalg.norm(poses[0, :3, 3]))
    focal = view.K[0, 0] * distance / depth
    shifted = np.eye(4)
    shifted[:3, 3] = center
    middle = (view.width - 1) / 2, (view.height - 1) / 2
    return [
        Camera.pinhole(focal, focal, *middle, view.width, view.height, _inverse(head_to_world @ shifted @ pose))
        for pose in poses
    ]


def _inverse(pose: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3].T
    out[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return out
