"""A triangle mesh and its normals. Arrays only; files are written by `write_ply` at the edge of each domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError


@dataclass(frozen=True)
class Mesh:
    vertices: np.ndarray  # [V, 3] float, frame and unit said by whoever makes it
    triangles: np.ndarray  # [F, 3] int32, counter-clockwise seen from outside
    canonical: np.ndarray | None = None  # [V, 3 or 5] canonical (and hyper) coordinates, head-model units

    def __post_init__(self):
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise DataError(f"vertices have shape {self.vertices.shape}, expected [V, 3]")
        if self.triangles.ndim != 2 or self.triangles.shape[1] != 3:
            raise DataError(f"triangles have shape {self.triangles.shape}, expected [F, 3]")

    def transformed(self, rotation: np.ndarray, translation: np.ndarray, scale: float = 1.0) -> Mesh:
        """x -> scale * R x + t; canonical coordinates stay."""
        return Mesh(scale * self.vertices @ rotation.T + translation, self.triangles, self.canonical)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [V, 3]; a vertex without triangles gets zeros."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices, dtype=np.float64)
    for axis in range(3):
        normals[:, axis] = np.bincount(triangles.ravel(), np.repeat(face[:, axis], 3), minlength=len(vertices))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def write_ply(path: Path, mesh: Mesh) -> None:
    """Binary little-endian PLY; canonical coordinates become extra vertex properties c0, c1, ..."""
    columns = [mesh.vertices] if mesh.canonical is None else [mesh.vertices, mesh.canonical]
    values = np.concatenate(columns, axis=1).astype("<f4")
    names = ["x", "y", "z"] + [f"c{k}" for k in range(values.shape[1] - 3)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(values)}"]
    header += [f"property float {name}" for name in names]
    header += [f"element face {len(mesh.triangles)}", "property list uchar int vertex_indices", "end_header"]
    faces = np.empty(len(mesh.triangles), dtype=[("n", "u1"), ("index", "<i4", 3)])
    faces["n"], faces["index"] = 3, mesh.triangles
    from davatar.core.files import write_bytes

    write_bytes(path, ("\n".join(header) + "\n").encode() + values.tobytes() + faces.tobytes())


def read_ply(path: Path) -> Mesh:
    """What `write_ply` wrote.

    Raises:
        DataError: the file is not such a PLY, or is truncated.
    """
    data = Path(path).read_bytes()
    head, found, body = data.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    counts = {w[1]: int(w[2]) for w in (line.split() for line in lines) if len(w) == 3 and w[0] == "element"}
    names = [w[2] for w in (line.split() for line in lines) if len(w) == 3 and w[:2] == ["property", "float"]]
    dtype = np.dtype([("n", "u1"), ("index", "<i4", 3)])
    size = counts.get("vertex", 0) * len(names) * 4
    if not found or names[:3] != ["x", "y", "z"] or len(body) != size + counts.get("face", 0) * dtype.itemsize:
        raise DataError("not a PLY written by davatar, or truncated", file=path, mend="write it again")
    values = np.frombuffer(body[:size], "<f4").reshape(-1, len(names))
    triangles = np.frombuffer(body[size:], dtype)["index"].astype(np.int32)
    return Mesh(values[:, :3].copy(), triangles, values[:, 3:].copy() if len(names) > 3 else None)
