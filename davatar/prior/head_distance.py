"""How far apart two heads are, in millimetres: between morphable meshes exactly, between surfaces by samples.

Codes of the open head model stand for meshes of the morphable model, which share one topology; the root
mean square distance of their skin vertices is a Euclidean distance after a linear map, so it needs no
vertices. Surfaces of any head model are compared by the chamfer distance of points on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from davatar.core.errors import DataError
from davatar.geometry.mesh import Mesh
from davatar.headmodel.morphable import open_morphable
from davatar.prior.code_prior import Kind

MM_PER_METRE = 1000.0


@lru_cache(maxsize=3)
def vertex_space(kind: Kind) -> np.ndarray:
    """[K, K] map of morphable coefficients after which Euclidean distance is vertex distance (RMS over the skin, mm).

    Identities are compared without expression, expressions on the mean head.
    """
    model = open_morphable()
    modes = {"identity": (model.identity,), "expression": (model.expression,)}
    chosen = modes.get(kind, (model.identity, model.expression))
    skin = model.sets["skin"]
    moved = np.concatenate([part[:, skin].reshape(len(part), -1) for part in chosen]).astype(np.float64)
    values, axes = np.linalg.eigh(moved @ moved.T * (MM_PER_METRE**2 / len(skin)))
    return axes * np.sqrt(values.clip(0))


def surface_points(mesh: Mesh, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 3] points spread evenly by area.

    Raises:
        DataError: the mesh has no area.
    """
    corners = mesh.vertices[mesh.triangles].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not area.sum() > 0:
        raise DataError("a mesh without area has no points to compare", mend="check its codes")
    triangle = rng.choice(len(area), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    share = np.stack([1 - u, u * (1 - v), u * v], axis=1)
    return np.einsum("nk,nkc->nc", share, corners[triangle])


def chamfer_distances(one: Iterable[np.ndarray], two: Iterable[np.ndarray]) -> np.ndarray:
    """[n, m] mean distance to the nearest point of the other set, averaged over both ways; unit of the points."""
    left, right = ([(points, cKDTree(points)) for points in side] for side in (one, two))
    out = np.empty((len(left), len(right)))
    for i, (points, tree) in enumerate(left):
        for j, (others, other_tree) in enumerate(right):
            out[i, j] = (other_tree.query(points)[0].mean() + tree.query(others)[0].mean()) / 2
    return out
