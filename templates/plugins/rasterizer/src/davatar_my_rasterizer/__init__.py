"""my-rasterizer: every triangle is tested against every pixel in its bounding box, in plain numpy.

World metres; OpenCV camera axes; pixel centres at integers. Triangles that reach behind the camera
are left out. The contract is `davatar.raster.maps.Rasterizer`.
"""

from __future__ import annotations

import numpy as np

from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh, vertex_normals
from davatar.raster.maps import RasterMaps

NEAR = 1e-6  # m


class MyRasterizer:
    name = "my-rasterizer"

    def rasterize(self, mesh: Mesh, camera: Camera, *, subpixels: int = 0) -> RasterMaps:
        triangle, barycentric, depth = trace(mesh, camera)
        mask = triangle >= 0
        corners = mesh.triangles[np.where(mask, triangle, 0)] if len(mesh.triangles) else None

        def blended(values: np.ndarray) -> np.ndarray:
            out = np.zeros((*mask.shape, values.shape[1]), np.float32)
            if corners is not None:
                out[mask] = np.einsum("nk,nkc->nc", barycentric[mask], values[corners[mask]])
            return out

        normal = blended(vertex_normals(mesh.vertices, mesh.triangles))
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        canonical = np.zeros((*mask.shape, 3), np.float32) if mesh.canonical is None else blended(mesh.canonical)
        share = coverage(mesh, camera, subpixels) if subpixels else None
        return RasterMaps(
            triangle, barycentric.astype(np.float32), depth.astype(np.float32), normal, canonical, mask, share
        )


def coverage(mesh: Mesh, camera: Camera, subpixels: int) -> np.ndarray:
    """[H, W] float32: share of an n x n grid of sub-rays per pixel that hit."""
    fine = camera.resized(camera.width * subpixels, camera.height * subpixels)
    hits = trace(mesh, fine)[0] >= 0
    return hits.reshape(camera.height, subpixels, camera.width, subpixels).mean((1, 3), dtype=np.float32)


def trace(mesh: Mesh, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest hit per pixel: triangle [H, W] int32 (-1 none), barycentric [H, W, 3], depth [H, W] m (0 none)."""
    size = camera.height, camera.width
    triangle, barycentric, nearest = np.full(size, -1, np.int32), np.zeros((*size, 3)), np.full(size, np.inf)
    pixels, depths = camera.project(mesh.vertices)
    for index, corners in enumerate(mesh.triangles):
        z = depths[corners]
        if (z <= NEAR).any():
            continue
        a, b, c = pixels[corners]
        low = np.maximum(np.ceil(np.min([a, b, c], axis=0)), 0).astype(int)
        high = np.minimum(np.floor(np.max([a, b, c], axis=0)), [camera.width - 1, camera.height - 1]).astype(int)
        area = cross(b - a, c - a)
        if (low > high).any() or area == 0:
            continue
        column, row = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        points = np.stack([column, row], -1)
        on_screen = np.stack([cross(c - b, points - b), cross(a - c, points - c), cross(b - a, points - a)], -1) / area
        inverse = on_screen / z  # perspective: weights are linear in 1 / z
        depth = 1 / np.maximum(inverse.sum(-1), 1e-12)
        window = slice(low[1], high[1] + 1), slice(low[0], high[0] + 1)
        closer = (on_screen >= -1e-9).all(-1) & (depth < nearest[window])
        triangle[window][closer] = index
        barycentric[window][closer] = (inverse * depth[..., None])[closer]
        nearest[window][closer] = depth[closer]
    return triangle, barycentric, np.where(triangle >= 0, nearest, 0)


def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """z of the cross product of plane vectors [..., 2]."""
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
