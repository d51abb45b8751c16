"""A camera path of one's own, from a JSON file: keys in time, smooth in between, held after the last.

    [{"time": 0, "position": [0, 0, 0.9], "look_at": [0, 0, 0], "fov": 20},
     {"time": 2, "position": [0.3, 0.05, 0.7]}]

    {"width": 512, "keys": [{"time": 0, "world_to_camera": [4 rows of 4], "K": [3 rows of 3]}, ...]}

`time` in s; `fov` in degrees across the square picture. `position` and `look_at` are metres in head axes
(x to the subject's left, y up, z out of the face) about the middle of the head, `world_to_camera` is in the world of
the recording (OpenCV axes); `K` in pixels of a picture `width` wide. Without `fov` or `K` the head is as large, at the
first key, as in the data set's camera. A number left out of a look-at key is as in the key before.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from davatar.avatar.trajectories import UP, inverse, look_at, matching_focal
from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json
from davatar.geometry.camera import Camera

LOOKING, PLACED = ("position", "look_at"), ("world_to_camera", "K")
KNOWN = ("time", *LOOKING, *PLACED, "fov")


@dataclass(frozen=True)
class CameraPath:
    times: np.ndarray  # [K] s, rising
    position: np.ndarray  # [K, 3] m, head axes about the middle of the head; of the world where `rotation` is given
    target: np.ndarray | None  # [K, 3] m, what a look-at path looks at
    rotation: np.ndarray | None  # [K, 3, 3] camera to world
    lens: np.ndarray | None  # [K, 4] fx, fy, cx, cy as shares of the picture's width; None = as the data set's camera

    def frames(self, fps: float) -> int:
        """How many frames reach from the first key to the last."""
        return round((self.times[-1] - self.times[0]) * fps) + 1

    def cameras(self, count: int, fps: float, view: Camera, center: np.ndarray, head_to_world: np.ndarray):
        """[count] cameras as large as `view`.

        Args:
            view: the data set's camera, world m.
            center: [3] m, head axes: the middle of the head.
            head_to_world: [4, 4] rigid, head axes to world m.
        """
        when = np.minimum(self.times[0] + np.arange(count) / fps, self.times[-1])
        middle = np.eye(4)
        middle[:3, 3] = center
        poses = self._poses(when)
        if self.rotation is None:
            poses = head_to_world @ middle @ poses
        if self.lens is None:
            place = head_to_world[:3, :3] @ center + head_to_world[:3, 3]
            focal = matching_focal(view, place, float(np.linalg.norm(poses[0, :3, 3] - place)))
            lenses = np.tile([focal, focal, (view.width - 1) / 2, (view.height - 1) / 2], (count, 1))
        else:
            lenses = _smooth(self.times, self.lens, when) * view.width
            lenses[:, 2:] -= 0.5  # shares count from the picture's edge, pixels from the first centre
        return [
            Camera.pinhole(*lens, view.width, view.height, inverse(pose))
            for lens, pose in zip(lenses, poses, strict=True)
        ]

    def _poses(self, when: np.ndarray) -> np.ndarray:
        """[T, 4, 4] camera to head axes about the middle, or to the world."""
        places = _smooth(self.times, self.position, when)
        if self.rotation is None:
            return np.stack(
                [look_at(p, t) for p, t in zip(places, _smooth(self.times, self.target, when), strict=True)]
            )
        out = np.tile(np.eye(4), (len(when), 1, 1))
        out[:, :3, 3] = places
        out[:, :3, :3] = _turned(self.times, self.rotation, when)
        return out


def read_camera_path(path: str | Path) -> CameraPath:
    """
    Raises:
        MissingError: there is no such file.
        DataError: no JSON, or a key that cannot be understood; names the key and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError("no camera path there", file=path, mend="name a JSON file of keys: `davatar render --help`")
    told = read_json(path)
    about, keys = (told, told.get("keys")) if isinstance(told, dict) else ({}, told)
    _names(about, ("keys", "width"), "the file", path)
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise DataError("holds no list of keys", file=path, mend='write [{"time": 0, "position": [0, 0, 0.9]}, ...]')
    for k, key in enumerate(keys):
        _names(key, KNOWN, f"key {k}", path)
    times = np.array([_array(key, "time", (), k, path) for k, key in enumerate(keys)])
    if (np.diff(times) <= 0).any():
        raise DataError(f"key {int(np.argmax(np.diff(times) <= 0)) + 1} is not later than the one before it", file=path)
    placed = ["world_to_camera" in key for key in keys]
    if any(placed) != all(placed):
        raise DataError(f"key {placed.index(False)} has no world_to_camera, others do", file=path)
    lens = _lenses(keys, about.get("width"), path)
    if all(placed):
        poses = np.stack(
            [_rigid(_array(key, "world_to_camera", (4, 4), k, path), k, path) for k, key in enumerate(keys)]
        )
        return CameraPath(times, poses[:, :3, 3], None, poses[:, :3, :3], lens)
    position, target = _filled(keys, "position", path), _filled(keys, "look_at", path, np.zeros(3))
    for k, away in enumerate(target - position):
        if np.linalg.norm(np.cross(away, UP)) < 1e-6:
            raise DataError(f"key {k} looks straight up or down, or at itself", file=path, mend="move it a little")
    return CameraPath(times, position, target, None, lens)


