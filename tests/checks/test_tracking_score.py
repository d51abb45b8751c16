"""Points are found on the tracked surface where they are, not on another sheet that is as near in canonical space."""

import numpy as np

from davatar.checks.tracking_score import AROUND, same_places


def test_a_place_is_sought_where_its_codes_have_it():
    square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], float)
    canonical = np.concatenate([square, square + [0, 0, 0.02]])  # two sheets, the second a little above the first
    triangles = np.array([[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]])
    posed = 0.01 * canonical + np.repeat([[0, 0, 0], [0, 0, 0.1]], 4, axis=0)  # ten centimetres apart when posed
    centers = posed[triangles].mean(1)
    point = np.array([[0.2, 0.3, 0.012]])  # nearer to the second sheet
    expected = np.array([[0.002, 0.003, 0.0], [0.002, 0.003, 0.1], [5.0, 5.0, 5.0]])
    triangle, shares = same_places(canonical, triangles, np.repeat(point, 3, 0), centers, expected)
    assert AROUND < 0.1
    np.testing.assert_array_equal(triangle, [0, 2, 2])  # where it is expected; the nearest where nothing is around
    found = np.einsum("kc,kcd->kd", shares, canonical[triangles[triangle]])
    np.testing.assert_allclose(found, [[0.2, 0.3, 0], [0.2, 0.3, 0.02], [0.2, 0.3, 0.02]], atol=1e-9)
