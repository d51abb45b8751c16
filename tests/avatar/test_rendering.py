"""From a data set of the linear head model to videos, through the same functions as the command line."""

from __future__ import annotations

import json
import shutil
import weakref
from dataclasses import asdict, dataclass, field, replace

import av
import cv2
import numpy as np
import pytest
import torch
import yaml

from davatar.avatar import compiling, posing, scenes
from davatar.avatar.frame_rate import rate_of_track
from davatar.avatar.frames import Frames, sample_maps
from davatar.avatar.model import new_avatar, open_avatar
from davatar.avatar.posing import Motion, borrowed_motion, own_motion, posed_meshes
from davatar.avatar.rendering import Painter, RenderSettings, render, write_scene
from davatar.avatar.scenes import CameraMove, Scene, Shot
from davatar.avatar.weights import save_weights
from davatar.capture.frame import Frame
from davatar.checks.avatar_evaluation import EvaluationSettings, evaluate_avatar
from davatar.core.errors import DataError, MissingError, ResourceError, UsageError
from davatar.core.files import write_json, write_text
from davatar.core.lock import exclusive
from davatar.core.runs import Run
from davatar.dataset.layout import sequence_folder
from davatar.dataset.rasterize import Recording, rasterize_tracks
from davatar.dataset.rendering_data import RenderingData
from davatar.dataset.settings import RasterSettings
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.headmodel.track import load_track, save_track

FRAMES = 3


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
def data(tmp_path_factory, tracked) -> RenderingData:
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
    write_json(folder / "manifest.json", {"dataset": str(data.path)})
    write_text(folder / "config.yaml", yaml.safe_dump(asdict(small)))
    avatar = new_avatar(small)
    with Run(folder).checkpoint(2) as checkpoint:
        save_weights(checkpoint / "model.safetensors", avatar.trained_state(), avatar.kind, avatar.sizes())
    return Run(folder)


def frames_of(video) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_held_out_sequence_by_default(run, data):
    found = render(run, RenderSettings(pictures=True))
    assert found.video == run.folder / "renders" / "laugh_00_1-step.mp4" and found.frames == FRAMES
    frames = frames_of(found.video)
    assert len(frames) == FRAMES and frames[0].shape == (512, 512, 3)
    assert len(list(found.pictures.glob("frame_*.png"))) == FRAMES
    first = found.video.read_bytes()
    assert 0 < first.index(b"moov") < first.index(b"mdat")  # a browser plays it before it has arrived whole


@pytest.mark.parametrize("camera", ["orbit", "camera_shake", "camera_moveX", "01"])
def test_another_person_drives_the_avatar_from_any_camera(run, tracked, tmp_path, camera):
    save_track(tmp_path / "anna" / "track" / "track.npz", tracked(7))
    found = render(run, RenderSettings(Shot(camera=camera, frames=2)), driver=tmp_path / "anna" / "track")
    assert found.video.name == f"laugh_drive-anna_{camera}_1-step.mp4"
    frames = frames_of(found.video)
    assert len(frames) == 2 and frames[0].min() < 200  # the head is in the picture


def test_a_video_is_as_fast_as_whoever_moves(run, tracked, tmp_path):
    def fps(driver=None, expressions=None, **shot):
        shot = Shot(camera="orbit", frames=1, **shot)
        return render(run, RenderSettings(shot), driver, tmp_path / "v.mp4", expressions=expressions).fps

    save_track(tmp_path / "bob" / "track.npz", tracked(7))
    assert fps(tmp_path / "bob") == 24  # not known
    table = tmp_path / "bob" / "arkit.csv"
    table.write_text("frame,time,jawOpen\n0,0.0,0\n3,0.1001,0\n6,0.2,0\n")
    assert fps(tmp_path / "bob") == fps(tmp_path / "bob" / "track.npz") == fps(tmp_path / "bob", table) == 10
    assert fps(tmp_path / "bob", fps=30.0) == 30
    assert fps(expressions=table) == 24  # a table has a time for every key, and may be shown at any rate
    table.write_text("frame,time\n0,now\n")
    assert fps(tmp_path / "bob") == 24
    assert fps() == 10  # the data set says so
    frames = np.array([0, 2, 4])  # as a data set keeps it: no table, every second frame of ten a second
    inside = replace(tracked(7), frames=frames, settings={"geometry": "linear", "fps": 10})
    save_track(tmp_path / "set" / "track.npz", inside)
    assert fps(tmp_path / "set") == fps(inside) == 5


def test_a_data_sets_rate_counts_the_frames_that_it_holds(tracked):
    track = replace(tracked(0), settings={"geometry": "linear", "fps": 30})
    assert rate_of_track(track, [0, 3, 6, 12]) == 10  # every third was rasterised, one is lost
    assert rate_of_track(track, [4]) is None and rate_of_track(tracked(0), [0, 1]) is None


