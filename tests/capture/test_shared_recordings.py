"""The readers on recordings whose geometry is known: what is read is where the truth says it is."""

from __future__ import annotations

import numpy as np
import pytest

from davatar.capture.open import open_capture

SEQUENCES = ["seq01_easy", "seq02_fast", "seq03_occluded", "seq04_noisy"]


def true_vertices(model, folder, frame):
    """[V, 3] m in camera axes, as the description of the recordings says."""
    params, topology = np.load(folder / "gt" / "params.npz"), np.load(folder / "gt" / "topology.npz")
    local = model.vertices(params["identity"], params["expression"][frame])
    h = topology["head_weight"][:, None]
    head, body = params["head_pose"][frame], params["body_pose"]
    points = h * (local @ head[:3, :3].T + head[:3, 3]) + (1 - h) * (local @ body[:3, :3].T + body[:3, 3])
    return points, topology, params


@pytest.mark.parametrize("name", SEQUENCES)
def test_depth_lies_on_the_true_face(shared, model, name):
    folder = shared / "data" / "kinect_sequences" / name
    capture = open_capture(folder)
    assert len(capture) == 40 and not capture.provenance["warnings"]
    points, topology, params = true_vertices(model, folder, 20)
    stride = int(params["check_vertex_stride"])
    np.testing.assert_allclose(points[::stride], params["check_frame_00020"], atol=2e-5)  # m: packing

    frame = capture.frame(20)
    pixels, depth = frame.camera.project(points[topology["face"]])
    column, row = np.rint(pixels).astype(int).T
    error = frame.depth[row, column] - depth
    seen = np.isfinite(error) & (np.abs(error) < 0.01)
    assert seen.mean() > (0.2 if name == "seq03_occluded" else 0.4)  # the other side of the face, the hand
    assert np.median(np.abs(error[seen])) < (0.003 if name == "seq04_noisy" else 0.0015)


def test_landmarks_are_at_the_landmark_vertices(shared, model):
    folder = shared / "data" / "kinect_sequences" / "seq01_easy"
    points, topology, _ = true_vertices(model, folder, 5)
    frame = open_capture(folder).frame(5)
    expected = frame.camera.project(points[topology["landmarks68"]])[0]
    assert np.linalg.norm(frame.landmarks - expected, axis=1).max() < 6  # px; offset 0.7 and noise 0.9 per axis


def test_the_published_layout_shows_the_same_head(shared, model):
    folder = shared / "data" / "kinect_sequences" / "dphm_layout" / "sim101_mouthmove"
    capture = open_capture(folder)
    points, topology, _ = true_vertices(model, folder, 3)
    frame = capture.frame(3)
    expected = frame.camera.project(points[topology["landmarks68"]])[0]
    assert np.median(np.linalg.norm(frame.landmarks - expected, axis=1)) < 4
    pixels, depth = frame.camera.project(points[topology["face"]])
    column, row = np.rint(pixels).astype(int).T
    error = frame.depth[row, column] - depth
    assert np.median(np.abs(error[np.abs(error) < 0.01])) < 0.0015


def test_the_real_recording_has_its_own_times_and_unit(shared):
    capture = open_capture(shared / "data" / "truedepth_head")
    frame = capture.frame(22)
    assert len(capture) == 45 and frame.depth.shape == (320, 240)
    assert 1.2 < frame.time < 1.7
    assert 0.25 < np.nanpercentile(frame.depth, 5) < 0.5
