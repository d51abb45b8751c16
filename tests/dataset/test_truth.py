"""Exact geometry of simulated recordings."""

import numpy as np
import pytest

from davatar.capture.open import open_capture
from davatar.core.errors import DataError
from davatar.dataset.framing import frame_head
from davatar.dataset.rasterize import tracked
from davatar.dataset.truth import exact
from davatar.raster.embree import EmbreeRasterizer


def test_true_meshes_lie_on_the_measured_depth(shared):
    """seq01: depth noise is about 1.2 mm (robust sigma), so the median over skin must be far below that."""
    folder = shared / "data/kinect_sequences/seq01_easy"
    capture = open_capture(folder)
    recording = exact(folder, capture)
    frame = capture.frame(20)
    maps = EmbreeRasterizer().rasterize(recording.meshes(20), frame.camera)
    face = maps.mask & np.isfinite(frame.depth) & (maps.canonical[..., 2] > 0) & (maps.canonical[..., 1] > -0.4)
    error = np.abs(maps.depth - frame.depth)[face]
    assert face.sum() > 5000 and np.median(error) < 0.0015
    heads = np.array([recording.track.head_to_world(row) for row in range(len(recording.track))])
    crop = frame_head(frame.camera, heads, 128).crop
    rows, columns = np.nonzero(face)
    assert crop.x < columns.min() and columns.max() < crop.x + crop.width
    assert crop.y < rows.min() and rows.max() < crop.y + crop.height


def test_what_the_truth_must_have(tmp_path, recording_on_disk):
    folder, track = recording_on_disk
    capture = open_capture(folder)
    with pytest.raises(DataError, match="params.npz: is missing"):
        exact(folder, capture)
    (folder / "gt").mkdir()
    np.savez(folder / "gt" / "params.npz", identity=np.zeros(100), expression=np.zeros((2, 53)))
    with pytest.raises(DataError, match="lacks head_pose"):
        exact(folder, capture)
    np.savez(
        folder / "gt" / "params.npz",
        identity=np.zeros(100),
        expression=np.zeros((2, 53)),
        head_pose=np.zeros((2, 4, 4)),
    )
    with pytest.raises(DataError, match="knows 2 frames, the recording has 3"):
        exact(folder, capture)
    (folder / "depth" / "00002.png").unlink()
    with pytest.raises(DataError, match="made from frame 2, but talk has 2 frames"):
        tracked(track, open_capture(folder))
