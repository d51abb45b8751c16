"""`davatar avatar train` through its entry point, on a recording whose pictures are grey: only plumbing is tested."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from davatar.avatar.trainer import Trainer
from davatar.avatar.weights import read_weights
from davatar.core.lock import exclusive
from davatar.core.runs import list_runs, resolve_run
from davatar.dataset.rendering_data import RenderingData

SMALL = ["--from", "scratch", "--precision", "float32", "--steps", "4"]
for setting in ("resolution=32", "plane_size=16", "plane_channels=4", "width=16"):
    SMALL += ["--set", f"tiny.{setting}"]
LINES = ["--set", "log_every=1", "--set", "preview_frames=2"]


@pytest.fixture(scope="module")
def data(tracked_folder, tmp_path_factory):
    """The recording's data set, 32 x 32."""
    from davatar.capture.open import open_capture
    from davatar.dataset.rasterize import rasterize_tracks, tracked
    from davatar.dataset.settings import RasterSettings

    source = tracked(tracked_folder / "track", open_capture(tracked_folder), geometry="linear")
    return rasterize_tracks([source], tmp_path_factory.mktemp("data") / "v0.1-talk", RasterSettings(size=32, every=2))


def weights(run):
    return read_weights(run.latest_checkpoint()[1] / "model.safetensors", "davatar tiny avatar")[0]


def test_a_track_is_rasterised_as_large_as_the_avatar_paints(cli, tracked_folder, own_places):
    planned = cli("avatar", "train", tracked_folder, *SMALL, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["steps"] == 4 and not list_runs() and not (own_places / "data").exists()
    words = cli("avatar", "train", tracked_folder, *SMALL, "--dry-run").out
    assert "12 time steps x 1 cameras" in words and "memory (cpu)" in words and "DA-<next>" in words
    outcome = cli("avatar", "train", tracked_folder, *SMALL, "--name", "grey")
    assert outcome.code == 0, outcome.err
    assert "next: davatar render DA-1" in outcome.out
    folder = resolve_run("DA-1-grey").manifest["dataset"]
    made = RenderingData(folder)
    assert made.load(made.samples("train")[0]).mask.shape == (32, 32)
    again = json.loads(cli("avatar", "train", folder, *SMALL, "--dry-run", "--json").out)
    assert again["train"] == 8 and again["held_out"] == 4 and again["epochs"] == 1  # four steps of two frames
    assert again["memory"]["total"] > 0 and again["checkpoints"] == 1


def test_a_terminated_training_goes_on_to_the_same_end(cli, data, monkeypatch):
    whole = cli("avatar", "train", data, *SMALL, *LINES, "--name", "whole")
    assert whole.code == 0, whole.err
    step = Trainer.step

    def terminated(self, number, done, stop=False):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, done, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", terminated)
        stopped = cli("avatar", "train", data, *SMALL, *LINES, "--name", "halves")
    assert stopped.code == 130 and "avatar train --resume DA-2-halves" in stopped.err
    assert resolve_run("DA-2").latest_checkpoint()[0] == 2
    assert [session["status"] for session in resolve_run("DA-2").manifest["sessions"]] == ["interrupted"]
    with exclusive(resolve_run("DA-2").folder):  # another process, as locks see it
        second = cli("avatar", "train", "--resume", "DA-2")
    assert second.code == 2 and "another davatar process is writing there" in second.err
    assert len(resolve_run("DA-2").manifest["sessions"]) == 1
    assert cli("avatar", "train", "--resume", "DA-2").code == 0
    one, other = weights(resolve_run("DA-1")), weights(resolve_run("DA-2"))
    for name in one:
        torch.testing.assert_close(other[name], one[name], atol=0, rtol=0)
    assert [s["status"] for s in resolve_run("DA-2").manifest["sessions"]] == ["interrupted", "done"]


def test_a_data_set_that_holds_nothing_out_works_with_a_note(cli, data):
    outcome = cli("avatar", "train", data, *SMALL, "--json")
    assert outcome.code == 0 and "holds no frames out" in outcome.err  # six moments are too few to spare some
    assert json.loads(outcome.out)["figures"]["step"] == 4


def test_two_processes_learn_what_one_does_with_the_double_batch(cli, data, own_places):
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    words = ["avatar", "train", str(data), *SMALL, *LINES, "--batch", "1"]
    local = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, *launch, "--main_process_port", "0", "-m", "davatar", *words],
        env=os.environ | local,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [run.name for run in list_runs()] == ["DA-1"]  # one for both
    assert done.stdout.count("next:") == 1
    alone = cli("avatar", "train", data, *SMALL, *LINES, "--batch", "2")
    assert alone.code == 0, alone.err
    both, one = resolve_run("DA-1"), resolve_run("DA-2")
    assert both.manifest["processes"] == 2 and len(both.metrics()) == 4
    for together, single in zip(both.metrics(), one.metrics(), strict=True):
        assert together.keys() == single.keys()
        for name in set(single) - {"seconds"}:
            assert together[name] == pytest.approx(single[name], rel=1e-4, abs=1e-4), name
    resumed = cli("avatar", "train", "--resume", "DA-1", "--steps", "5", "--batch", "2")  # by one process
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--resume", "DA-1", "--seed", "3"], 2, "a resumed run keeps its settings"),
        (["nowhere"], 4, "no data set is called 'nowhere'"),
        (["nowhere", "--batch", "0"], 2, "batch"),
        (["nowhere", "--tracker", "wanda"], 2, "tensorboard, wandb"),
        (["nowhere", "--average", "1.5"], 2, "average is 1.5"),
        (["nowhere", "--steps", "3", "--seconds", "3"], 2, "give one of them"),
    ],
)
def test_mistakes_are_named(cli, words, code, text):
    outcome = cli("avatar", "train", *words)
    assert outcome.code == code and text in outcome.err


def test_a_launcher_that_started_one_process_only_is_noticed(cli, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    outcome = cli("avatar", "train", "nowhere")
    assert outcome.code == 2 and "--multi_gpu --num_processes 2" in outcome.err
