"""Our own data sets: what is written is what is read, stopped runs go on, and the pictures fit the geometry."""

import dataclasses
import signal

import numpy as np
import pytest

from davatar.core.content import hash_path
from davatar.core.errors import DataError, Interrupted, UsageError
from davatar.dataset import rasterize as module
from davatar.dataset.framing import frame_head
from davatar.dataset.geometry import CUT, cut_neck, linear_meshes
from davatar.dataset.layout import sequence_folder
from davatar.dataset.rasterize import RasterSettings, is_unfinished, rasterize_tracks
from davatar.dataset.rendering_data import RenderingData
from davatar.geometry.camera import Camera
from davatar.headmodel.track import load_track
from davatar.raster.embree import EmbreeRasterizer

SMALL = RasterSettings(size=64)


class Warned:
    def __init__(self):
        self.lines = []

    def task(self, label, total=None):
        from davatar.core.progress import silent

        return silent.task(label, total)

    def info(self, message):
        pass

    def warn(self, message):
        self.lines.append(message)


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_recording):
    recordings = [make_recording("talk"), make_recording("laugh", frames=2)]
    settings = dataclasses.replace(SMALL, hold_out_cameras=("01",), hold_out_sequences=("laugh",))
    return recordings, RenderingData(
        rasterize_tracks(recordings, tmp_path_factory.mktemp("egg") / "v0.1", settings, name="egg")
    )


def test_reads_back_what_was_rasterised(written):
    (talk, _), data = written
    key = data.samples("train")[1]
    assert key == (1, "talk", 1, "00")
    sample = data.load(key)
    maps = EmbreeRasterizer().rasterize(cut_neck(talk.meshes(1)), sample.camera, subpixels=3)
    np.testing.assert_array_equal(sample.mask, maps.mask)
    np.testing.assert_allclose(sample.depth, maps.depth, atol=3e-5)
    np.testing.assert_allclose(sample.canonical, maps.canonical, atol=3e-5)
    np.testing.assert_allclose(sample.normals[maps.mask], maps.normal[maps.mask], atol=0.03)
    np.testing.assert_allclose(sample.coverage, maps.coverage, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(sample.codes, talk.track.expression[1], rtol=1e-6)
    np.testing.assert_allclose(sample.weights, talk.track.morphable_expression[1], rtol=1e-6)
    np.testing.assert_allclose(sample.head_to_world, talk.track.head_to_world(1))
    assert sample.expression.shape == (58,)


def test_default_splits_are_those_of_the_settings(written):
    _, data = written
    splits = {name: {(k.sequence, k.serial) for k in keys} for name, keys in data.splits().items()}
    assert splits == {
        "train": {("talk", "00")},
        "hold-out-view": {("talk", "01")},
        "hold-out-sequence": {("laugh", "00"), ("laugh", "01")},
    }


def test_a_sequence_knows_how_fast_it_was_filmed(written):
    (talk, _), data = written
    track = load_track(sequence_folder(data.path, 1, "talk") / "track.npz")
    assert track.settings["fps"] == talk.capture.fps != 24


def test_photograph_fits_the_geometry(written):
    """The egg is painted with its normals, so the picture of a point must show the normal that the maps hold."""
    _, data = written
    for key in (data.samples("train")[0], data.samples("hold-out-view")[2]):
        sample = data.load(key)
        inner = (sample.coverage == 1) & (sample.alpha == 1) & (sample.canonical[..., 1] > -0.4)
        assert inner.mean() > 0.15
        error = np.abs(sample.image - (sample.normals * 0.5 + 0.5))[inner]
        assert np.median(error) < 0.01 and np.quantile(error, 0.95) < 0.06
        assert (sample.image[sample.alpha == 0] == 1).all()
        below = sample.mask & (sample.canonical[..., 1] < -0.56)
        assert below.any() and sample.alpha[below].max() < 0.05  # white before the cut
        assert sample.canonical[..., 1][sample.mask].min() > CUT - 1e-3


def test_matte_and_depth_give_nearly_the_same_alpha(tmp_path, make_recording):
    pictures = []
    for matte in (False, True):
        out = rasterize_tracks([make_recording(frames=1, matte=matte)], tmp_path / str(matte), SMALL)
        data = RenderingData(out)
        pictures.append(data.load(data.splits()["train"][0]))
    assert np.abs(pictures[0].alpha - pictures[1].alpha).mean() < 0.01


def test_colours_on_white_are_not_put_there_twice(tmp_path, make_recording):
    recording = make_recording(frames=1, matte=True)
    recording.capture.provenance["background"] = "white"
    settings = dataclasses.replace(SMALL, cut_neck=False)
    sample = RenderingData(rasterize_tracks([recording], tmp_path / "a", settings)).load((1, "talk", 0, "00"))
    assert ((sample.alpha > 0.2) & (sample.alpha < 0.8)).any()
    assert np.abs(sample.image - [20 / 255, 60 / 255, 30 / 255]).max(-1)[sample.alpha == 0].max() < 0.01


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, make_recording, monkeypatch):
    recordings = [make_recording("talk"), make_recording("laugh", frames=2)]
    whole = rasterize_tracks(recordings, tmp_path / "whole", SMALL)
    step, calls = module._step, []

    def interrupted(*arguments):
        done = step(*arguments)
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(module, "_step", interrupted)
    with pytest.raises(Interrupted):
        rasterize_tracks(recordings, tmp_path / "parts", SMALL)
    assert len(calls) == 2 and is_unfinished(tmp_path / "parts", recordings, SMALL) is True
    with pytest.raises(DataError, match="not finished"):
        RenderingData(tmp_path / "parts")
    rasterize_tracks(recordings, tmp_path / "parts", SMALL)
    assert hash_path(tmp_path / "parts") == hash_path(whole)
    assert is_unfinished(whole, recordings, SMALL) is False