def test_a_data_set_that_knows_its_rate_is_shown_at_it(run, data, tmp_path):
    place = shutil.copytree(data.path, tmp_path / "v0.2-test")
    folder = sequence_folder(place, 1, "laugh")
    track = load_track(folder)
    save_track(folder / "track.npz", replace(track, settings=track.settings | {"fps": 10.0}))
    found = render(run, dataset=place, out=tmp_path / "v.mp4")
    assert found.fps == 10
    with av.open(str(found.video)) as container:
        assert container.streams.video[0].average_rate == 10


def test_rendering_twice_gives_the_same_video(run, tmp_path):
    files = [render(run, out=tmp_path / name).video.read_bytes() for name in ("a.mp4", "b.mp4")]
    assert files[0] == files[1]


def test_only_the_videos_stay(run, tmp_path):
    found = render(run, RenderSettings(conditions=True, compare=True), out=tmp_path / "v.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.mp4", "v_compare.mp4", "v_conditions.mp4"]
    assert frames_of(found.compare)[0].shape == (512, 3 * 512, 3)
    assert frames_of(found.conditions)[0].shape == (512, 4 * 512, 3)
    truth = frames_of(found.compare)[0][:, :512]
    assert abs(float(np.median(truth[200:300, 200:300])) - 160) < 4  # the recording sees one grey


def test_a_still_head_is_looked_at_for_one_round(run, tmp_path):
    shot = Shot(camera="camera_shake", still=True, move=CameraMove(period=5), start=1)
    assert render(run, RenderSettings(shot, batch=2), out=tmp_path / "v.mp4").frames == 5


def test_a_stopped_render_goes_on_and_ends_the_same(run, data, tmp_path, monkeypatch):
    settings = RenderSettings(Shot(camera="orbit"), batch=1)
    whole = render(run, settings, out=tmp_path / "whole.mp4").video.read_bytes()
    read, asked = scenes.mesh_maps, []

    def failing(*arguments):
        asked.append(1)
        if len(asked) == 3:
            raise MemoryError
        return read(*arguments)

    monkeypatch.setattr(scenes, "mesh_maps", failing)
    with pytest.raises(ResourceError, match="out of memory with 1 frames at once .try another --device"):
        render(run, settings, out=tmp_path / "part.mp4")
    assert not (tmp_path / "part.mp4").exists()
    assert len(list((tmp_path / "part" / "frames").iterdir())) == 2
    found = render(run, settings, out=tmp_path / "part.mp4")
    assert len(asked) == 4  # two were there
    assert found.video.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_pictures_of_other_settings_are_painted_anew(run, tmp_path):
    settings = RenderSettings(pictures=True)
    out = tmp_path / "v.mp4"
    one = render(run, settings, out=out).video.read_bytes()
    frames = sorted((tmp_path / "v" / "frames").iterdir())
    frames[0].write_bytes(b"")  # damaged, and not noticed by a render that finds it done
    with pytest.raises(DataError, match="frame_00000.png.*delete it"):
        render(run, settings, out=out)
    frames[0].unlink()
    assert render(run, settings, out=out).video.read_bytes() == one
    shorter = replace(settings, shot=Shot(frames=2), seed=4)
    assert render(run, shorter, out=out).video.read_bytes() != one
    assert len(list((tmp_path / "v" / "frames").iterdir())) == 2


def test_pictures_of_another_precision_are_painted_anew(run, tmp_path):
    def pictures(precision):
        found = render(run, RenderSettings(pictures=True, precision=precision), out=tmp_path / "v.mp4")
        files = sorted(found.pictures.iterdir())
        return found, [file.stat().st_mtime_ns for file in files], np.stack([cv2.imread(str(file)) for file in files])

    found, made, plain = pictures("auto")  # the run was trained in float32
    assert found.precision == "float32"
    assert pictures("float32")[1] == made  # nothing to do
    found, made_again, half = pictures("bfloat16")
    assert found.precision == "bfloat16" and not set(made) & set(made_again)
    apart = np.abs(half.astype(int) - plain)
    assert 0 < apart.max() and apart.mean() < 1


