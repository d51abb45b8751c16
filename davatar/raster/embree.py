"""The embree backend: one primary ray per pixel centre, on the CPU.

Embree works in float32, so it is only asked *which* triangle a ray meets, in axes centred on the mesh;
barycentrics and depth are solved again in float64 for that triangle. The ray's direction has z = 1 in camera
axes, so that the ray parameter is the depth. Metres; pixel centres at integers: a pixel spans -0.5..+0.5.
"""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene

from davatar.core.errors import DataError
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh, vertex_normals
from davatar.raster.maps import RasterMaps


class EmbreeRasterizer:
    """Keeps the search tree of the last mesh, so that many cameras seeing one mesh pay for it once."""

    name = "embree"

    def __init__(self):
        self._device = EmbreeDevice()
        self._scene: _Scene | None = None

    def rasterize(self, mesh: Mesh, camera: Camera, *, subpixels: int = 0) -> RasterMaps:
        """Mesh in world metres, seen by `camera`; nearest hit wins, no back-face culling.

        Args:
            mesh: world frame, m; `canonical` [V, C] may be absent, the map then has C = 3 and holds zeros.
            subpixels: n > 0 also fills `coverage` from an n x n grid of sub-rays. They are shot only in pixels
                whose 3x3 neighbourhood mixes hits and misses: elsewhere the coverage is taken to be 0 or 1.

        Raises:
            DataError: non-finite vertices, triangle indices outside the vertex list, or canonical coordinates
                that do not go with the vertices.
        """
        scene = self._prepared(mesh)
        size = camera.height, camera.width
        maps = RasterMaps(
            triangle=np.full(size, -1, np.int32),
            barycentric=np.zeros((*size, 3), np.float32),
            depth=np.zeros(size, np.float32),
            normal=np.zeros((*size, 3), np.float32),
            canonical=np.zeros((*size, 3 if mesh.canonical is None else mesh.canonical.shape[1]), np.float32),
            mask=np.zeros(size, bool),
            coverage=np.zeros(size, np.float32) if subpixels else None,
        )
        window = _window(mesh.vertices, camera)
        if scene is None or window is None:
            return maps
        origin = camera.center - scene.center
        to_ray = np.linalg.inv(camera.K).T @ camera.world_to_camera[:3, :3]  # row pixel (u, v, 1) -> world direction
        rays = _pixels(window) @ to_ray
        triangle = scene.trace(origin, rays)
        maps.triangle[window] = triangle.reshape(maps.triangle[window].shape)
        hit = triangle >= 0
        maps.mask[:] = maps.triangle >= 0
        corners = mesh.triangles[triangle[hit]]
        weights, depth = _solve(mesh.vertices - scene.center, corners, origin, rays[hit])
        maps.barycentric[maps.mask], maps.depth[maps.mask] = weights, depth
        blended = np.einsum("nk,nkc->nc", weights, scene.normals[corners])
        maps.normal[maps.mask] = blended / np.maximum(np.linalg.norm(blended, axis=1, keepdims=True), 1e-12)
        if mesh.canonical is not None:
            maps.canonical[maps.mask] = np.einsum("nk,nkc->nc", weights, mesh.canonical[corners])
        if subpixels:
            maps.coverage[:] = maps.mask
            row, column = np.nonzero(rim(maps.mask))
            maps.coverage[row, column] = _share(scene, origin, row, column, to_ray, subpixels)
        return maps

    def _prepared(self, mesh: Mesh) -> _Scene | None:
        _check(mesh)
        if not len(mesh.triangles):
            return None
        if self._scene is None or not self._scene.holds(mesh):
            self._scene = _Scene(self._device, mesh)
        return self._scene


