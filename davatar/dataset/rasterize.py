"""Tracked recordings -> a data set in the published layout, with our channels beside it.

    v0.1-<name>/config.json, stats.json       published keys; stats.json is written last
        davatar.json                          settings, hold-outs, inputs
        cameras.json                          participant -> sequence -> serial -> camera after the crop
        journal.jsonl                         finished time steps: a killed run goes on there
        001/<SEQ>/expression.npz              timesteps [T], codes [T, De], weights [T, 53], head_to_world [T, 4, 4]
        001/<SEQ>/track.npz                   the whole track, so that an avatar can be posed anew; settings.geometry
        001/<SEQ>/cam_<serial>/{uv,normals,depths,mask,uv_ambient,coverage,images,alpha}/frame_00000.png

One item is one time step with all its cameras. Nothing in the files depends on when or how often the run was
interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from davatar.capture.frame import Capture
from davatar.core import plugins
from davatar.core.content import hash_path, hash_value
from davatar.core.errors import DataError, UsageError
from davatar.core.files import atomic_path, read_json, write_bytes, write_json
from davatar.core.interrupt import interruptible
from davatar.core.journal import Journal
from davatar.core.lock import exclusive
from davatar.core.progress import Progress, silent
from davatar.dataset import channels, framing
from davatar.dataset.geometry import MeshSource, cut_neck, linear_meshes, neural_meshes
from davatar.dataset.layout import (
    DataConfig,
    MeshConfig,
    SampleKey,
    Stats,
    channel_path,
    claim_version,
    safe_name,
    sequence_folder,
    versions,
)
from davatar.dataset.settings import RasterSettings
from davatar.dataset.tracks import check_track
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.headmodel.track import Track, load_track, save_track
from davatar.raster.maps import Rasterizer

LOST = 2  # Track.flag from here on: the pose is not measured


@dataclass(frozen=True)
class Recording:
    """One sequence of one participant, with its geometry: what becomes one folder of the data set."""

    participant: int
    sequence: str
    capture: Capture  # "background": "white" in its provenance or meta.json: its colours are on white already
    track: Track
    meshes: MeshSource  # row of `track` -> mesh in world metres, canonical [V, 3 or 5] in head-model units
    content: str  # hash of track and geometry: a changed one is rasterised again
    geometry: str = "exact"  # neural, linear, or exact: where the meshes come from


def tracked(
    folder: Path,
    capture: Capture,
    participant: int = 1,
    sequence: str | None = None,
    geometry: Literal["neural", "linear"] = "neural",
) -> Recording:
    """A track's folder and the recording that it was fitted to.

    Raises:
        MissingError: no track there, or neural geometry is asked for and has no meshes.
        DataError: the track cannot be read, or was made from another recording.
    """
    folder = Path(folder)
    check_track(folder)
    track = load_track(folder)
    if track.frames.max(initial=-1) >= len(capture):
        raise DataError(
            f"was made from frame {track.frames.max()}, but {capture.name} has {len(capture)} frames",
            file=folder,
            mend="name the recording that was tracked",
        )
    meshes = neural_meshes(track, folder) if geometry == "neural" else linear_meshes(track)
    content = hash_value([hash_path(folder / "track.npz"), geometry])
    return Recording(participant, safe_name(sequence or capture.name), capture, track, meshes, content, geometry)


def rasterize_tracks(
    recordings: Sequence[Recording],
    out: Path,
    settings: RasterSettings,
    name: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Write (or go on writing) the data set folder `out`.

    Args:
        recordings: in the order of the data set; see `tracked`, or make them directly (exact meshes).
        out: the data set's own folder, e.g. from `layout.claim_version`.

    Returns:
        `out`.

    Raises:
        UsageError: `out` holds another data set, or another process writes there.
        DataError: nothing could be rasterised. Frames that cannot be read are left out with a warning.
        Interrupted: stopped by a signal; run again to go on.
    """
    out = Path(out)
    _check(recordings)
    about = describe(recordings, settings)
    with exclusive(out):
        _claim(out, about)
        serials = _serials(recordings, settings)
        journal = Journal(out / "journal.jsonl", hash_value(about["settings"]))
        write_json(out / "config.json", dataclasses.asdict(_config(recordings, serials, name)))
        rasterizer: Rasterizer = plugins.load("davatar.rasterizers", settings.rasterizer)()
        rows = {id(r): _rows(r, settings) for r in recordings}
        cameras: dict = {}
        timesteps: dict[tuple[int, str], list[int]] = {}
        total = sum(map(len, rows.values())) * len(serials)
        with interruptible() as stop, progress.task("rasterise", total) as task:
            for recording in recordings:
                views = _framed(recording, rows[id(recording)], serials, settings)
                cameras.setdefault(f"{recording.participant:03d}", {})[recording.sequence] = views
                done = []
                for row in rows[id(recording)]:
                    if _step(out, recording, row, views, settings, rasterizer, journal, progress):
                        done.append(int(recording.track.frames[row]))
                    task.advance(len(serials))
                    stop.check()
                timesteps[recording.participant, recording.sequence] = done
                _write_expression(out, recording, done)
        if not any(timesteps.values()):
            raise DataError("no frame could be rasterised", file=out, mend="look at the warnings above")
        write_json(out / "cameras.json", _camera_file(cameras))
        write_json(out / "stats.json", dataclasses.asdict(Stats.of(timesteps, len(serials))))
    return out


