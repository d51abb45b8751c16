"""What a track leaves in its folder besides track.npz: meshes, weights as a table, the overlay video, figures.

Meshes are in the recording's world, m, with canonical coordinates per vertex (head-model units).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from davatar.core.files import atomic_path, write_text
from davatar.core.progress import Progress, silent
from davatar.geometry.mesh import Mesh, read_ply, write_ply
from davatar.headmodel.canonical import canonical_vertices
from davatar.headmodel.morphable import UNITS_PER_METRE, open_morphable, to_head_units
from davatar.headmodel.track import Track
from davatar.tracking.passes import LOST, RESTARTED, SKIPPED
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import OutputSettings

MIDDLE = to_head_units(np.array([0.0, 0.02, 0.03]))  # of what the overlay shows, head-model units
MESHES, CSV, OVERLAY = "meshes", "arkit.csv", "overlay.mp4"
FOLLOWED = 12  # rows whose surfaces are found from one another


class MeshWriter:
    """Makes the tracked surface of single rows: the neural one, or the morphable one of a linear track.

    Neural surfaces are followed from row to row within groups of `FOLLOWED`; a group asked for in its middle is
    followed from its first row, so that a mesh does not depend on which rows an earlier session made.
    """

    def __init__(self, track: Track, head_model: str, resolution: int):
        self.track, self.resolution = track, resolution
        self.model = None
        self._done = -1  # the last row that `_follow` has seen
        if len(track.identity):
            from davatar.headmodel.head_model import HeadModel

            self.model = HeadModel.from_pretrained(head_model)

    def mesh(self, row: int) -> Mesh:
        """World frame, m."""
        track = self.track
        if self.model is None:
            return linear_mesh(track, row)
        first = row - row % FOLLOWED
        if not first <= self._done < row:
            self._follow, self._done = self.model.sequence(self._code(track.identity), self.resolution), first - 1
        for before in range(self._done + 1, row):
            if track.flag[before] != SKIPPED:
                self._follow(self._code(track.expression[before]))
        mesh, self._done = self._follow(self._code(track.expression[row])), row
        scale = track.scale / UNITS_PER_METRE
        return mesh.transformed(track.rotation[row], track.translation[row], scale)

    def _code(self, values: np.ndarray) -> Any:
        import torch

        return torch.as_tensor(values, dtype=self.model.dtype)


def linear_mesh(track: Track, row: int) -> Mesh:
    """The morphable mesh of a row: world frame, m; canonical as in `headmodel.canonical`."""
    model = open_morphable()
    mesh = model.mesh(track.morphable_identity, track.morphable_expression[row])
    moved = mesh.transformed(track.morphable_rotation[row], track.morphable_translation[row])
    used = np.unique(moved.triangles)
    new = np.full(len(moved.vertices), -1)
    new[used] = np.arange(len(used))
    canonical = canonical_vertices(model, track.morphable_identity)[used]
    return Mesh(moved.vertices[used], new[moved.triangles].astype(np.int32), canonical)


def mesh_file(out: Path, frame: int) -> Path:
    return out / MESHES / f"{frame:05d}.ply"


def write_meshes(
    out: Path,
    track: Track,
    writer: MeshWriter,
    results: Results,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> None:
    """One PLY per tracked row, named by its frame; finished ones are left alone."""
    with progress.task("meshes", len(track)) as task:
        for row in range(len(track)):
            file = mesh_file(out, int(track.frames[row]))
            if results.get(f"mesh-{row:05d}") is None or not file.is_file():
                if track.flag[row] != SKIPPED:
                    write_ply(file, writer.mesh(row))
                results.put(f"mesh-{row:05d}", done=np.array(1))
                check()
            task.advance()


def write_arkit(out: Path, track: Track, times: list[float]) -> None:
    """frame, time in s, and the 53 weights under their ARKit-like names."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["frame", "time", *open_morphable().expression_names])
    for frame, when, weights in zip(track.frames, times, track.morphable_expression, strict=True):
        table.writerow([int(frame), f"{when:.4f}", *(f"{value:.4f}" for value in weights)])
    write_text(out / CSV, text.getvalue())


def write_overlay(
    out: Path,
    track: Track,
    recording: Recording,
    writer: MeshWriter,
    settings: OutputSettings,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> None:
    """overlay.mp4: the recording, the tracked head over it, and the distance between the two in depth."""
    import av

    from davatar.tracking.overlay import panel, window

    shown = [row for row in range(len(track)) if track.flag[row] != SKIPPED]
    cameras = [recording.camera(row) for row in shown]
    centers = np.array([track.head_to_world(row)[:3, :3] @ MIDDLE + track.translation[row] for row in shown])
    area = window(cameras, centers)

    def pictures():
        with progress.task("overlay video", len(track)) as task:
            for row in range(len(track)):
                frame = recording.frame(row)
                if frame is not None:
                    file = mesh_file(out, int(track.frames[row]))
                    mesh = read_ply(file) if file.is_file() else writer.mesh(row)
                    yield panel(frame, mesh, area, settings.overlay_height)
                task.advance()
                check()

    with atomic_path(out / OVERLAY) as temporary, av.open(str(temporary), "w") as container:
        rate = max(1, round(recording.capture.fps))
        stream = None
        for picture in pictures():
            if stream is None:
                stream = container.add_stream("h264", rate=rate)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.thread_count = 1  # the same bytes whatever the machine
                stream.options = {"crf": "20", "preset": "veryfast"}
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)


def summary(track: Track) -> dict[str, Any]:
    """Figures that need no truth."""
    tracked = track.flag < LOST
    weights = track.morphable_expression
    change = np.linalg.norm(np.diff(track.translation, axis=0), axis=1) if len(track) > 1 else np.zeros(0)
    return {
        "frames": len(track),
        "restarted": int((track.flag == RESTARTED).sum()),
        "lost": int((track.flag == LOST).sum()),
        "skipped": int((track.flag == SKIPPED).sum()),
        "depth_to_surface_mm": _rounded(track.residual_mm[tracked].mean()) if tracked.any() else None,
        "worst_frame_mm": _rounded(track.residual_mm[tracked].max()) if tracked.any() else None,
        "coverage": _rounded(track.coverage[tracked].mean()) if tracked.any() else None,
        "motion_mm_per_frame": _rounded(1000 * change.mean()) if len(change) else None,
        "identity_norm": _rounded(float(np.linalg.norm(track.morphable_identity))),
        "strongest_weights": {
            name: _rounded(weights[:, k].max())
            for k, name in sorted(enumerate(open_morphable().expression_names), key=lambda e: -weights[:, e[0]].max())[
                :6
            ]
        },
    }


def _rounded(value: float) -> float:
    return round(float(value), 3)
