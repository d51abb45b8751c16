"""Published target pictures without their torso: golden stages, both segmenters."""

import numpy as np
import pytest

from davatar.core.errors import DataError
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.torso import Segmentation, read_segmentation, torso_mask


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "golden" / "diffusion_avatars"


def target(raw, sequence, timestep, serial, kind):
    picture, matte = raw.image(sequence, timestep, serial)
    picture, matte = (np.round(x * 255).astype(np.uint8) for x in (picture, matte))
    found = read_segmentation(raw, sequence, timestep, serial, matte.shape[::-1], kind)
    torso = torso_mask(found, picture, matte)
    return np.where(torso[..., None], 255, picture).astype(np.uint8), torso, found


@pytest.mark.parametrize(
    "file, index, kind, serial",
    [("C_target", 0, "facer", "222200047"), ("C_target", 1, "facer", "222200041"),
     ("C_target_bisenet", 0, "bisenet", "222200047")],
)  # fmt: skip
def test_target_without_torso_is_the_published_one(folder, file, index, kind, serial):
    raw = RawParticipant(folder / "data" / "nersemble" / "055")
    golden = np.load(folder / f"{file}.npz")
    picture, torso, found = target(raw, "EXP-1-head", 0, serial, kind)
    assert found.facer == (kind == "facer")
    wanted = golden[f"target_{index}"]
    assert np.array_equal(picture, wanted), f"{(picture != wanted).any(-1).sum()} pixels differ"
    assert np.array_equal(torso, golden[f"seg_{index}"] == (3 if found.facer else 16))


def test_missing_segmentation_is_named(folder):
    raw = RawParticipant(folder / "data" / "nersemble" / "055")
    with pytest.raises(DataError, match="bisenet_segmentation_masks.*no segmentation"):
        read_segmentation(raw, "EXP-3-cheeks+nose", 0, "222200037", (90, 131), "bisenet")


def test_crumbs_beside_the_torso_go_with_it():
    labels = np.zeros((40, 40), np.uint8)
    labels[25:, 5:35] = 3
    labels[5:20, 12:28] = 2
    labels[23:25, 5:8] = 14
    matte = np.where(labels > 0, 255, 0).astype(np.uint8)
    torso = torso_mask(Segmentation(labels, True), np.full((40, 40, 3), 90, np.uint8), matte)
    assert torso[24, 6] and not torso[10, 20]
