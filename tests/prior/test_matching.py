"""Figures that compare sets of heads, on sets whose answer is known."""

import numpy as np
import pytest

from davatar.core.errors import DataError
from davatar.geometry.mesh import Mesh
from davatar.headmodel.morphable import open_morphable
from davatar.prior.head_distance import chamfer_distances, surface_points, vertex_space
from davatar.prior.matching import code_figures, distances, kernel_distance, match_figures, neighbour_figures


def test_kernel_distance_is_zero_for_one_distribution_and_grows_with_the_shift():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(300, 3))
    found = []
    for shift in (0.0, 0.5, 1.5):
        two = rng.normal(size=(300, 3)) + shift
        found.append(kernel_distance(distances(one, two), distances(one, one), distances(two, two)))
    assert abs(found[0]) < 0.01 < found[1] < found[2]


def test_equal_sets_match_and_half_a_set_covers_half():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(200, 2))
    one[:100] += 100
    within = distances(one, one)
    same, half = match_figures(within, within), match_figures(distances(one, one[:100]), within)
    assert (same.coverage, same.matched, same.precision) == (1, 1, 1) and same.matching < 1e-5
    assert half.coverage == pytest.approx(0.5, abs=0.01) and half.precision == 1 and half.matching > 10


def test_wider_samples_are_seen_in_every_figure():
    rng = np.random.default_rng(1)
    held_out, training, good = (rng.normal(size=(300, 4)) for _ in range(3))
    fine, wide = (code_figures(held_out, training, samples) for samples in (good, 3 * good))
    assert fine.kernel < wide.kernel and fine.kernel_training < wide.kernel_training
    assert fine.matching < wide.matching and fine.precision > wide.precision and fine.coverage > wide.coverage
    assert fine.outside is None


def test_copies_of_training_values_are_counted():
    rng = np.random.default_rng(2)
    training = rng.normal(size=(500, 10))
    samples = np.concatenate([training[:60] + 0.001, rng.normal(size=(140, 10))])
    figures = neighbour_figures(samples, training)
    assert figures.copies == 0.3 and figures.low < 0.01 < figures.median


@pytest.mark.parametrize("kind", ["identity", "expression", "joint"])
def test_vertex_distance_is_that_of_the_meshes(kind):
    model, rng = open_morphable(), np.random.default_rng(3)
    one, two = rng.random((2, 100)), rng.random((2, 53))
    who = one if kind != "expression" else np.zeros((2, 100))
    what = two if kind != "identity" else np.zeros((2, 53))
    values = {"identity": one, "expression": two, "joint": np.concatenate([one, two], axis=1)}[kind]
    moved = np.diff(model.vertices(who, what)[:, model.sets["skin"]].astype(np.float64), axis=0)[0]
    placed = values @ vertex_space(kind)
    assert np.linalg.norm(placed[0] - placed[1]) == pytest.approx(1000 * np.sqrt((moved**2).sum(1).mean()), rel=1e-4)


def test_chamfer_distance_of_shifted_planes_is_the_shift():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float64)
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    rng = np.random.default_rng(4)
    low, high = (surface_points(Mesh(square + [0, 0, z], triangles), 4000, rng) for z in (0.0, 0.3))
    assert low[:, :2].mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.03)
    found = chamfer_distances([low, high], [low])
    assert found[:, 0] == pytest.approx([0.0, 0.3], abs=0.01)
    with pytest.raises(DataError, match="without area"):
        surface_points(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), 5, rng)
