"""Points on a triangle mesh by (triangle, barycentric) spots: drawn even over area, placed with smooth normals.

A spot names the same skin point on every mesh of the topology; that is what makes correspondences.
Frame and unit are the mesh's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Spots = tuple[np.ndarray, np.ndarray]  # triangle [n] int, barycentric [n, 3]


@dataclass(frozen=True)
class SmoothSurface:
    vertices: np.ndarray  # [V, 3]
    normals: np.ndarray  # [V, 3] unit, outward
    triangles: np.ndarray  # [F, 3]

    def at(self, triangle: np.ndarray, barycentric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and unit normals [n, 3] of spots."""
        corners = self.triangles[triangle]
        points, normals = (np.einsum("nk,nkc->nc", barycentric, v[corners]) for v in (self.vertices, self.normals))
        return points, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def triangle_areas(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """[F] area of every triangle."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def draw_spots(areas: np.ndarray, count: int, rng: np.random.Generator) -> Spots:
    """`count` spots in proportion to `areas` [F]; triangles of area 0 get none."""
    share = np.cumsum(areas)
    triangle = np.searchsorted(share, rng.random(count) * share[-1], side="right").clip(max=len(areas) - 1)
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    return triangle, np.stack([1 - u, u * (1 - v), u * v], axis=1)