@dataclass(frozen=True)
class Estimate:
    steps: int
    views: int
    bytes: int


def estimate(recordings: Sequence[Recording], settings: RasterSettings) -> Estimate:
    """What a run would write; about 4 bytes per pixel and picture were measured on heads that fill the square."""
    _check(recordings)
    steps, views = sum(len(_rows(r, settings)) for r in recordings), len(_serials(recordings, settings))
    return Estimate(steps, views, 4 * steps * views * settings.size**2)


def place(root: Path, recordings: Sequence[Recording], settings: RasterSettings, name: str) -> Path:
    """The version below `root` that already is, or was begun as, this data set; else a new version's folder."""
    same = [folder for folder in versions(root) if is_unfinished(folder, recordings, settings) is not None]
    return same[-1] if same else claim_version(root, name)


def describe(recordings: Sequence[Recording], settings: RasterSettings) -> dict:
    """What davatar.json says; two runs with an equal description give equal data sets."""
    return {
        "format": 1,
        "settings": dataclasses.asdict(settings) | {"views": list(settings.views)},
        "inputs": [
            {"participant": r.participant, "sequence": r.sequence, "capture": r.capture.name, "content": r.content}
            for r in recordings
        ],
    }


def is_unfinished(out: Path, recordings: Sequence[Recording], settings: RasterSettings) -> bool | None:
    """Whether `out` is this very data set: True = begun, False = complete, None = another one (or none)."""
    file = Path(out) / "davatar.json"
    if not file.is_file() or hash_value(read_json(file)) != hash_value(describe(recordings, settings)):
        return None
    return not (Path(out) / "stats.json").is_file()


def _check(recordings: Sequence[Recording]) -> None:
    if not recordings:
        raise UsageError("nothing to rasterise", mend="name at least one track")
    seen: set[tuple[int, str]] = set()
    for recording in recordings:
        if (recording.participant, recording.sequence) in seen:
            raise UsageError(
                f"two sequences of participant {recording.participant} are called {recording.sequence!r}",
                mend="give them different names or participants",
            )
        seen.add((recording.participant, recording.sequence))


def _claim(out: Path, about: dict) -> None:
    file = out / "davatar.json"
    if file.is_file():
        if hash_value(read_json(file)) != hash_value(about):
            raise UsageError("holds another data set", file=out, mend="choose another output folder")
    elif (out / "config.json").is_file():
        raise UsageError("holds a published data set", file=out, mend="choose another output folder")
    else:
        write_json(file, about)


def _serials(recordings: Sequence[Recording], settings: RasterSettings) -> list[str]:
    present = set.intersection(*(set(r.capture.views) for r in recordings))
    wanted = settings.views or recordings[0].capture.views
    absent = [serial for serial in wanted if serial not in present]
    if absent:
        raise DataError(
            f"camera {absent[0]} is not in every recording", mend=f"choose --views among {', '.join(sorted(present))}"
        )
    return list(wanted)


