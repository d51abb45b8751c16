from __future__ import annotations

import cv2
import numpy as np
import pytest

from davatar.capture import dphm_kinect, rgbd_folder
from davatar.capture.landmarks import WFLW_OF_68, read_wflw
from davatar.core.errors import DataError


@pytest.fixture
def kinect(tmp_path, monkeypatch):
    monkeypatch.setattr(dphm_kinect, "SIZE", (6, 4))
    folder = tmp_path / "p01_smile"
    for kind in ("depth", "color/PIPnet_landmarks", "camera"):
        (folder / kind).mkdir(parents=True)
    for t in range(2):
        cv2.imwrite(str(folder / "depth" / f"{t:05d}.png"), np.full((4, 6), 400 + t, np.uint16))
        cv2.imwrite(str(folder / "color" / f"{t:05d}.png"), np.full((4, 6, 3), 90, np.uint8))
        points = np.stack([np.arange(196), np.arange(196)], -1)
        np.save(folder / "color" / "PIPnet_landmarks" / f"{t:05d}.npy", points)
    (folder / "camera" / "c00_color_intrinsic.txt").write_text("2.5\n1.5\n5\n6\n" + "0\n" * 10)
    return folder


def test_frames_have_metres_and_the_68_points_of_the_first_face(kinect):
    assert rgbd_folder.open_capture(kinect) is None
    capture = dphm_kinect.open_capture(kinect)
    frame = capture.frame(1)
    assert len(capture) == 2 and frame.depth[0, 0] == np.float32(0.401)
    assert (frame.camera.K[0, 0], frame.camera.K[1, 1], frame.camera.K[0, 2], frame.camera.K[1, 2]) == (5, 6, 2.5, 1.5)
    np.testing.assert_array_equal(frame.landmarks[:, 0], WFLW_OF_68)


def test_the_map_between_the_markups_keeps_order_and_repeats_nothing():
    assert len(WFLW_OF_68) == 68 and len(set(WFLW_OF_68.tolist())) == 68
    assert WFLW_OF_68[[0, 8, 16, 36, 39, 48, 67]].tolist() == [0, 16, 32, 60, 64, 76, 95]


def test_json_calibration_goes_before_the_text_file(kinect):
    (kinect / "calibration.json").write_text('{"color": {"cx": 1, "cy": 2, "fx": 3, "fy": 4}}')
    assert dphm_kinect.open_capture(kinect).camera.K[0, 0] == 3
    (kinect / "calibration.json").write_text('{"color": {"cx": 1, "cy": 2, "fx": NaN, "fy": 4}}')
    with pytest.raises(DataError, match=r"calibration\.json: fx is nan"):
        dphm_kinect.open_capture(kinect)
    (kinect / "calibration.json").write_text("{}")
    with pytest.raises(DataError, match="lacks 'color'"):
        dphm_kinect.open_capture(kinect)


@pytest.mark.parametrize(("text", "message"), [("1 2", "holds 2 numbers"), ("1 2 x 4", "does not hold numbers")])
def test_a_wrong_intrinsics_file_is_an_error(kinect, text, message):
    file = kinect / "camera" / "c00_color_intrinsic.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        dphm_kinect.open_capture(kinect)
    assert caught.value.file == str(file)
    file.unlink()
    with pytest.raises(DataError, match="is missing"):
        dphm_kinect.open_capture(kinect)


def test_prefixed_colour_names_are_understood_and_foreign_ones_refused(kinect):
    for file in list((kinect / "color").glob("*.png")):
        file.rename(file.with_name(f"rgb_{file.name}"))
    assert dphm_kinect.open_capture(kinect).frame(0).color is not None
    for file in list((kinect / "color").glob("*.png")):
        file.rename(file.with_name(f"picture-{file.name}"))
    with pytest.raises(DataError, match="no colour image is named like a depth image"):
        dphm_kinect.open_capture(kinect)


def test_landmark_files_of_another_shape_are_an_error(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((97, 2)))
    with pytest.raises(DataError, match=r"shape \[97, 2\], expected \[98, 2\]"):
        read_wflw(tmp_path / "a.npy")
