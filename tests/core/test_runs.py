from __future__ import annotations

import subprocess
import sys

import pytest

from davatar.core import runs
from davatar.core.errors import Interrupted, MissingError, UsageError
from davatar.core.manifest import session
from davatar.core.settings import Resolved


def make(models, *names):
    for name in names:
        (models / name).mkdir(parents=True)
    return models


def test_numbers_go_up_and_holes_stay(tmp_path):
    make(tmp_path, "DA-2-bob", "DA-7", "NPHM-9", "notes", "diffusion-avatars/DA-8-ID-264")
    assert runs.create_run(tmp_path, "anna").name == "DA-9-anna"
    assert runs.create_run(tmp_path).name == "DA-10"
    assert runs.create_run(tmp_path, prefix="NPHM").name == "NPHM-10"
    assert [run.name for run in runs.list_runs(tmp_path, "DA")] == [
        "DA-2-bob",
        "DA-7",
        "DA-8-ID-264",
        "DA-9-anna",
        "DA-10",
    ]


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "a/b"])
def test_a_label_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be part of a folder name"):
        runs.create_run(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


CLAIM = """
import sys
from davatar.core.runs import create_run
print("ready", flush=True)
sys.stdin.readline()
print(*(create_run(sys.argv[1], sys.argv[2] or None).name for _ in range(8)))
"""


def test_processes_that_start_at_once_get_different_numbers(tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", CLAIM, str(tmp_path), label],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for label in ("anna", "bob", "")
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    names = [name for worker in workers for name in worker.communicate()[0].split()]
    assert sorted(int(name.split("-")[1]) for name in names) == list(range(1, 25))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_number_taken_between_listing_and_making_is_not_shared(tmp_path, monkeypatch):
    """Another process claims, labels and so frees the plain name after we have listed the folder."""
    make(tmp_path, "DA-1-anna")
    calls = []

    def first_stale(models_dir, prefix=None):
        calls.append(models_dir)
        return [] if len(calls) == 1 else [runs.Run(folder) for folder in sorted(models_dir.iterdir())]

    monkeypatch.setattr(runs, "list_runs", first_stale)
    assert runs.create_run(tmp_path, "bob").name == "DA-2-bob"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DA-1-anna", "DA-2-bob"]


def test_checkpoints_are_whole_and_latest_points_to_the_newest(tmp_path):
    run = runs.create_run(tmp_path, "anna")
    assert run.latest_checkpoint() is None
    for step in (100, 200):
        with run.checkpoint(step) as folder:
            (folder / "model.safetensors").write_text(str(step))
    with pytest.raises(ZeroDivisionError), run.checkpoint(300) as folder:
        (folder / "model.safetensors").write_text("half")
        raise ZeroDivisionError
    assert run.latest_checkpoint() == (200, run.folder / "checkpoints" / "step-000200")
    assert list(run.checkpoints()) == [100, 200]
    (run.folder / "checkpoints" / "latest").write_text("step-9")
    assert run.latest_checkpoint()[0] == 200


def test_metrics_rewind_to_the_checkpoint(tmp_path):
    run = runs.create_run(tmp_path)
    for step in (1, 2, 3):
        run.log(step, loss=1 / step)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    run.rewind(2)
    run.log(3, loss=0.3)
    assert [(line["step"], line["loss"]) for line in run.metrics()] == [(1, 1.0), (2, 0.5), (3, 0.3)]


def test_a_run_is_found_by_path_name_short_form_label_and_participant(tmp_path):
    make(tmp_path, "DA-1-ID-18", "DA-2-anna", "DA-3-bob", "DA-4-bob", "DA-12")
    (tmp_path / "DA-1-ID-18" / "model_config.json").write_text("{}")
    by = {text: runs.resolve_run(text, tmp_path).name for text in ("DA-1", "DA-2-anna", "anna", "18", "018", "DA-12")}
    assert by == {
        "DA-1": "DA-1-ID-18",
        "DA-2-anna": "DA-2-anna",
        "anna": "DA-2-anna",
        "18": "DA-1-ID-18",
        "018": "DA-1-ID-18",
        "DA-12": "DA-12",
    }
    assert runs.resolve_run(tmp_path / "DA-1-ID-18").published
    with pytest.raises(UsageError, match="DA-3-bob, .*DA-4-bob"):
        runs.resolve_run("bob", tmp_path)
    with pytest.raises(MissingError, match=r"did you mean 'DA-2-anna'\?"):
        runs.resolve_run("DA-2-ana", tmp_path)


def test_a_published_archive_is_never_written_into(tmp_path):
    make(tmp_path, "DA-1-ID-18")
    (tmp_path / "DA-1-ID-18" / "model_config.json").write_text("{}")
    run = runs.resolve_run("DA-1", tmp_path)
    for write in (lambda: run.log(1), lambda: run.rewind(0), lambda: run.write_config(Resolved(None, {}))):
        with pytest.raises(UsageError, match="never written into"):
            write()
    with pytest.raises(UsageError, match="never written into"), run.checkpoint(1):
        pass
    assert [path.name for path in run.folder.iterdir()] == ["model_config.json"]


def test_the_manifest_keeps_its_sessions_and_hashes_its_inputs(tmp_path):
    run = runs.create_run(tmp_path / "models")
    (tmp_path / "track").mkdir()
    (tmp_path / "track" / "track.npz").write_bytes(b"one")
    inputs = {"track": tmp_path / "track"}
    with pytest.raises(Interrupted), session(run.folder, inputs, seed=7, command=["/bin/davatar", "avatar", "train"]):
        raise Interrupted("stopped")
    before = run.manifest["inputs"]["track"]["hash"]
    (tmp_path / "track" / "track.npz").write_bytes(b"two")
    with session(run.folder, inputs, seed=7, command=["davatar", "avatar", "train", "--resume"]) as figures:
        assert run.manifest["sessions"][-1]["status"] == "running"
        figures["psnr"] = 31.0
    assert run.manifest["inputs"]["track"]["hash"] != before and run.manifest["seed"] == 7
    with pytest.raises(ZeroDivisionError), session(run.folder):
        raise ZeroDivisionError
    manifest = run.manifest
    assert [session["status"] for session in manifest["sessions"]] == ["interrupted", "done", "failed"]
    assert manifest["sessions"][0]["command"] == ["davatar", "avatar", "train"]
    assert manifest["sessions"][1]["psnr"] == 31.0
    assert manifest["dependencies"]["torch"].startswith("2.")
