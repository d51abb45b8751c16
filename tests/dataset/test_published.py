"""The published data, read by the same loader as ours."""

import json
import random

import numpy as np
import pytest

from davatar.core.errors import DataError
from davatar.dataset.conditions import condition
from davatar.dataset.crop import Crop, choose_crop
from davatar.dataset.layout import SampleKey
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.rendering_data import RenderingData
from davatar.geometry.mesh import Mesh
from davatar.raster.embree import EmbreeRasterizer

SPLIT_OF = {"train0": "train", "holdseq0": "hold-out-sequence"}


@pytest.fixture
def golden(shared):
    return shared / "golden/diffusion_avatars"


@pytest.fixture
def data(golden):
    return RenderingData(golden / "data/rendering_data/v1.3-ID-55-nphm", raw=golden / "data/nersemble")


@pytest.mark.parametrize("sample", SPLIT_OF)
def test_golden_conditions(golden, data, sample):
    """Float32 arithmetic on equal codes: 5e-7."""
    key = data.samples(SPLIT_OF[sample])[0]
    with np.load(golden / "C_samples.npz") as archive:
        crop = Crop(*archive[f"{sample}_crop_xywh"].tolist())
        for name in ("depths", "uv", "normals", "uv_ambient", "mask"):
            found = condition(data.channel(key, name), name, crop, 64)
            np.testing.assert_allclose(found, archive[f"{sample}_{name}"], atol=5e-7, err_msg=name)
        np.testing.assert_array_equal(data.load(key).codes, archive[f"{sample}_expression_code"])


def test_golden_crops(golden):
    splits = json.loads((golden / "C_splits.json").read_text())
    raw = RawParticipant(golden / "data/nersemble/055")
    with np.load(golden / "C_samples.npz") as archive:
        train, evaluation = archive["train_crops_seed_idx_xywh"], archive["eval_crops_idx_xywh"]
    for seed, index, *crop in train.tolist():
        key = SampleKey(*splits["TRAIN"][index])
        assert choose_crop(90, 131, raw.box(*key[1:]), random.Random(seed)) == tuple(crop)
    for index, *crop in evaluation.tolist():
        key = SampleKey(*splits["VALID_HOLD_OUT_SEQ"][index])
        assert choose_crop(90, 131, raw.box(*key[1:]), random.Random(), smallest=1, aspect=1) == tuple(crop)


def test_golden_pictures_are_matted(golden, data):
    with np.load(golden / "C_target.npz") as archive:
        expected = archive["img_cc_matte"]
    np.testing.assert_array_equal(np.round(data.load(data.samples("train")[0]).image * 255), expected)


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
