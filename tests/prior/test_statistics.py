import json

import numpy as np
import pytest

from davatar.core.errors import DataError
from davatar.headmodel.morphable import open_morphable
from davatar.prior.mocap import load_mocap
from davatar.prior.statistics import expression_statistics


def test_shape_order_is_that_of_the_morphable_model():
    assert load_mocap().names == open_morphable().expression_names
    assert expression_statistics().names == open_morphable().expression_names


def test_covariance_is_symmetric_and_semi_definite():
    statistics = expression_statistics()
    assert statistics.mean.shape == (53,) and statistics.covariance.shape == (53, 53)
    assert np.allclose(statistics.covariance, statistics.covariance.T)
    assert np.linalg.eigvalsh(statistics.covariance).min() > -1e-9
    assert statistics.mean.min() >= 0 and statistics.mean.max() <= 1


def test_recorded_windows_of_the_test_recordings_are_left_out(shared):
    motion = load_mocap()
    usable = motion.usable()
    recordings = sorted((shared / "data" / "kinect_sequences").glob("*/meta.json"))
    assert recordings
    for path in recordings:
        meta = json.loads(path.read_text())
        source = meta["expression_source"]
        replayed = source["first_frame"] + source["step"] * np.arange(meta["num_frames"])
        assert not usable[replayed].any(), path


def test_splits_do_not_overlap():
    motion = load_mocap()
    assert not (motion.held_out() & ~motion.usable()).any()
    assert len(motion.training()) + len(motion.evaluation()) == motion.usable().sum() == expression_statistics().frames


@pytest.mark.parametrize("broken", ["truncated", "no names", "not finite", "absent"])
def test_broken_motion_file_is_named(tmp_path, broken):
    path = tmp_path / "motion.npz"
    arrays = {"weights": np.zeros((4, 2)), "names": np.array(["a", "b"]), "fps": 30.0, "recorded": np.zeros((0, 2))}
    if broken == "no names":
        del arrays["names"]
    if broken == "not finite":
        arrays["weights"][1, 1] = np.nan
    if broken != "absent":
        np.savez(path, **arrays)
    if broken == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="motion.npz"):
        load_mocap(path)
