from __future__ import annotations

import cv2
import numpy as np
import pytest

from davatar.capture.rgbd_folder import open_capture
from davatar.core.errors import DataError
from davatar.geometry.camera import backproject


def test_a_folder_made_by_hand_is_read_frame_by_frame(rgbd):
    capture = open_capture(rgbd)
    assert (capture.name, len(capture), capture.fps, capture.views) == ("anna", 2, 10, ("00",))
    assert capture.provenance["warnings"] == []
    frame = capture.frame(1)
    assert (frame.index, frame.time, frame.name) == (1, 0.1, "00001")
    assert np.isnan(frame.depth[0, 0]) and frame.depth[1, 1] == np.float32(0.501)
    assert frame.color.dtype == np.uint8 and tuple(frame.color[0, 0]) == (10, 200, 0)
    assert frame.landmarks.shape == (68, 2) and frame.mask is None


def test_depth_lifts_to_points_that_project_onto_their_pixels(rgbd):
    frame = open_capture(rgbd).frame(0)
    points, pixels = backproject(frame.depth, frame.camera)
    assert len(points) == 23
    projected, depth = frame.camera.project(points)
    np.testing.assert_allclose(projected, pixels, atol=1e-9)
    np.testing.assert_allclose(depth, 0.5, atol=1e-7)


def test_only_the_asked_frame_is_read(rgbd):
    (rgbd / "depth" / "00000.png").write_bytes(b"broken")
    assert open_capture(rgbd).frame(1).depth is not None


def test_other_layouts_are_left_to_other_readers(tmp_path):
    (tmp_path / "depth").mkdir()
    (tmp_path / "camera").mkdir()
    assert open_capture(tmp_path) is None
    assert open_capture(tmp_path / "absent") is None


def test_frame_times_come_from_the_list_or_the_rate(rgbd, edit):
    edit(rgbd / "meta.json", frames=[{"time_s": 0.0}, {"time_s": 0.7}])
    assert open_capture(rgbd).frame(1).time == 0.7
    edit(rgbd / "meta.json", frames=[{"time_s": 0.0}, {"time_s": -1.0}])
    with pytest.raises(DataError, match=r"meta\.json: the frames' time_s do not increase"):
        open_capture(rgbd)


def test_what_is_guessed_or_incomplete_is_told(rgbd, edit):
    edit(rgbd / "meta.json", fps=None, num_frames=3)
    (rgbd / "color" / "00001.png").unlink()
    capture = open_capture(rgbd)
    first, second, third = capture.provenance["warnings"]
    assert first == "meta.json says 3 frames, depth/ holds 2"
    assert second.endswith("color lacks 1 of 2 frames, 00001 first")
    assert third == "meta.json has no fps: 30 assumed"
    assert capture.frame(1).color is None and capture.frame(1).depth is not None


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("intrinsics.json", {"fx": None}, "lacks 'fx'"),
        ("intrinsics.json", {"fx": "wide"}, "fx is 'wide', expected a finite number"),
        ("intrinsics.json", {"fy": -3}, "focal lengths must be positive"),
        ("intrinsics.json", {"cx": float("nan")}, "cx is nan"),
        ("intrinsics.json", {"width": 6.5}, "not in whole pixels"),
        ("meta.json", {"depth_scale": None}, "lacks 'depth_scale'"),
        ("meta.json", {"depth_scale": 0}, "depth_scale is 0"),
        ("meta.json", {"fps": -1}, "fps is -1"),
    ],
)
def test_a_wrong_description_is_an_error_naming_file_and_mend(rgbd, edit, file, entries, message):
    edit(rgbd / file, **entries)
    with pytest.raises(DataError, match=message) as caught:
        open_capture(rgbd)
    assert caught.value.file == str(rgbd / file) and caught.value.mend and caught.value.exit_code == 3


