"""Coarse-to-fine extraction equals the dense grid's mesh; winding, specks and refusals."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from davatar.core.errors import DataError
from davatar.geometry.surface import extract_surface

BOX = np.array([[-1.0, -1.1, -0.9], [1.0, 1.0, 1.2]])


def bumpy(points):
    radius = np.linalg.norm(points, axis=1)
    return radius - 0.6 - 0.08 * np.sin(7 * points[:, 0]) * np.cos(6 * points[:, 1])


def dense(field, box, resolution):
    axes = [np.linspace(*box[:, c], resolution) for c in range(3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    values = field(grid).astype(np.float32).reshape((resolution,) * 3)
    vertices, triangles, _, _ = marching_cubes(-values, 0.0, method="lorensen")
    return vertices * (box[1] - box[0]) / (resolution - 1) + box[0], triangles[:, ::-1]


def volume(vertices, triangles):
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    return np.einsum("nc,nc->", a, np.cross(b, c)) / 6


def same_surface(one, two):
    assert len(one[0]) == len(two[0]) and len(one[1]) == len(two[1])
    assert cKDTree(one[0]).query(two[0])[0].max() < 1e-6
    assert volume(*one) == pytest.approx(volume(*two), rel=1e-6)


@pytest.mark.parametrize("resolution", [17, 40, 64])
def test_equals_the_dense_mesh_with_fewer_queries(resolution):
    asked = []

    def field(points):
        asked.append(len(points))
        return bumpy(points)

    found = extract_surface(field, BOX, resolution, max_queries=5000)
    same_surface(found, dense(bumpy, BOX, resolution))
    assert max(asked) <= 5000
    if resolution == 64:
        assert sum(asked) < 0.2 * resolution**3


def test_follows_the_surface_from_the_previous_frame():
    def moved(points):
        return bumpy(points - np.array([0.12, 0.0, 0.05]))

    asked = []

    def field(points):
        asked.append(len(points))
        return moved(points)

    before = extract_surface(bumpy, BOX, 48)[0]
    same_surface(extract_surface(field, BOX, 48, previous=before), dense(moved, BOX, 48))
    anywhere = extract_surface(moved, BOX, 48, previous=np.full((3, 3), 0.99))
    same_surface(anywhere, dense(moved, BOX, 48))


def test_outward_winding_and_largest_piece():
    def two(points):
        return np.minimum(np.linalg.norm(points, axis=1) - 0.5, np.linalg.norm(points - 0.75, axis=1) - 0.15)

    both, one = extract_surface(two, BOX, 48), extract_surface(two, BOX, 48, largest_only=True)
    ball = 4 / 3 * np.pi * 0.5**3
    assert volume(*one) == pytest.approx(ball, rel=0.02)
    assert volume(*both) == pytest.approx(ball + 4 / 3 * np.pi * 0.15**3, rel=0.02)
    assert one[1].max() == len(one[0]) - 1


def test_refuses_nothing_and_nonsense():
    with pytest.raises(DataError, match="no surface"):
        extract_surface(lambda p: np.full(len(p), 3.0), BOX, 20)
    with pytest.raises(DataError, match="not finite"):
        extract_surface(lambda p: np.full(len(p), np.nan), BOX, 20)


def test_golden_vertices(shared):
    arrays = np.load(shared / "golden" / "dphm" / "B_extraction.npz")
    values = arrays["analytic_logits"].reshape(24, 24, 24)
    box = np.array([[-0.55, -0.5, -0.95], [0.55, 0.75, 0.4]])
    steps = (box[1] - box[0]) / 23

    def field(points):
        return values[tuple(np.rint((points - box[0]) / steps).astype(int).T)]

    vertices, triangles = extract_surface(field, box, 24)
    assert (len(vertices), len(triangles)) == (len(arrays["analytic_vertices"]), len(arrays["analytic_faces"]))
    assert cKDTree(vertices).query(arrays["analytic_vertices"])[0].max() < 1e-6
    wanted = volume(arrays["analytic_vertices"], arrays["analytic_faces"])
    assert volume(vertices, triangles) == pytest.approx(wanted, rel=1e-4)  # quads are cut along the other diagonal
    assert wanted > 0
