"""The whole chain through the real entry point: killed in the middle, gone on with, told in a report."""

import json
import re
import signal

import numpy as np
import pytest

from davatar.core.files import read_json, read_lines
from davatar.core.runs import Run

SIZES = {"sequences": 2, "frames": 3, "views": 2, "driver_frames": 2, "train_steps": 25, "scored": 1, "detail": 0.2}
WORDS = ["demo", "--quick", *(word for name, value in SIZES.items() for word in ("--set", f"{name}={value}"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def places(folder, monkeypatch):
    """One models folder for all tests here: the demo is run once."""
    monkeypatch.setenv("DAVATAR_MODELS", str(folder / "models"))
    return folder / "out"


@pytest.fixture
def finished(places, cli_process, cli):
    """The demo, killed while it trains and then run again; later tests find it done."""
    if not (places / "report.html").is_file():
        process = cli_process(*WORDS, "--out", places)
        next(line for line in process.stderr if line.startswith("reading frames"))  # the last words before step 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (places / "report.html").exists()
    outcome = cli(*WORDS, "--out", places, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_killed_demo_goes_on_and_reports(finished, places):
    ran = [entry["key"] for entry in read_lines(places / "journal.jsonl")]
    assert ran.count("record") == ran.count("track") == ran.count("train") == 1, "finished stages are not repeated"
    assert ran.count("train:begun") == 2
    numbers = finished["numbers"]
    assert numbers["avatar_psnr"] > max(numbers["mean_image_psnr"] + 2, 20)
    assert numbers["tracked_face_mm"] < 1.5
    html = (places / "report.html").read_text()
    for text in (f"{numbers['avatar_psnr']:.2f} dB", f"{numbers['mean_image_psnr']:.2f} dB", "davatar data record"):
        assert text in html
    assert all(reference.startswith(("data:", "#")) for reference in re.findall(r'(?:src|href)="([^"]{0,40})', html))


def test_second_run_repeats_nothing(finished, places, cli):
    before = (places / "report.html").stat().st_mtime_ns, (places / "journal.jsonl").read_bytes()
    outcome = cli(*WORDS, "--out", places)
    assert outcome.code == 0 and "everything was done already" in outcome.out
    assert "davatar render DA-1" in outcome.out and "--drive" in outcome.out
    assert before == ((places / "report.html").stat().st_mtime_ns, (places / "journal.jsonl").read_bytes())


def test_killed_training_ends_like_an_uninterrupted_one(finished, places):
    from safetensors.numpy import load_file

    from davatar.avatar.settings import AvatarSettings
    from davatar.avatar.training import train_avatar
    from davatar.core.settings import from_mapping

    run = Run(folder := places.parent / "models" / "DA-1-demo")
    settings = from_mapping(AvatarSettings, run.config, str(folder))
    whole = train_avatar(read_json(folder / "manifest.json")["dataset"], settings=settings)
    one, other = (load_file(r.latest_checkpoint()[1] / "model.safetensors") for r in (run, whole))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_printed_commands_work(finished, cli):
    render = finished["next"][1].split()
    assert render[:2] == ["davatar", "render"]
    outcome = cli(*render[1:], "--frames", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["frames"] == 1


def test_unknown_size_is_named(cli, tmp_path):
    outcome = cli("demo", "--out", tmp_path / "x", "--set", "frams=3")
    assert outcome.code == 2 and "did you mean 'frames'" in outcome.err
    assert not (tmp_path / "x").exists()
