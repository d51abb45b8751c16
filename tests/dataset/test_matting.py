"""Foreground from depth, on a disc of a head before a wall."""

import numpy as np
import pytest

from davatar.dataset.matting import depth_alpha, nearest_hit, on_white
from davatar.raster.maps import RasterMaps

FOCAL = 200.0
ROWS, COLUMNS = np.mgrid[:96, :96]
RADIUS = np.hypot(ROWS - 48, COLUMNS - 48)


@pytest.fixture
def maps():
    mask = RADIUS < 30
    blank = np.zeros((96, 96, 3), np.float32)
    return RasterMaps(
        triangle=np.where(mask, 0, -1).astype(np.int32),
        barycentric=blank,
        depth=np.where(mask, 0.5, 0).astype(np.float32),
        normal=blank,
        canonical=blank,
        mask=mask,
    )


def alpha_of(maps, depth, fade=None):
    return depth_alpha(maps, depth, FOCAL, np.ones(maps.mask.shape, np.float32) if fade is None else fade)


def test_a_bald_head_before_a_wall(maps):
    alpha = alpha_of(maps, np.where(maps.mask, 0.5, 2.0))
    assert alpha[RADIUS < 28].min() > 0.99 and alpha[RADIUS > 33].max() < 0.01


def test_hair_that_loses_half_its_depth_is_whole(maps):
    hair = ~maps.mask & (RADIUS < 40)
    depth = np.where(maps.mask, 0.5, np.where(hair, 0.45, 2.0))
    depth[hair & (np.random.default_rng(0).random(depth.shape) < 0.5)] = np.nan
    alpha = alpha_of(maps, depth)
    assert (alpha[RADIUS < 38] > 0.9).mean() > 0.99 and alpha[RADIUS > 44].max() < 0.01


def test_what_the_mesh_claims_but_the_camera_sees_past_is_background(maps):
    right = COLUMNS > 70
    alpha = alpha_of(maps, np.where(maps.mask & ~right, 0.5, 2.0))
    assert alpha[maps.mask & (COLUMNS > 72)].max() < 0.01 and alpha[48, 60] > 0.99


def test_an_open_mouth_is_no_background_and_dropouts_follow_the_mesh(maps):
    depth = np.where(maps.mask, 0.5, 2.0)
    depth[55:63, 40:56] = 0.58
    depth[30:40, 40:50] = np.nan
    assert alpha_of(maps, depth)[RADIUS < 28].min() > 0.99


def test_islands_beside_the_head_are_left_out(maps):
    depth = np.where(maps.mask, 0.5, 2.0)
    depth[45:52, 83:91] = 0.5  # a hand at the head's depth
    assert alpha_of(maps, depth)[:, 82:].max() < 0.01


def test_the_fade_reaches_the_result(maps):
    fade = np.where(ROWS > 48, 0.0, 1.0).astype(np.float32)
    alpha = alpha_of(maps, np.where(maps.mask, 0.5, 2.0), fade)
    assert alpha[52:].max() < 0.01 and alpha[40, 48] > 0.99


def test_an_empty_view_has_no_foreground(maps):
    empty = RasterMaps(
        maps.triangle * 0 - 1, maps.barycentric, maps.depth * 0, maps.normal, maps.canonical, maps.mask & False
    )
    assert not alpha_of(empty, np.full((96, 96), 0.5)).any()


def test_nearest_hit_and_compositing():
    mask = np.zeros((5, 7), bool)
    mask[2, 3] = True
    distance, row, column = nearest_hit(mask)
    assert (row == 2).all() and (column == 3).all() and distance[2, 0] == 3
    image = np.full((1, 2, 3), 0.2)
    np.testing.assert_allclose(on_white(image, np.array([[0.0, 0.5]]))[0, :, 0], [1.0, 0.6])
