"""Camera paths from JSON files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from davatar.avatar.camera_path import read_camera_path
from davatar.core.errors import DataError
from davatar.geometry.camera import Camera

VIEW = Camera.pinhole(400, 400, 63.5, 63.5, 128, 128)
HEAD = np.diag([1.0, -1.0, -1.0, 1.0])  # faces the camera
HEAD[:3, 3] = [0.05, 0.0, 0.7]
CENTER = np.array([0.0, 0.02, 0.0])
MIDDLE = HEAD[:3, :3] @ CENTER + HEAD[:3, 3]


@pytest.fixture
def path(tmp_path):
    def write(told) -> object:
        file = tmp_path / "path.json"
        file.write_text(told if isinstance(told, str) else json.dumps(told))
        return file

    return write


def test_look_at_keys_are_passed_smoothly_and_the_last_is_held(path):
    keys = [{"time": 0, "position": [0, 0, 0.9], "fov": 20}, {"time": 1, "position": [0.4, 0, 0.8]}]
    found = read_camera_path(path(keys))
    assert found.frames(24) == 25
    cameras = found.cameras(30, 24, VIEW, CENTER, HEAD)
    for camera in cameras:
        np.testing.assert_allclose(camera.project(MIDDLE)[0], [63.5, 63.5], atol=1e-9)
        np.testing.assert_allclose(2 * np.degrees(np.arctan(64 / camera.K[0, 0])), 20)
    apart = np.array([np.linalg.norm(camera.center - MIDDLE) for camera in cameras])
    np.testing.assert_allclose(apart[[0, 24, 29]], [0.9, np.hypot(0.4, 0.8), np.hypot(0.4, 0.8)])
    centers = np.stack([camera.center for camera in cameras])
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    assert steps[0] < steps[11] / 5 and steps[23] < steps[11] / 5  # starts and ends at rest


def test_without_a_lens_the_head_is_as_large_as_in_the_data_set(path):
    (camera,) = read_camera_path(path([{"time": 0, "position": [0, 0, 2]}])).cameras(1, 24, VIEW, CENTER, HEAD)
    size, depth = camera.K[0, 0], camera.project(MIDDLE)[1]
    np.testing.assert_allclose(size / depth, 400 / MIDDLE[2])


def test_placed_keys_are_the_worlds_cameras(path):
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    turned[:3, 3] = [0.1, 0.2, 0.3]
    K = [[800, 0, 255.5], [0, 800, 255.5], [0, 0, 1]]
    keys = [{"time": t, "world_to_camera": pose.tolist(), "K": K} for t, pose in ((0, np.eye(4)), (2, turned))]
    cameras = read_camera_path(path({"width": 512, "keys": keys})).cameras(3, 1, VIEW, CENTER, HEAD)
    np.testing.assert_allclose(cameras[0].world_to_camera, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(cameras[2].world_to_camera, turned, atol=1e-9)
    half = cameras[1].world_to_camera[:3, :3]
    np.testing.assert_allclose(half @ half, turned[:3, :3], atol=1e-9)
    np.testing.assert_allclose(cameras[0].K, [[200, 0, 63.5], [0, 200, 63.5], [0, 0, 1]])


@pytest.mark.parametrize(
    "told, said",
    [
        ('[{"time": 0,', "is not valid JSON"),
        ({"key": []}, "'key', which is not known .did you mean 'keys'"),
        ([], "holds no list of keys"),
        ([{"time": 0, "positon": [0, 0, 1]}], "did you mean 'position'"),
        ([{"position": [0, 0, 1]}], "key 0 has no time"),
        ([{"time": 0}], "key 0 has no position"),
        ([{"time": 0, "position": [0, 1]}], r"position of key 0 is \[0, 1\], expected 3 numbers"),
        ([{"time": "soon", "position": [0, 0, 1]}], "time of key 0 is 'soon', expected a number"),
        ([{"time": 1, "position": [0, 0, 1]}, {"time": 1}], "key 1 is not later"),
        ([{"time": 0, "position": [0, 1, 0]}], "key 0 looks straight up or down"),
        ([{"time": 0, "position": [0, 0, 1], "fov": 0}], "no positive focal length"),
        ([{"time": 0, "position": [0, 0, 1], "K": np.eye(3).tolist()}], "no width"),
        ([{"time": 0, "world_to_camera": (2 * np.eye(4)).tolist()}], "no rotation and translation"),
    ],
)
def test_a_broken_path_says_where(path, told, said):
    with pytest.raises(DataError, match=said) as caught:
        read_camera_path(path(told))
    assert caught.value.file.endswith("path.json")
