"""The embree backend against a plain twin, the published rasteriser's fixtures, and geometry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from davatar.core.errors import DataError
from davatar.geometry.camera import Camera, backproject
from davatar.geometry.mesh import Mesh
from davatar.raster.embree import EmbreeRasterizer, rim
from davatar.testing import check_rasterizer

NEAR = 0.1  # the published renderer clips there; embree does not


def test_keeps_the_contract():
    check_rasterizer(EmbreeRasterizer)


def plain_twin(mesh: Mesh, camera: Camera, offset=(0.0, 0.0)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel against every triangle in float64: triangle [H, W], barycentric [H, W, 3], depth [H, W]."""
    corner = mesh.vertices @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    a, b, c = (corner[mesh.triangles[:, k]] for k in range(3))
    column, row = np.meshgrid(np.arange(camera.width) + offset[0], np.arange(camera.height) + offset[1])
    rays = np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(camera.K).T
    shape = (*row.shape, len(a))
    with np.errstate(divide="ignore", invalid="ignore"):
        solved = np.stack([np.tensordot(rays, np.cross(p, q), (-1, -1)) for p, q in ((b, c), (c, a), (a, b))], -1)
        weights = solved / solved.sum(-1, keepdims=True)
        depth = np.einsum("hwfk,fk->hwf", weights, np.stack([a[:, 2], b[:, 2], c[:, 2]], -1))
    depth = np.where((weights >= 0).all(-1) & (depth > 0), depth, np.inf)
    nearest = depth.argmin(-1)
    hit = np.isfinite(depth.min(-1))
    pick = np.arange(shape[0])[:, None], np.arange(shape[1])[None], nearest
    return np.where(hit, nearest, -1), np.where(hit[..., None], weights[pick], 0), np.where(hit, depth[pick], 0)


def bumpy_ball(seed: int, rings: int = 9) -> Mesh:
    """A closed, slightly irregular ball of radius about 0.1 m at the origin, canonical = position."""
    rng = np.random.default_rng(seed)
    theta, phi = np.meshgrid(np.linspace(0.05, np.pi - 0.05, rings), np.arange(12) * np.pi / 6, indexing="ij")
    radius = 0.1 * (1 + 0.2 * rng.uniform(-1, 1, theta.shape))
    points = radius[..., None] * np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    index = np.arange(points[..., 0].size).reshape(theta.shape)
    right = np.roll(index, -1, axis=1)
    quads = np.stack([index[:-1], index[1:], right[1:], right[:-1]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    vertices = points.reshape(-1, 3)
    return Mesh(vertices, triangles.astype(np.int32), vertices.copy())


def view(size=(48, 40), focal=150.0) -> Camera:
    to_camera = np.diag([1.0, -1.0, -1.0, 1.0])
    to_camera[2, 3] = 0.6
    return Camera.pinhole(focal, focal * 1.1, size[0] / 2 - 1.3, size[1] / 2 + 0.4, *size, to_camera)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), focal=st.floats(60, 400))
def test_agrees_with_the_plain_twin(seed, focal):
    mesh, camera = bumpy_ball(seed), view(focal=focal)
    maps = EmbreeRasterizer().rasterize(mesh, camera)
    triangle, weights, depth = plain_twin(mesh, camera)
    same = triangle == maps.triangle
    assert (~same).sum() <= 2  # a centre within float32 rounding of an edge may fall either way
    np.testing.assert_allclose(maps.barycentric[same], weights[same], atol=1e-6)
    np.testing.assert_allclose(maps.depth[same], depth[same], rtol=1e-6)


def test_interpolates_canonical_and_points_where_the_camera_says():
    mesh, camera = bumpy_ball(3), view()
    maps = EmbreeRasterizer().rasterize(mesh, camera)
    points, pixels = backproject(np.where(maps.mask, maps.depth, np.nan).astype(float), camera)
    np.testing.assert_allclose(maps.canonical[pixels[:, 1], pixels[:, 0]], points, atol=1e-6)
    toward = camera.center - points
    assert (np.einsum("nc,nc->n", maps.normal[maps.mask], toward) > 0).mean() > 0.97
    np.testing.assert_allclose(np.linalg.norm(maps.normal[maps.mask], axis=-1), 1, atol=1e-6)
    assert not maps.canonical[~maps.mask].any() and not maps.normal[~maps.mask].any()


def test_moving_head_and_camera_together_changes_no_picture():
    mesh, camera = bumpy_ball(5), view()
    angle = 0.7
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, (3.0, -2.0, 5.0)
    rasterizer = EmbreeRasterizer()
    here = rasterizer.rasterize(mesh, camera, subpixels=3)
    there = rasterizer.rasterize(
        mesh.transformed(rotation, motion[:3, 3]),
        camera.moved(camera.world_to_camera @ np.linalg.inv(motion)),
        subpixels=3,
    )
    assert (here.triangle != there.triangle).sum() <= 2
    same = here.triangle == there.triangle
    np.testing.assert_allclose(here.depth[same], there.depth[same], rtol=1e-6)
    np.testing.assert_allclose(here.normal[same] @ rotation.T, there.normal[same], atol=1e-5)


