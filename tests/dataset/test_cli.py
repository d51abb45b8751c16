"""`davatar data ...` through its entry point."""

import json
import zipfile

import numpy as np
import pytest

from davatar.dataset.rendering_data import RenderingData


def test_rasterize_a_track_then_list_and_inspect_it(cli, recording_on_disk):
    folder, track = recording_on_disk
    options = ["--size", "64", "--name", "egg", "--set", "every=2"]
    planned = cli("data", "rasterize", track, *options, "--dry-run", "--json")
    assert planned.code == 0 and json.loads(planned.out)["steps"] == 2
    made = cli("data", "rasterize", track, *options)
    assert made.code == 0, made.err
    out = made.out.splitlines()[0]
    assert out.endswith("rendering_data/v0.1-egg") and "next: davatar avatar train v0.1-egg" in made.out
    data = RenderingData(out)
    assert data.stats.available_sequences == {"1": {"talk": [0, 2]}}
    assert data.load(data.samples("train")[0]).mask.any()
    again = cli("data", "rasterize", track, *options, "--json")
    assert json.loads(again.out) == {"out": out}  # the same data set is not made twice
    other = cli("data", "rasterize", track, "--size", "48", "--geometry", "linear", "--name", "egg")
    assert other.out.splitlines()[0].endswith("v0.2-egg")
    listed = json.loads(cli("data", "list", "--json").out)
    assert [row["name"] for row in listed["data_sets"]] == ["v0.1-egg", "v0.2-egg"]
    assert json.loads(cli("data", "inspect", "v0.1", "--json").out)["facts"]["pictures"] == 2
    assert "v0.1-egg" in cli("data", "list").out


def test_inspect_names_what_is_wrong(cli, recording_on_disk):
    folder, track = recording_on_disk
    (track / "meshes" / "00001.ply").unlink()
    picture = folder / "depth" / "00001.png"
    picture.write_bytes(picture.read_bytes()[:60])
    report = json.loads(cli("data", "inspect", folder, "--json").out)
    assert report["kind"] == "recording" and report["facts"]["frames"] == 3
    assert len(report["problems"]) == 1 and "depth/00001.png" in report["problems"][0]
    report = json.loads(cli("data", "inspect", track, "--json").out)
    assert report["kind"] == "track" and report["problems"] == ["meshes/00001.ply is missing"]
    shown = cli("data", "inspect", track)
    assert "problem: meshes/00001.ply is missing" in shown.out
    made = cli("data", "rasterize", track, "--size", "64")
    assert made.code == 0 and "00001" in made.err  # both frame and mesh are gone: left out with a warning
    assert len(RenderingData(made.out.splitlines()[0]).splits()["train"]) == 2


@pytest.mark.parametrize(
    "words, code, text",
    [
        (["inspect", "nowhere"], 4, "nowhere: is missing (give"),
        (["rasterize", "nowhere"], 4, "nowhere: no such track (give"),
        (["record", __file__], 2, "test_cli.py: is a file"),
        (["fetch", "999"], 2, "no participant '999'"),
        (["fetch", "18", "--offline", "--what", "model"], 4, "DA-1-ID-18.zip as "),
    ],
)
def test_mistakes_have_their_exit_codes(cli, words, code, text):
    outcome = cli("data", *words)
    assert outcome.code == code and text in outcome.err and outcome.out == ""


def test_wrong_settings_are_explained(cli, recording_on_disk):
    _, track = recording_on_disk
    for options, text in (
        (["--set", "sise=64"], "did you mean 'size'?"),
        (["--size", "4"], "at least 16"),
        (["--view", "77"], "camera 77 is not in every recording"),
        (["--capture", "a", "--capture", "b"], "2 times --capture for 1 tracks"),
        (["--rasterizer", "embre"], "did you mean 'embree'?"),
    ):
        outcome = cli("data", "rasterize", track, *options)
        assert outcome.code in (2, 3) and text in outcome.err, outcome.err


def test_fetch_from_a_mirror_says_what_is_next(cli, tmp_path):
    mirror = tmp_path / "mirror"
    (mirror / "models").mkdir(parents=True)
    with zipfile.ZipFile(mirror / "models" / "DA-1-ID-18.zip", "w") as archive:
        archive.writestr("DA-1-ID-18/model_config.json", "{}")
    words = ["data", "fetch", "18", "--what", "model", "--mirror", mirror]
    planned = json.loads(cli(*words, "--dry-run", "--json").out)
    assert [row["state"] for row in planned] == ["local"]
    done = cli(*words)
    assert done.code == 0 and "next: davatar runs show DA-1-ID-18" in done.out
    assert json.loads(cli(*words, "--dry-run", "--json").out)[0]["state"] == "there"


def test_record_makes_a_recording_whose_truth_rasterises(cli, tmp_path):
    words = ["data", "record", tmp_path / "me", "--frames", "2", "--size", "64", "58", "--detail", "0.3"]
    made = cli(*words, "--views", "1", "--view-size", "48", "--expression", "smile", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["recordings"] == [str(tmp_path / "me")]
    done = cli("data", "rasterize", tmp_path / "me", "--geometry", "exact", "--size", "48")
    assert done.code == 0, done.err
    data = RenderingData(done.out.splitlines()[0])
    sample = data.load((1, "me", 1, data.config.serials[1]))
    inner = sample.mask & (sample.canonical[..., 1] > -0.45)
    assert np.abs(sample.alpha - sample.coverage)[inner].mean() < 0.02  # truth and picture show the same head


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_without_a_track_is_missing_one_whether_its_recording_is_named_or_not(cli, recording_on_disk, named):
    folder, track = recording_on_disk
    (track / "track.npz").unlink()
    absent = cli("data", "rasterize", track, *(["--capture", folder] if named else []))
    assert absent.code == 4 and "no such track" in absent.err
