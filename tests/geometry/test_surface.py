"""Coarse-to-fine extraction equals the dense grid's mesh; what is promised of small pieces; memory; refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from davatar.core.errors import DataError, ResourceError, UsageError
from davatar.geometry.lattice import Lattice, index_of, key_of
from davatar.geometry.surface import MAX_BYTES, crossed_cells, extract_surface

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
    assert volume(*one) == pytest.approx(volume(*two), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("resolution", [17, 40, 64])
def test_equals_the_dense_mesh_with_fewer_queries(resolution):
    asked = []

    def field(points):
        asked.append(len(points))
        return bumpy(points)

    found = extract_surface(field, BOX, resolution, max_queries=5000, lipschitz=1.7)
    same_surface(found, dense(bumpy, BOX, resolution))
    assert max(asked) <= 5000
    if resolution == 64:
        assert sum(asked) < 0.2 * resolution**3


def solids(seed, count, smallest):
    """Distance to a union of balls and boxes, down to `smallest` across: it changes by no more than 1 per length."""
    draw = np.random.default_rng(seed)
    centres = draw.uniform(BOX[0], BOX[1], (count, 3))
    sizes = smallest * np.exp(draw.uniform(0, np.log(0.6 / smallest), (count, 3)))

    def field(points):
        away = []
        for k, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
            if k % 2:
                beyond = np.abs(points - centre) - size / 2
                away.append(np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0))
            else:
                away.append(np.linalg.norm(points - centre, axis=1) - size[0] / 2)
        return np.min(away, axis=0)

    return field


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(5, 30), st.sampled_from([1.0, 2.5]))
def test_no_piece_is_lost_however_small(seed, count, resolution, steepness):
    field = solids(seed, count, smallest=0.3 * 2.0 / resolution)

    def steep(points):
        return steepness * field(points)

    try:
        wanted = dense(steep, BOX, resolution)
    except (ValueError, RuntimeError):  # scikit-image's word for no surface
        with pytest.raises(DataError, match="no surface"):
            extract_surface(steep, BOX, resolution, lipschitz=steepness)
        return
    same_surface(extract_surface(steep, BOX, resolution, lipschitz=steepness), wanted)


def test_pieces_that_the_previous_surface_touches_are_followed():
    def two(points):
        return np.minimum(np.linalg.norm(points, axis=1) - 0.4, np.linalg.norm(points - 0.75, axis=1) - 0.15)

    both = extract_surface(two, BOX, 40)
    small = both[0][np.linalg.norm(both[0] - 0.75, axis=1) < 0.2]
    same_surface(extract_surface(two, BOX, 40, previous=both[0]), both)
    only = extract_surface(two, BOX, 40, previous=small[:1])
    assert len(only[0]) == len(small)


def test_memory_follows_the_surface_and_its_bound():
    lattice = Lattice(bumpy, BOX, 220, 1 << 16, MAX_BYTES)
    crossed_cells(lattice, 1.7)
    assert lattice.nbytes < 220**3 * 4 / 5
    with pytest.raises(ResourceError, match="more than the 1 MiB it was given") as caught:
        extract_surface(bumpy, BOX, 220, max_bytes=1 << 20)
    assert caught.value.exit_code == 6
    with pytest.raises(UsageError, match="5000 samples per axis"):
        extract_surface(bumpy, BOX, 5000)


@given(st.lists(st.tuples(*[st.integers(0, 99)] * 3), min_size=1, max_size=80))
def test_lattice_points_are_asked_once_and_remembered(points):
    asked = []

    def field(x):
        asked.extend(map(tuple, np.rint(x).astype(int)))
        return x @ [1.0, 2.0, 3.0]

    lattice = Lattice(field, np.array([[0.0] * 3, [99.0] * 3]), 100, 7, MAX_BYTES)
    keys = key_of(np.array(points))
    assert np.array_equal(index_of(keys), points)
    lattice.assume(keys[:5], np.ones(len(keys[:5])))
    lattice.evaluate(keys)
    lattice.evaluate(keys)
    assert sorted(asked) == sorted(set(points)) and lattice.queries == len(asked)
    np.testing.assert_allclose(lattice.lookup(keys), np.array(points) @ [1, 2, 3])
    assert sorted(lattice.distinct(keys)) == sorted(set(keys.tolist()))
    assert len(lattice.claim(lattice.distinct(keys))) == len(asked) and len(lattice.claim(keys)) == 0


def test_follows_the_surface_from_the_previous_frame():
    def moved(points):
        return bumpy(points - np.array([0.12, 0.0, 0.05]))

    asked = []

    def field(points):
        asked.append(len(points))
        return moved(points)

    before = extract_surface(bumpy, BOX, 48)[0]
    same_surface(extract_surface(field, BOX, 48, previous=before), dense(moved, BOX, 48))
    followed = sum(asked)
    asked.clear()
    extract_surface(field, BOX, 48)
    assert followed < sum(asked), "a surface nearby saves the search"
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
