"""Distances to meshes against a plain search over every triangle, and what barycentric shares promise."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from davatar.geometry.distance import MeshDistance, barycentric, closest_on_triangles


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_nearest_point_is_that_of_a_search_over_all_triangles(seed):
    rng = np.random.default_rng(seed)
    vertices, triangles = rng.normal(size=(30, 3)), rng.integers(30, size=(25, 3))  # some of them without area
    points = 2 * rng.normal(size=(20, 3))
    found = MeshDistance(vertices, triangles).nearest(points)
    on = closest_on_triangles(points[:, None], vertices[triangles][None])
    away = np.linalg.norm(on - points[:, None], axis=-1)
    np.testing.assert_allclose(found.distance, away.min(1), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found.point - points, axis=1), found.distance, atol=1e-9)


def test_points_around_a_box_have_the_distances_a_box_gives():
    box = trimesh.creation.box((2, 2, 2))
    points = np.array([[2.0, 0, 0], [2, 2, 0], [2, 2, 2], [0.5, 0, 0]])
    found = MeshDistance(box.vertices, box.faces).nearest(points)
    np.testing.assert_allclose(found.distance, [1, np.sqrt(2), np.sqrt(3), 0.5], atol=1e-12)


@pytest.mark.parametrize("shape", [(), (2,), (1, 3)])
def test_barycentric_shares_rebuild_a_point_of_the_plane(shape):
    rng = np.random.default_rng(1)
    corners, wanted = rng.normal(size=(*shape, 3, 3)), rng.normal(size=(*shape, 3))
    wanted /= wanted.sum(-1, keepdims=True)
    points = (wanted[..., None] * corners).sum(-2)
    lifted = points + np.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])
    np.testing.assert_allclose(barycentric(lifted, corners), wanted, atol=1e-6)


def test_a_triangle_without_area_is_a_segment():
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    np.testing.assert_allclose(closest_on_triangles(np.array([0.25, 1.0, 0]), corners), [0.25, 0, 0])