@pytest.mark.parametrize("file", ["intrinsics.json", "meta.json"])
def test_an_absent_or_unreadable_description_is_an_error(rgbd, file):
    (rgbd / file).write_text('{"fx": 500,\n "fy": }')
    with pytest.raises(DataError, match="is not valid JSON at line 2, column 8: Expecting value") as caught:
        open_capture(rgbd)
    assert caught.value.file == str(rgbd / file) and "correct it there" in caught.value.mend
    (rgbd / file).write_bytes(b'{"\xff": 1}')
    with pytest.raises(DataError, match="no UTF-8 text"):
        open_capture(rgbd)
    (rgbd / file).write_text("[1, 2]")
    with pytest.raises(DataError, match="holds list, expected an object"):
        open_capture(rgbd)
    (rgbd / file).unlink()
    with pytest.raises(DataError, match="is missing") as caught:
        open_capture(rgbd)
    assert caught.value.file == str(rgbd / file) and caught.value.mend


def test_a_folder_without_depth_images_is_an_error(rgbd):
    for file in (rgbd / "depth").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="holds no depth images"):
        open_capture(rgbd)


def test_colours_that_belong_to_no_depth_image_are_an_error(rgbd):
    for file in list((rgbd / "color").iterdir()):
        file.rename(file.with_name(f"rgb-{file.name}"))
    with pytest.raises(DataError, match="no colour image is named like a depth image"):
        open_capture(rgbd)


def _rewrite(image):
    def write(path):
        cv2.imwrite(str(path), image)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_rewrite(np.full((4, 6), 50, np.uint8)), "is 8-bit with 1 channel"),
        (_rewrite(np.full((4, 6, 3), 50, np.uint16)), "is 16-bit with 3 channel"),
        (_rewrite(np.full((5, 6), 500, np.uint16)), "is 6x5, the intrinsics say 6x4"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is truncated"),
        (lambda path: path.write_bytes(b""), "is truncated"),
        (lambda path: path.write_bytes(b"no picture IEND"), "is not a readable image"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_a_broken_depth_image_is_an_error_when_its_frame_is_read(rgbd, spoil, message):
    capture = open_capture(rgbd)
    spoil(rgbd / "depth" / "00001.png")
    assert capture.frame(0).depth is not None
    with pytest.raises(DataError, match=message) as caught:
        capture.frame(1)
    assert caught.value.file == str(rgbd / "depth" / "00001.png") and caught.value.mend


def test_a_truncated_jpeg_is_an_error_although_decoders_would_fill_it_up(rgbd):
    noise = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    (rgbd / "color" / "00000.png").unlink()
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    (rgbd / "color" / "00000.jpg").write_bytes(data)
    assert open_capture(rgbd).frame(0).color.shape == (4, 6, 3)
    (rgbd / "color" / "00000.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="is truncated"):
        open_capture(rgbd).frame(0)


def test_landmarks_of_another_markup_are_an_error(rgbd):
    file = rgbd / "landmarks" / "00000.npy"
    np.save(file, np.zeros((98, 2)))
    with pytest.raises(DataError, match=r"shape \[98, 2\], expected \[68, 2\] px or \[68, 3\] m"):
        open_capture(rgbd).frame(0)
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not a readable array"):
        open_capture(rgbd).frame(0)


def test_landmarks_that_were_not_found_are_whole_nan_rows(rgbd):
    points = np.zeros((68, 2), np.float32)
    points[5, 0] = np.inf
    np.save(rgbd / "landmarks" / "00000.npy", points)
    assert np.isnan(open_capture(rgbd).frame(0).landmarks[5]).all()


def test_a_frame_or_view_that_does_not_exist_is_an_error(rgbd):
    capture = open_capture(rgbd)
    with pytest.raises(DataError, match=r"has frames 0\.\.1, there is no frame 2"):
        capture.frame(2)
    with pytest.raises(DataError, match="has no view '07'; there are 00"):
        capture.frame(0, "07")


def test_a_view_camera_that_is_not_rigid_is_an_error(rgbd):
    view = rgbd / "views" / "01"
    (view / "color").mkdir(parents=True)
    pose = (2 * np.eye(4)).tolist()
    text = f'{{"K": [[5, 0, 2], [0, 5, 2], [0, 0, 1]], "world_to_camera": {pose}, "width": 6, "height": 4}}'
    (view / "camera.json").write_text(text)
    with pytest.raises(DataError, match="world_to_camera is not rigid"):
        open_capture(rgbd)
