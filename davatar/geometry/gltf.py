"""Meshes as binary glTF, which viewers and web pages open. glTF is in metres with +y up, as heads are here."""

from __future__ import annotations

from pathlib import Path

from davatar.core.files import write_bytes
from davatar.geometry.mesh import Mesh, vertex_normals

GREY = (0.72, 0.7, 0.68, 1.0)


def write_glb(path: str | Path, mesh: Mesh) -> None:
    """One grey, smoothly shaded mesh; vertices in m, canonical coordinates are left out."""
    import trimesh
    from trimesh.visual.material import PBRMaterial

    matt = trimesh.visual.TextureVisuals(
        material=PBRMaterial(baseColorFactor=GREY, metallicFactor=0.0, roughnessFactor=0.8)
    )
    normals = vertex_normals(mesh.vertices, mesh.triangles)
    body = trimesh.Trimesh(mesh.vertices, mesh.triangles, vertex_normals=normals, visual=matt, process=False)
    write_bytes(path, body.export(file_type="glb"))
