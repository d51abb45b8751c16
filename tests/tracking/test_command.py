"""`davatar track` and `davatar eval` through the entry point."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from davatar.core.files import write_json
from davatar.headmodel.morphable import open_morphable

QUICK = [
    "--stage", "linear", "--no-overlay",
    "--set", "linear.points=600", "--set", "linear.key_rounds=1", "--set", "linear.joint_rounds=1",
    "--set", "linear.scan=1", "--set", "linear.first_steps=8",
]  # fmt: skip


@pytest.fixture
def recording(known, tmp_path):
    """The known recording as a plain RGB-D folder with gt/."""
    folder = tmp_path / "anna"
    (folder / "depth").mkdir(parents=True)
    (folder / "gt").mkdir()
    camera = known.capture.frame(0).camera
    for k, depth in enumerate(known.capture.depth):
        cv2.imwrite(str(folder / "depth" / f"{k:05d}.png"), np.rint(np.nan_to_num(depth) * 8000).astype(np.uint16))
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    size = {"width": camera.width, "height": camera.height}
    write_json(folder / "intrinsics.json", {**size, "fx": fx, "fy": fy, "cx": cx, "cy": cy})
    write_json(folder / "meta.json", {"depth_scale": 8000.0, "fps": 10.0, "name": "anna"})
    pose = np.tile(np.eye(4), (4, 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = known.rotation, known.translation
    np.savez(folder / "gt" / "params.npz", identity=known.identity, expression=known.weights, head_pose=pose)
    sets, weight = open_morphable().sets, np.ones(len(open_morphable().neutral))
    regions = {"face": sets["front_face"], "lips": sets["lips"], "eyelids": sets["eyelids"], "ears": sets["ears"]}
    np.savez(folder / "gt" / "topology.npz", head_weight=weight, **regions)
    return folder


def test_track_then_eval(cli, recording):
    done = cli("--json", "track", recording, *QUICK)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["out"] == str(recording / "track") and told["frames"] == 4 and told["lost"] == 0
    assert any(line.startswith("davatar avatar train") for line in told["next"])
    again = cli("track", recording, *QUICK)
    assert again.code == 0 and "tracked already" in again.err
    other = cli("track", recording, *QUICK, "--seed", 3)
    assert other.code == 2 and "--overwrite" in other.err
    scored = cli("--json", "eval", recording / "track")
    assert scored.code == 0, scored.err
    figures = json.loads(scored.out)
    assert figures["linear"]["face_mm"] < 1 and figures["linear"]["lost"] == 0 and "neural" not in figures
    assert figures["truth"]["depth_to_mesh_mean"] < 0.2


def test_dry_run_writes_nothing(cli, recording):
    told = cli("track", recording, "--dry-run", "--frames", "1:3")
    assert told.code == 0 and "2 of 4 frames" in told.out and not (recording / "track").exists()


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--frames", "9:12"], 2, "first:end:step"),
        (["--frames", "a:b"], 2, "first:end:step"),
        (["--set", "linear.pionts=3"], 2, "linear.points"),
        (["--preset", "opne"], 2, "open"),
        (["--stage", "linear", "--out", __file__], 2, "test_command.py: is a file"),
        (["--head-model", "nowhere.safetensors"], 4, "nowhere.safetensors"),
    ],
)
def test_wrong_words_are_clear_errors(cli, recording, words, code, hint):
    told = cli("track", recording, *words)
    assert (told.code, hint in told.err) == (code, True), told.err


def test_a_recording_that_is_not_there_is_missing(cli, tmp_path):
    told = cli("track", tmp_path / "nobody")
    assert told.code == 4 and "nobody" in told.err
