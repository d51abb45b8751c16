"""Where the meshes of a data set come from, and the cut through the neck.

A mesh source is a function row of the track -> mesh in world metres with canonical coordinates in head-model
units. "neural": the meshes that the tracker wrote. "linear": the morphable model with the track's coefficients,
whose canonical coordinates are those that the neural model would give (`headmodel.canonical`). "exact" meshes, of
synthetic subjects, are any other such function.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError, MissingError
from davatar.geometry.mesh import Mesh, read_ply
from davatar.headmodel.canonical import canonical_vertices
from davatar.headmodel.morphable import OFFSET, SEE_THROUGH, UNITS_PER_METRE, MorphableModel, open_morphable
from davatar.headmodel.track import Track

MeshSource = Callable[[int], Mesh]

CUT = -0.125 * UNITS_PER_METRE + OFFSET[1]  # canonical y, head-model units: below it neither mesh nor picture
FADE = (-0.122 * UNITS_PER_METRE + OFFSET[1], -0.102 * UNITS_PER_METRE + OFFSET[1])  # white .. fully visible


def linear_meshes(track: Track) -> MeshSource:
    """The morphable model under the track's coefficients and pose."""
    model = open_morphable()
    triangles, canonical = seen_triangles(model), canonical_vertices(model, track.morphable_identity)

    def mesh(row: int) -> Mesh:
        vertices = model.vertices(track.morphable_identity, track.morphable_expression[row])
        posed = Mesh(vertices, triangles, canonical)
        return posed.transformed(track.morphable_rotation[row], track.morphable_translation[row])

    return mesh


def seen_triangles(model: MorphableModel) -> np.ndarray:
    """[F, 3] what a depth camera can know of: the visible parts without teeth, gums and tongue."""
    return model.triangles_of(~model.in_regions(*SEE_THROUGH, "teeth", "gums_and_tongue"))


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
    """The part above the canonical height `lowest` (head-model units); triangles that straddle it are split there."""
    height = mesh.canonical[:, 1] - lowest
    above = height >= 0
    count = above[mesh.triangles].sum(axis=1)
    whole = mesh.triangles[count == 3]
    lone = _turned(mesh.triangles[count == 1], above, wanted=True)  # first corner above, the others below
    pair = _turned(mesh.triangles[count == 2], above, wanted=False)  # first corner below, the others above
    crossed = np.concatenate([lone[:, [0, 1]], lone[:, [0, 2]], pair[:, [1, 0]], pair[:, [2, 0]]])  # above -> below
    share = (height[crossed[:, 0]] / (height[crossed[:, 0]] - height[crossed[:, 1]]))[:, None]
    new = np.arange(len(mesh.vertices), len(mesh.vertices) + len(crossed))
    right, left = new[: 2 * len(lone)].reshape(2, -1)
    on_b, on_c = new[2 * len(lone) :].reshape(2, -1)
    split = [np.stack(columns, axis=1) for columns in (
        (lone[:, 0], right, left), (pair[:, 1], pair[:, 2], on_c), (pair[:, 1], on_c, on_b)
    )]  # fmt: skip

    def extended(values: np.ndarray) -> np.ndarray:
        start, end = values[crossed[:, 0]], values[crossed[:, 1]]
        return np.concatenate([values, (start + share * (end - start)).astype(values.dtype)])

    triangles = np.concatenate([whole, *split]).astype(np.int32)
    return Mesh(extended(mesh.vertices), triangles, extended(mesh.canonical))


def _turned(triangles: np.ndarray, above: np.ndarray, wanted: bool) -> np.ndarray:
    """The same triangles, each turned so that its only corner with above == wanted comes first."""
    first = (above[triangles] == wanted).argmax(axis=1)
    return np.take_along_axis(triangles, (first[:, None] + np.arange(3)) % 3, axis=1)
