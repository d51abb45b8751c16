"""The battery of `raster.maps.Rasterizer`: truths that planes and moved cameras make exact.

World metres; OpenCV camera axes; pixel centres at integers (a backend that thinks in corners must shift).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.raster.maps import Rasterizer, RasterMaps
from davatar.testing.require import require, require_array, require_close

CAMERA = Camera.pinhole(50.0, 60.0, 15.2, 11.7, width=32, height=24)
DEPTH = 2.0  # m


def check_rasterizer(factory: Callable[[], Rasterizer]) -> None:
    """
    Args:
        factory: what the entry point names; called without arguments.

    Raises:
        VerificationError: the backend breaks its contract.
    """
    backend = factory()
    name = getattr(backend, "name", None)
    require(isinstance(name, str) and bool(name), f"rasterizer.name is {name!r}, expected a word")
    for check in (_plane, _edges, _nothing, _nearest, _both_sides, _moved_together, _coverage):
        check(backend)


def _quad(left: float, right: float, top: float, bottom: float, depth: float) -> Mesh:
    """A rectangle that projects to these pixel coordinates, facing the camera; canonical = 10 * vertex."""
    pixels = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    rays = np.concatenate([(pixels - CAMERA.K[:2, 2]) / CAMERA.K[[0, 1], [0, 1]], np.ones((4, 1))], axis=1)
    triangles = np.array([[0, 3, 2], [0, 2, 1]], np.int32)
    return Mesh(rays * depth, triangles, rays * depth * 10)


def _joined(first: Mesh, second: Mesh) -> Mesh:
    return Mesh(
        np.concatenate([first.vertices, second.vertices]),
        np.concatenate([first.triangles, second.triangles + len(first.vertices)]),
        np.concatenate([first.canonical, second.canonical]),
    )


def _checked(backend: Rasterizer, mesh: Mesh, camera: Camera = CAMERA, **options: int) -> RasterMaps:
    """The maps, after shape, type and the values for "nothing hit" have been looked at."""
    maps = backend.rasterize(mesh, camera, **options)
    size = camera.height, camera.width
    channels = 3 if mesh.canonical is None else mesh.canonical.shape[1]
    require_array(maps.triangle, size, np.int32, "triangle")
    require_array(maps.mask, size, np.bool_, "mask")
    require_array(maps.depth, size, np.float32, "depth")
    for what, depth in (("barycentric", 3), ("normal", 3), ("canonical", channels)):
        require_array(getattr(maps, what), (*size, depth), np.float32, what)
    require(np.array_equal(maps.mask, maps.triangle >= 0), "mask and triangle >= 0 differ")
    for what in ("depth", "barycentric", "normal", "canonical"):
        require(not getattr(maps, what)[~maps.mask].any(), f"{what} is not 0 where nothing was hit")
    return maps


def _plane(backend: Rasterizer) -> None:
    """A plane that fills the picture: depth, normal, canonical and barycentrics are known in every pixel."""
    mesh = _quad(-40, 80, -40, 70, DEPTH)
    maps = _checked(backend, mesh)
    require(bool(maps.mask.all()), "a plane that fills the picture leaves pixels empty")
    require_close(maps.depth, DEPTH, 1e-4, "depth of a frontal plane (m)")
    require_close(maps.normal, np.array([0.0, 0.0, -1.0]), 1e-4, "normal of a plane that faces the camera")
    require_close(maps.barycentric.sum(-1), 1.0, 1e-4, "sum of barycentrics")
    points = CAMERA.rays() * DEPTH
    require_close(maps.canonical, points * 10, 1e-2, "canonical (10 x position) of a plane")
    corners = mesh.vertices[mesh.triangles[maps.triangle]]
    blended = np.einsum("hwk,hwkc->hwc", maps.barycentric, corners)
    require_close(blended, points, 1e-3, "point from triangle and barycentrics (m)")


def _edges(backend: Rasterizer) -> None:
    """Pixel centres are at integers: a rectangle from 9.7 to 20.3 covers columns 10 to 20."""
    maps = _checked(backend, _quad(9.7, 20.3, 4.6, 15.4, DEPTH))
    expected = np.zeros_like(maps.mask)
    expected[5:16, 10:21] = True
    row, column = np.nonzero(maps.mask)
    found = f"columns {column.min()}-{column.max()}, rows {row.min()}-{row.max()}" if len(row) else "nothing"
    require(np.array_equal(maps.mask, expected), f"a rectangle over columns 10-20, rows 5-15 covers {found}")


def _nothing(backend: Rasterizer) -> None:
    """A mesh behind the camera, and a mesh without triangles, hit nothing."""
    behind = _quad(-40, 80, -40, 70, -DEPTH)
    empty = Mesh(behind.vertices, np.zeros((0, 3), np.int32), behind.canonical)
    for mesh, what in ((behind, "behind the camera"), (empty, "without triangles")):
        require(not _checked(backend, mesh).mask.any(), f"a mesh {what} was hit")


def _nearest(backend: Rasterizer) -> None:
    mesh = _joined(_quad(-40, 80, -40, 70, 2 * DEPTH), _quad(9.7, 20.3, 4.6, 15.4, DEPTH))
    maps = _checked(backend, mesh)
    require_close(maps.depth[5:16, 10:21], DEPTH, 1e-4, "depth where two planes overlap (m)")
    require_close(maps.depth[:4], 2 * DEPTH, 1e-4, "depth of the farther plane (m)")
    require(bool((maps.triangle[5:16, 10:21] >= 2).all()), "triangle ids of the nearer plane are wrong")


def _both_sides(backend: Rasterizer) -> None:
    mesh = _quad(-40, 80, -40, 70, DEPTH)
    flipped = Mesh(mesh.vertices, mesh.triangles[:, ::-1].copy(), mesh.canonical)
    require(bool(_checked(backend, flipped).mask.all()), "triangles seen from behind are culled")


def _moved_together(backend: Rasterizer) -> None:
    """Moving camera and mesh by the same rigid motion changes no map but the world normals, which turn along."""
    angle = 0.7
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    translation = np.array([0.3, -0.2, 0.5])
    undo = np.eye(4)
    undo[:3, :3], undo[:3, 3] = rotation.T, -rotation.T @ translation
    mesh = _joined(_quad(-40, 80, -40, 70, 2 * DEPTH), _quad(9.7, 20.3, 4.6, 15.4, DEPTH))
    before = _checked(backend, mesh)
    after = _checked(backend, mesh.transformed(rotation, translation), CAMERA.moved(CAMERA.world_to_camera @ undo))
    require(np.array_equal(before.mask, after.mask), "the mask changes when camera and mesh move together")
    require_close(after.depth, before.depth, 1e-3, "depth after camera and mesh moved together (m)")
    require_close(after.normal, before.normal @ rotation.T, 1e-3, "world normals after the move")


def _coverage(backend: Rasterizer) -> None:
    """Where asked for, coverage is the covered share of each pixel's square; else it is None."""
    mesh = _quad(9.7, 20.3, -40, 70, DEPTH)
    require(_checked(backend, mesh).coverage is None, "coverage was not asked for and is not None")
    maps = _checked(backend, mesh, subpixels=8)
    require_array(maps.coverage, maps.mask.shape, np.float32, "coverage")
    share = np.zeros(CAMERA.width)
    share[10:21] = 1.0
    share[[10, 20]] = 0.8  # the pixel spans -0.5 .. +0.5: from 9.7 to 10.5 is 0.8 of it
    require_close(maps.coverage, share, 0.1, "coverage at a straight edge")