def test_coverage_is_the_share_of_subrays():
    mesh, camera = bumpy_ball(8), view()
    coverage = EmbreeRasterizer().rasterize(mesh, camera, subpixels=3).coverage
    third = [-1 / 3, 0, 1 / 3]
    expected = np.mean([plain_twin(mesh, camera, (dx, dy))[0] >= 0 for dx in third for dy in third], axis=0)
    np.testing.assert_allclose(coverage, expected, atol=1 / 9 + 1e-6)
    assert np.abs(coverage - expected).mean() < 1e-3


def test_coverage_of_a_half_covered_pixel():
    camera = Camera.pinhole(1, 1, 2, 2, 5, 5)  # at depth 1 a pixel is 1 m wide, pixel (2, 2) is centred on the axis
    edge = 0.3
    square = np.array([[edge, -9, 1], [9, -9, 1], [9, 9, 1], [edge, 9, 1]], float)
    mesh = Mesh(square, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    coverage = EmbreeRasterizer().rasterize(mesh, camera, subpixels=10).coverage
    np.testing.assert_allclose(coverage, [[0, 0, 0.2, 1, 1]] * 5, atol=1e-6)


def test_rim_is_where_the_mask_changes():
    mask = np.zeros((5, 6), bool)
    mask[2, 2:] = True
    assert rim(mask)[1:4, 1:].all() and not rim(mask)[[0, 4]].any() and not rim(mask)[:, 0].any()


@pytest.mark.parametrize("scene", range(3))
def test_golden_triangle_sets(shared, scene):
    """Published fixtures give clip-space corners; a projective map turns them into points before a pinhole camera.

    Tolerances: ids equal but for `ambiguous` centres and the near plane; barycentrics 1e-6 (float32 fixture).
    """
    with np.load(shared / "golden/diffusion_avatars/C_raster.npz") as golden:
        clip, faces, rast, ambiguous = (golden[f"s{scene}_{k}"] for k in ("clip", "faces", "rast", "ambiguous"))
    clip = clip.astype(np.float64)
    homogeneous = (2.1 * clip[:, 3] - 1.9 * clip[:, 2]) / 0.4  # inverse of z_clip = (2.1 Z - 0.4 h) / 1.9, Z = w
    mesh = Mesh(clip[:, [0, 1, 3]] / homogeneous[:, None], faces.astype(np.int32))
    height, width = rast.shape[:2]
    camera = Camera.pinhole(width / 2, height / 2, (width - 1) / 2, (height - 1) / 2, width, height)
    maps = EmbreeRasterizer().rasterize(mesh, camera)
    triangle = rast[..., 3].astype(int) - 1
    clipped = maps.mask & (maps.depth < NEAR)
    np.testing.assert_array_equal(maps.triangle[~ambiguous & ~clipped], triangle[~ambiguous & ~clipped])
    same = (triangle >= 0) & (triangle == maps.triangle)
    weights = maps.barycentric[same] / homogeneous[faces[triangle[same]]]
    weights /= weights.sum(-1, keepdims=True)
    assert same.any()
    np.testing.assert_allclose(weights[:, :2], rast[same][:, :2], atol=1e-6)


def test_golden_renderer_call(shared):
    """Ids equal everywhere; barycentrics 2e-5 (the fixture's clip vertices are float32), clip-space z 1e-6.

    The published pixel centres lie at +0.5, hence the half pixel taken off the principal point.
    """
    with np.load(shared / "golden/diffusion_avatars/C_render.npz") as golden:
        data = {key: golden[key] for key in golden.files}
    K = data["intrinsics"].astype(np.float64)
    K[:2, 2] -= 0.5
    camera = Camera(K, data["pose_w2c_cv"], *map(int, data["render_size_wh"]))
    maps = EmbreeRasterizer().rasterize(Mesh(data["mesh_vertices"], data["faces"].astype(np.int32)), camera)
    np.testing.assert_array_equal(maps.triangle, data["rast"][..., 3].astype(int) - 1)
    np.testing.assert_allclose(maps.barycentric[..., :2] * maps.mask[..., None], data["rast"][..., :2], atol=2e-5)
    np.testing.assert_allclose((2.1 * maps.depth - 0.4) / 1.9 * maps.mask, data["depths"][..., 0], atol=1e-6)


def test_nothing_in_view_gives_empty_maps():
    camera = view()
    for mesh in (
        Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)),
        bumpy_ball(1).transformed(np.eye(3), np.array([0, 0, 9.0])),
    ):
        maps = EmbreeRasterizer().rasterize(mesh, camera, subpixels=2)
        assert not maps.mask.any() and not maps.coverage.any() and (maps.triangle == -1).all()


def test_a_second_mesh_is_not_mistaken_for_the_first():
    rasterizer, camera = EmbreeRasterizer(), view()
    first, second = bumpy_ball(1), bumpy_ball(2)
    rasterizer.rasterize(first, camera)
    np.testing.assert_array_equal(
        rasterizer.rasterize(second, camera).depth, EmbreeRasterizer().rasterize(second, camera).depth
    )


def test_bad_meshes_are_named():
    ball = bumpy_ball(1)
    broken = ball.vertices.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="non-finite"):
        EmbreeRasterizer().rasterize(Mesh(broken, ball.triangles), view())
    with pytest.raises(DataError, match="outside"):
        EmbreeRasterizer().rasterize(Mesh(ball.vertices[:5], ball.triangles), view())
    with pytest.raises(DataError, match="canonical"):
        EmbreeRasterizer().rasterize(Mesh(ball.vertices, ball.triangles, ball.canonical[:5]), view())
