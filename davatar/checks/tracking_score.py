"""`davatar eval TRACK`: a track against the true geometry of its recording, linear and neural surface side by side.

The truth lies in the recording's gt/ folder: params.npz (identity, expression, head_pose, body_pose) and
topology.npz (vertex sets, head_weight) of the open morphable model. Without it depth to mesh is all there is.
World frame of the recording, m; reported in mm.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from davatar.capture.open import open_capture
from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json, write_json
from davatar.core.progress import Progress, silent
from davatar.evaluation.tracking import FrameScore, angle_between, scan_score, score_frame, summarise
from davatar.geometry.distance import MeshDistance, barycentric
from davatar.geometry.mesh import Mesh, read_ply
from davatar.headmodel.ict_surface import canonical_expression
from davatar.headmodel.morphable import open_morphable, to_head_units
from davatar.headmodel.track import Track, load_track
from davatar.tracking.correspondence import pair
from davatar.tracking.observation import observe
from davatar.tracking.outputs import linear_mesh, mesh_file
from davatar.tracking.surface import HEAD_CENTER, fit_surface

EVERY_VERTEX = 2  # of the true face vertices
SAME_POINTS = 12  # every 12th face vertex is followed through the neural surface
SCAN_POINTS = 2500
SCAN_REACH = 0.010  # m
LIPS = (62, 66)  # of the 68 landmarks
AROUND = 0.012  # m: how far from where its codes have it a point of the neural surface may be


@dataclass(frozen=True)
class Truth:
    """gt/ of a recording: rebuilt vertices per frame, camera axes m."""

    identity: np.ndarray  # [100]
    expression: np.ndarray  # [T, 53]
    head_pose: np.ndarray  # [T, 4, 4]
    body_pose: np.ndarray  # [4, 4]
    sets: dict[str, np.ndarray]  # vertex lists: face, lips, eyelids, ears
    head_weight: np.ndarray  # [V]

    def vertices(self, frame: int) -> np.ndarray:
        """[V, 3] m: above the jaw rigid with the head, falling to the body's pose at the shoulders."""
        local = open_morphable().vertices(self.identity, self.expression[frame]).astype(np.float64)
        head, body = (local @ pose[:3, :3].T + pose[:3, 3] for pose in (self.head_pose[frame], self.body_pose))
        share = self.head_weight[:, None]
        return share * head + (1 - share) * body


