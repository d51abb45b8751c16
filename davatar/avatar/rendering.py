"""Painting an avatar: a sequence of its data set, a camera path around it, or another's motion and expressions.

    scene (avatar.scenes) -> frames -> pictures on disk (avatar.frame_folder) -> videos

Every frame starts from the same noise. Frames are read, painted and written a chunk at a time, so that memory does
not grow with the length, and a killed render goes on at the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from davatar.avatar.computing import Computing
from davatar.avatar.condition_pictures import beside_truth, condition_row
from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.expressions import Expressions, read_expressions
from davatar.avatar.frame_folder import FrameFolder
from davatar.avatar.frame_rate import rate_of_folder, rate_of_track
from davatar.avatar.model import Avatar, open_avatar
from davatar.avatar.precision import Precision
from davatar.avatar.published_settings import AttentionName
from davatar.avatar.scenes import Scene, Shot, data_scene
from davatar.avatar.video import enlarged, video_writer
from davatar.core import paths
from davatar.core.content import hash_path, hash_value
from davatar.core.devices import check_device
from davatar.core.errors import ConfigError, DataError, MissingError, ResourceError, UsageError
from davatar.core.files import check_output_file, read_json
from davatar.core.interrupt import interruptible
from davatar.core.lock import exclusive
from davatar.core.progress import Progress, silent
from davatar.core.runs import Run
from davatar.dataset.layout import resolve_version, safe_name
from davatar.dataset.rendering_data import RenderingData
from davatar.headmodel.track import Track, load_track

AT_ONCE = 8
PUBLISHED_SEED = 181998
STEPS = {"tiny": 1, "published": 20}


@dataclass(frozen=True)
class RenderSettings:
    shot: Shot = field(default_factory=Shot)
    steps: int | None = None  # sampling steps; None = 1 for the small avatar (5 = most detail), 20 for the published
    sampler: str | None = None  # of the published kind: ddpm (the default), ddim, unipc or dpm-solver++
    compat: bool = False  # the noise of the published script: fresh for each place in a batch
    batch: int | None = None  # frames painted at once; None = 8, with `compat` 1 as published
    seed: int | None = None  # of the noise that all frames start from; None = 0, with `compat` the published seed
    checkpoint: int | None = None  # step; None = the latest
    pictures: bool = False  # keep every frame as PNG, at the avatar's own size
    conditions: bool = False  # a second video of what the avatar is told
    compare: bool = False  # a second video: truth, avatar, difference
    device: str = "cpu"
    precision: Precision = "auto"  # inside the network, see `precision.for_painting`
    base: str | None = None  # frozen base of the published kind, if not the one that archive or run names
    preview_decoder: Path | None = None  # folder of a small decoder, see `avatar.preview_decoder`
    compile: bool = False  # the denoiser, where this machine can
    attention: AttentionName = "sdpa"  # of the published kind

    def __post_init__(self):
        if self.at_once < 1 or (self.steps is not None and self.steps < 1):
            raise ConfigError(f"steps ({self.steps}) and batch ({self.batch}) must be at least 1")

    @property
    def at_once(self) -> int:
        return self.batch if self.batch is not None else 1 if self.compat else AT_ONCE

    @property
    def computing(self) -> Computing:
        return Computing(self.device, self.precision, self.compat, self.preview_decoder, self.compile, self.attention)


@dataclass(frozen=True)
class Rendered:
    video: Path
    frames: int
    fps: float
    precision: str
    conditions: Path | None = None
    compare: Path | None = None
    pictures: Path | None = None  # folder of the PNG frames


def render(
    run: Run,
    settings: RenderSettings | None = None,
    driver: Path | Track | None = None,
    out: Path | None = None,
    dataset: RenderingData | Path | None = None,
    expressions: Path | Expressions | None = None,
    progress: Progress = silent,
) -> Rendered:
    """Paint a video.

    Args:
        run: a trained avatar.
        driver: another person's track (or its folder), whose expressions and head motion are shown.
        out: the video; None = a name that says what it shows, in the run's `renders`.
        dataset: None = the one that the avatar was trained on, where it was then.
        expressions: over time (or the CSV file that holds them), instead of the driver's own.

    Raises:
        MissingError: the device, data set, driver, camera file, sequence or checkpoint is absent.
        UsageError: no such camera or frames; nothing to compare with; no video can be written at `out`, or another
            process renders there.
        Interrupted: a signal arrived; run again to go on.
    """
    settings = settings or RenderSettings()
    check_device(settings.device)
    if out is not None:
        check_output_file(out)
    data = dataset if isinstance(dataset, RenderingData) else _data(run, dataset)
    track = read_driver(driver) if isinstance(driver, str | Path) else driver
    told = expressions if isinstance(expressions, Expressions | None) else read_expressions(expressions)
    if not data.is_ours and (track is not None or told is not None):
        raise UsageError(
            "published recordings hold finished meshes, which nobody else can move",
            file=data.path,
            mend="leave out the driver and the expressions",
        )
    avatar, weights, computed = _opened(run, settings)
    painter = Painter.of(avatar, settings, computed)
    if data.is_ours:
        rate = None if track is None else _rate(track, driver)
        scene = data_scene(data, avatar.resolution, avatar.told, settings.shot, track, told, settings.at_once, rate)
    else:
        from davatar.avatar.archive_scenes import archive_scene

        codes = avatar.expression_size
        scene = archive_scene(data, data.raw, avatar.resolution, codes, settings.shot, settings.compat)
    if settings.compare and not scene.photographed:
        raise UsageError(
            "there are no photographs to compare with",
            mend="leave out --compare, or the camera path, driver and expressions",
        )
    if out is None:
        home = paths.renders_dir() / run.name if run.published else run.folder / "renders"
        by = [None if expressions is None else _expression_name(expressions), _drive_name(driver)]
        parts = [scene.sequence, *by, scene.camera, painter.name]
        out = home / f"{'_'.join(filter(None, parts))}.mp4"
    out = Path(out)
    if out.suffix.lower() != ".mp4":
        raise UsageError("videos are MP4 files", file=out, mend=f"call it {out.name}.mp4")
    content = hash_value([scene.content, len(scene), painter.told(), hash_path(weights)])
    return write_scene(scene, painter, out, settings, content, progress)


def read_driver(path: str | Path) -> Track:
    """The track of a folder, or of its track.npz.

    Raises:
        MissingError: there is none. DataError: it is not readable.
    """
    path = Path(path)
    file = path / "track.npz" if path.is_dir() else path
    if not file.is_file():
        raise MissingError("no track there", file=file, mend="name the folder of a track, as `davatar track` writes it")
    return load_track(file)


def _rate(track: Track, source: Path | Track) -> float | None:
    """Frames per second of a driver: its table's, else its settings'; None where neither tells."""
    told = rate_of_folder(source) if isinstance(source, str | Path) else None
    return told or rate_of_track(track, track.frames)


@dataclass(frozen=True)
class Painter:
    """An avatar as a function of frames."""

    avatar: Avatar
    noise: torch.Tensor  # [1, C, h, w] that every frame starts from
    steps: int
    extra: dict[str, Any] = field(default_factory=dict)  # further arguments of the avatar's `render`
    name: str = ""  # for file names
    seed: int = 0
    computed: dict[str, Any] = field(default_factory=dict)  # see `Computing.prepare`

    @staticmethod
    def of(avatar: Avatar, settings: RenderSettings, computed: dict[str, Any] | None = None) -> Painter:
        """
        Args:
            computed: how the avatar computes, as `Computing.prepare` said; None = as it stands.

        Raises:
            UsageError: a sampler, or `compat`, that the small avatar does not know.
        """
        kind = "published" if "published" in avatar.kind else "tiny"
        steps = settings.steps or STEPS[kind]
        extra: dict[str, Any] = {}
        if kind == "published":
            extra = {"sampler": settings.sampler or "ddpm", "compat": settings.compat}
        elif settings.sampler not in (None, "ddim") or settings.compat:
            asked = f"sampler {settings.sampler}" if settings.sampler not in (None, "ddim") else "compat"
            raise UsageError(f"{asked} is for avatars of the published kind", mend="leave it out: this one uses ddim")
        seed = settings.seed if settings.seed is not None else PUBLISHED_SEED if settings.compat else 0
        noise = published_noise(avatar, seed) if settings.compat else avatar.noise(np.random.default_rng(seed))
        parts = [f"{steps}-step", settings.sampler, "compat" if settings.compat else None]
        parts.append(settings.precision if settings.precision != "auto" else None)
        parts.append("preview" if settings.preview_decoder else None)
        name = "_".join(filter(None, [*parts, f"seed-{seed}" if settings.seed else None]))
        return Painter(avatar, noise, steps, extra, name, seed, computed or {})

    def told(self) -> list[Any]:
        """Everything but the weights that its pictures depend on."""
        return [self.steps, self.extra, self.seed, self.computed]

    def __call__(self, frames: Sequence[Any]) -> np.ndarray:
        """[B, H, W, 3] uint8"""
        device = next(self.avatar.parameters()).device
        with torch.no_grad():
            batch = self._packed(frames).to(device)
            pictures = self.avatar.render(batch, self.noise.to(device), self.steps, **self.extra)
        return (pictures.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def _packed(self, frames: Sequence[Any]) -> Any:
        if isinstance(frames[0], HeadMaps):
            return self.avatar.batch(frames)
        from davatar.avatar.archive_scenes import image_batch

        return image_batch(frames)


def published_noise(avatar: Avatar, seed: int) -> torch.Tensor:
    """[1, C, h, w] where the published script starts every frame: torch's first draw after seeding it."""
    return torch.randn((1, *avatar.latent_shape), generator=torch.Generator().manual_seed(seed))


