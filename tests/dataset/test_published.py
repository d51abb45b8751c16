"""The published data, read by the same loader as ours."""

import numpy as np
import pytest

from davatar.checks.verify import avatar_data
from davatar.core.errors import DataError
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.rendering_data import RenderingData
from davatar.geometry.mesh import Mesh
from davatar.raster.embree import EmbreeRasterizer


@pytest.fixture
def golden(shared):
    return shared / "golden/diffusion_avatars"


@pytest.fixture
def data(golden):
    return RenderingData(golden / "data/rendering_data/v1.3-ID-55-nphm", raw=golden / "data/nersemble")


@pytest.mark.parametrize("check", avatar_data.CHECKS, ids=lambda check: check.run.__name__.removeprefix("check_"))
def test_golden(golden, check):
    """What `davatar verify` recomputes of section C."""
    files = [file for file in sorted(golden.iterdir()) if check.recognises(file)]
    assert files
    assert [one for file in files for one in check.run(file) if not one.holds] == []


def test_camera_and_stored_maps_agree(golden, data):
    """Rasterising the fixture's mesh with the loaded camera gives the stored mask and depth (16-bit step: 28 um)."""
    sample = data.load(data.samples("train")[0])
    with np.load(golden / "C_render.npz") as archive:
        mesh = Mesh(archive["mesh_vertices"], archive["faces"].astype(np.int32))
    maps = EmbreeRasterizer().rasterize(mesh, sample.camera)
    np.testing.assert_array_equal(maps.mask, sample.mask)
    np.testing.assert_allclose(maps.depth, sample.depth, atol=3e-5)


def test_missing_parts_are_named(golden, data):
    key = data.samples("train")[0]
    with pytest.raises(DataError, match="mask.frame_00099.png.*is missing"):
        data.load(key._replace(timestep=99))
    with pytest.raises(DataError, match="hold-out-person"):
        data.samples("hold-out-person")
    with pytest.raises(DataError, match="does not know camera 7"):
        RawParticipant(golden / "data/nersemble/055").camera("7")
    bare = RenderingData(data.path).load(key)
    assert bare.image is None and bare.camera is None and bare.codes.size == 0
