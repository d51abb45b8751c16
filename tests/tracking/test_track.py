"""A whole track of a small recording: right to a millimetre, resumable, and clear about bad input."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import replace

import av
import numpy as np
import pytest

from davatar.core.errors import DataError, UsageError
from davatar.core.files import read_json
from davatar.geometry.distance import MeshDistance
from davatar.geometry.mesh import read_ply
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.track import load_track
from davatar.tracking.outputs import linear_mesh
from davatar.tracking.tracker import track


class Killed(BaseException):
    """Stands for a process that is killed: nothing catches it."""


class Killer:
    """A progress that kills the run at the n-th item, and keeps warnings."""

    def __init__(self, after: int | None = None):
        self.left, self.warnings, self.messages = after, [], []

    @contextmanager
    def task(self, label, total=None):
        yield self

    def advance(self, n=1, **figures):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed

    def info(self, message):
        self.messages.append(message)

    def warn(self, message):
        self.warnings.append(message)


@pytest.fixture(scope="module")
def done(known, quick, tmp_path_factory):
    """The folder of an uninterrupted track, and the track."""
    out = tmp_path_factory.mktemp("track")
    return out, track(known.capture, out, quick)


def test_the_face_is_tracked_to_a_millimetre(done, known):
    out, found = done
    face = open_morphable().sets["front_face"][::7]
    for row in range(len(found)):
        mesh = linear_mesh(found, row)
        away = MeshDistance(mesh.vertices, mesh.triangles).nearest(known.vertices(row)[face]).distance
        assert away.mean() < 1e-3
    assert (found.flag == 0).all() and (found.coverage > 0.7).all() and (found.residual_mm < 1).all()


def test_the_folder_holds_all_that_was_promised(done):
    out, found = done
    kept = load_track(out)
    assert np.array_equal(kept.morphable_expression, found.morphable_expression) and kept.settings["stage"] == "linear"
    about = read_json(out / "track.json")
    assert about["summary"]["frames"] == 4 and about["summary"]["lost"] == 0 and not (out / "stages").exists()
    mesh = read_ply(out / "meshes" / "00002.ply")
    assert mesh.canonical.shape == (len(mesh.vertices), 3)
    with open(out / "arkit.csv") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 and float(table[3]["jawOpen"]) == pytest.approx(found.morphable_expression[3, 26], abs=1e-4)
    with av.open(str(out / "overlay.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 4 and frames[0].shape[0] == 120 and frames[0].std() > 5


@pytest.mark.parametrize("after", [3, 9, 19, 27])
def test_a_killed_run_ends_as_an_uninterrupted_one(done, known, quick, tmp_path, after):
    with pytest.raises(Killed):
        track(known.capture, tmp_path, quick, progress=Killer(after))
    assert not (tmp_path / "track.json").exists()
    track(known.capture, tmp_path, quick)
    with np.load(tmp_path / "track.npz") as resumed, np.load(done[0] / "track.npz") as whole:
        assert all(np.array_equal(resumed[key], whole[key]) for key in whole.files)
    assert (tmp_path / "meshes" / "00003.ply").read_bytes() == (done[0] / "meshes" / "00003.ply").read_bytes()


def test_a_second_run_does_nothing_and_other_settings_are_an_error(done, known, quick):
    out, found = done
    before, told = (out / "track.npz").stat().st_mtime_ns, Killer(after=1)
    again = track(known.capture, out, quick, progress=told)
    assert np.array_equal(again.rotation, found.rotation) and (out / "track.npz").stat().st_mtime_ns == before
    assert "already" in told.messages[0]
    with pytest.raises(UsageError, match="--overwrite"):
        track(known.capture, out, replace(quick, seed=5))


def test_an_unreadable_frame_is_skipped_with_a_warning_that_names_it(known, quick):
    told = Killer()
    found = track(replace(known.capture, broken=(1,)), None, quick, progress=told)
    assert found.flag[1] == 3 and (found.flag[[0, 2, 3]] <= 1).all()  # a jump may be met by a fresh start
    assert len(told.warnings) == 1 and "frame 1" in told.warnings[0] and "00001.png" in told.warnings[0]
    assert np.isfinite(found.rotation).all()


def test_no_head_and_no_readable_frame_are_clear_errors(known, quick):
    empty = np.full_like(known.capture.depth[0], 1.2)
    with pytest.raises(DataError, match="no head found in any of the 2 frames") as wall:
        track(replace(known.capture, depth=[empty, empty]), None, quick)
    assert wall.value.exit_code == 3 and "depth_scale" in wall.value.mend
    with pytest.raises(DataError, match="none of the 4 frames can be used"):
        track(replace(known.capture, broken=(0, 1, 2, 3)), None, quick)
