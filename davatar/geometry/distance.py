"""Exact distance from points to a triangle mesh, vectorised: a k-d tree proposes triangles, bounds prove the best.

Any unit; points and mesh in the same frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

FIRST = 6  # triangles proposed per point at first; doubled where the proof fails


@dataclass(frozen=True)
class Nearest:
    distance: np.ndarray  # [N]
    triangle: np.ndarray  # [N] int
    point: np.ndarray  # [N, 3] the nearest point of the mesh


class MeshDistance:
    """Search structure over one mesh.

    Triangles are sorted by size into classes of a factor two; within a class the distance to a triangle's
    centre bounds the distance to the triangle from below by at most the class's radius.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        self.corners = np.asarray(vertices, np.float64)[triangles]
        centers = self.corners.mean(1)
        radius = np.linalg.norm(self.corners - centers[:, None], axis=2).max(1)
        size = np.floor(np.log2(np.maximum(radius, 1e-12))).astype(int)
        self.classes = []
        for level in np.unique(size):
            index = np.flatnonzero(size == level)
            self.classes.append((index, cKDTree(centers[index]), float(radius[index].max())))

    def nearest(self, points: np.ndarray) -> Nearest:
        """[N, 3] -> the nearest point of the mesh for each."""
        points = np.asarray(points, np.float64)
        best = Nearest(np.full(len(points), np.inf), np.zeros(len(points), int), np.zeros((len(points), 3)))
        for index, tree, radius in sorted(self.classes, key=lambda entry: -len(entry[0])):
            lowest, _ = tree.query(points)
            open_points, count = np.flatnonzero(lowest - radius < best.distance), FIRST
            while len(open_points):
                count = min(count, len(index))
                away, found = tree.query(points[open_points], k=count)
                away, found = away.reshape(-1, count), found.reshape(-1, count)
                _improve(best, open_points, points, self.corners, index[found])
                unproved = (away[:, -1] - radius < best.distance[open_points]) & (count < len(index))
                open_points, count = open_points[unproved], 2 * count
        return best


def _improve(best: Nearest, rows: np.ndarray, points: np.ndarray, corners: np.ndarray, candidates: np.ndarray) -> None:
    for start in range(0, len(rows), 4096):  # bounds memory
        here, proposed = rows[start : start + 4096], candidates[start : start + 4096]
        on = closest_on_triangles(points[here][:, None], corners[proposed])
        away = np.linalg.norm(on - points[here][:, None], axis=2)
        winner = away.argmin(1)
        lowest = away[np.arange(len(here)), winner]
        better = lowest < best.distance[here]
        best.distance[here[better]] = lowest[better]
        best.triangle[here[better]] = proposed[np.arange(len(here)), winner][better]
        best.point[here[better]] = on[np.arange(len(here)), winner][better]


def closest_on_triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Closest point of a triangle.

    Args:
        points: [..., 3], broadcast against the triangles' leading axes.
        corners: [..., 3, 3], rows are corners.

    Returns:
        [..., 3].
    """
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    share = barycentric(points, corners)
    inside = (share >= 0).all(-1, keepdims=True)  # of a triangle without area it is the middle: an edge is nearer
    best = np.where(inside, (share[..., None] * corners).sum(-2), np.inf)
    lowest = ((best - points) ** 2).sum(-1)
    for start, edge in ((a, b - a), (b, c - b), (c, a - c)):
        along = ((points - start) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-300)
        on = start + np.clip(along, 0, 1)[..., None] * edge
        away = ((on - points) ** 2).sum(-1)
        nearer = away < lowest
        best, lowest = np.where(nearer[..., None], on, best), np.where(nearer, away, lowest)
    return best


def barycentric(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Shares [..., 3] of the corners [..., 3, 3] in the feet of points [..., 3] on their planes.

    They sum to 1; a triangle without area gives a third each.
    """
    a, ab, ac = corners[..., 0, :], corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    normal = np.cross(ab, ac)
    square = (normal**2).sum(-1)
    flat = square < 1e-30
    offset, square = points - a, np.where(flat, 1.0, square)
    v = (np.cross(offset, ac) * normal).sum(-1) / square
    w = (np.cross(ab, offset) * normal).sum(-1) / square
    return np.where(flat[..., None], 1 / 3, np.stack([1 - v - w, v, w], axis=-1))
