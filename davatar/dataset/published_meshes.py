"""The published tracker's meshes of a raw recording: cut below the throat, in world metres.

Stored vertices are head-model units; M_i of the FLAME fit brings a quarter of them to the world (spec
diffusion-avatars 0.3, 4.1, 4.3). The fit's scale is part of M_i, so M_i is a similarity only if it is uniform.
"""

from __future__ import annotations

import zipfile
from functools import cached_property

import numpy as np

from davatar.core.errors import DataError
from davatar.dataset.ctm import read_ctm
from davatar.dataset.layout import MeshConfig
from davatar.dataset.nersemble import TRACKERS, RawParticipant
from davatar.dataset.quantisers import CANONICAL
from davatar.geometry.mesh import Mesh

THROAT = (3276, 3207, 3310)  # vertices of flame.ply that span the throat's plane
BOX_END = -0.9  # head-model units: behind it an open edge is the end of the extraction box, no cut
UNITS = 4.0  # head-model units per FLAME unit


class PublishedMeshes:
    """Meshes of one sequence.

    Raises:
        DataError (also when a mesh is read): a file of the tracker is missing or damaged.
    """

    def __init__(self, raw: RawParticipant, sequence: str, settings: MeshConfig):
        if settings.nphm_tracking not in TRACKERS:
            raise DataError(f"no tracker is called {settings.nphm_tracking}", mend=f"there are {', '.join(TRACKERS)}")
        self.raw, self.sequence, self.settings = raw, sequence, settings
        self.folder = raw.folder / "sequences" / sequence / "annotations" / "tracking"

    def mesh(self, timestep: int) -> Mesh:
        """World metres; canonical [V, 5] in head-model units."""
        local = self.local(timestep)
        world = self.head_to_world(timestep)
        vertices = local.vertices @ world[:3, :3].T + world[:3, 3]
        return Mesh(vertices, local.triangles, local.canonical)

    def local(self, timestep: int) -> Mesh:
        """As stored, head-model units, cut where the settings say so."""
        home = self.folder / TRACKERS[self.settings.nphm_tracking]
        vertices, triangles = read_ctm(home / f"{timestep:05d}_local_new.CTM")
        file = home / f"{timestep:05d}_canonical_vertices_uint16.npz"
        try:
            with np.load(file) as archive:
                canonical = CANONICAL.decode(archive["arr_0"])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"is not readable: {error}", file=file, mend="fetch the recording again") from error
        if len(canonical) != len(vertices):
            raise DataError(f"holds {len(canonical)} points for {len(vertices)} vertices", file=file)
        mesh = Mesh(vertices.astype(np.float64), triangles, canonical)
        return cut_throat(mesh, *self._throat, self.settings.cut_throat_margin) if self.settings.cut_throat else mesh

    def head_to_world(self, timestep: int) -> np.ndarray:
        """[4, 4] head-model units to world metres."""
        out = self.flame_to_world(timestep)
        out[:3, :3] /= UNITS
        return out

    def flame_to_world(self, timestep: int) -> np.ndarray:
        """[4, 4] M_i: rotation with scaled columns, and translation in m."""
        from scipy.spatial.transform import Rotation

        row = self.raw.row(self.sequence, timestep)
        out = np.eye(4)
        turn = Rotation.from_euler("XYZ", self._fit["rotation"][row]).as_matrix()
        out[:3, :3] = turn * self._fit["scale"].reshape(-1, 3)[0]
        out[:3, 3] = self._fit["translation"][row]
        return out

    @cached_property
    def _fit(self) -> dict[str, np.ndarray]:
        file = self.folder / "FLAME2023_v2" / "tracked_flame_params.npz"
        try:
            with np.load(file) as archive:
                return {name: archive[name].astype(np.float64) for name in ("rotation", "translation", "scale")}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"is not readable: {error}", file=file, mend="fetch the recording again") from error

    @cached_property
    def _throat(self) -> tuple[np.ndarray, np.ndarray]:
        """A point and the unit normal of the throat's plane, canonical space."""
        import trimesh

        file = self.raw.folder / "flame.ply"
        try:
            a, b, c = np.asarray(trimesh.load(file, process=False).vertices)[list(THROAT)]
        except (OSError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"is no FLAME mesh: {error}", file=file, mend="fetch the recording again") from error
        normal = np.cross(b - a, c - a)
        return a, normal / np.linalg.norm(normal)


def cut_throat(mesh: Mesh, point: np.ndarray, normal: np.ndarray, margin: float) -> Mesh:
    """What lies above the throat, with an even rim.

    The canonical plane says roughly where; a plane fitted to that rim in posed space cuts, and the new rim is moved
    onto it. A mesh that ends above the plane stays as it is.

    Args:
        mesh: head-model units, canonical coordinates.
        point, normal: the canonical plane; kept is what lies more than `margin` on its positive side.
    """
    kept = (mesh.canonical[:, :3] - point) @ normal > margin
    rim = mesh.vertices[_open_rim(_kept_triangles(mesh.triangles, kept), mesh.vertices)]
    if kept.all() or not len(rim):
        return mesh
    center = rim.mean(0)
    upward = np.linalg.svd((rim - center).T @ (rim - center))[0][:, -1]
    upward = -upward if upward[1] < 0 else upward
    above = (mesh.vertices - center) @ upward > 0
    triangles = _kept_triangles(mesh.triangles, above)
    new = np.cumsum(above) - 1
    triangles, vertices = new[triangles].astype(np.int32), mesh.vertices[above].copy()
    edge = _open_rim(triangles, vertices)
    vertices[edge] -= ((vertices[edge] - center) @ upward)[:, None] * upward
    return Mesh(vertices, triangles, mesh.canonical[above])


def _kept_triangles(triangles: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return triangles[kept[triangles].all(axis=1)]


def _open_rim(triangles: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Vertices at edges that one triangle has, without those at the end of the extraction box."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    distinct, count = np.unique(edges, axis=0, return_counts=True)
    rim = np.unique(distinct[count == 1])
    return rim[vertices[rim, 2] > BOX_END]


def angle_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """[V, 3] unit vertex normals: face normals weighted by the angles of their corners."""
    corners = vertices[triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    faces /= np.maximum(np.linalg.norm(faces, axis=1, keepdims=True), 1e-300)
    out = np.zeros_like(vertices, np.float64)
    for k in range(3):
        one, other = (corners[:, (k + step) % 3] - corners[:, k] for step in (1, 2))
        cosine = (one * other).sum(1) / np.maximum(np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1), 1e-300)
        angle = np.arccos(np.clip(cosine, -1, 1))
        for axis in range(3):
            out[:, axis] += np.bincount(triangles[:, k], angle * faces[:, axis], minlength=len(vertices))
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
