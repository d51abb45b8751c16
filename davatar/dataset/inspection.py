"""What a folder is (recording, track, data set, raw participant), its figures, and what is wrong with it.

Reads as little as the question needs; pictures are decoded to find damaged ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from davatar.capture.frame import Capture
from davatar.capture.open import open_capture
from davatar.core.errors import DataError, MissingError
from davatar.core.progress import Progress, silent
from davatar.dataset.layout import channel_path, version_of
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.rendering_data import RenderingData
from davatar.dataset.tracks import recording_of
from davatar.headmodel.track import load_track

LISTED = 20  # problems told one by one


@dataclass(frozen=True)
class Report:
    kind: str
    path: str
    facts: dict[str, Any]
    problems: list[str] = field(default_factory=list)


def inspect(path: Path, frames: int = 0, progress: Progress = silent) -> Report:
    """
    Args:
        frames: look into at most so many frames, evenly spread; 0 = all.

    Raises:
        MissingError: nothing is there.
        DataError: the folder is nothing we know.
    """
    path = Path(path)
    if not path.exists():
        raise MissingError("is missing", file=path, mend="give the folder of a recording, a track or a data set")
    if (path / "track.npz").is_file() or path.name == "track.npz":
        return _track(path)
    if (path / "config.json").is_file() and (version_of(path.name) or (path / "davatar.json").is_file()):
        return _data_set(path, frames, progress)
    if (path / "calibration" / "config.json").is_file():
        return _participant(path)
    return _capture(path, open_capture(path), frames, progress)


def _spread(count: int, wanted: int) -> list[int]:
    if not wanted or wanted >= count:
        return list(range(count))
    return sorted({int(k) for k in np.linspace(0, count - 1, wanted)})


def _capture(path: Path, capture: Capture, frames: int, progress: Progress) -> Report:
    problems, depths, filled, sizes = [], [], [], {}
    chosen = _spread(len(capture), frames)
    colored = masked = landmarked = 0
    with progress.task(f"inspect {capture.name}", len(chosen) * len(capture.views)) as task:
        for index in chosen:
            for view in capture.views:
                task.advance()
                try:
                    frame = capture.frame(index, view)
                except DataError as error:
                    problems.append(str(error))
                    continue
                sizes[view] = f"{frame.camera.width}x{frame.camera.height}"
                colored += frame.color is not None
                masked += frame.mask is not None
                landmarked += frame.landmarks is not None
                if frame.depth is not None:
                    measured = frame.depth[np.isfinite(frame.depth)]
                    filled.append(measured.size / frame.depth.size)
                    if measured.size:
                        depths.append(np.quantile(measured, (0.01, 0.5, 0.99)))
                    else:
                        problems.append(f"frame {frame.name or index}: no depth was measured")
    facts = {
        "name": capture.name,
        "frames": len(capture),
        "looked at": len(chosen),
        "fps": capture.fps,
        "views": dict(sizes),
        "with colour": colored,
        "with matte": masked,
        "with landmarks": landmarked,
        "depth m (1 %, median, 99 %)": np.mean(depths, axis=0).round(3).tolist() if depths else None,
        "pixels with depth": round(float(np.mean(filled)), 3) if filled else None,
    }
    source = {key: value for key, value in capture.provenance.items() if isinstance(value, str | int | float)}
    problems = [*capture.provenance.get("warnings", ()), *problems]
    return Report("recording", str(path), facts | source, problems)


def _track(path: Path) -> Report:
    folder = path if path.is_dir() else path.parent
    track = load_track(path)
    problems = [f"frame {track.frames[row]} was lost" for row in np.flatnonzero(track.flag == 2)]
    problems += [f"frame {track.frames[row]} was skipped" for row in np.flatnonzero(track.flag == 3)]
    fitted = track.flag < 2
    present = {p.stem for p in (folder / "meshes").glob("*.ply")}
    if present:
        gone = [int(f) for f, good in zip(track.frames, fitted, strict=True) if good and f"{f:05d}" not in present]
        problems += [f"meshes/{f:05d}.ply is missing" for f in gone]
    try:
        source = str(recording_of(folder, track))
    except DataError:
        source = None
    facts = {
        "model": track.model,
        "frames": len(track),
        "tracked": int(fitted.sum()),
        "restarts": int((track.flag == 1).sum()),
        "residual mm (mean, worst)": _two(track.residual_mm[fitted]),
        "coverage (mean)": round(float(track.coverage[fitted].mean()), 3) if fitted.any() else None,
        "identity code": len(track.identity),
        "expression code": track.expression.shape[1],
        "meshes": len(present),
        "recording": source,
    }
    return Report("track", str(folder), facts, problems)


def _two(values: np.ndarray) -> list[float] | None:
    return [round(float(values.mean()), 3), round(float(values.max()), 3)] if len(values) else None


def _data_set(path: Path, frames: int, progress: Progress) -> Report:
    data = RenderingData(path)
    problems: list[str] = []
    keys = [key for split in data.splits().values() for key in split]
    first = data.load(keys[0]) if keys else None
    channels = sorted(p.name for p in channel_path(path, keys[0], "mask").parents[1].iterdir()) if keys else []
    chosen = _spread(len(keys), frames)
    with progress.task(f"inspect {path.name}", len(chosen)) as task:
        for index in chosen:
            try:
                sample = data.load(keys[index])
                if not sample.mask.any():
                    problems.append(f"{channel_path(path, keys[index], 'mask')}: shows nothing")
            except DataError as error:
                problems.append(str(error))
            task.advance()
    sequences = data.stats.available_sequences
    facts = {
        "made by": "davatar" if data.is_ours else "published",
        "participants": sorted(sequences, key=int),
        "sequences": {f"{pid}/{seq}": len(steps) for pid, own in sequences.items() for seq, steps in own.items()},
        "cameras": len(data.config.serials),
        "pictures": data.stats.total_n_frames,
        "looked at": len(chosen),
        "size": None if first is None else f"{first.mask.shape[1]}x{first.mask.shape[0]}",
        "channels": channels,
        "splits": {name: len(split) for name, split in data.splits().items()},
    }
    return Report("data set", str(path), facts, problems)


def _participant(path: Path) -> Report:
    raw = RawParticipant(path)
    sequences = sorted(p.name for p in (path / "sequences").glob("*") if p.is_dir())
    steps: dict[str, int] = {}
    problems = []
    for name in sequences:
        try:
            steps[name] = len(raw.timesteps(name))
        except DataError as error:
            problems.append(str(error))
    facts = {"cameras": len(raw.serials), "sequences": steps, "time steps": sum(steps.values())}
    return Report("raw participant", str(path), facts, problems)
