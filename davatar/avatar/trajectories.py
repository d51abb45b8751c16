"""Camera paths around a head: camera-to-head poses [4, 4] in metres, head axes x left, y up, z out of the face.

`shake` and `move_x` are the published camera_shake and camera_moveX (spec diffusion-avatars 8), golden in the
tests; `orbit` swings wider. The published move_x circles in the axes of a whole rig, which `alignment` finds.
A user's own path is read by `camera_path`.
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


def move_x(frames: int, *, distance: float = 1.0, radius: float = 0.3, period: float = 96.0) -> np.ndarray:
    """[T, 4, 4]: a circle about the z axis, seen from `distance` m in front, once per `period` frames."""
    turn = -2 * np.pi * np.arange(frames) / period
    zero = np.zeros(3)
    return np.stack([look_at(np.array([-radius * np.sin(a), radius * np.cos(a), distance]), zero) for a in turn])


def alignment(camera_to_world: np.ndarray) -> np.ndarray:
    """[4, 4] world to a rig's own axes: y up, cameras look along -z, their first three rays meet at the origin.

    Args:
        camera_to_world: [N >= 3, 4, 4] rigid, OpenCV axes.

    Source: spec diffusion-avatars 8; the last turn takes the published sign, so that its numbers come out.
    """
    y, minus_z = UP, np.array([0.0, 0.0, -1.0])
    first = _minimal_rotation(-camera_to_world[:, :3, 1].mean(0), y)
    turned = first @ camera_to_world[:, :3, :3]
    second = _minimal_rotation(turned[:, :, 2].mean(0), minus_z)
    out = np.eye(4)
    out[:3, :3] = second @ first
    ahead = (out[:3, :3] @ camera_to_world[:3, :3, 2, None])[..., 0]
    places = (out[:3, :3] @ camera_to_world[:3, :3, 3, None])[..., 0]
    out[:3, 3] = -_nearest_to_rays(places[:3], ahead[:3])
    up = -(second @ turned)[:, :, 1].mean(0)
    angle = np.arccos(np.clip(up @ y / np.linalg.norm(up), -1, 1))
    last = np.eye(4)
    last[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return last @ out


def _minimal_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[3, 3] the smallest turn that brings the direction of a onto that of b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    x, y, z = axis = np.cross(a, b)
    square = axis @ axis
    if square < 1e-24:
        return np.eye(3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross * (1 - a @ b) / square


def _nearest_to_rays(places: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[3] the point with the least squared distance to lines [N, 3] + s [N, 3]."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    across = np.eye(3) - unit[:, :, None] * unit[:, None]
    return np.linalg.solve(across.sum(0), (across @ places[..., None]).sum(0)[:, 0])


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
    focal = matching_focal(view, world, float(np.linalg.norm(poses[0, :3, 3])))
    shifted = np.eye(4)
    shifted[:3, 3] = center
    middle = (view.width - 1) / 2, (view.height - 1) / 2
    return [
        Camera.pinhole(focal, focal, *middle, view.width, view.height, inverse(head_to_world @ shifted @ pose))
        for pose in poses
    ]


def matching_focal(view: Camera, place: np.ndarray, distance: float) -> float:
    """Focal length, px, with which a camera `distance` m from the world point `place` shows it as large as `view`."""
    return float(view.K[0, 0] * distance / view.project(place)[1])


def inverse(pose: np.ndarray) -> np.ndarray:
    """[4, 4] of a rigid motion."""
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3].T
    out[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return out
