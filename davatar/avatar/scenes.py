"""What a render shows, frame by frame: maps of the data set, or a head posed anew in front of a camera.

    driver       own sequence | another person's track | expressions over time
    camera       a serial of the data set | orbit | camera_shake | camera_moveX | a path of one's own

Frames are made when they are asked for, so memory does not grow with the length.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from davatar.avatar.camera_path import CameraPath, read_camera_path
from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.expressions import Expressions
from davatar.avatar.frame_rate import rate_of_track
from davatar.avatar.frames import Frames, mesh_maps, reference_rotation
from davatar.avatar.posing import Motion, borrowed_motion, expressed_motion, own_motion, posed_meshes
from davatar.avatar.trajectories import around, move_x, orbit, shake
from davatar.core.content import hash_bytes, hash_path, hash_value
from davatar.core.errors import ConfigError, DataError, MissingError, UsageError
from davatar.dataset.framing import HEAD_CENTER
from davatar.dataset.layout import SampleKey, safe_name, sequence_folder
from davatar.dataset.rendering_data import RenderingData
from davatar.geometry.camera import Camera
from davatar.headmodel.morphable import UNITS_PER_METRE
from davatar.headmodel.track import Track, load_track
from davatar.raster.embree import EmbreeRasterizer

FPS = 24.0
PATHS = ("orbit", "camera_shake", "camera_moveX")
SHORT = {"shake": "camera_shake", "moveX": "camera_moveX"}
PERIODS = {"orbit": 96, "camera_shake": 40, "camera_moveX": 96}  # frames


@dataclass(frozen=True)
class CameraMove:
    """Numbers of the camera paths; the defaults are the published ones."""

    distance: float = 1.0  # m from the head
    shake: float = 0.3  # m to either side, camera_shake
    move_y: float = 0.02  # m above the head's middle
    look_y: float | None = None  # m, height looked at; None = the camera's
    curve_z: float = 0.02  # m to and fro, camera_shake
    period: float | None = None  # frames; None = 40 for camera_shake, 96 for the others

    def __post_init__(self):
        if self.distance <= 0 or (self.period is not None and self.period <= 0):
            raise ConfigError(f"distance ({self.distance:g}) and period ({self.period}) must be positive")

    def poses(self, name: str, frames: int) -> np.ndarray:
        """[T, 4, 4] camera to head axes, m."""
        period = self.period or PERIODS[name]
        if name == "orbit":
            return orbit(frames, distance=self.distance, period=period)
        if name == "camera_moveX":
            return move_x(frames, distance=self.distance, radius=self.shake, period=period)
        return shake(
            frames,
            amount=self.shake,
            distance=self.distance,
            height=self.move_y,
            look_height=self.look_y,
            depth_swing=self.curve_z,
            period=period,
        )


@dataclass(frozen=True)
class Shot:
    """Which frames, from which camera."""

    sequence: str | None = None  # of the data set; None = the first held-out one, else the first
    camera: str | None = None  # a serial of the data set, one of PATHS, or a JSON file; None = the first serial
    move: CameraMove = CameraMove()
    start: int = 0  # first frame
    frames: int | None = None  # at most so many
    still: bool = False  # the head keeps the pose and expression of the first frame
    fps: float | None = None  # None = that of whoever moves, where it is known; else 24

    def __post_init__(self):
        if self.start < 0 or (self.frames is not None and self.frames < 1) or (self.fps is not None and self.fps <= 0):
            raise ConfigError(f"start ({self.start}), frames ({self.frames}) and fps ({self.fps}) must be positive")


@dataclass(frozen=True)
class Scene:
    sequence: str
    camera: str
    fps: float
    length: int  # frames
    read: Callable[[int], Any]  # frame -> what the avatar's `batch` takes
    content: str  # hash: equal ones show the same
    photographed: bool = False  # frames carry the picture that was taken

    def __len__(self) -> int:
        return self.length


def data_scene(
    data: RenderingData,
    resolution: int,
    told: str,
    shot: Shot,
    driver: Track | None = None,
    expressions: Expressions | None = None,
    restart: int = 1,
    driver_fps: float | None = None,
) -> Scene:
    """
    Args:
        driver: whose head motion and, unless `expressions` are given, expressions are shown; None = the person's own.
        driver_fps: frames of `driver` per second, where they are known.
        restart: see `posed_meshes`.

    Raises:
        UsageError: no such camera, or the frames lie outside the sequence.
        MissingError: no such sequence or camera file, or the data set holds no track to pose.
        DataError: the driver's head model is another one; the camera file is broken.
    """
    keys = sequence_keys(data, shot.sequence)
    camera, path = chosen_camera(shot.camera, data.config.serials, data.path)
    own = driver is None and expressions is None
    fps = shot.fps or (_own_rate(data, keys) if own else driver_fps) or FPS
    hashed = [hash_path(data.path, "*.json"), resolution, told]
    moving = path is not None or camera in PATHS
    if own and not moving and not shot.still:
        stored = [key for key in keys if key.serial == camera]
        stored = stored[slice(*frame_range(len(stored), shot))]
        frames = Frames(data, stored, resolution, told)
        return Scene(keys[0].sequence, camera, fps, len(stored), frames.read, hash_value([*hashed, stored]), True)
    key = keys[0]._replace(serial=data.config.serials[0] if moving else camera)
    target = _track(data, key)
    motion = _motion(target, sorted({key.timestep for key in keys}), shot, fps, driver, expressions)
    if shot.still:
        motion = motion.at(np.zeros(_still_frames(shot, fps, camera, path), int))
    cameras = _cameras(data, key, camera, path, motion, shot.move, fps)
    cameras = [view.resized(resolution, resolution) for view in cameras]
    read = posed_frames(data, key, told, target, motion, cameras, restart)
    hashed += [hash_path(sequence_folder(data.path, key.participant, key.sequence) / "track.npz"), restart]
    hashed += [hash_bytes(array.tobytes()) for array in vars(motion).values()]
    hashed += [hash_bytes(np.stack([view.K, view.world_to_camera[:3, :3]]).tobytes()) for view in cameras]
    hashed += [view.world_to_camera[:3, 3].tolist() for view in cameras]
    return Scene(key.sequence, camera + "_still" * shot.still, fps, len(motion), read, hash_value(hashed))


def _own_rate(data: RenderingData, keys: Sequence[SampleKey]) -> float | None:
    """Frames per second of a sequence; None where its track is absent or does not say."""
    try:
        track = _track(data, keys[0])
    except MissingError:
        return None
    return rate_of_track(track, sorted({key.timestep for key in keys}))


def frame_range(count: int, shot: Shot) -> tuple[int, int]:
    """First frame and the one after the last, of a sequence of `count`.

    Raises:
        UsageError: it begins behind the end.
    """
    if shot.start >= count:
        raise UsageError(f"frame {shot.start} was asked for, the sequence has frames 0 to {count - 1}")
    return shot.start, min(shot.start + (shot.frames or count), count)


def chosen_camera(name: str | None, serials: Sequence[str], where: Path) -> tuple[str, CameraPath | None]:
    """The camera's name, and its path where it is a file.

    Raises:
        UsageError: no such camera. MissingError, DataError: the file is absent, or broken.
    """
    name = name or serials[0]
    if name.lower().endswith(".json"):
        return safe_name(Path(name).stem), read_camera_path(name)
    known = [*PATHS, *serials]
    if name not in known and name not in SHORT:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"no camera {name!r} in the data set",
            file=where,
            mend=f"{hint}choose among {', '.join(known)}, or a JSON file",
        )
    return SHORT.get(name, name), None


def _motion(
    target: Track, timesteps: list[int], shot: Shot, fps: float, driver: Track | None, expressions: Expressions | None
) -> Motion:
    motion = None
    if driver is not None:
        motion = borrowed_motion(driver, target)
    elif expressions is None:
        motion = own_motion(target, np.searchsorted(target.frames, timesteps))
    if expressions is not None:
        motion = expressed_motion(expressions, target, expressions.frames(fps), fps, motion)
    return motion.at(np.arange(*frame_range(len(motion), shot)))


def _still_frames(shot: Shot, fps: float, camera: str, path: CameraPath | None) -> int:
    """How long a still head is looked at: as long as the camera moves."""
    if shot.frames is not None:
        return shot.frames
    return path.frames(fps) if path else round(shot.move.period or PERIODS.get(camera, 1))


def posed_frames(
    data: RenderingData,
    key: SampleKey,
    told: str,
    target: Track,
    motion: Motion,
    cameras: Sequence[Camera],
    restart: int = 1,
) -> Callable[[int], HeadMaps]:
    """frame -> maps of the head posed anew.

    Args:
        key: the view whose axes and fineness the data set was made in.
        cameras: square, at the avatar's resolution.
    """
    meshes, rasterizer = posed_meshes(target, motion, restart), EmbreeRasterizer()
    reference = reference_rotation(data, key)
    rays = int(np.clip(round(3 * data.crop(key)[2] / cameras[0].width), 3, 8))

    def read(index: int) -> HeadMaps:
        expression = motion.codes[index] if told == "codes" else motion.weights[index]
        return mesh_maps(meshes(index), cameras[index], rasterizer, rays, expression, reference)

    return read


def _cameras(
    data: RenderingData,
    key: SampleKey,
    name: str,
    path: CameraPath | None,
    motion: Motion,
    move: CameraMove,
    fps: float,
) -> list[Camera]:
    view, count = data.camera(key), len(motion)
    if path is None and name not in PATHS:
        return [view] * count
    head = np.eye(4)
    head[:3, :3], head[:3, 3] = motion.rotation[0], motion.translation[0]
    center = HEAD_CENTER / UNITS_PER_METRE
    if path is not None:
        return path.cameras(count, fps, view, center, head)
    return around(view, center, head, move.poses(name, count))


def sequence_keys(data: RenderingData, name: str | None) -> list[SampleKey]:
    """Samples of a sequence, by time and camera; the first held-out one by default.

    Raises:
        MissingError: no such sequence.
    """
    splits = data.splits()
    everything = sorted({key for keys in splits.values() for key in keys})
    if name is None:
        held = splits.get("hold-out-sequence") or everything
        name = held[0].sequence
    keys = [key for key in everything if key.sequence == name]
    if not keys:
        known = sorted({key.sequence for key in everything})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise MissingError(f"no sequence {name!r}", file=data.path, mend=f"{hint}there are {', '.join(known)}")
    return [key for key in keys if key.participant == keys[0].participant]


def _track(data: RenderingData, key: SampleKey) -> Track:
    folder = sequence_folder(data.path, key.participant, key.sequence)
    try:
        return load_track(folder)
    except DataError as error:
        raise MissingError(
            "holds no track, so its heads cannot be posed anew", file=folder, mend="rasterize the track again"
        ) from error