def test_a_crash_between_two_pictures_loses_nothing(tmp_path, make_recording, monkeypatch):
    whole = rasterize_tracks([make_recording()], tmp_path / "whole", SMALL)
    write, calls = module.write_bytes, []

    def crashing(path, data):
        calls.append(path)
        if len(calls) == 11:
            raise MemoryError
        write(path, data)

    monkeypatch.setattr(module, "write_bytes", crashing)
    with pytest.raises(MemoryError):
        rasterize_tracks([make_recording()], tmp_path / "parts", SMALL)
    monkeypatch.undo()
    rasterize_tracks([make_recording()], tmp_path / "parts", SMALL)
    assert hash_path(tmp_path / "parts") == hash_path(whole)


def test_unreadable_and_lost_frames_are_left_out_and_named(tmp_path, make_recording):
    recording = make_recording(frames=4, unreadable=(0,))
    recording.track.flag[2] = 2
    warned = Warned()
    data = RenderingData(rasterize_tracks([recording], tmp_path / "a", SMALL, progress=warned))
    assert data.stats.available_sequences == {"1": {"talk": [1, 3]}} and data.stats.total_n_frames == 4
    assert len(warned.lines) == 1 and "001/talk/00000" in warned.lines[0] and "truncated" in warned.lines[0]
    with pytest.raises(DataError, match="truncated"):
        rasterize_tracks([make_recording(frames=1, unreadable=(0,))], tmp_path / "b", SMALL)


def test_a_folder_keeps_its_data_set(tmp_path, make_recording):
    rasterize_tracks([make_recording(frames=1)], tmp_path / "a", SMALL)
    with pytest.raises(UsageError, match="holds another data set"):
        rasterize_tracks([make_recording(frames=1)], tmp_path / "a", RasterSettings(size=48))
    with pytest.raises(UsageError, match="two sequences"):
        rasterize_tracks([make_recording(), make_recording()], tmp_path / "b", SMALL)


def test_heads_that_the_layout_cannot_hold_are_named():
    camera = Camera.pinhole(500, 500, 320, 240, 640, 480)
    for distance, reason in ((-0.6, "not in front"), (0.1, "not in front"), (2.3, "up to 2.2. m")):
        head = np.eye(4)
        head[:3, :3] /= 4
        head[2, 3] = distance
        with pytest.raises(DataError, match=reason):
            frame_head(camera, head[None], 64)


def test_truncated_pictures_are_found_on_reading(tmp_path, make_recording):
    data = RenderingData(rasterize_tracks([make_recording(frames=1)], tmp_path / "a", SMALL))
    key = (1, "talk", 0, "00")
    victim = tmp_path / "a/001/talk/cam_00/uv/frame_00000.png"
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(DataError, match="uv.frame_00000.png: is truncated"):
        data.load(key)


def test_neck_cut_splits_triangles_at_the_height(make_recording):
    mesh = make_recording().meshes(0)
    cut = cut_neck(mesh, lowest=-0.3)
    used = cut.canonical[np.unique(cut.triangles)]
    assert used[:, 1].min() == pytest.approx(-0.3, abs=1e-6)

    def area(m, keep):
        a, b, c = (m.vertices[m.triangles[keep][:, k]] for k in range(3))
        return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2

    heights = mesh.canonical[:, 1][mesh.triangles]
    whole, part = area(mesh, heights.min(1) >= -0.3), area(mesh, heights.max(1) > -0.3)
    assert whole < area(cut, slice(None)) < part
    # canonical and position stay tied together on the new corners: the egg is not posed in frame 0
    from davatar.headmodel.morphable import from_head_units

    np.testing.assert_allclose(from_head_units(cut.canonical), cut.vertices, atol=1e-6)


def test_linear_meshes_share_one_canonical_head(make_recording):
    track = make_recording(frames=2).track
    first, second = (linear_meshes(track)(row) for row in (0, 1))
    np.testing.assert_array_equal(first.canonical, second.canonical)
    assert np.abs(first.vertices - second.vertices).max() > 1e-3 and first.canonical.shape[1] == 3