def test_a_render_is_compiled_where_that_can_be(run, tmp_path, monkeypatch, caplog):
    plain = render(run, out=tmp_path / "plain.mp4").video.read_bytes()
    graphs = []
    monkeypatch.setattr(compiling, "BACKEND", lambda graph, inputs: graphs.append(graph) or graph.forward)
    compiled = render(run, RenderSettings(compile=True), out=tmp_path / "compiled.mp4")
    assert len(graphs) > 1 and compiled.video.read_bytes() == plain

    def broken(graph, inputs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    with caplog.at_level("WARNING", "davatar"):
        found = render(run, RenderSettings(compile=True), out=tmp_path / "without.mp4")
    assert found.video.read_bytes() == plain and "cannot be compiled here" in caplog.text


def test_an_evaluation_says_and_keeps_apart_its_precision(run, data, tmp_path):
    def evaluated(precision):
        settings = EvaluationSettings(metrics=("psnr",), every=3, precision=precision)
        return evaluate_avatar(run, settings, data=data, out=tmp_path)

    plain, half = evaluated("auto"), evaluated("bfloat16")
    assert plain.result.name == "eval-result_ckpt-2_every-3_hold-out-sequence.json"
    assert half.result.name == "eval-result_ckpt-2_every-3_bfloat16_hold-out-sequence.json"
    assert [found.document["about"]["precision"] for found in (plain, half)] == ["float32", "bfloat16"]
    state = json.loads((half.report.parent / "state.json").read_text())
    assert state["precision"] == "bfloat16" and abs(half.value() - plain.value()) < 0.5


def test_two_renders_into_one_place_do_not_mix(run, tmp_path):
    with exclusive(tmp_path / "v"), pytest.raises(UsageError, match="another davatar process"):
        render(run, out=tmp_path / "v.mp4")


def test_frames_are_held_a_chunk_at_a_time(run, data, tmp_path):
    avatar, _, _ = open_avatar(run)
    one = sample_maps(data.load(data.samples("train")[0]), np.eye(3), avatar.resolution, "weights")
    made = []

    def read(index: int):
        maps = replace(one)
        made.append(weakref.ref(maps))
        assert sum(one() is not None for one in made) <= 2 + 2  # a chunk, and the one before until it is replaced
        return maps

    scene = Scene("talk", "00", 24.0, 9, read, "content")
    settings = RenderSettings(batch=2)
    assert write_scene(scene, Painter.of(avatar, settings), tmp_path / "v.mp4", settings, "content").frames == 9


class Moving:
    """A head model whose meshes tell which one they were searched from."""

    dtype = torch.float64

    def mesh(self, identity, code, resolution, previous):
        trail = 0 if previous is None else previous.vertices[0, 1] + 1
        return Mesh(np.array([[float(code[0]), trail, 0.0]] * 3), np.array([[0, 1, 2]]), np.zeros((3, 3)))


def test_surfaces_are_followed_within_a_chunk_and_not_into_it(tracked, monkeypatch):
    monkeypatch.setattr(posing, "_opened", lambda name: Moving())
    codes = np.array([0.0, 1, 1, 2, 3, 4])[:, None]
    still = {"rotation": np.tile(np.eye(3), (6, 1, 1)), "translation": np.zeros((6, 3))}
    target = replace(tracked(0), identity=np.zeros(2), settings={"geometry": "neural"})
    meshes = posed_meshes(target, Motion(codes, np.zeros((6, 53)), **still), restart=4)
    whole = [tuple(4 * meshes(row).vertices[0, :2]) for row in range(6)]
    assert whole == [(0, 0), (1, 1), (1, 1), (2, 2), (3, 0), (4, 1)]  # the equal one is not searched again
    assert tuple(4 * meshes(4).vertices[0, :2]) == (3, 0)


def test_own_motion_from_the_data_sets_camera_gives_its_maps(run, data):
    """Posing the head anew is what rasterising the track did."""
    from davatar.avatar.scenes import _track, posed_frames

    avatar, _, _ = open_avatar(run)
    key = data.samples("hold-out-sequence")[0]
    track = _track(data, key)
    motion = own_motion(track, np.arange(FRAMES))
    views = [data.camera(key).resized(avatar.resolution, avatar.resolution)] * FRAMES
    posed = posed_frames(data, key, "weights", track, motion, views)(0)
    stored = Frames(data, [key], avatar.resolution, "weights")[0]
    both = posed.mask & stored.mask
    assert (posed.mask != stored.mask).mean() < 0.02  # the stored maps are twice as fine and averaged
    difference = np.abs(posed.canonical.astype(float) - stored.canonical)[both]
    assert np.median(difference) < 0.01
    np.testing.assert_array_equal(posed.expression, stored.expression)


def test_borrowed_motion_stays_where_the_targets_head_is(tracked):
    source, target = tracked(1), tracked(2)
    motion = borrowed_motion(source, target)
    np.testing.assert_allclose(motion.translation.mean(0), target.translation.mean(0), atol=1e-9)
    between = [r[0].T @ r[1] for r in (source.rotation, motion.rotation)]
    np.testing.assert_allclose(between[0], between[1], atol=1e-9)
    np.testing.assert_array_equal(borrowed_motion(target, target).weights, target.morphable_expression)


def test_motion_of_another_head_model_is_refused(tracked):
    one = replace(tracked(1), expression=np.zeros((FRAMES, 4)), model="open")
    with pytest.raises(DataError, match="head model other"):
        borrowed_motion(replace(one, model="other"), one)


def test_what_is_not_there_is_named(run, data, tmp_path):
    with pytest.raises(UsageError, match="no camera 'left'.*orbit, camera_shake, camera_moveX, 00, 01"):
        render(run, RenderSettings(Shot(camera="left")))
    with pytest.raises(MissingError, match="no sequence 'sing'.*laugh, talk"):
        render(run, RenderSettings(Shot(sequence="sing")))
    with pytest.raises(UsageError, match="frame 3 was asked for, the sequence has frames 0 to 2"):
        render(run, RenderSettings(Shot(start=3)))
    with pytest.raises(UsageError, match="no photographs"):
        render(run, RenderSettings(Shot(camera="orbit"), compare=True))
    with pytest.raises(UsageError, match="sampler unipc is for avatars of the published kind"):
        render(run, RenderSettings(sampler="unipc"))
    with pytest.raises(UsageError, match=r"film.*call it film.mp4"):
        render(run, out=tmp_path / "film")
    with pytest.raises(MissingError, match="data set of DA-1-test is not there"):
        render(run, dataset=tmp_path)
    with pytest.raises(MissingError, match="no checkpoint 7.*there are 2"):
        render(run, RenderSettings(checkpoint=7))
    with pytest.raises(MissingError, match="no track there"):
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
    assert plan.code == 0 and json.loads(plan.out)["steps"] == 2
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


def test_the_command_line_says_what_is_wrong(cli, run, tracked, tmp_path):
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "wrong.csv").write_text("time,jawOpn\n0,1\n")
    other = replace(tracked(1), expression=np.zeros((FRAMES, 4)), model="mine@1234")
    save_track(tmp_path / "bob" / "track" / "track.npz", other)
    expected = {
        ("--camera", "obit"): (2, "did you mean orbit?"),
        ("--start", 7): (2, "frames 0 to 2"),
        ("--compare", "--camera", "orbit"): (2, "no photographs"),
        ("--compat",): (2, "published kind"),
        ("--attention", "xformers"): (2, "published kind"),
        ("--preview-decoder", tmp_path): (2, "has no decoder to replace"),
        ("--batch", 0): (2, ""),
        ("--sample", 2, "--expressions", tmp_path / "wrong.csv"): (2, "choose one"),
        ("--camera", tmp_path / "broken.json"): (3, "broken.json: is not valid JSON"),
        ("--expressions", tmp_path / "wrong.csv"): (3, "did you mean jawOpen"),
        ("--base", "/nowhere"): (2, "leave out --base"),
        ("--out", tmp_path / "wrong.csv" / "v.mp4"): (2, "wrong.csv: is a file"),
        ("--drive", tmp_path / "bob"): (4, "no track there"),
        ("--camera", tmp_path / "none.json"): (4, "no camera path there"),
        ("--expressions", tmp_path / "none.csv"): (4, "no such table"),
        ("--sequence", "lagh"): (4, "did you mean laugh?"),
        ("--checkpoint", 9): (4, "no checkpoint 9"),
        ("--device", "cuda:99"): (4, "choose --device cpu"),
        ("--device", "foo"): (4, "choose --device cpu"),
    }
    for words, (code, said) in expected.items():
        found = cli("render", run.folder, *words)
        assert (found.code, said in found.err) == (code, True), (words, found.err)
    found = cli("eval", run.folder, "--device", "foo")
    assert found.code == 4 and "choose --device cpu" in found.err
    found = cli("eval", run.folder, "--out", tmp_path / "wrong.csv")
    assert found.code == 2 and "wrong.csv: is a file" in found.err


def test_the_command_line_shows_edited_and_drawn_expressions(cli, run, tmp_path):
    (tmp_path / "wink.csv").write_text("time,eyeBlink_L\n0,0\n0.1,1\n")
    made = cli("render", run.folder, "--expressions", tmp_path / "wink.csv", "--conditions", "--json")
    found = json.loads(made.out)
    assert found["video"].endswith("laugh_expressions-wink_00_1-step.mp4") and found["frames"] == 3
    assert found["conditions"].endswith("laugh_expressions-wink_00_1-step_conditions.mp4")
    path = tmp_path / "closer.json"
    path.write_text(json.dumps([{"time": 0, "position": [0, 0, 0.8]}, {"time": 1, "position": [0, 0, 0.6]}]))
    drawn = cli("render", run.folder, "--sample", 1, "--camera", path, "--frames", 2, "--seed", 3, "--json")
    assert drawn.code == 0, drawn.err
    assert json.loads(drawn.out)["video"].endswith("laugh_expressions_closer_1-step_seed-3.mp4")
