import numpy as np
import pytest

from davatar.core import plugins
from davatar.core.errors import DataError
from davatar.headmodel.scans import SampleCounts, ScanSettings
from davatar.testing import check_scans


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for person in ("anna", "bob"):
        normals = rng.standard_normal((500, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        np.savez(tmp_path / f"{person}.npz", points=0.4 * normals, normals=normals)
    return plugins.load("davatar.scans", "my-scan")(ScanSettings(source="my-scan", path=str(tmp_path)))


def test_contract(source):
    check_scans(source)


def test_a_truncated_file_is_named(source, tmp_path):
    file = tmp_path / "bob.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="bob.npz: is not a readable scan"):
        source.samples(1, SampleCounts(), np.random.default_rng(0))