def painted(
    avatar: Avatar, frames: Iterator[HeadMaps], steps: int, seed: int, at_once: int = AT_ONCE
) -> Iterator[np.ndarray]:
    """Pictures [H, W, 3] uint8 of frames, in order; what a frame looks like does not depend on its neighbours."""
    painter = Painter(avatar, avatar.noise(np.random.default_rng(seed)), steps)
    while some := list(islice(frames, at_once)):
        yield from painter(some)


def write_scene(
    scene: Scene, painter: Painter, out: Path, settings: RenderSettings, content: str, progress: Progress = silent
) -> Rendered:
    """Paint what is missing of a scene, then write the videos.

    Args:
        content: hash of scene, avatar and sampling: pictures of another one beside `out` are painted anew.
    """
    kinds: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {"frames": lambda frame, picture: picture}
    if settings.conditions:
        kinds["conditions"] = lambda frame, picture: _row(frame)
    if settings.compare:
        kinds["compare"] = _beside
    videos = {kind: out if kind == "frames" else out.with_stem(f"{out.stem}_{kind}") for kind in kinds}
    with exclusive(out.with_suffix("")) as home, interruptible() as stop:
        folder = FrameFolder(home, tuple(kinds), content, len(scene), settings.at_once)
        todo = folder.missing()
        with progress.task("rendering", len(scene)) as task:
            task.advance(len(scene) - sum(map(len, todo)))
            for chunk in todo:
                with memory_errors(settings.at_once):
                    frames = [scene.read(index) for index in chunk]
                    pictures = painter(frames)
                made = {
                    kind: [make(*pair) for pair in zip(frames, pictures, strict=True)] for kind, make in kinds.items()
                }
                folder.put(chunk, made)
                task.advance(len(chunk))
                stop.check()
        for kind, path in videos.items():
            with video_writer(path, scene.fps) as video:
                for picture in folder.read(kind):
                    video.add(enlarged(picture))
                    stop.check()
        folder.keep_only(("frames",) if settings.pictures else ())
    return Rendered(
        videos["frames"],
        len(scene),
        scene.fps,
        painter.computed.get("precision", "float32"),
        videos.get("conditions"),
        videos.get("compare"),
        home / "frames" if settings.pictures else None,
    )


