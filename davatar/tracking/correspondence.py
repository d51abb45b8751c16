"""Which model vertex a depth point belongs to: the nearest one that faces the same way. Camera axes, m."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

REACH = 0.030  # m
SAME_WAY = 0.5  # cosine between the normals, 60 degrees


@dataclass(frozen=True)
class Pairs:
    point: np.ndarray  # [M] index into the points
    vertex: np.ndarray  # [M] index into the surface's vertices
    normal: np.ndarray  # [M, 3] model normal, camera axes
    residual: np.ndarray  # [M] m, normal . (vertex - point)


def pair(
    points: np.ndarray,
    normals: np.ndarray,
    vertices: np.ndarray,
    vertex_normals: np.ndarray,
    reach: float = REACH,
) -> Pairs:
    """Nearest vertex of every point, among those that face the camera.

    Args:
        points, normals: [N, 3] measured, camera axes; normals towards the camera.
        vertices, vertex_normals: [K, 3] posed model.
        reach: m, farther pairs are dropped.
    """
    facing = np.flatnonzero((vertices * vertex_normals).sum(1) < 0)
    if len(facing) == 0 or len(points) == 0:
        nothing = np.zeros(0, np.int64)
        return Pairs(nothing, nothing, np.zeros((0, 3)), np.zeros(0))
    tree = cKDTree(vertices[facing], balanced_tree=False, compact_nodes=False)
    away, found = tree.query(points, distance_upper_bound=reach)
    point = np.flatnonzero(np.isfinite(away))
    vertex = facing[found[point]]
    normal = vertex_normals[vertex]
    same = (normal * normals[point]).sum(1) > SAME_WAY
    point, vertex, normal = point[same], vertex[same], normal[same]
    residual = (normal * (vertices[vertex] - points[point])).sum(1)
    return Pairs(point, vertex, normal, residual)
