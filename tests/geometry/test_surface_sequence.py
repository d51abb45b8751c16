"""Surfaces of a slowly changing field: near the dense ones, with fewer queries, and without drift."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from davatar.core.errors import DataError
from davatar.geometry.surface import extract_surface
from davatar.geometry.surface_sequence import SurfaceSequence

BOX = np.array([[-1.0, -1.1, -0.9], [1.0, 1.0, 1.2]])
TOLERANCE = 1e-3


def breathing(amount):
    """A ball of which one side swells."""

    def field(points):
        return np.linalg.norm(points, axis=1) - 0.6 - amount * np.exp(-4 * (points[:, 0] - 0.6) ** 2)

    return field


def jumping(amount):
    return lambda points: np.linalg.norm(points - [amount, 0, 0], axis=1) - 0.5


def apart(one, two):
    return max(cKDTree(one).query(two)[0].max(), cKDTree(two).query(one)[0].max())


def test_frames_stay_within_the_tolerance_for_fewer_queries():
    sequence, alone = SurfaceSequence(BOX, 72, TOLERANCE), []
    for frame in range(12):
        field = breathing(0.004 * frame)
        vertices, triangles = sequence.extract(field)
        wanted = extract_surface(field, BOX, 72)
        assert apart(vertices, wanted[0]) <= TOLERANCE
        assert len(triangles) == len(wanted[1]), "the same cells are crossed"
        alone.append(sequence.queries)
    assert max(alone[1:]) < 0.6 * alone[0]


def test_no_tolerance_is_the_dense_mesh():
    sequence = SurfaceSequence(BOX, 48, tolerance=0)
    for frame in range(3):
        vertices, triangles = sequence.extract(breathing(0.01 * frame))
        wanted = extract_surface(breathing(0.01 * frame), BOX, 48)
        assert apart(vertices, wanted[0]) < 1e-12 and len(triangles) == len(wanted[1])


@pytest.mark.parametrize("shift", [0.05, 0.4])
def test_large_changes_are_asked_anew(shift):
    sequence = SurfaceSequence(BOX, 40, TOLERANCE)
    sequence.extract(jumping(0.0))
    assert apart(sequence.extract(jumping(shift))[0], extract_surface(jumping(shift), BOX, 40)[0]) <= TOLERANCE


def test_a_sudden_local_change_is_seen():
    """A dent between frames, smaller than the middles of coarse cells tell apart from noise: asked, not guessed."""

    def dented(points):
        return breathing(0.0)(points) + 0.05 * np.exp(-60 * ((points - [0.6, 0, 0]) ** 2).sum(axis=1))

    sequence = SurfaceSequence(BOX, 60, TOLERANCE)
    sequence.extract(breathing(0.0))
    assert apart(sequence.extract(dented)[0], extract_surface(dented, BOX, 60)[0]) <= TOLERANCE


def test_errors_leave_the_sequence_usable():
    sequence = SurfaceSequence(BOX, 32, TOLERANCE)
    sequence.extract(breathing(0.0))
    with pytest.raises(DataError, match="not finite"):
        sequence.extract(lambda points: np.full(len(points), np.nan))
    with pytest.raises(DataError, match="no surface"):
        sequence.extract(lambda points: np.full(len(points), 1.0))
    assert apart(sequence.extract(breathing(0.001))[0], extract_surface(breathing(0.001), BOX, 32)[0]) <= TOLERANCE


def test_largest_piece_only():
    def two(points):
        return np.minimum(breathing(0.0)(points), np.linalg.norm(points - 0.85, axis=1) - 0.1)

    whole = SurfaceSequence(BOX, 48).extract(two)
    main = SurfaceSequence(BOX, 48, largest_only=True)
    assert len(main.extract(two)[0]) < len(whole[0])
    assert len(main.extract(two)[0]) < len(whole[0]), "also when it follows"