def load_truth(recording: Path) -> Truth:
    """
    Raises:
        MissingError: the recording has no gt/.
        DataError: it lacks an array.
    """
    folder = Path(recording) / "gt"
    if not (folder / "params.npz").is_file():
        raise MissingError("has no true geometry", file=folder, mend="give a recording with gt/ by --ground-truth")
    try:
        with np.load(folder / "params.npz") as params, np.load(folder / "topology.npz") as topology:
            return Truth(
                params["identity"],
                params["expression"],
                params["head_pose"],
                params["body_pose"] if "body_pose" in params else np.eye(4),
                {name: topology[name] for name in ("face", "lips", "eyelids", "ears")},
                topology["head_weight"],
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not readable ground truth: {error}", file=folder) from error


def score_track(
    folder: str | Path,
    ground_truth: str | Path | None = None,
    *,
    out: str | Path | None = None,
    every: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score a track folder; writes `tracking.json` beside it (or into `out`).

    Args:
        ground_truth: the recording with gt/; default: the one the track was made from.
        every: take every n-th frame.

    Returns:
        {"linear": figures, "neural": figures, "truth": {"scan_mm": ...}}, mm and degrees.

    Raises:
        DataError: no track, or the truth does not fit it.
        MissingError: the recording to compare with is not known.
    """
    folder = Path(folder)
    folder = folder if (folder / "track.npz").is_file() else folder / "track"
    track = load_track(folder)
    recording = Path(ground_truth or _recording(folder))
    capture = open_capture(recording)
    truth = load_truth(recording) if (recording / "gt" / "params.npz").is_file() else None
    if truth is not None and len(truth.expression) <= track.frames.max():
        raise DataError(f"knows {len(truth.expression)} frames, the track goes to {track.frames.max()}", file=recording)
    scorer = _Scorer(folder, track, capture, truth)
    rows = [row for row in range(0, len(track), every) if track.flag[row] < 3]
    with progress.task("scoring the track", len(rows)) as task:
        for row in rows:
            scorer.add(row)
            task.advance()
    found = scorer.result() | _seconds(folder, len(track))
    write_json(Path(out or folder) / "tracking.json", _plain({"schema": 1, "recording": str(recording), **found}))
    return found


def _recording(folder: Path) -> str:
    path = read_json(folder / "track.json").get("capture")
    if path is None or not Path(path).exists():
        raise MissingError("its recording is not known or gone", file=folder, mend="name it with --ground-truth")
    return path


def _seconds(folder: Path, count: int) -> dict[str, Any]:
    file = folder / "track.json"
    seconds = read_json(file).get("seconds", {}) if file.is_file() else {}
    return {"seconds_per_frame": {name: round(value / count, 3) for name, value in seconds.items()}}


def score_table(found: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of the side-by-side table of a score: figure | linear | neural | the truth itself."""
    columns = [name for name in ("linear", "neural", "truth") if name in found]
    figures = list(dict.fromkeys(key for name in columns for key in found[name]))
    rows = [[figure, *(_shown(found[name].get(figure)) for name in columns)] for figure in figures]
    return ["", *columns], rows


def _shown(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.2f}"


class _Scorer:
    def __init__(self, folder: Path, track: Track, capture: Any, truth: Truth | None):
        self.folder, self.track, self.capture, self.truth = folder, track, capture, truth
        self.scores: dict[str, list[FrameScore]] = {"linear": [], "neural": []}
        self.scans: dict[str, list[dict[str, float]]] = {"linear": [], "neural": [], "truth": []}
        self.points = _NeuralPoints(track) if len(track.identity) else None
        self.turns: list[np.ndarray] = []

    def add(self, row: int) -> None:
        track, frame = self.track, self.capture.frame(int(self.track.frames[row]))
        to_world = frame.camera.camera_to_world
        surfaces = {"linear": linear_mesh(track, row)}
        if self.points is not None:
            surfaces["neural"] = self._neural(row)
        scan = self._scan(row, frame)
        true = None if self.truth is None else _moved(self.truth.vertices(int(track.frames[row])), to_world)
        if true is not None and len(scan):
            self.scans["truth"].append(scan_score(Mesh(true, open_morphable().visible_triangles), scan))
        for name, mesh in surfaces.items():
            if len(scan):
                self.scans[name].append(scan_score(mesh, scan))
            if true is not None:
                self.scores[name].append(self._score(name, row, mesh, true, to_world))
        self.turns.append(track.rotation[row] if self.points is not None else track.morphable_rotation[row])

    def _neural(self, row: int) -> Mesh:
        file = mesh_file(self.folder, int(self.track.frames[row]))
        if not file.is_file():
            raise DataError("the track has no meshes", file=file, mend="run `davatar track` with --meshes")
        return read_ply(file)

    def _score(self, name, row: int, mesh: Mesh, true: np.ndarray, to_world: np.ndarray) -> FrameScore:
        model, track, sets = open_morphable(), self.track, self.truth.sets
        regions = {region: true[sets[region][:: EVERY_VERTEX if region == "face" else 1]] for region in sets}
        chosen, lips = sets["face"][::SAME_POINTS], model.landmarks[list(LIPS)]
        linear = model.vertices(track.morphable_identity, track.morphable_expression[row])
        wanted = np.concatenate([chosen, lips])
        if name == "linear":
            here = linear[wanted] @ track.morphable_rotation[row].T + track.morphable_translation[row]
            rotation = track.morphable_rotation[row]
        else:
            here, rotation = self.points.on(mesh, row, wanted), track.rotation[row]
        true_rotation = to_world[:3, :3] @ self.truth.head_pose[int(track.frames[row])][:3, :3]
        return score_frame(
            mesh,
            regions,
            same_points=(here[:-2], true[chosen]),
            mouth=(here[-2:], true[lips]),
            rotations=(rotation, true_rotation),
        )

    def _scan(self, row: int, frame) -> np.ndarray:
        """Depth points that the linear surface explains within 10 mm, world, m."""
        track = self.track
        to_camera = frame.camera.world_to_camera
        rotation = to_camera[:3, :3] @ track.morphable_rotation[row]
        translation = to_camera[:3, :3] @ track.morphable_translation[row] + to_camera[:3, 3]
        center = rotation @ (HEAD_CENTER + [0, 0.049, 0.008]) + translation
        points, normals = observe(frame, center, smooth=False).sample(SCAN_POINTS, 0)
        surface = fit_surface()
        posed = surface.posed(surface.shape(track.morphable_identity), track.morphable_expression[row])
        pairs = pair(points, normals, posed @ rotation.T + translation, surface.normals(posed) @ rotation.T, SCAN_REACH)
        return _moved(points[pairs.point].astype(np.float64), frame.camera.camera_to_world)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("linear", "neural"):
            if not self.scans[name] and not self.scores[name]:
                continue
            found[name] = summarise(self.scores[name]) if self.scores[name] else {}
            keys = ("mean", "p95", "within_1mm")
            found[name] |= {f"depth_to_mesh_{key}": _mean(self.scans[name], key) for key in keys}
        if self.scans["truth"]:
            found["truth"] = {f"depth_to_mesh_{key}": _mean(self.scans["truth"], key) for key in ("mean", "p95")}
        found["turn_deg"] = angle_between(self.turns[-1], self.turns[0])
        return found


class _NeuralPoints:
    """Where points of the morphable head lie on the neural surface: at the same canonical points."""

    def __init__(self, track: Track):
        import torch

        from davatar.headmodel.head_model import HeadModel

        self.model = HeadModel.from_pretrained(track.model.split(" ")[0])
        self.track, self.torch = track, torch
        self.identity = torch.as_tensor(track.identity, dtype=self.model.dtype)
        self._canonical: dict[bytes, np.ndarray] = {}

    def on(self, mesh: Mesh, row: int, vertices: np.ndarray) -> np.ndarray:
        """[K] vertex indices -> [K, 3] points of the tracked mesh of a row (its frame) at the same canonical places.

        A search over the whole mesh: following a point through the deformation can end on the other lip.
        """
        corners = mesh.vertices[mesh.triangles]
        triangle, shares = same_places(
            mesh.canonical[:, :3],
            mesh.triangles,
            self._target(vertices),
            corners.mean(1),
            self._expected(row, vertices),
        )
        return np.einsum("kc,kcd->kd", shares, corners[triangle])

    def _target(self, vertices: np.ndarray) -> np.ndarray:
        """Canonical points of the linear fit's face with lips and lids apart, [K, 3]."""
        key = vertices.tobytes()
        if key not in self._canonical:
            torch, model = self.torch, self.model
            apart = canonical_expression(open_morphable())  # closed lips meet in one point: which lip is it?
            _, expression = model.codes(np.zeros(100), apart)
            posed = open_morphable().vertices(self.track.morphable_identity, apart)[vertices]
            x = torch.as_tensor(to_head_units(posed), dtype=model.dtype)
            with torch.no_grad():
                self._canonical[key] = model.to_canonical(x, self.identity, expression)[..., :3].double().numpy()
        return self._canonical[key]

    def _expected(self, row: int, vertices: np.ndarray) -> np.ndarray:
        """Where the row's own codes, read as morphable coefficients, have the vertices: [K, 3] world, m."""
        expression = self.torch.as_tensor(self.track.expression[row], dtype=self.model.dtype)
        told = (part.double().numpy() for part in self.model.coefficients(self.identity, expression))
        return _moved(to_head_units(open_morphable().vertices(*told)[vertices]), self.track.head_to_world(row))


def same_places(
    canonical: np.ndarray, triangles: np.ndarray, points: np.ndarray, centers: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which places of a posed mesh are given canonical points.

    The nearest in canonical space; but the inside of an open mouth can come as near to a lip's canonical point as the
    lip itself, so a place far from where the point is expected gives way to the nearest one around there.

    Args:
        canonical: [V, 3] of the mesh, head-model units.
        triangles: [F, 3].
        points: [K, 3] canonical.
        centers: [F, 3] of the posed triangles, m.
        expected: [K, 3] roughly where the points lie, in the frame of `centers`, m.

    Returns:
        Triangle [K] and barycentric coordinates [K, 3] of each place.
    """
    found = MeshDistance(canonical, triangles).nearest(points)
    triangle, place = found.triangle.copy(), found.point.copy()
    for k in np.flatnonzero(np.linalg.norm(centers[triangle] - expected, axis=1) > AROUND):
        near = np.flatnonzero(np.linalg.norm(centers - expected[k], axis=1) <= AROUND)
        if len(near):
            again = MeshDistance(canonical, triangles[near]).nearest(points[k : k + 1])
            triangle[k], place[k] = near[again.triangle[0]], again.point[0]
    return triangle, barycentric(place, canonical[triangles[triangle]])


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _mean(entries: list[dict[str, float]], key: str) -> float:
    return float(np.mean([entry[key] for entry in entries]))


def _plain(value: Any) -> Any:
    """NaN has no place in JSON."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