def _beside(frame: Any, picture: np.ndarray) -> np.ndarray:
    if frame.image is None:
        raise DataError(f"{frame.key} has no photograph to compare with", mend="leave out --compare")
    return beside_truth(picture, frame.image)


def _row(frame: Any) -> np.ndarray:
    return condition_row(frame) if isinstance(frame, HeadMaps) else frame.row()


def _drive_name(driver: Path | Track | None) -> str | None:
    if not isinstance(driver, str | Path):
        return None if driver is None else "drive"
    path = Path(driver).absolute()
    path = path.parent if path.name in ("track.npz", "track") else path
    return f"drive-{safe_name((path.parent if path.name == 'track' else path).name)}"


def _expression_name(expressions: Path | Expressions) -> str:
    named = isinstance(expressions, str | Path)
    return f"expressions-{safe_name(Path(expressions).stem)}" if named else "expressions"


@contextmanager
def memory_errors(batch: int) -> Iterator[None]:
    """
    Raises:
        ResourceError: the block ran out of memory; says what needs less.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        less = f"--batch {batch // 2}" if batch > 1 else "another --device"
        raise ResourceError(f"out of memory with {batch} frames at once", mend=f"try {less}") from error


def _opened(run: Run, settings: RenderSettings) -> tuple[Avatar, Path, dict[str, Any]]:
    """The avatar, the file or folder of its weights, and how it computes."""
    avatar, trained, step = open_avatar(run, settings.checkpoint, settings.device, settings.base)
    computed = settings.computing.prepare(avatar, trained.precision)
    if run.published:
        from davatar.avatar.published_checkpoint import published_checkpoints

        return avatar, published_checkpoints(run.folder)[step], computed
    return avatar, run.checkpoints()[step], computed


def _data(run: Run, dataset: Path | None) -> RenderingData:
    """The data set at a path, or else the one a run was trained on; a published one with its raw recording."""
    if dataset is None and run.published:
        version = read_json(run.folder / "dataset_config.json")["dataset_version"]
        path = resolve_version(version, paths.data_dir() / "rendering_data")
    else:
        path = Path(dataset) if dataset is not None else Path(run.manifest.get("dataset", ""))
    if not (path / "config.json").is_file():
        raise MissingError(f"the data set of {run.name} is not there", file=path, mend="say where it is: --data")
    data = RenderingData(path)
    if data.is_ours:
        return data
    raw = next((folder for folder in (path.parent.parent / "nersemble", _raw()) if folder.is_dir()), None)
    if raw is None:
        raise MissingError(
            "the raw recording, which holds its meshes and cameras, is not there",
            file=_raw(),
            mend="davatar data fetch <participant> --what nersemble",
        )
    return RenderingData(path, raw)


def _raw() -> Path:
    return paths.data_dir() / "nersemble"
