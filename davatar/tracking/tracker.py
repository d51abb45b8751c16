"""`track`: a recording in, a `Track` and its folder out (design 5).

The folder holds what is finished, and nothing half: stage results of single frames under `stages/` while the work
is under way, then track.npz, meshes, arkit.csv, overlay.mp4, and track.json as the last file. A killed run goes on at
the frame; a finished one is not done twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from davatar.capture.frame import Capture
from davatar.core.content import hash_bytes, hash_value
from davatar.core.errors import DataError, UsageError
from davatar.core.files import read_json, write_json
from davatar.core.interrupt import interruptible
from davatar.core.lock import exclusive
from davatar.core.progress import Progress, silent
from davatar.core.settings import resolve, to_mapping
from davatar.headmodel.track import Track, load_track, save_track
from davatar.tracking import outputs
from davatar.tracking.assemble import assemble
from davatar.tracking.linear import fit_linear
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import TrackSettings

STAGES, JSON, NPZ = "stages", "track.json", "track.npz"
VERSION = 1  # of the numbers a fit gives; results of another version are computed again


@dataclass(frozen=True)
class _Job:
    recording: Recording
    settings: TrackSettings
    head_model: str
    content: str  # fingerprint of everything the result depends on


def track(
    capture: Capture,
    out: str | Path | None = None,
    settings: TrackSettings | None = None,
    head_model: str | Path = "open",
    progress: Progress = silent,
    *,
    frames: Sequence[int] | None = None,
    overwrite: bool = False,
) -> Track:
    """Track the head through a recording.

    Args:
        capture: with depth in its first view.
        out: folder for the results; None keeps them in memory and writes nothing.
        settings: default: the preset `open`.
        head_model: "open" or the path of a head-model file; not read for stage "linear".
        frames: indices into the capture; default all.
        overwrite: throw away what another run left in `out`.

    Returns:
        the track, world frame of the capture, m.

    Raises:
        DataError: no frame can be read, or none holds a head.
        UsageError: `out` holds a track made with other settings.
        Interrupted: a signal arrived; the same call goes on.
    """
    settings = settings or resolve(TrackSettings, "open").value
    chosen = range(len(capture)) if frames is None else frames
    if len(chosen) == 0:
        raise DataError("has no frames to track", file=capture.name, mend="check the folder and --frames")
    recording = Recording(capture, chosen, points=settings.linear.points, seed=settings.seed, progress=progress)
    job = _Job(recording, settings, str(head_model), _fingerprint(recording, settings, head_model))
    if out is None:
        return replace(_fit(job, Results(None), progress, lambda: None), settings=to_mapping(settings))
    out = Path(out)
    with exclusive(out):
        if overwrite:
            _clear(out)
        elif (done := _finished(out, job)) is not None:
            progress.info(f"{out} is tracked already, with the same settings")
            return done
        with interruptible() as stop:
            return _work(job, out, progress, stop.check)


def _fingerprint(recording: Recording, settings: TrackSettings, head_model: str | Path) -> str:
    """Of settings, head model and recording; of the recording three frames are looked at."""
    seen = []
    for row in sorted({0, len(recording) // 2, len(recording) - 1}):
        try:
            depth = recording.capture.frame(int(recording.frames[row])).depth
            seen.append(None if depth is None else hash_bytes(np.ascontiguousarray(depth).tobytes()))
        except DataError as error:
            seen.append(str(error))
    model = ""
    if settings.stage == "neural":
        from davatar.headmodel.head_model import HeadModel

        model = HeadModel.from_pretrained(head_model).hash
    facts = {"settings": to_mapping(settings), "frames": recording.frames.tolist(), "seen": seen, "model": model}
    return hash_value({**facts, "version": VERSION})


def _finished(out: Path, job: _Job) -> Track | None:
    """The track in `out` if it is whole and this job's; None if there is none yet."""
    file = out / JSON
    if not file.is_file():
        return None
    if read_json(file).get("content") != job.content:
        raise UsageError(
            "holds a track of another recording or with other settings",
            file=out,
            mend="give --overwrite to replace it, or another --out",
        )
    return load_track(out)


def _clear(out: Path) -> None:
    """Remove what an earlier track left, and nothing else that may lie there."""
    for name in (JSON, NPZ, outputs.CSV, outputs.OVERLAY):
        (out / name).unlink(missing_ok=True)
    for file in (out / outputs.MESHES).glob("[0-9]*.ply"):
        file.unlink()
    shutil.rmtree(out / STAGES, ignore_errors=True)


def _work(job: _Job, out: Path, progress: Progress, check: Callable[[], None]) -> Track:
    settings, recording = job.settings, job.recording
    results = Results(out / STAGES, job.content)
    if results.get("first") is None:
        _clear(out)
    found = _fit(job, results, progress, check)
    found = replace(found, settings=to_mapping(settings))
    save_track(out / NPZ, found)
    meshes = outputs.MeshWriter(found, job.head_model, settings.output.mesh_resolution)
    if settings.output.meshes:
        with _timed(results, "meshes"):
            outputs.write_meshes(out, found, meshes, results, progress, check)
    outputs.write_arkit(out, found, [recording.time(row) for row in range(len(recording))])
    if settings.output.overlay:
        with _timed(results, "overlay"):
            outputs.write_overlay(out, found, recording, meshes, settings.output, progress, check)
    write_json(out / JSON, _about(job, found, _seconds(results)))
    results.clear()
    return found


@contextmanager
def _timed(results: Results, name: str) -> Iterator[None]:
    """Add the block's seconds to those that earlier sessions spent on the same part."""
    started = time.monotonic()
    try:
        yield
    finally:
        spent = _seconds(results)
        spent[name] = spent.get(name, 0.0) + time.monotonic() - started
        results.put("seconds", **{key: np.array(value) for key, value in spent.items()})


def _seconds(results: Results) -> dict[str, float]:
    return {name: float(value) for name, value in (results.get("seconds") or {}).items()}


def _fit(job: _Job, results: Results, progress: Progress, check: Callable[[], None]) -> Track:
    recording, settings = job.recording, job.settings
    with _timed(results, "linear"):
        linear = fit_linear(recording, settings.linear, results, progress, check)
    neural, model = None, None
    if settings.stage == "neural":
        from davatar.headmodel.head_model import HeadModel
        from davatar.tracking.neural.fit import fit_neural

        model = HeadModel.from_pretrained(job.head_model)
        with _timed(results, "neural"):
            neural = fit_neural(recording, linear, model, settings.neural, results, progress, check)
    return assemble(recording, linear, neural, model)


def _about(job: _Job, found: Track, seconds: dict[str, float]) -> dict[str, Any]:
    """track.json: what the track is, how it was made, how good it looks without knowing the truth."""
    recording = job.recording
    path = recording.capture.provenance.get("path")
    return {
        "schema": 1,
        "content": job.content,
        "recording": recording.capture.name,
        "capture": None if path is None else str(Path(path).absolute()),
        "model": found.model,
        "stage": job.settings.stage,
        "settings": to_mapping(job.settings),
        "summary": outputs.summary(found),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "skipped": {str(recording.frames[row]): reason for row, reason in sorted(recording.unreadable.items())},
    }
