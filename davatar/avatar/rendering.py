"""Painting an avatar: a sequence of its data set, a camera path around it, or another person's motion.

    own pictures' views          maps of the data set
    camera path, or other motion head model -> mesh -> rasterise -> maps

Every frame starts from the same noise, and frames are read, painted and written a few at a time, so that
memory does not grow with the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.frames import Frames, mesh_maps, reference_rotation
from davatar.avatar.model import Avatar, open_avatar
from davatar.avatar.posing import Motion, borrowed_motion, own_motion, posed_meshes
from davatar.avatar.trajectories import around, orbit, shake
from davatar.avatar.video import video_writer
from davatar.core.errors import ConfigError, DataError, MissingError, UsageError
from davatar.core.files import write_bytes
from davatar.core.interrupt import interruptible
from davatar.core.progress import Progress, silent
from davatar.core.runs import Run
from davatar.dataset.framing import HEAD_CENTER
from davatar.dataset.layout import SampleKey, safe_name, sequence_folder
from davatar.dataset.rendering_data import RenderingData
from davatar.geometry.camera import Camera
from davatar.headmodel.morphable import UNITS_PER_METRE
from davatar.headmodel.track import Track, load_track
from davatar.raster.embree import EmbreeRasterizer

PATHS = {"orbit": orbit, "shake": shake}
PATH_FPS = 24.0
SHOWN_SIDE = 512  # px: small pictures are enlarged to this in the video
AT_ONCE = 8


@dataclass(frozen=True)
class RenderSettings:
    sequence: str | None = None  # of the data set; None = the first held-out one, else the first
    camera: str | None = None  # a serial of the data set, "orbit" or "shake"; None = the first serial
    steps: int = 1  # sampling steps: 1 = smallest error, 5 = most detail
    seed: int = 0  # of the noise that all frames start from
    fps: float | None = None  # None = 24 for camera paths, else the recording's rate where known
    frames: int | None = None  # at most so many
    checkpoint: int | None = None  # step; None = the latest
    pictures: bool = False  # also write every frame as PNG, at the avatar's own size
    device: str = "cpu"

    def __post_init__(self):
        if self.steps < 1 or (self.frames is not None and self.frames < 1):
            raise ConfigError(f"steps ({self.steps}) and frames ({self.frames}) must be at least 1")


@dataclass(frozen=True)
class Rendered:
    video: Path
    frames: int
    fps: float


def render(
    run: Run,
    settings: RenderSettings | None = None,
    driver: Path | Track | None = None,
    out: Path | None = None,
    dataset: RenderingData | Path | None = None,
    progress: Progress = silent,
) -> Rendered:
    """Paint a video.

    Args:
        run: a trained avatar.
        driver: another person's track (or its folder), whose expressions and head motion are shown.
        out: the video; None = a name that says what it shows, in the run's `renders`.
        dataset: None = the one that the avatar was trained on, where it was then.

    Raises:
        MissingError: the data set, sequence or checkpoint is absent.
        Interrupted: a signal arrived; nothing was written but whole PNG frames.
    """
    settings = settings or RenderSettings()
    data = _data(run, dataset)
    avatar, _, _ = open_avatar(run, settings.checkpoint, settings.device)
    track = load_track(driver) if isinstance(driver, str | Path) else driver
    scene = _scene(data, avatar, settings, track)
    if out is None:
        parts = [scene.sequence, _drive_name(driver), scene.camera, f"{settings.steps}-step"]
        out = run.folder / "renders" / f"{'_'.join(filter(None, parts))}.mp4"
    out = Path(out)
    fps = settings.fps or scene.fps
    count = 0
    with interruptible() as stop, progress.task("rendering", len(scene)) as task, video_writer(out, fps) as video:
        for picture in painted(avatar, scene.frames(), settings.steps, settings.seed):
            if settings.pictures:
                write_bytes(out.with_suffix("") / f"frame_{count:05d}.png", _png(picture))
            video.add(_shown(picture))
            count += 1
            task.advance()
            stop.check("run the command again; it starts over")
    return Rendered(out, count, fps)


def _drive_name(driver: Path | Track | None) -> str | None:
    if not isinstance(driver, str | Path):
        return None if driver is None else "drive"
    path = Path(driver).absolute()
    path = path.parent if path.name in ("track.npz", "track") else path
    return f"drive-{safe_name((path.parent if path.name == 'track' else path).name)}"


def painted(
    avatar: Avatar, frames: Iterator[HeadMaps], steps: int, seed: int, at_once: int = AT_ONCE
) -> Iterator[np.ndarray]:
    """Pictures [H, W, 3] uint8 of frames, in order; what a frame looks like does not depend on its neighbours."""
    device = next(avatar.parameters()).device
    noise = avatar.noise(np.random.default_rng(seed)).to(device)
    while some := list(islice(frames, at_once)):
        with torch.no_grad():
            pictures = avatar.render(avatar.batch(some).to(device), noise, steps)
        yield from (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class Scene:
    sequence: str
    camera: str
    fps: float
    length: int
    read: Callable[[int], HeadMaps]

    def __len__(self) -> int:
        return self.length

    def frames(self) -> Iterator[HeadMaps]:
        return (self.read(index) for index in range(self.length))


def _scene(data: RenderingData, avatar: Avatar, settings: RenderSettings, driver: Track | None) -> Scene:
    """What is to be painted, frame by frame."""
    keys = _sequence_keys(data, settings.sequence)
    first, serials = keys[0], data.config.serials
    camera = settings.camera or serials[0]
    if camera not in PATHS and camera not in serials:
        names = ", ".join([*PATHS, *serials])
        raise UsageError(f"no camera {camera!r} in the data set", file=data.path, mend=f"choose among {names}")
    if driver is None and camera not in PATHS:
        chosen = [key for key in keys if key.serial == camera][: settings.frames]
        frames = Frames(data, chosen, avatar.resolution, avatar.told)
        return Scene(first.sequence, camera, PATH_FPS, len(chosen), frames.read)
    target = _track(data, first)
    if driver is None:
        wanted = sorted({key.timestep for key in keys})
        motion = own_motion(target, np.searchsorted(target.frames, wanted))
    else:
        motion = borrowed_motion(driver, target)
    count = min(len(motion), settings.frames or len(motion))
    cameras = _cameras(data, first._replace(serial=serials[0] if camera in PATHS else camera), camera, motion, count)
    return Scene(first.sequence, camera, PATH_FPS, count, _posed(data, avatar, first, target, motion, cameras))


def _posed(
    data: RenderingData, avatar: Avatar, key: SampleKey, target: Track, motion: Motion, cameras: Sequence[Camera]
) -> Callable[[int], HeadMaps]:
    meshes, rasterizer = posed_meshes(target, motion), EmbreeRasterizer()
    reference = reference_rotation(data, key)
    rays = int(np.clip(round(3 * data.crop(key)[2] / avatar.resolution), 3, 8))

    def read(index: int) -> HeadMaps:
        camera = cameras[index].resized(avatar.resolution, avatar.resolution)
        told = motion.codes[index] if avatar.told == "codes" else motion.weights[index]
        return mesh_maps(meshes(index), camera, rasterizer, rays, told, reference)

    return read


def _cameras(data: RenderingData, key: SampleKey, name: str, motion: Motion, count: int) -> list[Camera]:
    view = data.camera(key)
    if name not in PATHS:
        return [view] * count
    head = np.eye(4)
    head[:3, :3], head[:3, 3] = motion.rotation[0], motion.translation[0]
    return around(view, HEAD_CENTER / UNITS_PER_METRE, head, PATHS[name](count))


def _sequence_keys(data: RenderingData, name: str | None) -> list[SampleKey]:
    splits = data.splits()
    everything = sorted({key for keys in splits.values() for key in keys})
    if name is None:
        held = splits.get("hold-out-sequence") or everything
        name = held[0].sequence
    keys = [key for key in everything if key.sequence == name]
    if not keys:
        known = ", ".join(sorted({key.sequence for key in everything}))
        raise MissingError(f"no sequence {name!r}", file=data.path, mend=f"there are {known}")
    return keys


def _track(data: RenderingData, key: SampleKey) -> Track:
    folder = sequence_folder(data.path, key.participant, key.sequence)
    try:
        return load_track(folder)
    except DataError as error:
        raise MissingError(
            "holds no track, so its heads cannot be posed anew", file=folder, mend="rasterize the track again"
        ) from error


def _data(run: Run, dataset: RenderingData | Path | None) -> RenderingData:
    if isinstance(dataset, RenderingData):
        return dataset
    path = Path(dataset) if dataset is not None else Path(run.manifest.get("dataset", ""))
    if not (path / "config.json").is_file():
        raise MissingError(f"the data set of {run.name} is not there", file=path, mend="say where it is: --data")
    return RenderingData(path)


def _shown(picture: np.ndarray) -> np.ndarray:
    """Enlarged by a whole factor so that a small avatar fills a player's window; even sides."""
    factor = max(1, round(SHOWN_SIDE / max(picture.shape[:2])))
    if factor > 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
