"""Where the meshes of a data set come from, and the cut through the neck.

A mesh source is a function row of the track -> mesh in world metres with canonical coordinates in head-model
units. "neural": the meshes that the tracker wrote. "linear": the morphable model with the track's coefficients;
its canonical coordinates are the mean neutral head's, so that all people share them. "exact" meshes, of synthetic
subjects, are any other such function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError, MissingError
from davatar.geometry.mesh import Mesh, read_ply
from davatar.headmodel.morphable import UNITS_PER_METRE, OFFSET, open_morphable, to_head_units
from davatar.headmodel.track import Track

MeshSource = Callable[[int], Mesh]

CUT = -0.125 * UNITS_PER_METRE + OFFSET[1]  # canonical y, head-model units: below it neither mesh nor picture
FADE = (-0.122 * UNITS_PER_METRE + OFFSET[1], -0.102 * UNITS_PER_METRE + OFFSET[1])  # white .. fully visible


def linear_meshes(track: Track) -> MeshSource:
    """The morphable model under the track's coefficients and pose."""
    model = open_morphable()
    canonical = to_head_units(model.neutral).astype(np.float32)

    def mesh(row: int) -> Mesh:
        vertices = model.vertices(track.morphable_identity, track.morphable_expression[row])
        posed = Mesh(vertices, model.visible_triangles, canonical)
        return posed.transformed(track.morphable_rotation[row], track.morphable_translation[row])

    return mesh


def neural_meshes(track: Track, folder: Path) -> MeshSource:
    """The meshes that lie in the track's folder, `meshes/<frame:05d>.ply`, world metres.

    Raises:
        MissingError: the track was stored without meshes.
        DataError (when a row is read): the file is missing, truncated or bears no canonical coordinates.
    """
    if not (folder / "meshes").is_dir():
        raise MissingError(
            "has no meshes", file=folder, mend="track again with meshes, or rasterize with --geometry linear"
        )

    def mesh(row: int) -> Mesh:
        path = folder / "meshes" / f"{track.frames[row]:05d}.ply"
        if not path.is_file():
            raise DataError("is missing", file=path, mend="run `davatar track` again")
        found = read_ply(path)
        if found.canonical is None:
            raise DataError("has no canonical coordinates", file=path, mend="run `davatar track` again")
        return found

    return mesh


def cut_neck(mesh: Mesh, lowest: float = CUT) -> Mesh:
    """Without the triangles that reach below the canonical height `lowest` (head-model units)."""
    below = mesh.canonical[:, 1] < lowest
    return replace(mesh, triangles=mesh.triangles[~below[mesh.triangles].any(axis=1)])
