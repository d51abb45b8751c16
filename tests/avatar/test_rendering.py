"""From a data set of the linear head model to videos, through the same functions as the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import av
import numpy as np
import pytest

from davatar.avatar.frames import Frames, sample_maps
from davatar.avatar.posing import borrowed_motion, own_motion
from davatar.avatar.rendering import RenderSettings, render
from davatar.avatar.settings import Budget
from davatar.avatar.training import train_avatar
from davatar.capture.frame import Frame
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.core.runs import Run
from davatar.dataset.rasterize import Recording, rasterize_tracks
from davatar.dataset.rendering_data import RenderingData
from davatar.dataset.settings import RasterSettings
from davatar.geometry.camera import Camera
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.track import Track, pose_from_morphable, save_track

FRAMES = 3
FACING = np.diag([1.0, -1.0, -1.0])  # head axes -> the camera's: the face looks at it


def tracked(seed: int) -> Track:
    model, rng = open_morphable(), np.random.default_rng(seed)
    angles = rng.normal(0, 0.1, FRAMES)
    turn = np.stack([[[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]] for a in angles])
    rotation, place = FACING @ turn, np.array([0.0, 0.0, 0.6]) + rng.normal(0, 0.005, (FRAMES, 3))
    neural_rotation, neural_place = pose_from_morphable(rotation, place)
    weights = np.stack([model.weights(jawOpen=w) for w in rng.uniform(0, 0.8, FRAMES)])
    return Track(
        identity=np.zeros(0),
        expression=np.zeros((FRAMES, 0)),
        rotation=neural_rotation,
        translation=neural_place,
        scale=1.0,
        frames=np.arange(FRAMES),
        residual_mm=np.zeros(FRAMES),
        coverage=np.ones(FRAMES),
        flag=np.zeros(FRAMES, np.uint8),
        morphable_identity=rng.normal(0, 0.5, 100),
        morphable_expression=weights,
        morphable_rotation=rotation,
        morphable_translation=place,
        settings={"geometry": "linear"},
    )


@dataclass
class Recorded:
    """Two cameras that see one colour each, so that only plumbing is tested."""

    name: str
    fps: float = 10.0
    views: tuple[str, ...] = ("00", "01")
    provenance: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return FRAMES

    def frame(self, index: int, view: str | None = None) -> Frame:
        pose = np.eye(4)
        pose[0, 3] = 0.1 if view == "01" else 0.0
        camera = Camera.pinhole(110, 110, 31.5, 31.5, 64, 64, pose)
        color = np.full((64, 64, 3), 90 if view == "01" else 160, np.uint8)
        return Frame(index, index / 10, camera, color=color)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> RenderingData:
    from davatar.dataset.geometry import linear_meshes

    recordings = []
    for seed, name in enumerate(("talk", "laugh")):
        track = tracked(seed)
        recordings.append(Recording(1, name, Recorded(name), track, linear_meshes(track), name, "linear"))
    out = tmp_path_factory.mktemp("data") / "v0.1-test"
    settings = RasterSettings(size=64, subpixels=3, hold_out_sequences=("laugh",))
    return RenderingData(rasterize_tracks(recordings, out, settings))


@pytest.fixture(scope="module")
def run(data, small, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("models") / "DA-1-test"
    folder.mkdir()
    settings = replace(small, budget=Budget(steps=2), preview_every=100, preview_frames=1)
    return train_avatar(data, Run(folder), settings)


def frames_of(video) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_held_out_sequence_by_default(run, data):
    found = render(run, RenderSettings(pictures=True))
    assert found.video == run.folder / "renders" / "laugh_00_1-step.mp4" and found.frames == FRAMES
    frames = frames_of(found.video)
    assert len(frames) == FRAMES and frames[0].shape == (512, 512, 3)
    assert len(list(found.video.with_suffix("").glob("frame_*.png"))) == FRAMES


@pytest.mark.parametrize("camera", ["orbit", "shake", "01"])
def test_another_person_drives_the_avatar_from_any_camera(run, tmp_path, camera):
    save_track(tmp_path / "anna" / "track" / "track.npz", tracked(7))
    found = render(run, RenderSettings(camera=camera, frames=2), driver=tmp_path / "anna" / "track")
    assert found.video.name == f"laugh_drive-anna_{camera}_1-step.mp4"
    frames = frames_of(found.video)
    assert len(frames) == 2 and frames[0].min() < 200  # the head is in the picture


def test_rendering_twice_gives_the_same_video(run, tmp_path):
    files = [render(run, out=tmp_path / name).video.read_bytes() for name in ("a.mp4", "b.mp4")]
    assert files[0] == files[1]


def test_own_motion_from_the_data_sets_camera_gives_its_maps(run, data):
    """Posing the head anew is what rasterising the track did."""
    from davatar.avatar.model import open_avatar
    from davatar.avatar.rendering import _posed, _track

    avatar, _, _ = open_avatar(run)
    key = data.samples("hold-out-sequence")[0]
    track = _track(data, key)
    motion = own_motion(track, np.arange(FRAMES))
    posed = _posed(data, avatar, key, track, motion, [data.camera(key)] * FRAMES)(0)
    stored = Frames(data, [key], avatar.resolution, "weights")[0]
    both = posed.mask & stored.mask
    assert (posed.mask != stored.mask).mean() < 0.02  # the stored maps are twice as fine and averaged
    difference = np.abs(posed.canonical.astype(float) - stored.canonical)[both]
    assert np.median(difference) < 0.01
    np.testing.assert_array_equal(posed.expression, stored.expression)


def test_borrowed_motion_stays_where_the_targets_head_is():
    source, target = tracked(1), tracked(2)
    motion = borrowed_motion(source, target)
    np.testing.assert_allclose(motion.translation.mean(0), target.translation.mean(0), atol=1e-9)
    between = [r[0].T @ r[1] for r in (source.rotation, motion.rotation)]
    np.testing.assert_allclose(between[0], between[1], atol=1e-9)
    np.testing.assert_array_equal(borrowed_motion(target, target).weights, target.morphable_expression)


def test_motion_of_another_head_model_is_refused():
    one = replace(tracked(1), expression=np.zeros((FRAMES, 4)), model="open")
    with pytest.raises(DataError, match="head model other"):
        borrowed_motion(replace(one, model="other"), one)


def test_what_is_not_there_is_named(run, data, tmp_path):
    with pytest.raises(UsageError, match="no camera 'left'.*orbit, shake, 00, 01"):
        render(run, RenderSettings(camera="left"))
    with pytest.raises(MissingError, match="no sequence 'sing'.*laugh, talk"):
        render(run, RenderSettings(sequence="sing"))
    with pytest.raises(MissingError, match="data set of DA-1-test is not there"):
        render(run, dataset=tmp_path)
    with pytest.raises(MissingError, match="no checkpoint 7.*there are 2"):
        render(run, RenderSettings(checkpoint=7))
    with pytest.raises(DataError, match="no track there"):
        render(run, driver=tmp_path / "nobody")


def test_a_sample_of_an_odd_size_or_without_pictures_is_refused(run, data, small):
    sample = data.load(data.samples("train")[0])
    with pytest.raises(DataError, match="64 pixels wide, the avatar paints 48"):
        sample_maps(sample, np.eye(3), 48, "weights")
    with pytest.raises(DataError, match="talk.*has no codes"):
        sample_maps(sample, np.eye(3), 32, "codes")


def test_shrinking_averages_the_picture(data):
    key = data.samples("train")[0]
    sample = data.load(key)
    maps = Frames(data, [key], 32, "weights")[0]
    blocks = np.round(sample.image * 255).reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(maps.image - blocks).max() <= 0.5
    assert maps.coverage.mean() / 255 == pytest.approx(sample.coverage.mean(), abs=2e-3)


def test_the_command_line_trains_and_renders(cli, data, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(
        "start: scratch\nbatch: 1\npreview_frames: 1\nbudget: {steps: 2}\n"
        "tiny: {resolution: 32, plane_size: 16, plane_channels: 4, point_width: 16, map_width: 8, width: 16}\n"
    )
    plan = cli("avatar", "train", data.path, "--config", config, "--dry-run", "--json")
    assert plan.code == 0 and json.loads(plan.out)["budget"] == "2 steps"
    trained = cli("avatar", "train", data.path, "--config", config, "--name", "me", "--json")
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["run"] == "DA-1-me"
    longer = cli("avatar", "train", "--resume", "DA-1", "--steps", 3)
    assert longer.code == 0 and "davatar render DA-1" in longer.out, longer.err
    rendered = cli("render", "DA-1", "--camera", "orbit", "--frames", 2, "--json")
    assert rendered.code == 0 and json.loads(rendered.out)["frames"] == 2, rendered.err
    assert cli("avatar", "train", data.path, "--set", "tiny.tokenz=3").code == 2
    assert cli("avatar", "train", "v9.9").code == 4
    assert cli("render", "DA-7").code == 4