def _config(recordings: Sequence[Recording], serials: list[str], name: str | None) -> DataConfig:
    return DataConfig(
        sequences=[(r.participant, r.sequence) for r in recordings],
        serials=serials,
        name=name,
        downscale_factor=1,
        use_ambient_dimensions=True,
        use_nphm=True,
        mesh_provider_config=MeshConfig(cut_throat=True),
    )


def _rows(recording: Recording, settings: RasterSettings) -> list[int]:
    rows = range(0, len(recording.track), settings.every)
    return [row for row in rows if recording.track.flag[row] < LOST]


def _framed(
    recording: Recording, rows: list[int], serials: list[str], settings: RasterSettings
) -> dict[str, framing.Framing]:
    """The crop of every camera, fixed over the sequence."""
    heads = np.array([recording.track.head_to_world(row) for row in rows]).reshape(-1, 4, 4)
    return {
        serial: framing.frame_head(_camera(recording, rows, serial), heads, settings.size, settings.margin)
        for serial in serials
    }


def _camera(recording: Recording, rows: list[int], serial: str) -> Camera:
    """Of the first frame that can be read."""
    trouble = DataError("no frame was tracked", file=recording.capture.name, mend="look at the track's summary")
    for row in rows:
        try:
            return recording.capture.frame(int(recording.track.frames[row]), serial).camera
        except DataError as error:
            trouble = error
    raise trouble


def _step(
    out: Path,
    recording: Recording,
    row: int,
    views: Mapping[str, framing.Framing],
    settings: RasterSettings,
    rasterizer: Rasterizer,
    journal: Journal,
    progress: Progress,
) -> bool:
    """One time step, all cameras; False if it had to be left out."""
    timestep = int(recording.track.frames[row])
    item = f"{recording.participant:03d}/{recording.sequence}/{timestep:05d}"
    if journal.done(item, recording.content):
        return True
    try:
        mesh = recording.meshes(row)
        frames = {serial: recording.capture.frame(timestep, serial) for serial in views}
    except DataError as error:
        progress.warn(f"{item} is left out: {error}")
        return False
    mesh = _cut(mesh, settings)
    known = {"head_to_world": recording.track.head_to_world(row), "on_white": _on_white(recording.capture)}
    for serial, frame in frames.items():
        key = SampleKey(recording.participant, recording.sequence, timestep, serial)
        pictures = framing.photograph(mesh, frame, views[serial], rasterizer, settings, **known)
        for channel, codes in pictures.items():
            write_bytes(channel_path(out, key, channel), channels.png_bytes(codes))
    journal.mark(item, recording.content)
    return True


def _on_white(capture: Capture) -> bool:
    said = capture.provenance.get("meta", {}) | capture.provenance
    return said.get("background") == "white"


def _cut(mesh: Mesh, settings: RasterSettings) -> Mesh:
    if mesh.canonical is None:
        raise DataError("the mesh has no canonical coordinates", mend="use meshes written by `davatar track`")
    return cut_neck(mesh) if settings.cut_neck else mesh


def _write_expression(out: Path, recording: Recording, timesteps: list[int]) -> None:
    track = recording.track
    rows = [int(np.flatnonzero(track.frames == step)[0]) for step in timesteps]
    with atomic_path(sequence_folder(out, recording.participant, recording.sequence) / "expression.npz") as temporary:
        np.savez(
            temporary,
            timesteps=np.array(timesteps, np.int64),
            codes=track.expression[rows].astype(np.float32),
            weights=track.morphable_expression[rows].astype(np.float32),
            head_to_world=np.array([track.head_to_world(row) for row in rows]).reshape(-1, 4, 4),
        )
    about = {**track.settings, "geometry": recording.geometry, "fps": recording.capture.fps}
    told = dataclasses.replace(track, settings=about)
    save_track(sequence_folder(out, recording.participant, recording.sequence) / "track.npz", told)


def _camera_file(cameras: dict) -> dict:
    def one(view: framing.Framing) -> dict:
        camera: Camera = view.camera
        return {
            "K": camera.K.tolist(),
            "world_to_camera": camera.world_to_camera.tolist(),
            "width": camera.width,
            "height": camera.height,
            "crop": list(view.crop),
        }

    return {
        pid: {seq: {serial: one(view) for serial, view in views.items()} for seq, views in sequences.items()}
        for pid, sequences in cameras.items()
    }
