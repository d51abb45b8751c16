import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from davatar.avatar.conditioning import fill_rim, head_maps, in_face_boxes, point_batch, rendered_conditions
from davatar.core.errors import DataError

GRID = (6, 7)


@given(arrays(bool, GRID), arrays(bool, GRID))
def test_rim_pixels_copy_a_hit_neighbour_and_nothing_else_changes(mask, wanted):
    values = np.arange(mask.size).reshape(GRID)
    maps, filled = fill_rim({"place": values}, mask, wanted)
    assert (filled >= mask).all() and not (filled & ~mask & ~wanted).any()
    np.testing.assert_array_equal(maps["place"][mask], values[mask])
    for row, column in np.argwhere(filled & ~mask):
        r, c = divmod(int(maps["place"][row, column]), GRID[1])
        assert mask[r, c] and max(abs(r - row), abs(c - column)) == 1
    padded = np.pad(mask, 1)
    near = np.logical_or.reduce([padded[1 + i : 7 + i, 1 + j : 8 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    assert (filled[wanted & near]).all()


def turned(balls, rotation):
    """The first ball, filmed in a world whose axes are turned."""
    maps = balls[0]
    return head_maps(
        canonical=maps.canonical.astype(float),
        normal=(maps.normal / 127) @ np.diag([1, -1, -1]) @ rotation.T,
        depth=maps.depth.astype(float) + maps.mean_depth,
        mask=maps.mask,
        coverage=None,
        expression=maps.expression,
        world_to_camera=rotation.T,
        world_to_reference=rotation.T,
        image=maps.image,
    )


def test_the_choice_of_world_axes_changes_nothing(balls):
    a, b = 0.4, -1.1
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    found = turned(balls, about_x @ about_z)
    assert np.abs(found.normal.astype(int) - balls[0].normal).max() <= 1  # 8-bit normals
    np.testing.assert_allclose(found.to_camera, balls[0].to_camera, atol=1e-6)


def test_non_finite_maps_are_refused(balls):
    with pytest.raises(DataError, match="ball/x: canonical holds non-finite"):
        head_maps(
            canonical=np.full((4, 4, 3), np.nan),
            normal=np.zeros((4, 4, 3)),
            depth=np.ones((4, 4)),
            mask=np.ones((4, 4), bool),
            coverage=None,
            expression=np.zeros(53),
            world_to_camera=np.eye(3),
            world_to_reference=np.eye(3),
            key="ball/x",
        )


def test_points_of_a_batch_know_their_pixel(balls):
    batch = point_batch(balls[:2], 32, 53)
    first, second = batch.counts
    masks = np.concatenate([maps.mask.ravel() for maps in balls[:2]])
    np.testing.assert_array_equal(batch.pixel, np.flatnonzero(masks))
    np.testing.assert_allclose(batch.canonical[first], balls[1].canonical[balls[1].mask][0])
    assert len(batch.geometry) == first + second and batch.image.min() >= -1


def test_face_boxes_weigh_more(balls):
    batch = point_batch(balls[:1], 32, 53, face_weight=4.0)
    inside = in_face_boxes(balls[0].canonical.astype(np.float32)) & balls[0].mask
    np.testing.assert_array_equal(batch.weight[0, 0].numpy() == 4, inside)
    assert inside.any()


@pytest.mark.parametrize(("resolution", "numbers", "message"), [(64, 53, "32x32.*64x64"), (32, 50, "53 numbers.*50")])
def test_frames_that_do_not_fit_are_named(balls, resolution, numbers, message):
    with pytest.raises(DataError, match=f"ball/0.*{message}"):
        point_batch(balls[:1], resolution, numbers)


def test_rendered_conditions_are_minus_one_off_the_head(balls):
    found = rendered_conditions(balls[0])
    off = ~balls[0].mask
    assert found.shape == (9, 32, 32)
    assert (found[[0, 1, 2, 3, 7, 8]][:, off] == -1).all() and (found[4:7, off] == 0).all()
    nearest = found[0][balls[0].mask].min()
    assert abs(nearest - ((2.1 * 0.7 - 0.4) / 1.9 - 1)) < 2e-3  # 0.7 m; depth is kept in half precision
