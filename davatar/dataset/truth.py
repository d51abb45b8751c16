"""Simulated recordings know their geometry: `gt/` becomes an exact track and exact meshes.

Vertices are pose (linear head + displacement), blended towards the body's pose by `head_weight` where the folder
has one. World: the recording's, metres; canonical coordinates are the template's, in head-model units.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from davatar.capture.frame import Capture
from davatar.core.content import hash_path
from davatar.core.errors import DataError
from davatar.dataset.geometry import MeshSource, seen_triangles
from davatar.dataset.layout import safe_name
from davatar.dataset.rasterize import Recording
from davatar.geometry.mesh import Mesh
from davatar.headmodel.canonical import canonical_vertices
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.track import Track, pose_from_morphable


def exact(folder: Path, capture: Capture, participant: int = 1, sequence: str | None = None) -> Recording:
    """A recording with its true geometry; expression codes are empty, the true weights are there.

    Raises:
        DataError: there is no readable `gt/params.npz`, or it has another number of frames than the recording.
    """
    truth = _arrays(Path(folder) / "gt" / "params.npz", ("identity", "expression", "head_pose"))
    if len(truth["expression"]) != len(capture):
        raise DataError(
            f"knows {len(truth['expression'])} frames, the recording has {len(capture)}",
            file=Path(folder) / "gt" / "params.npz",
            mend="record again",
        )
    name = safe_name(sequence or capture.name)
    content = hash_path(Path(folder) / "gt", "*.npz")
    return Recording(participant, name, capture, _track(truth), _meshes(truth, Path(folder)), content)


def _track(truth: dict[str, np.ndarray]) -> Track:
    count, pose = len(truth["expression"]), truth["head_pose"].astype(np.float64)
    rotation, translation = pose_from_morphable(pose[:, :3, :3], pose[:, :3, 3])
    return Track(
        identity=np.zeros(0),
        expression=np.zeros((count, 0)),
        rotation=rotation,
        translation=translation,
        scale=1.0,
        frames=np.arange(count),
        residual_mm=np.zeros(count),
        coverage=np.ones(count),
        flag=np.zeros(count, np.uint8),
        morphable_identity=truth["identity"],
        morphable_expression=truth["expression"],
        morphable_rotation=pose[:, :3, :3],
        morphable_translation=pose[:, :3, 3],
        model="truth",
    )


def _meshes(truth: dict[str, np.ndarray], folder: Path) -> MeshSource:
    model = open_morphable()
    head = np.ones((len(model.neutral), 1))
    if (folder / "gt" / "topology.npz").is_file():
        head = _arrays(folder / "gt" / "topology.npz", ("head_weight",))["head_weight"][:, None].astype(np.float64)
    body = truth.get("body_pose", np.eye(4))
    displacement = truth.get("displacement", np.float32(0))
    triangles, canonical = seen_triangles(model), canonical_vertices(model, truth["identity"])

    def mesh(row: int) -> Mesh:
        local = model.vertices(truth["identity"], truth["expression"][row]) + displacement
        pose = truth["head_pose"][row]
        with_head = local @ pose[:3, :3].T + pose[:3, 3]
        with_body = local @ body[:3, :3].T + body[:3, 3]
        return Mesh(head * with_head + (1 - head) * with_body, triangles, canonical)

    return mesh


def _arrays(file: Path, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files if archive[name].dtype.kind in "fiu"}
    except FileNotFoundError as error:
        raise DataError("is missing: only simulated recordings know their geometry", file=file) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not readable: {error}", file=file, mend="record again") from error
    absent = [name for name in needed if name not in arrays]
    if absent:
        raise DataError(f"lacks {', '.join(absent)}", file=file, mend="record again")
    return arrays
