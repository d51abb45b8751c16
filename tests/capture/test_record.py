from __future__ import annotations

import json

import numpy as np
import pytest

from davatar.capture.open import open_capture
from davatar.capture.synthetic import record as recorder
from davatar.capture.synthetic.record import record
from davatar.capture.synthetic.rig import Rig, look_at
from davatar.capture.synthetic.script import Event, ExpressionScript
from davatar.core.errors import DataError, Interrupted, ResourceError


@pytest.fixture(scope="module")
def rig():
    return Rig((look_at(0.6, 0, 0, 80, 72, 120), look_at(1.0, 40, 10, 32, 32, 110)), ("00", "07"))


@pytest.fixture(scope="module")
def script(model):
    return ExpressionScript.scripted(model.expression_names, 3, [Event("laugh", 0.1, 0.3)], fps=10, seed=2)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, subject, script, rig):
    return record(tmp_path_factory.mktemp("rec") / "lea", subject, script, rig, seed=5, supersample=1, landmarks=True)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_recording_reads_back_where_the_truth_says(recorded, subject, script, rig):
    capture = open_capture(recorded)
    assert (capture.name, len(capture), capture.fps, capture.views) == ("lea", 3, 10, ("00", "07"))
    assert capture.provenance["warnings"] == []
    params = np.load(recorded / "gt" / "params.npz")
    topology = np.load(recorded / "gt" / "topology.npz")
    np.testing.assert_array_equal(params["expression"], script.weights)
    model = subject.template.model
    local = model.vertices(params["identity"], params["expression"][1]) + params["displacement"]
    pose = params["head_pose"][1]
    true = local @ pose[:3, :3].T + pose[:3, 3]
    frame = capture.frame(1)
    pixels, depth = frame.camera.project(true[topology["face"]])
    column, row = np.rint(pixels).astype(int).T
    error = frame.depth[row, column] - depth
    seen = np.abs(error) < 0.01
    assert seen.mean() > 0.5 and np.median(np.abs(error[seen])) < 0.002
    assert np.linalg.norm(frame.landmarks - frame.camera.project(true[topology["landmarks68"]])[0], axis=1).max() < 6
    assert frame.mask.max() == 1 and frame.mask[0, 0] == 0
    assert np.linalg.norm(params["displacement"][topology["face"]], axis=1).max() < 0.0003


def test_further_views_see_the_same_head_from_elsewhere(recorded, subject):
    capture = open_capture(recorded)
    frame = capture.frame(2, "07")
    assert frame.depth is None and frame.landmarks is None and frame.color.shape == (32, 32, 3)
    params = np.load(recorded / "gt" / "params.npz")
    pose = params["head_pose"][2]
    local = subject.vertices(params["expression"][2])[subject.template.used]
    pixels = frame.camera.project(local @ pose[:3, :3].T + pose[:3, 3])[0]
    inside = np.argwhere(frame.mask > 0)[:, ::-1]
    np.testing.assert_allclose(pixels.min(axis=0), inside.min(axis=0), atol=2.5)
    np.testing.assert_allclose(pixels.max(axis=0)[0], inside.max(axis=0)[0], atol=2.5)


def test_the_same_seed_gives_the_same_bytes_and_another_other_noise(recorded, tmp_path, subject, script, rig):
    again = record(tmp_path / "again", subject, script, rig, seed=5, supersample=1, landmarks=True, name="lea")
    assert contents(again) == contents(recorded)
    other = contents(record(tmp_path / "other", subject, script[:1], rig, seed=6, supersample=1))
    first = contents(recorded)
    assert other["depth/00000.png"] != first["depth/00000.png"] and other["color/00000.png"] == first["color/00000.png"]


def test_a_killed_recording_goes_on_and_ends_up_the_same(recorded, tmp_path, subject, script, rig, monkeypatch):
    folder, taken = tmp_path / "lea", []

    def killed(*arguments, **options):
        if len(taken) == 3:
            raise SystemExit  # nothing of the recorder's catches it: the process is gone
        taken.append(1)
        return film(*arguments, **options)

    film = recorder.film
    monkeypatch.setattr(recorder, "film", killed)
    with pytest.raises(SystemExit):
        record(folder, subject, script, rig, seed=5, supersample=1, landmarks=True)
    with pytest.raises(DataError, match="the recording is not finished"):
        open_capture(folder)

    def counted(*arguments, **options):
        taken.append(1)
        return film(*arguments, **options)

    monkeypatch.setattr(recorder, "film", counted)
    record(folder, subject, script, rig, seed=5, supersample=1, landmarks=True)
    assert len(taken) == 6  # three instants, two cameras, no picture twice
    assert contents(folder) == contents(recorded)


def test_a_signal_stops_between_two_pictures(tmp_path, subject, script, rig, monkeypatch):
    import os
    import signal

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return film(*arguments, **options)

    film = recorder.film
    monkeypatch.setattr(recorder, "film", interrupted)
    with pytest.raises(Interrupted):
        record(tmp_path / "lea", subject, script, rig, seed=5, supersample=1)
    assert len(list((tmp_path / "lea").rglob("*.png"))) == 4  # the whole first picture and its truth


def test_a_full_disk_loses_nothing_and_the_recording_goes_on(recorded, tmp_path, subject, script, rig, monkeypatch):
    import errno
    import os

    replace, done = os.replace, []

    def full(source, target):
        if len(done) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(target)
        replace(source, target)

    folder = tmp_path / "lea"
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError, match="the disk is full") as caught:
        record(folder, subject, script, rig, seed=5, supersample=1, landmarks=True)
    assert caught.value.exit_code == 6 and len(contents(folder)) == 5
    monkeypatch.setattr(os, "replace", replace)
    record(folder, subject, script, rig, seed=5, supersample=1, landmarks=True)
    assert contents(folder) == contents(recorded)


def test_a_folder_holds_one_recording(recorded, tmp_path, subject, script, rig):
    with pytest.raises(DataError, match="holds another recording \\(it differs in seed\\)"):
        record(recorded, subject, script, rig, seed=7, supersample=1, landmarks=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and holds no recording of ours"):
        record(tmp_path, subject, script, rig)
    assert json.loads((recorded / "recipe.json").read_text())["seed"] == 5
