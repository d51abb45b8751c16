"""Training learns, and a run that was stopped ends with the same weights as one that was not."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from davatar.core.errors import ConfigError, DataError, Interrupted, MissingError
from davatar.core.settings import resolve
from davatar.headmodel import training
from davatar.headmodel.losses import pair_terms, wide_term
from davatar.headmodel.training import StageSettings, TrainingSettings, train_nphm
from davatar.headmodel.weights import load_weights, save_weights


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_settings):
    folder = tmp_path_factory.mktemp("whole")
    return train_nphm(tiny_settings, folder)


def test_losses_fall_and_are_finite(whole, tiny_settings):
    found = lines(whole.parent)
    assert [(x["stage"], x["step"]) for x in found] == [
        ("identity", 4), ("identity", 8), ("identity", 12), ("deformation", 4), ("deformation", 8),
        ("joint", 4), ("joint", 8),
    ]  # fmt: skip
    assert all(np.isfinite(x["loss"]) for x in found)
    assert found[2]["loss"] < found[0]["loss"] and found[4]["loss"] < found[3]["loss"]
    assert json.loads(load_weights(whole)[2]["training"])["identity"]["steps"] == 12


class _StopAfter:
    """A progress that sends this process SIGTERM at the n-th logged line."""

    def __init__(self, count):
        self.count = count

    def __getattr__(self, name):
        return getattr(training.silent, name)

    def task(self, label, total=None):
        outer = self

        class Task:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                return None

            def advance(self, n=1, **figures):
                outer.count -= bool(figures)
                if outer.count == 0:
                    signal.raise_signal(signal.SIGTERM)

        return Task()


def test_stopped_and_killed_runs_end_alike(whole, tmp_path, tiny_settings, monkeypatch):
    with pytest.raises(Interrupted):
        train_nphm(tiny_settings, tmp_path, _StopAfter(2))  # between two stages' steps
    steps = iter(range(8))

    def dies(self):
        if next(steps) == 7:  # after a checkpoint of the second stage, with unsaved steps
            raise KeyboardInterrupt
        return real(self)

    real = training._StageRun.step
    monkeypatch.setattr(training._StageRun, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_nphm(tiny_settings, tmp_path)
    monkeypatch.undo()
    again = train_nphm(tiny_settings, tmp_path)
    assert load_weights(again)[2]["hash"] == load_weights(whole)[2]["hash"]
    keep = [{k: v for k, v in line.items() if k != "seconds"} for line in lines(tmp_path)]
    assert keep == [{k: v for k, v in line.items() if k != "seconds"} for line in lines(whole.parent)]


def test_other_settings_and_damaged_state_are_refused(tmp_path, tiny_settings):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(DataError, match="other settings"):
        train_nphm(tiny_settings, tmp_path)
    (tmp_path / "settings.json").unlink()
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(DataError, match="not a readable training state"):
        train_nphm(tiny_settings, tmp_path)


def test_the_open_preset_is_the_default():
    assert resolve(TrainingSettings, "open", env_prefix="", component="nphm").value == TrainingSettings()


def test_pair_terms_see_position_and_slope():
    half = torch.tensor([0.004])
    exact = pair_terms(half, -half, half)
    assert exact[0] == 0 and exact[1] == 0
    flat = pair_terms(0 * half, 0 * half, half)
    assert flat[0] == 0 and flat[1] == 1, "a flat field has no position error; the slope must show it"
    shifted = pair_terms(half + 0.001, -half + 0.001, half)
    torch.testing.assert_close(shifted[0], torch.tensor([0.25]))  # 0.001 units are 0.25 mm


def test_wide_term_is_huber_and_fades():
    near = wide_term(torch.tensor([0.004]), torch.tensor([0.0]), 1.0)
    torch.testing.assert_close(near, torch.tensor([0.5]))  # 1 mm, at the corner
    far = wide_term(torch.tensor([0.404]), torch.tensor([0.4]), 1.0)
    assert far < 0.1 * near


def test_rate_is_one_cosine():
    plan = StageSettings(1000, 1e-3, 1e-5, 0)
    rates = [training._rate(plan, step) for step in range(1000)]
    assert rates[0] < rates[10] and rates[-1] == pytest.approx(1e-5, rel=0.01)
    assert all(a >= b for a, b in zip(rates[10:-1], rates[11:], strict=True))


def test_training_goes_on_from_a_file(whole, tmp_path, tiny_settings):
    idle = replace(tiny_settings.identity, steps=0)
    settings = replace(tiny_settings, start=str(whole), identity=idle, deformation=idle, seed=2)
    gone_on = train_nphm(settings, tmp_path)
    assert {x["stage"] for x in lines(tmp_path)} == {"joint"}  # stages of 0 steps are left out
    before, after = load_weights(whole)[0], load_weights(gone_on)[0]
    moved = [float((a - b).abs().max()) for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01  # eight steps of a small rate away from where it began, not from untrained weights


def test_training_refuses_a_start_of_other_sizes(whole, tmp_path, tiny_settings):
    wider = replace(tiny_settings, start=str(whole), model=replace(tiny_settings.model, member_width=24))
    with pytest.raises(DataError, match="member_width 16 instead of 24"):
        train_nphm(wider, tmp_path)


def test_weights_do_not_tell_the_paths_of_the_machine_that_made_them(whole, tmp_path, tiny_settings, maps):
    settings = replace(tiny_settings, start=str(whole))
    save_weights(tmp_path / "open.safetensors", load_weights(whole)[0], maps, settings)
    assert json.loads(load_weights(tmp_path / "open.safetensors")[2]["training"])["start"] == "model.safetensors"


def test_a_resumed_training_does_not_need_its_start(whole, tmp_path, tiny_settings):
    start = tmp_path / "start.safetensors"
    start.write_bytes(whole.read_bytes())
    idle = replace(tiny_settings.identity, steps=0)
    settings = replace(tiny_settings, start=str(start), identity=idle, deformation=idle, checkpoint_steps=4)
    with pytest.raises(Interrupted):
        train_nphm(settings, tmp_path / "run", _StopAfter(1))
    start.unlink()
    assert load_weights(train_nphm(settings, tmp_path / "run"))[0].config == settings.model
    with pytest.raises(MissingError):
        train_nphm(settings, tmp_path / "another")


def test_settings_that_cannot_train_are_refused(tiny_settings):
    with pytest.raises(ConfigError, match="pool is 4"):
        replace(tiny_settings, pool=4)
    with pytest.raises(ConfigError, match="no start"):
        replace(tiny_settings, identity=replace(tiny_settings.identity, steps=0))
