import numpy as np
import pytest

from davatar.core import plugins
from davatar.core.errors import DataError
from davatar.testing import check_opener


@pytest.fixture
def opener():
    return plugins.load("davatar.captures", "my-capture")


@pytest.fixture
def recording(tmp_path):
    folder = tmp_path / "anna"
    folder.mkdir()
    depth = np.random.default_rng(0).uniform(0.3, 0.6, (3, 6, 8))
    depth[:, 0] = 0  # nothing measured
    K = np.array([[10.0, 0, 4], [0, 10, 3], [0, 0, 1]])
    np.savez(folder / "recording.npz", depth=depth, K=K, fps=30.0, color=np.zeros((3, 6, 8, 3), np.uint8))
    return folder


def test_contract(opener, recording, tmp_path):
    (tmp_path / "other").mkdir()
    check_opener(opener, recording, tmp_path / "other")


def test_a_truncated_file_is_named(opener, recording):
    file = recording / "recording.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="recording.npz: is not a readable recording"):
        opener(recording)
