"""Rotations, the bounded solver, segmentation, smoothing and the search for a pose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from davatar.capture.frame import Frame
from davatar.capture.open import open_capture
from davatar.geometry.bounded_step import bounded_step
from davatar.tracking import so3
from davatar.tracking.observation import observe
from davatar.tracking.pose import REFUSE, procrustes
from davatar.tracking.results import Results
from davatar.tracking.segmentation import find_heads, mean_of_near
from davatar.tracking.start import find_head, lifted_landmarks

SHARED = [
    "kinect_sequences/seq01_easy",
    "kinect_sequences/seq02_fast",
    "kinect_sequences/seq03_occluded",
    "kinect_sequences/seq04_noisy",
]


@given(arrays(float, 3, elements=st.floats(-3, 3)))
def test_exponential_is_a_rotation_by_its_own_angle(w):
    rotation = so3.exp(w)
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    angle = np.linalg.norm(w)
    expected = angle if angle <= np.pi else 2 * np.pi - angle
    assert np.isclose(so3.angle(rotation), expected, atol=1e-6)


@given(st.integers(0, 10_000))
def test_bounded_step_meets_the_conditions_of_a_minimum(seed):
    random = np.random.default_rng(seed)
    root = random.normal(size=(12, 12))
    hessian, gradient = root @ root.T + 0.1 * np.eye(12), random.normal(size=12) * 3
    low, high = -random.uniform(0, 0.5, 12), random.uniform(0, 0.5, 12)
    low[:3], high[:3] = -np.inf, np.inf
    step, free = bounded_step(hessian, gradient, low, high)
    slope = gradient + hessian @ step
    assert (step >= low - 1e-12).all() and (step <= high + 1e-12).all()
    assert np.abs(slope[free]).max(initial=0) < 1e-8
    assert (slope[~free & (step == low)] >= -1e-8).all() and (slope[~free & (step == high)] <= 1e-8).all()


def test_mean_of_near_is_the_plain_window_mean():
    random = np.random.default_rng(0)
    depth = random.uniform(0.5, 0.52, (9, 11)).astype(np.float32)
    depth[random.random(depth.shape) < 0.2] = np.nan
    fast = mean_of_near(depth, 2, 0.008)
    for row, column in np.ndindex(depth.shape):
        window = depth[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        near = window[np.abs(window - depth[row, column]) < 0.008]
        expected = near.mean() if np.isfinite(depth[row, column]) else np.nan
        assert np.isclose(fast[row, column], expected, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", SHARED)
def test_the_head_is_found_in_simulated_recordings(shared, name):
    frame = open_capture(shared / "data" / name).frame(3)
    with np.load(shared / "data" / name / "gt" / "params.npz") as truth:
        pose = truth["head_pose"][3]
    expected = pose[:3, :3] @ [0, 0.059, 0.018] + pose[:3, 3]
    assert np.linalg.norm(find_heads(frame.depth, frame.camera)[0].center - expected) < 0.04


def test_the_mannequin_is_found_and_looks_the_way_it_does(shared):
    frame = open_capture(shared / "data" / "truedepth_head").frame(24)
    found = find_head(frame)
    assert found.pose.score < 0.58
    assert so3.angle(found.pose.rotation @ so3.facing_camera(0, 0).T) < np.deg2rad(30)
    assert 0.3 < found.center[2] < 0.5


def test_an_empty_room_holds_no_head(known):
    camera = known.capture.frame(0).camera
    wall = np.full((camera.height, camera.width), np.nan, np.float32)
    assert find_heads(wall, camera) == []


def test_the_pose_is_found_without_landmarks_and_with_them(known):
    frame = known.capture.frame(2)
    found = find_head(frame)
    assert so3.angle(found.pose.rotation @ known.rotation[2].T) < np.deg2rad(8)
    from davatar.headmodel.morphable import open_morphable

    points = known.vertices(2)[open_morphable().landmarks]
    pixels, _ = frame.camera.project(points)
    pixels[5] = np.nan
    marked = Frame(2, 0.0, frame.camera, frame.depth, landmarks=pixels)
    lifted = lifted_landmarks(marked)
    assert np.isnan(lifted[5]).all()
    assert np.median(np.linalg.norm(lifted[17:] - points[17:], axis=1)) < 0.003
    assert find_head(marked).pose.score <= found.pose.score + 0.05


def test_procrustes_recovers_a_motion():
    random = np.random.default_rng(1)
    source, rotation, shift = random.normal(size=(20, 3)), so3.exp([0.4, -1.0, 0.3]), np.array([0.1, 2.0, -0.3])
    found, moved = procrustes(source, source @ rotation.T + shift, np.ones(20))
    assert np.allclose(found, rotation) and np.allclose(moved, shift)


def test_noise_decides_whether_depth_is_smoothed(known):
    frame = known.capture.frame(0)
    center = known.rotation[0] @ [0, 0.059, 0.018] + known.translation[0]
    calm = observe(frame, center)
    noisy_depth = frame.depth + np.random.default_rng(0).normal(0, 0.004, frame.depth.shape).astype(np.float32)
    noisy_frame = Frame(0, 0.0, frame.camera, noisy_depth)
    raw, noisy = observe(noisy_frame, center, smooth=False), observe(noisy_frame, center)
    assert calm.noise < 0.0005 < 0.0015 < noisy.noise
    assert not np.allclose(raw.points[:200], noisy.points[:200], atol=1e-4)
    assert np.array_equal(calm.sample(50, 7)[0], calm.sample(50, 7)[0])


def test_results_of_other_settings_or_damaged_ones_do_not_count(tmp_path):
    Results(tmp_path, "one").put("item", value=np.arange(3.0))
    assert np.array_equal(Results(tmp_path, "one").get("item")["value"], np.arange(3.0))
    assert Results(tmp_path, "two").get("item") is None
    file = tmp_path / "item.npz"
    file.write_bytes(file.read_bytes()[:40])
    assert Results(tmp_path, "one").get("item") is None


def test_shoulders_without_a_head_are_refused(shared):
    frame = open_capture(shared / "data" / SHARED[0]).frame(5)
    points = frame.camera.rays() * frame.depth[..., None]
    center = find_heads(frame.depth, frame.camera)[0].center
    headless = np.where(np.linalg.norm(points - center, axis=-1) < 0.19, np.nan, frame.depth)
    found = find_head(Frame(0, 0.0, frame.camera, headless))
    assert found is None or found.pose.score > REFUSE