class _Scene:
    """Embree's search tree over one mesh, centred, and the mesh's vertex normals."""

    def __init__(self, device: EmbreeDevice, mesh: Mesh):
        self.vertices, self.triangles = mesh.vertices.copy(), mesh.triangles.copy()
        self.center = 0.5 * (self.vertices.min(0) + self.vertices.max(0)).astype(np.float64)
        self.normals = vertex_normals(self.vertices, self.triangles)
        self.embree = EmbreeScene(device, robust=True)  # robust: no ray slips between two triangles of one edge
        centred = (self.vertices - self.center).astype(np.float32)
        TriangleMesh(self.embree, centred, self.triangles.astype(np.int32))

    def holds(self, mesh: Mesh) -> bool:
        return np.array_equal(self.vertices, mesh.vertices) and np.array_equal(self.triangles, mesh.triangles)

    def trace(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """[N] index of the nearest triangle along each ray, -1 for none; origin and rays in centred world axes."""
        directions = np.ascontiguousarray(rays, np.float32)
        origins = np.ascontiguousarray(np.broadcast_to(origin.astype(np.float32), directions.shape))
        return self.embree.run(origins, directions)


def rim(mask: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels whose 3x3 neighbourhood (the image continued at its border) holds hits and misses."""
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    hits = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return (hits > 0) & (hits < 9)


def _check(mesh: Mesh) -> None:
    if not np.isfinite(mesh.vertices).all():
        raise DataError("mesh has non-finite vertices", mend="fit the frame again or leave it out")
    if len(mesh.triangles) and not 0 <= mesh.triangles.min() <= mesh.triangles.max() < len(mesh.vertices):
        raise DataError(f"triangles refer to vertices outside 0..{len(mesh.vertices) - 1}")
    if mesh.canonical is not None and len(mesh.canonical) != len(mesh.vertices):
        raise DataError(f"{len(mesh.canonical)} canonical coordinates for {len(mesh.vertices)} vertices")


def _window(vertices: np.ndarray, camera: Camera) -> tuple[slice, slice] | None:
    """Rows and columns that the mesh can reach, a pixel to spare for the sub-rays; None if it is out of view."""
    everywhere = slice(0, camera.height), slice(0, camera.width)
    pixels, depth = camera.project(vertices)
    if depth.max(initial=0) <= 0:
        return None
    if depth.min() <= 1e-6:
        return everywhere
    low = np.clip(np.floor(pixels.min(0)) - 1, 0, (camera.width, camera.height)).astype(int)
    high = np.clip(np.ceil(pixels.max(0)) + 2, 0, (camera.width, camera.height)).astype(int)
    return None if (low >= high).any() else (slice(low[1], high[1]), slice(low[0], high[0]))


def _pixels(window: tuple[slice, slice]) -> np.ndarray:
    """[N, 3] homogeneous pixel centres, row by row."""
    row, column = np.mgrid[window]
    return np.stack([column.ravel(), row.ravel(), np.ones(row.size)], -1).astype(np.float64)


def _solve(
    vertices: np.ndarray, corners: np.ndarray, origin: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Barycentrics [N, 3] and ray parameter [N] of rays in the planes of their triangles.

    The weights are the signed volumes spanned by the ray and the two other corners, so that no division by a
    nearly vanishing determinant is needed before they are normalised.
    """
    a, b, c = (vertices[corners[:, k]] - origin for k in range(3))
    volumes = np.stack([np.einsum("nc,nc->n", rays, np.cross(p, q)) for p, q in ((b, c), (c, a), (a, b))], -1)
    volumes *= np.sign(volumes.sum(-1, keepdims=True))
    volumes = np.maximum(volumes, 0)  # a ray that embree lets through an edge may lie outside by rounding
    weights = volumes / np.maximum(volumes.sum(-1, keepdims=True), 1e-300)
    point = weights[:, :1] * a + weights[:, 1:2] * b + weights[:, 2:] * c
    return weights, np.einsum("nc,nc->n", point, rays) / np.einsum("nc,nc->n", rays, rays)


def _share(
    scene: _Scene, origin: np.ndarray, row: np.ndarray, column: np.ndarray, to_ray: np.ndarray, n: int
) -> np.ndarray:
    """[N] share of an n x n grid of sub-rays that hit anything, for the given pixels."""
    steps = (np.arange(n) + 0.5) / n - 0.5
    dy, dx = (d.ravel() for d in np.meshgrid(steps, steps, indexing="ij"))
    pixels = np.stack([column[:, None] + dx, row[:, None] + dy, np.ones((len(row), n * n))], axis=-1)
    hits = scene.trace(origin, pixels.reshape(-1, 3) @ to_ray) >= 0
    return hits.reshape(len(row), n * n).mean(axis=1)
