from dataclasses import replace

import numpy as np
import pytest
import torch

from davatar.avatar.checkpoints import WEIGHTS
from davatar.avatar.model import new_avatar, open_avatar
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.training import _plain, fit, used
from davatar.avatar.weights import read_weights
from davatar.core.errors import ConfigError, DataError, Interrupted, MissingError, UsageError
from davatar.core.interrupt import Stop
from davatar.core.lock import exclusive
from davatar.core.runs import Run


def train(folder, small, balls, **changes):
    settings = replace(small, **changes)
    run = Run(folder)
    folder.mkdir(exist_ok=True)
    run.write_config(_plain(settings))
    fit(new_avatar(settings), balls[:4], balls[4:], run, settings)
    return run


def weights(run):
    step, folder = run.latest_checkpoint()
    return step, read_weights(folder / WEIGHTS, "davatar tiny avatar")[0]


def test_a_stopped_training_ends_with_the_same_weights(tmp_path, small, balls, monkeypatch):
    whole = train(tmp_path / "whole", small, balls)
    halves = tmp_path / "halves"
    checks = iter([False] * 4 + [True])

    def check(self, mend=""):
        if next(checks, False):
            raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "check", check)
        with pytest.raises(Interrupted):
            train(halves, small, balls)
    assert Run(halves).latest_checkpoint()[0] == 3  # killed at step 5: the steps since are done again
    resumed = train(halves, small, balls)
    (step, expected), (other, found) = weights(whole), weights(resumed)
    assert step == other == 8 and expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=0, rtol=0)
    assert [line["step"] for line in resumed.metrics()] == [2, 4, 6, 8]


def test_a_signal_saves_the_step_it_came_in(tmp_path, small, balls, monkeypatch):
    import os
    import signal

    calls = []

    def step(self, number, done):
        calls.append(number)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr("davatar.avatar.training._Trainer.step", step)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", small, balls)
    assert Run(tmp_path / "run").latest_checkpoint()[0] == 2


def test_a_run_keeps_few_checkpoints_its_log_and_previews(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls, keep_checkpoints=1)
    assert list(run.checkpoints()) == [8]
    assert sorted(p.name for p in (run.folder / "previews").iterdir()) == ["step-000004.png", "step-000008.png"]
    last = run.metrics()[-1]
    assert {"loss", "seconds", "preview_psnr", "expression_zeroed_db", "expression_swapped_db"} <= last.keys()


def test_an_opened_avatar_paints_what_the_trained_one_does(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls)
    avatar, settings, step = open_avatar(run)
    assert step == 8 and settings.tiny == small.tiny
    trained = new_avatar(settings)
    trained.load_trained(weights(run)[1], run.folder)
    noise = avatar.noise(np.random.default_rng(0))
    one, two = (a.eval().render(a.batch(balls[:1]), noise) for a in (avatar, trained))
    torch.testing.assert_close(one, two, atol=0, rtol=0)


def test_a_budget_of_seconds_ends_the_training(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls, budget=Budget(seconds=0.2, clock="cpu"))
    assert run.metrics()[-1]["seconds"] >= 0.2 and used(Budget(seconds=2.0), 0, 1.0) == 0.5


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"seconds": -1.0}, {"steps": 3, "seconds": 2.0}])
def test_budgets_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match="budget"):
        Budget(**wrong)


def test_resuming_with_another_seed_is_refused(tmp_path, small, balls):
    train(tmp_path / "run", small, balls)
    with pytest.raises(UsageError, match="seed 3"):
        train(tmp_path / "run", small, balls, seed=4)


def test_a_run_that_is_being_trained_is_left_alone(tmp_path, small, balls):
    """Locks belong to open files, so this process stands for both."""
    with exclusive(tmp_path / "run"), pytest.raises(UsageError, match="another davatar process is writing there"):
        train(tmp_path / "run", small, balls)
    assert Run(tmp_path / "run").checkpoints() == {}


def test_a_checkpoint_of_other_sizes_is_named(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls)
    run.write_config(_plain(replace(small, tiny=replace(small.tiny, plane_size=8))))
    with pytest.raises(DataError, match=r"model.safetensors.*plane_size 16 instead of 8"):
        open_avatar(run)


def test_a_torn_optimiser_state_is_named(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls)
    file = run.latest_checkpoint()[1] / "optimizers.pt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match="optimizers.pt.*delete"):
        train(tmp_path / "run", small, balls, budget=Budget(steps=12))


def test_a_run_without_a_checkpoint_says_so(tmp_path, small):
    run = Run(tmp_path)
    run.write_config(_plain(small))
    with pytest.raises(MissingError, match="no checkpoint.*train it first"):
        open_avatar(run)


def test_presets_fit_the_settings():
    from davatar.core.settings import presets, resolve

    found = {name: resolve(AvatarSettings, name).value for name in presets("avatar")}
    assert found["tiny"].kind == "tiny" and found["tiny"].start == "base"
    assert {name: found[name].published.resolution for name in ("small", "sd21")} == {"small": 256, "sd21": 512}
    with pytest.raises(ConfigError, match="did you mean 'tiny.tokens'"):
        resolve(AvatarSettings, "tiny", sets=["tiny.tokenz=3"])