def _names(told: dict[str, Any], known: tuple[str, ...], where: str, path: Path) -> None:
    for name in told:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise DataError(f"{where} has {name!r}, which is not known", file=path, mend=mend)


def _array(key: dict[str, Any], name: str, shape: tuple[int, ...], k: int, path: Path) -> np.ndarray:
    if name not in key:
        raise DataError(f"key {k} has no {name}", file=path)
    try:
        value = np.array(key[name], np.float64)
    except (TypeError, ValueError):
        value = np.array(np.nan)
    if value.shape != shape or not np.isfinite(value).all():
        wanted = " x ".join(map(str, shape)) + " numbers" if shape else "a number"
        raise DataError(f"{name} of key {k} is {key[name]!r}, expected {wanted}", file=path)
    return value


def _filled(keys: list[dict[str, Any]], name: str, path: Path, default: np.ndarray | None = None) -> np.ndarray:
    """[K, 3]; what a key leaves out is as in the key before."""
    out = []
    for k, key in enumerate(keys):
        if name in key or (not out and default is None):
            out.append(_array(key, name, (3,), k, path))
        else:
            out.append(out[-1] if out else default)
    return np.stack(out)


def _lenses(keys: list[dict[str, Any]], width: Any, path: Path) -> np.ndarray | None:
    """[K, 4] shares of the picture's width, or None where no key has a lens."""
    if not any("K" in key or "fov" in key for key in keys):
        return None
    out: list[np.ndarray] = []
    for k, key in enumerate(keys):
        if "K" in key:
            if not isinstance(width, int | float) or width <= 0:
                raise DataError(f"key {k} has K, but the file no width that its pixels count", file=path)
            K = _array(key, "K", (3, 3), k, path)
            out.append(np.array([K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5]) / width)
        elif "fov" in key:
            fov = _array(key, "fov", (), k, path)
            focal = 0.5 / np.tan(np.radians(np.clip(fov, 1e-3, 179.9)) / 2)
            out.append(np.array([focal if 0 < fov < 179.9 else 0.0] * 2 + [0.5] * 2))
        elif out:
            out.append(out[-1])
        else:
            raise DataError("the first key has neither fov nor K, later ones do", file=path)
        if out[-1][:2].min() <= 0:
            raise DataError(
                f"the lens of key {k} has no positive focal length", file=path, mend="fov runs from 0 to 179"
            )
    return np.stack(out)


def _rigid(world_to_camera: np.ndarray, k: int, path: Path) -> np.ndarray:
    """[4, 4] camera to world."""
    turn = world_to_camera[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
        raise DataError(f"world_to_camera of key {k} is no rotation and translation", file=path)
    return inverse(world_to_camera)


def _smooth(times: np.ndarray, values: np.ndarray, when: np.ndarray) -> np.ndarray:
    """[T, N] curves through [K, N] that start and end at rest."""
    from scipy.interpolate import CubicSpline

    return CubicSpline(times, values, bc_type="clamped")(when) if len(times) > 1 else np.tile(values, (len(when), 1))


def _turned(times: np.ndarray, rotation: np.ndarray, when: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation, RotationSpline

    keys = Rotation.from_matrix(rotation)
    return RotationSpline(times, keys)(when).as_matrix() if len(times) > 1 else np.tile(rotation, (len(when), 1, 1))
