"""Published archives rendered from the published camera paths (shared/golden/diffusion_avatars, E_render)."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from diffusers import AutoencoderTiny

from davatar.avatar.archive_scenes import archive_scene, published_cameras
from davatar.avatar.rendering import RenderSettings, render
from davatar.avatar.scenes import CameraMove, Shot
from davatar.core.errors import MissingError, UsageError
from davatar.core.runs import Run
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.rendering_data import RenderingData

NEAR = CameraMove(distance=0.24, shake=0.06, curve_z=0.01, move_y=0.01)


@pytest.fixture
def golden(shared):
    return shared / "golden" / "diffusion_avatars"


@pytest.fixture
def data(golden) -> RenderingData:
    return RenderingData(golden / "data/rendering_data/v1.3-ID-55-nphm", golden / "data/nersemble")


def scene_of(data, compat=True, **shot):
    return archive_scene(data, data.raw, 64, 206, Shot(**shot), compat)


def test_conditions_are_the_published_ones(golden, data):
    wanted = np.load(golden / "E_render.npz")
    scene = scene_of(data, camera="camera_shake", move=NEAR)
    assert (scene.sequence, len(scene)) == ("EXP-3-cheeks+nose", 2)
    parts = {"depths": (0, 1), "uv": (1, 4), "normals": (4, 7), "uv_ambient": (7, 9)}
    for index in range(2):
        frame = scene.read(index)
        np.testing.assert_array_equal(frame.mask, wanted["mask"][index] > 0.75)
        for name, (start, end) in parts.items():
            shown = (np.moveaxis(frame.rendered[start:end], 0, -1) + 1) / 2
            expected = wanted[name][index].reshape(64, 64, -1)[..., : end - start]
            np.testing.assert_allclose(shown, expected, atol=1e-5, err_msg=name)
    assert frame.row().shape == (64, 5 * 64, 3)


def test_without_compat_depths_are_not_scaled(data):
    shot = {"camera": "camera_shake", "move": NEAR}
    one, other = (scene_of(data, compat, **shot).read(0) for compat in (True, False))
    metres = [(1.9 * (frame.rendered[0] + 1) + 0.4) / 2.1 for frame in (one, other)]
    np.testing.assert_allclose(metres[0][one.mask], 1.02 * metres[1][one.mask], rtol=1e-5)
    np.testing.assert_array_equal(one.rendered[1:], other.rendered[1:])


def test_paths_circle_as_published(golden):
    wanted = np.load(golden / "C_cameras.npz")
    person = RawParticipant(golden / "data/nersemble/055")
    circle = published_cameras(person, 64, "camera_moveX", Shot(), 96, np.eye(4))
    found = np.stack([circle[k].camera_to_world for k in wanted["moveX_index"]])
    np.testing.assert_allclose(found, wanted["moveX_c2w_world"], atol=2e-6)
    frontal = published_cameras(person, 64, "camera", Shot(), 1, np.eye(4))[0]
    assert person.serials[8] == "222200037"
    plain = person.camera("222200037", downscale=1).camera_to_world
    lifted = frontal.camera_to_world[:3, 3] - plain[:3, 3]
    np.testing.assert_allclose(lifted, -0.02 * plain[:3, 1], atol=1e-12)


def test_length_and_time_steps_of_every_path(data, tmp_path):
    assert len(scene_of(data, sequence="EXP-1-head")) == 3
    assert len(scene_of(data, sequence="EXP-1-head", camera="222200041", start=1)) == 2
    circle = scene_of(data, sequence="EXP-1-head", camera="camera_moveX")
    keys = [circle.read(index).key for index in (0, 47, 48, 95)]
    assert len(circle) == 96 and keys == [f"EXP-1-head/{step}" for step in (0, 0, 3, 6)]
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"time": 0, "position": [0, 0, 0.3]}, {"time": 1, "position": [0.1, 0, 0.3]}]))
    assert len(scene_of(data, camera=str(path))) == 25
    with pytest.raises(UsageError, match="no sequence 'EXP-9'.*EXP-1-head, EXP-3"):
        scene_of(data, sequence="EXP-9")


def test_stored_frames_bring_their_photograph(golden, data):
    wanted = np.load(golden / "C_samples.npz")
    scene = scene_of(data, sequence="EXP-3-cheeks+nose", camera="222200047")
    frame = scene.read(0)
    channels = ("depths", "uv", "normals", "uv_ambient")
    expected = np.concatenate([wanted[f"holdseq0_{name}"] for name in channels])
    np.testing.assert_allclose(frame.rendered, expected, atol=1e-6)
    np.testing.assert_array_equal(frame.mask, wanted["holdseq0_mask"][0] > 0)
    np.testing.assert_allclose(frame.expression, wanted["holdseq0_expression_code"], atol=1e-6)
    assert scene.photographed and frame.image.shape == (64, 64, 3) and frame.image.max() == 255


def test_the_published_script_painted_the_same(golden, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    monkeypatch.setenv("DAVATAR_DATA", str(golden / "data"))
    monkeypatch.setenv("DAVATAR_RENDERS", str(tmp_path))
    run = Run(golden / "models/diffusion-avatars/DA-3-ID-55")
    shot = Shot(camera="camera_shake", move=NEAR)
    settings = RenderSettings(shot, compat=True, pictures=True, conditions=True, base=str(golden / "base"))
    found = render(run, settings)
    assert found.video == tmp_path / "DA-3-ID-55" / "EXP-3-cheeks+nose_camera_shake_20-step_compat.mp4"
    wanted = np.load(golden / "E_render.npz")["generations"]
    for index, file in enumerate(sorted(found.pictures.iterdir())):
        assert np.abs(cv2.imread(str(file))[..., ::-1].astype(int) - wanted[index]).max() <= 2
    assert not (run.folder / "renders").exists()  # archives are never written into


def test_a_preview_by_a_small_decoder(golden, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    monkeypatch.setenv("DAVATAR_DATA", str(golden / "data"))
    monkeypatch.setenv("DAVATAR_RENDERS", str(tmp_path))
    four = {f"{part}_block_out_channels": (4,) * 4 for part in ("encoder", "decoder")}
    one = {f"num_{part}_blocks": (1,) * 4 for part in ("encoder", "decoder")}
    AutoencoderTiny(**four, **one).save_pretrained(tmp_path / "taesd")
    settings = RenderSettings(
        Shot(frames=1, move=NEAR), steps=1, pictures=True, base=str(golden / "base"), preview_decoder=tmp_path / "taesd"
    )
    found = render(Run(golden / "models/diffusion-avatars/DA-3-ID-55"), settings)
    assert found.video.name == "EXP-3-cheeks+nose_camera_shake_1-step_preview.mp4"
    assert [cv2.imread(str(file)).shape for file in found.pictures.iterdir()] == [(64, 64, 3)]


def test_what_an_archive_cannot_do_is_said(golden, tmp_path, monkeypatch):
    run = Run(golden / "models/diffusion-avatars/DA-3-ID-55")
    with pytest.raises(MissingError, match="v1.3"):
        render(run)
    monkeypatch.setenv("DAVATAR_DATA", str(golden / "data"))
    (tmp_path / "a.csv").write_text("time,jawOpen\n0,1\n")
    with pytest.raises(UsageError, match="finished meshes"):
        render(run, expressions=tmp_path / "a.csv")
